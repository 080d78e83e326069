//! What clients are told when things happen in an awkward order: memberships that came and went between two syncs,
//! visibility that changed in mid-history, timelines cut off in the middle of changes of state.

use std::time::Duration;

use hearth_tests::{
    Client, Server, encoded, event_ids, has_left, is_invited, is_joined, public_chat, state, timeline,
    timeline_has, within,
};
use serde_json::{Value, json};

fn ids(events: Vec<Value>) -> Vec<String> {
    event_ids(&events.into())
}

fn limit(limit: u32) -> Value {
    json!({ "room": { "timeline": { "limit": limit } } })
}

async fn three(server: &Server) -> (Client, Client, Client) {
    (
        server.register("alice").await,
        server.register("bob").await,
        server.register("carol").await,
    )
}

/// The content of each state event of a type in the state and then the timeline of a room, in order.
fn told_of(sync: &Value, room: &str, event_type: &str, field: &str) -> Vec<Value> {
    let events = [state(sync, room), timeline(sync, room)].concat();
    events
        .into_iter()
        .filter(|event| event["type"] == event_type)
        .map(|event| event["content"][field].clone())
        .collect()
}

async fn set_visibility(client: &Client, room: &str, visibility: &str) {
    let content = json!({ "history_visibility": visibility });
    client
        .send_state(room, "m.room.history_visibility", "", content)
        .await
        .ok();
}

async fn set_topic(client: &Client, room: &str, topic: &str) -> String {
    client
        .send_state(room, "m.room.topic", "", json!({ "topic": topic }))
        .await
        .event_id()
}

#[tokio::test]
async fn who_came_and_went_between_two_syncs_is_told_that_they_left() {
    let server = Server::start().await;
    let (alice, bob, _) = three(&server).await;
    let room = alice.create_room(public_chat()).await.room_id();
    bob.sync().await;
    bob.join(&room).await.ok();
    let heard = alice.send_text(&room, "a short visit").await.event_id();
    bob.leave(&room).await.ok();
    let unheard = alice.send_text(&room, "too late").await.event_id();
    let sync = bob.sync().await;
    assert!(has_left(&room)(&sync) && !is_joined(&room)(&sync), "{sync}");
    assert!(timeline_has(&room, &heard)(&sync) && !timeline_has(&room, &unheard)(&sync));
    let whole = [state(&sync, &room), timeline(&sync, &room)].concat();
    assert!(
        whole.iter().any(|event| event["type"] == "m.room.create"),
        "the room was new to bob: {sync}"
    );
    assert!(!has_left(&room)(&bob.sync().await));
}

#[tokio::test]
async fn who_left_came_back_and_left_again_is_told_that_they_left() {
    let server = Server::start().await;
    let (alice, bob, _) = three(&server).await;
    let room = alice.create_room(public_chat()).await.room_id();
    set_visibility(&alice, &room, "joined").await;
    bob.join(&room).await.ok();
    bob.sync().await;
    bob.leave(&room).await.ok();
    let away = alice.send_text(&room, "while he is away").await.event_id();
    set_topic(&alice, &room, "set while he is away").await;
    bob.join(&room).await.ok();
    let back = alice.send_text(&room, "while he is back").await.event_id();
    bob.leave(&room).await.ok();
    let gone = set_topic(&alice, &room, "set when he is gone").await;
    let sync = bob.sync().await;
    assert!(has_left(&room)(&sync) && !is_joined(&room)(&sync), "{sync}");
    assert!(timeline_has(&room, &back)(&sync));
    assert!(
        !timeline_has(&room, &away)(&sync) && !timeline_has(&room, &gone)(&sync),
        "{sync}"
    );
    assert_eq!(
        told_of(&sync, &room, "m.room.topic", "topic"),
        [json!("set while he is away")],
        "the state is what he could see of it"
    );
}

#[tokio::test]
async fn who_came_back_between_two_syncs_misses_no_state_and_sees_nothing_that_was_hidden() {
    let mut server = Server::start().await;
    let (alice, bob, carol) = three(&server).await;
    let room = alice.create_room(public_chat()).await.room_id();
    set_visibility(&alice, &room, "joined").await;
    bob.join(&room).await.ok();
    bob.sync().await;
    let since = bob.since();
    let before = alice.send_text(&room, "before").await.event_id();
    bob.leave(&room).await.ok();
    let hidden = alice.send_text(&room, "hidden").await.event_id();
    set_topic(&alice, &room, "meanwhile").await;
    carol.join(&room).await.ok();
    bob.join(&room).await.ok();
    let after = alice.send_text(&room, "after").await.event_id();
    for restarted in [false, true] {
        if restarted {
            server.restart().await;
        }
        for count in [1, 2, 20] {
            bob.set_since(since.as_deref());
            let sync = bob.sync_filtered(&limit(count)).await;
            assert!(is_joined(&room)(&sync) && !has_left(&room)(&sync), "{sync}");
            let told = ids(timeline(&sync, &room));
            assert!(
                told.contains(&after) && !told.contains(&hidden),
                "{count}: {told:?}"
            );
            assert_eq!(
                sync["rooms"]["join"][&room]["timeline"]["limited"], true,
                "{count}: there is a gap"
            );
            assert_eq!(
                told_of(&sync, &room, "m.room.topic", "topic"),
                [json!("meanwhile")]
            );
            let members = told_of(&sync, &room, "m.room.member", "membership");
            assert!(
                members.len() >= 3,
                "{count}: all of the state is told anew: {members:?}"
            );
            // What is missing is paged to, and what is hidden isn't.
            let prev_batch = sync["rooms"]["join"][&room]["timeline"]["prev_batch"]
                .as_str()
                .expect("a limited timeline has a prev_batch")
                .to_owned();
            let paged = ids(bob.page_through(&room, "b", 3, Some(&prev_batch)).await);
            let all = [paged, told].concat();
            assert!(
                all.contains(&before) && !all.contains(&hidden),
                "{count}: {all:?}"
            );
        }
    }
}

#[tokio::test]
async fn who_was_kicked_and_invited_again_is_invited() {
    let server = Server::start().await;
    let (alice, bob, _) = three(&server).await;
    let room = alice
        .create_room(json!({ "preset": "private_chat", "name": "Den" }))
        .await
        .room_id();
    alice.invite(&room, &bob).await.ok();
    bob.join(&room).await.ok();
    bob.sync().await;
    alice.kick(&room, &bob, None).await.ok();
    alice.invite(&room, &bob).await.ok();
    let sync = bob.sync().await;
    assert!(is_invited(&room)(&sync) && !is_joined(&room)(&sync), "{sync}");
    let stripped = sync["rooms"]["invite"][&room]["invite_state"]["events"].clone();
    for event_type in ["m.room.create", "m.room.name", "m.room.member"] {
        assert!(
            stripped
                .as_array()
                .is_some_and(|events| events.iter().any(|event| event["type"] == event_type)),
            "{event_type}: {stripped}"
        );
    }
    // Declined: told once, with nothing of the room but that.
    bob.leave(&room).await.ok();
    let sync = bob.sync().await;
    assert!(has_left(&room)(&sync) && !is_invited(&room)(&sync), "{sync}");
    assert!(!has_left(&room)(&bob.sync().await));
}

#[tokio::test]
async fn an_invite_that_was_declined_before_it_was_seen_shows_nothing_of_the_room() {
    let server = Server::start().await;
    let (alice, bob, _) = three(&server).await;
    let room = alice
        .create_room(json!({ "preset": "private_chat" }))
        .await
        .room_id();
    set_visibility(&alice, &room, "joined").await;
    let secret = alice.send_text(&room, "for members").await.event_id();
    bob.sync().await;
    alice.invite(&room, &bob).await.ok();
    bob.leave(&room).await.ok();
    let sync = bob.sync().await;
    assert!(!is_invited(&room)(&sync) && !is_joined(&room)(&sync), "{sync}");
    assert!(!sync.to_string().contains(&secret), "{sync}");
    assert!(
        timeline(&sync, &room)
            .iter()
            .all(|event| event["state_key"] == bob.user_id),
        "{sync}"
    );
}

#[tokio::test]
async fn visibility_that_changes_in_mid_history_is_kept_at_every_door() {
    let server = Server::start().await;
    let (alice, bob, carol) = three(&server).await;
    let room = alice.create_room(public_chat()).await.room_id();
    // Each message is as visible as the room was when it was said.
    let mut said = Vec::new();
    for visibility in [
        "shared",
        "joined",
        "invited",
        "world_readable",
        "joined",
        "shared",
    ] {
        set_visibility(&alice, &room, visibility).await;
        said.push(alice.send_text(&room, visibility).await.event_id());
    }
    bob.join(&room).await.ok();
    let [shared, joined, invited, world, joined_again, shared_again] = &said[..] else {
        panic!("six were said");
    };
    let (seen, hidden) = ([shared, world, shared_again], [joined, invited, joined_again]);
    let check = async |viewer: &Client, seen: &[&String], hidden: &[&String]| {
        let name = &viewer.user_id;
        let paged = ids(viewer.page_through(&room, "b", 4, None).await);
        let forwards = ids(viewer.page_through(&room, "f", 4, None).await);
        for event_id in seen {
            assert!(
                paged.contains(event_id) && forwards.contains(event_id),
                "{name} {event_id}"
            );
            viewer.event(&room, event_id).await.ok();
            let context = viewer
                .get(&format!("/v3/rooms/{room}/context/{event_id}?limit=50"))
                .await
                .ok();
            let around = [&context["events_before"], &context["events_after"]]
                .map(event_ids)
                .concat();
            assert!(
                hidden.iter().all(|event_id| !around.contains(event_id)),
                "{name}: {around:?}"
            );
            assert!(
                seen.iter()
                    .filter(|other| *other != event_id)
                    .all(|other| around.contains(other)),
                "{name}: {around:?}"
            );
        }
        for event_id in hidden {
            assert!(
                !paged.contains(event_id) && !forwards.contains(event_id),
                "{name} {event_id}"
            );
            viewer.event(&room, event_id).await.refused(404, "M_NOT_FOUND");
            for path in [
                "v3/rooms/{room}/context/{event}",
                "v1/rooms/{room}/relations/{event}",
            ] {
                let path = path.replace("{room}", &room).replace("{event}", event_id);
                viewer.get(&format!("/{path}")).await.refused(404, "M_NOT_FOUND");
            }
        }
    };
    check(&bob, &seen, &hidden).await;
    check(&alice, &said.iter().collect::<Vec<_>>(), &[]).await;
    // Whoever was never there sees what the world may.
    let [before, after] = [
        [shared, joined, invited],
        [joined_again, shared_again, shared_again],
    ];
    let outside = [before, after].concat();
    let page = carol.messages(&room, "dir=b&limit=50").await;
    if page.status == 200 {
        let told = event_ids(&page.body["chunk"]);
        assert!(
            outside.iter().all(|event_id| !told.contains(event_id)),
            "{told:?}"
        );
    } else {
        page.refused(403, "M_FORBIDDEN");
    }
    for event_id in &outside {
        carol.event(&room, event_id).await.refused(404, "M_NOT_FOUND");
    }
    // A timeline begins after the last that is hidden, and says so.
    let sync = bob.first_sync(&limit(50)).await;
    let told = ids(timeline(&sync, &room));
    assert!(told.contains(shared_again) && !hidden.iter().any(|event_id| told.contains(event_id)));
    assert_eq!(sync["rooms"]["join"][&room]["timeline"]["limited"], true);
}

#[tokio::test]
async fn a_timeline_cut_off_between_changes_of_state_tells_both_sides() {
    let mut server = Server::start().await;
    let (alice, bob, carol) = three(&server).await;
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    bob.sync().await;
    let since = bob.since();
    set_topic(&alice, &room, "one").await;
    carol.join(&room).await.ok();
    set_topic(&alice, &room, "two").await;
    alice.send_text(&room, "hello").await.event_id();
    carol.leave(&room).await.ok();
    set_topic(&alice, &room, "three").await;
    // By how many events the timeline has: what is told as state, and what in the timeline.
    let expected = |count: usize| -> (Vec<&str>, Vec<&str>) {
        match count {
            0 => (vec!["three"], vec![]),
            1..4 => (vec!["two"], vec!["three"]),
            4 => (vec!["one"], vec!["two", "three"]),
            5 => (vec!["one"], vec!["two", "three"]),
            _ => (vec![], vec!["one", "two", "three"]),
        }
    };
    let topics = |events: &[Value]| -> Vec<String> {
        let topics = events.iter().filter(|event| event["type"] == "m.room.topic");
        topics
            .filter_map(|event| event["content"]["topic"].as_str().map(ToOwned::to_owned))
            .collect()
    };
    for restarted in [false, true] {
        if restarted {
            server.restart().await;
        }
        for count in 0..=7 {
            bob.set_since(since.as_deref());
            let filter = limit(u32::try_from(count).unwrap_or_default());
            let sync = bob.sync_filtered(&filter).await;
            let (before, within) = expected(count);
            assert_eq!(topics(&state(&sync, &room)), before, "{count}: {sync}");
            assert_eq!(topics(&timeline(&sync, &room)), within, "{count}: {sync}");
            assert_eq!(
                sync["rooms"]["join"][&room]["timeline"]["limited"] == true,
                count < 6,
                "{count}"
            );
            // Told as it is afterwards, it doesn't depend on where the timeline begins.
            bob.set_since(since.as_deref());
            let filter = encoded(&filter.to_string());
            let sync = bob
                .sync_with(&format!("timeout=0&use_state_after=true&filter={filter}"))
                .await
                .ok();
            let after = &sync["rooms"]["join"][&room]["state_after"]["events"];
            let after = after.as_array().cloned().unwrap_or_default();
            assert_eq!(topics(&after), ["three"], "{count}: {sync}");
            let of_carol = after.iter().find(|event| event["state_key"] == carol.user_id);
            assert_eq!(
                of_carol.map(|event| &event["content"]["membership"]),
                Some(&json!("leave")),
                "{count}"
            );
        }
    }
}

#[tokio::test]
async fn a_room_that_loses_its_name_is_named_after_its_members_again() {
    let server = Server::start().await;
    let (alice, bob, _) = three(&server).await;
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    let name = alice
        .send_state(&room, "m.room.name", "", json!({ "name": "Rude" }))
        .await
        .event_id();
    let heroes = |sync: &Value| sync["rooms"]["join"][&room]["summary"]["m.heroes"].clone();
    let first = bob.sync().await;
    assert_eq!(
        heroes(&first),
        Value::Null,
        "a room with a name needs none: {first}"
    );
    let since = bob.since();
    alice.redact(&room, &name, "rude").await.ok();
    alice.send_texts(&room, 3).await;
    let expected = json!([alice.user_id]);
    assert_eq!(heroes(&bob.sync().await), expected);
    for filter in [
        limit(1),
        json!({ "room": { "timeline": { "types": ["m.room.message"] } } }),
    ] {
        bob.set_since(since.as_deref());
        assert_eq!(heroes(&bob.sync_filtered(&filter).await), expected, "by {filter}");
    }
    alice.send_text(&room, "nothing new").await.event_id();
    assert_eq!(heroes(&bob.sync().await), Value::Null, "once is enough");
}

#[tokio::test]
async fn an_ignored_user_who_types_ends_no_poll() {
    let server = Server::start().await;
    let (alice, bob, carol) = three(&server).await;
    let room = alice.create_room(public_chat()).await.room_id();
    for user in [&bob, &carol] {
        user.join(&room).await.ok();
    }
    let ignored = json!({ "ignored_users": { (alice.user_id.as_str()): {} } });
    bob.set_account_data("m.ignored_user_list", ignored).await.ok();
    bob.sync().await;
    let polling = bob.sync_with("timeout=30000");
    let stirring = async {
        alice.set_typing(&room, Some(30_000)).await.ok();
        alice.set_typing(&room, None).await.ok();
        alice.send_text(&room, "can you hear me?").await.event_id();
        alice.set_typing(&room, Some(30_000)).await.ok();
        carol.set_typing(&room, Some(30_000)).await.ok();
    };
    let (sync, ()) = within(Duration::from_secs(25), "the poll returns", async {
        tokio::join!(polling, stirring)
    })
    .await;
    let sync = sync.ok();
    let typing = &sync["rooms"]["join"][&room]["ephemeral"]["events"];
    assert_eq!(
        typing,
        &json!([{ "type": "m.typing", "content": { "user_ids": [carol.user_id] } }]),
        "the first that ends it: {sync}"
    );
}

#[tokio::test]
async fn one_who_knocked_is_told_so_until_they_are_let_in() {
    let server = Server::start().await;
    let (alice, bob, _) = three(&server).await;
    let room = alice.create_room(json!({ "name": "The den" })).await.room_id();
    alice
        .send_state(&room, "m.room.join_rules", "", json!({ "join_rule": "knock" }))
        .await
        .ok();
    bob.sync().await;
    bob.send_state(
        &room,
        "m.room.member",
        &bob.user_id,
        json!({ "membership": "knock" }),
    )
    .await
    .ok();
    let sync = bob.sync().await;
    let knocked = &sync["rooms"]["knock"][&room];
    for event_type in ["m.room.create", "m.room.name", "m.room.member"] {
        let told = knocked["knock_state"]["events"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        assert!(
            told.iter().any(|event| event["type"] == event_type),
            "{event_type}: {sync}"
        );
    }
    assert!(!is_joined(&room)(&sync) && !is_invited(&room)(&sync));
    assert!(
        bob.sync().await["rooms"]["knock"].get(&room).is_none(),
        "once is enough"
    );
    let hidden = bob.first_sync(&json!({ "room": { "not_rooms": [room] } })).await;
    assert!(hidden["rooms"]["knock"].get(&room).is_none(), "{hidden}");
    assert!(
        bob.first_sync(&json!({})).await["rooms"]["knock"]
            .get(&room)
            .is_some()
    );
    alice.invite(&room, &bob).await.ok();
    let sync = bob.sync().await;
    assert!(
        is_invited(&room)(&sync) && sync["rooms"]["knock"].get(&room).is_none(),
        "{sync}"
    );
}
