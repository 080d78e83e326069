//! `/v3/sync`: what comes when, and exactly once.

use std::time::Duration;

use hearth_tests::{
    Client, Server, encoded, event_ids, has_left, is_invited, is_joined, public_chat, state, state_has, text,
    timeline, timeline_has, within,
};
use serde_json::{Value, json};
use tokio::time::Instant;

async fn a_room_of_two(server: &Server) -> (Client, Client, String) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice
        .create_room(json!({ "preset": "public_chat", "name": "The den" }))
        .await
        .room_id();
    bob.join(&room).await.ok();
    (alice, bob, room)
}

fn ids(events: Vec<Value>) -> Vec<String> {
    event_ids(&events.into())
}

fn limit(limit: u32) -> Value {
    json!({ "room": { "timeline": { "limit": limit } } })
}

/// Of a joined room of a sync: nothing but what every room says of itself.
fn is_quiet(sync: &Value) -> bool {
    let empty = |section: &str| {
        sync["rooms"][section]
            .as_object()
            .is_none_or(serde_json::Map::is_empty)
    };
    empty("join") && empty("invite") && empty("leave")
}

#[tokio::test]
async fn a_first_sync_of_nobody_in_particular_is_empty_and_gives_a_token() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let sync = alice.sync().await;
    assert!(is_quiet(&sync), "{sync}");
    let token = alice.since().expect("a sync gives a token");
    assert!(is_quiet(&alice.sync().await));
    assert!(!token.is_empty());
}

#[tokio::test]
async fn a_first_sync_has_each_room_with_its_state_and_latest_events() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let sent = alice.send_texts(&room, 30).await;
    let sync = bob.first_sync(&limit(5)).await;
    let joined = &sync["rooms"]["join"][&room];
    assert_eq!(ids(timeline(&sync, &room)), sent[25..]);
    assert_eq!(joined["timeline"]["limited"], true);
    assert!(joined["timeline"]["prev_batch"].is_string());
    for (event_type, key) in [
        ("m.room.create", ""),
        ("m.room.power_levels", ""),
        ("m.room.join_rules", ""),
        ("m.room.name", ""),
        ("m.room.member", &alice.user_id),
        ("m.room.member", &bob.user_id),
    ] {
        assert!(state_has(&room, event_type, key)(&sync), "{event_type} {key}");
    }
    assert!(
        state(&sync, &room)
            .iter()
            .all(|event| event["state_key"].is_string() && event["event_id"].is_string())
    );
    assert!(
        state(&sync, &room)
            .iter()
            .all(|event| event.get("room_id").is_none()),
        "the room is said once"
    );
}

#[tokio::test]
async fn a_whole_short_room_comes_unlimited_with_nothing_twice() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let all = ids(alice.page_through(&room, "f", 100, None).await);
    let sync = bob.first_sync(&limit(50)).await;
    assert_eq!(ids(timeline(&sync, &room)), all);
    assert_ne!(sync["rooms"]["join"][&room]["timeline"]["limited"], true);
    assert_eq!(
        state(&sync, &room),
        Vec::<Value>::new(),
        "what the timeline has is not said in the state too"
    );
}

#[tokio::test]
async fn the_state_is_that_before_the_timeline() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    alice
        .send_state(&room, "m.room.topic", "", json!({ "topic": "old" }))
        .await
        .event_id();
    alice.send_texts(&room, 10).await;
    alice
        .send_state(&room, "m.room.topic", "", json!({ "topic": "new" }))
        .await
        .event_id();
    alice.send_text(&room, "last").await.event_id();
    let sync = bob.first_sync(&limit(3)).await;
    let topics = |events: Vec<Value>| {
        let topics = events.into_iter().filter(|event| event["type"] == "m.room.topic");
        topics
            .map(|event| event["content"]["topic"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(topics(state(&sync, &room)), [json!("old")]);
    assert_eq!(topics(timeline(&sync, &room)), [json!("new")]);
}

#[tokio::test]
async fn the_state_after_the_timeline_is_told_to_who_asks_for_it() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let asked = async |query: &str| {
        bob.sync_with(&format!("timeout=0&use_state_after=true{query}"))
            .await
            .ok()
    };
    let first = asked("").await;
    let after = &first["rooms"]["join"][&room]["state_after"]["events"];
    assert!(
        after
            .as_array()
            .is_some_and(|events| events.iter().any(|event| event["type"] == "m.room.create")),
        "{first}"
    );
    assert!(first["rooms"]["join"][&room].get("state").is_none());
    let topic = alice
        .send_state(&room, "m.room.topic", "", json!({ "topic": "new" }))
        .await
        .event_id();
    let next = asked("").await;
    assert_eq!(
        event_ids(&next["rooms"]["join"][&room]["state_after"]["events"]),
        std::slice::from_ref(&topic)
    );
    assert_eq!(ids(timeline(&next, &room)), [topic]);
}

#[tokio::test]
async fn an_incremental_sync_has_what_is_new_once() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    bob.sync().await;
    let sent = alice.send_texts(&room, 3).await;
    let sync = bob.sync().await;
    assert_eq!(ids(timeline(&sync, &room)), sent);
    assert_ne!(sync["rooms"]["join"][&room]["timeline"]["limited"], true);
    assert_eq!(state(&sync, &room), Vec::<Value>::new());
    assert!(is_quiet(&bob.sync().await));
}

#[tokio::test]
async fn the_same_token_gives_the_same_again() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    bob.sync().await;
    let token = bob.since();
    let sent = alice.send_texts(&room, 3).await;
    for _ in 0..3 {
        bob.set_since(token.as_deref());
        assert_eq!(ids(timeline(&bob.sync().await, &room)), sent);
    }
}

#[tokio::test]
async fn a_long_poll_is_woken_at_once() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    bob.sync().await;
    let polling = bob.sync_with("timeout=30000");
    let sending = async {
        // The poll is on its way by then; were it not, it would find the message all the same.
        tokio::task::yield_now().await;
        alice.send_text(&room, "wake up").await.event_id()
    };
    let started = Instant::now();
    let (sync, event) = within(Duration::from_secs(20), "the poll returns", async {
        tokio::join!(polling, sending)
    })
    .await;
    assert!(timeline_has(&room, &event)(&sync.ok()));
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "it was not the time-out that ended the poll"
    );
}

#[tokio::test]
async fn a_long_poll_ends_in_time_when_nothing_happens() {
    let server = Server::start().await;
    let (_, bob, _) = a_room_of_two(&server).await;
    bob.sync().await;
    let started = Instant::now();
    let sync = bob.sync_with("timeout=400").await.ok();
    assert!(is_quiet(&sync), "{sync}");
    assert!(started.elapsed() >= Duration::from_millis(350), "it waited");
    assert!(started.elapsed() < Duration::from_secs(15), "and not for ever");
}

#[tokio::test]
async fn a_message_in_anothers_room_does_not_end_a_poll() {
    let server = Server::start().await;
    let (alice, bob, _) = a_room_of_two(&server).await;
    let private = alice.create_room(json!({})).await.room_id();
    bob.sync().await;
    let polling = bob.sync_with("timeout=1500");
    let (sync, _) = tokio::join!(polling, alice.send_texts(&private, 3));
    assert!(is_quiet(&sync.ok()));
}

#[tokio::test]
async fn a_room_joined_meanwhile_comes_whole() {
    let server = Server::start().await;
    let (alice, _, room) = a_room_of_two(&server).await;
    let carol = server.register("carol").await;
    carol.sync().await;
    let sent = alice.send_texts(&room, 3).await;
    carol.join(&room).await.ok();
    let sync = carol.sync_until(is_joined(&room)).await;
    for key in [&alice.user_id, &carol.user_id] {
        assert!(state_has(&room, "m.room.member", key)(&sync), "{key} is a member");
    }
    assert!(state_has(&room, "m.room.name", "")(&sync));
    assert!(
        timeline_has(&room, &sent[2])(&sync),
        "shared history can be seen at once"
    );
    assert!(is_quiet(&carol.sync().await));
}

#[tokio::test]
async fn an_invite_turns_into_a_join_and_a_leave() {
    let server = Server::start().await;
    let (alice, bob, _) = a_room_of_two(&server).await;
    let room = alice
        .create_room(json!({ "invite": [bob.user_id] }))
        .await
        .room_id();
    let first = bob.sync().await;
    assert!(is_invited(&room)(&first) && !is_joined(&room)(&first));
    assert!(!is_invited(&room)(&bob.sync().await), "once is enough");
    bob.join(&room).await.ok();
    let second = bob.sync_until(is_joined(&room)).await;
    assert!(!is_invited(&room)(&second));
    let last = alice.send_text(&room, "last words").await.event_id();
    bob.leave(&room).await.ok();
    let unheard = alice.send_text(&room, "behind your back").await.event_id();
    let third = bob.sync_until(has_left(&room)).await;
    assert!(!is_joined(&room)(&third));
    assert!(
        timeline_has(&room, &last)(&third),
        "what was said before the leave is there"
    );
    assert!(!timeline_has(&room, &unheard)(&third));
    let leave = timeline(&third, &room).pop().unwrap_or_default();
    assert_eq!(
        (&leave["type"], &leave["content"]["membership"]),
        (&json!("m.room.member"), &json!("leave"))
    );
    assert!(is_quiet(&bob.sync().await));
}

#[tokio::test]
async fn a_room_left_before_a_first_sync_is_there_only_for_who_asks() {
    let server = Server::start().await;
    let (_, bob, room) = a_room_of_two(&server).await;
    bob.leave(&room).await.ok();
    assert!(!has_left(&room)(&bob.sync().await));
    assert!(has_left(&room)(
        &bob.first_sync(&json!({ "room": { "include_leave": true } }))
            .await
    ));
}

#[tokio::test]
async fn a_room_left_and_joined_again_within_one_sync_is_joined() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    bob.sync().await;
    bob.leave(&room).await.ok();
    alice
        .send_state(&room, "m.room.topic", "", json!({ "topic": "meanwhile" }))
        .await
        .event_id();
    bob.join(&room).await.ok();
    let last = alice.send_text(&room, "welcome back").await.event_id();
    let sync = bob.sync().await;
    assert!(is_joined(&room)(&sync) && !has_left(&room)(&sync));
    assert!(timeline_has(&room, &last)(&sync));
    assert!(
        state_has(&room, "m.room.topic", "")(&sync),
        "what changed meanwhile is known: {sync}"
    );
}

#[tokio::test]
async fn a_gap_brings_the_state_that_changed_in_it() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let carol = server.register("carol").await;
    bob.sync().await;
    alice
        .send_state(&room, "m.room.topic", "", json!({ "topic": "in the gap" }))
        .await
        .event_id();
    carol.join(&room).await.ok();
    let sent = alice.send_texts(&room, 20).await;
    let sync = bob.sync_filtered(&limit(5)).await;
    assert_eq!(ids(timeline(&sync, &room)), sent[15..]);
    let mut changed: Vec<_> = state(&sync, &room)
        .iter()
        .map(|event| event["type"].clone())
        .collect();
    changed.sort_by_key(ToString::to_string);
    assert_eq!(
        changed,
        [json!("m.room.member"), json!("m.room.topic")],
        "what changed, and no more"
    );
}

#[tokio::test]
async fn full_state_is_given_to_who_asks() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    bob.sync().await;
    alice.send_text(&room, "hello").await.event_id();
    let sync = bob.sync_with("timeout=0&full_state=true").await.ok();
    assert!(state_has(&room, "m.room.create", "")(&sync));
    assert!(state_has(&room, "m.room.member", &alice.user_id)(&sync));
    let started = Instant::now();
    let sync = bob.sync_with("timeout=30000&full_state=true").await.ok();
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "who asks for all the state does not wait"
    );
    assert!(state_has(&room, "m.room.create", "")(&sync));
}

#[tokio::test]
async fn sync_tokens_outlive_a_restart() {
    let mut server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    bob.sync().await;
    let before = alice.send_text(&room, "before").await.event_id();
    server.restart().await;
    let after = alice.send_text(&room, "after").await.event_id();
    assert_eq!(ids(timeline(&bob.sync().await, &room)), [before, after]);
    assert!(is_quiet(&bob.sync().await));
}

#[tokio::test]
async fn a_poll_across_a_restart_loses_nothing() {
    let mut server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    bob.sync().await;
    let path = format!(
        "/v3/sync?timeout=30000&since={}",
        encoded(&bob.since().unwrap_or_default())
    );
    let (answer, ()) = tokio::join!(bob.try_ask(reqwest::Method::GET, &path, None), server.restart());
    if let Ok(answer) = answer {
        bob.set_since(answer.ok()["next_batch"].as_str());
    }
    let event = alice.send_text(&room, "still there?").await.event_id();
    assert_eq!(
        ids(timeline(
            &bob.sync_until(timeline_has(&room, &event)).await,
            &room
        )),
        [event]
    );
}

#[tokio::test]
async fn a_forged_token_is_refused_and_a_future_one_does_not_hang() {
    let server = Server::start().await;
    let (alice, _, _) = a_room_of_two(&server).await;
    for forged in [
        "garbage",
        "h1",
        "h1_",
        "h1_x",
        "h_1",
        "s72595_4483_1934",
        "h1_99999999999999999999",
        "h1_-5",
        "h0_0'",
        "\u{0}",
    ] {
        alice.set_since(Some(forged));
        let answer = alice.sync_with("timeout=0").await;
        assert!(
            answer.is_proper_refusal(),
            "{forged}: {} {}",
            answer.status,
            answer.body
        );
    }
}

#[tokio::test]
async fn filters_choose_rooms_types_and_senders() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let other = bob.create_room(json!({})).await.room_id();
    let of_alice = alice.send_text(&room, "from alice").await.event_id();
    let of_bob = bob.send_text(&room, "from bob").await.event_id();
    let sync = bob.first_sync(&json!({ "room": { "rooms": [room] } })).await;
    assert!(is_joined(&room)(&sync) && !is_joined(&other)(&sync));
    let sync = bob.first_sync(&json!({ "room": { "not_rooms": [room] } })).await;
    assert!(!is_joined(&room)(&sync) && is_joined(&other)(&sync));

    let messages = json!({ "room": { "timeline": { "types": ["m.room.message"], "limit": 50 } } });
    assert_eq!(
        ids(timeline(&bob.first_sync(&messages).await, &room)),
        [of_alice.clone(), of_bob.clone()]
    );
    let from_alice =
        json!({ "room": { "timeline": { "types": ["m.room.*"], "senders": [alice.user_id], "limit": 1 } } });
    assert_eq!(
        ids(timeline(&bob.first_sync(&from_alice).await, &room)),
        [of_alice]
    );
    let not_alice =
        json!({ "room": { "timeline": { "not_senders": [alice.user_id], "not_types": ["m.room.member"] } } });
    assert_eq!(ids(timeline(&bob.first_sync(&not_alice).await, &room)), [of_bob]);
    let names = json!({ "room": { "timeline": { "limit": 1 }, "state": { "types": ["m.room.name"] } } });
    let types: Vec<_> = state(&bob.first_sync(&names).await, &room)
        .iter()
        .map(|event| event["type"].clone())
        .collect();
    assert_eq!(types, [json!("m.room.name")]);
}

#[tokio::test]
async fn a_stored_filter_is_one_by_its_id() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let sent = alice.send_texts(&room, 5).await;
    let filter = json!({ "room": { "timeline": { "limit": 2, "types": ["m.room.message"] } } });
    let filter_id = bob.store_filter(filter.clone()).await;
    let path = format!("/v3/user/{}/filter/{filter_id}", bob.user_id);
    assert_eq!(bob.get(&path).await.ok()["room"], filter["room"]);
    alice.get(&path).await.refused(403, "M_FORBIDDEN");
    bob.get(&format!("/v3/user/{}/filter/no-such-filter", bob.user_id))
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .post(&format!("/v3/user/{}/filter", bob.user_id), json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
    let sync = bob.sync_with(&format!("timeout=0&filter={filter_id}")).await.ok();
    assert_eq!(ids(timeline(&sync, &room)), sent[3..]);
    bob.set_since(None);
    for forged in ["no-such-filter", "%7Bbroken", "%7B%22room%22%3A3%7D"] {
        let answer = bob.sync_with(&format!("timeout=0&filter={forged}")).await;
        assert!(
            answer.is_proper_refusal(),
            "{forged}: {} {}",
            answer.status,
            answer.body
        );
    }
}

#[tokio::test]
async fn lazy_members_are_those_who_speak_and_the_heroes() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    for name in ["dave", "erin", "frank", "grace"] {
        server.register(name).await.join(&room).await.ok();
    }
    // The last to come is no hero.
    let carol = server.register("carol").await;
    carol.join(&room).await.ok();
    alice.send_texts(&room, 5).await;
    let lazy = json!({ "room": { "timeline": { "limit": 3 }, "state": { "lazy_load_members": true } } });
    let members = |sync: &Value| {
        let members = state(sync, &room)
            .into_iter()
            .filter(|event| event["type"] == "m.room.member");
        members
            .map(|event| event["state_key"].clone())
            .collect::<Vec<_>>()
    };
    let first = bob.first_sync(&lazy).await;
    let known = members(&first);
    assert!(known.contains(&json!(alice.user_id)), "alice speaks: {known:?}");
    assert!(
        !known.contains(&json!(carol.user_id)),
        "carol does not: {known:?}"
    );
    let heroes = first["rooms"]["join"][&room]["summary"]["m.heroes"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    assert!(
        heroes.iter().all(|hero| known.contains(hero)),
        "{heroes:?} are among {known:?}"
    );
    assert!(
        state_has(&room, "m.room.name", "")(&first),
        "other state is there"
    );
    let said = carol.send_text(&room, "me too").await.event_id();
    let next = bob.sync_filtered(&lazy).await;
    assert!(timeline_has(&room, &said)(&next));
    assert!(
        members(&next).contains(&json!(carol.user_id)),
        "now she does: {next}"
    );
}

#[tokio::test]
async fn a_summary_counts_members_and_names_heroes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(public_chat()).await.room_id();
    let mut others = Vec::new();
    for name in ["bob", "carol", "dave", "erin", "frank", "grace"] {
        let user = server.register(name).await;
        user.join(&room).await.ok();
        others.push(user);
    }
    let heidi = server.register("heidi").await;
    alice.invite(&room, &heidi).await.ok();
    let sync = alice.sync().await;
    let summary = &sync["rooms"]["join"][&room]["summary"];
    assert_eq!(summary["m.joined_member_count"], 7);
    assert_eq!(summary["m.invited_member_count"], 1);
    let heroes = summary["m.heroes"].as_array().cloned().unwrap_or_default();
    assert_eq!(heroes.len(), 5, "{summary}");
    assert!(
        !heroes.contains(&json!(alice.user_id)),
        "one's own hero is somebody else"
    );
    assert_eq!(
        heroes[0], others[0].user_id,
        "the first who came is the first hero"
    );

    alice.send_text(&room, "no change").await.event_id();
    let quiet = alice.sync().await;
    let summary = &quiet["rooms"]["join"][&room]["summary"];
    assert!(
        summary.as_object().is_none_or(serde_json::Map::is_empty),
        "an unchanged summary is not repeated: {summary}"
    );
    others[5].leave(&room).await.ok();
    let changed = alice.sync().await;
    assert_eq!(
        changed["rooms"]["join"][&room]["summary"]["m.joined_member_count"],
        6
    );
}

#[tokio::test]
async fn every_device_of_a_user_syncs_for_itself() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let laptop = bob.another_device().await;
    bob.sync().await;
    laptop.sync().await;
    let event = alice.send_text(&room, "to all of you").await.event_id();
    assert_eq!(
        ids(timeline(&bob.sync().await, &room)),
        std::slice::from_ref(&event)
    );
    let own = bob.send_text(&room, "to myself").await.event_id();
    assert_eq!(ids(timeline(&laptop.sync().await, &room)), [event, own]);
}

#[tokio::test]
async fn absurd_parameters_of_a_sync_are_refused_or_cut_to_size() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let refused = [
        "timeout=-1",
        "timeout=soon",
        "timeout=99999999999999999999999",
        "full_state=maybe",
        "set_presence=dancing",
    ];
    for query in refused {
        let answer = bob.get(&format!("/v3/sync?{query}")).await;
        let is_lenient = query.starts_with("set_presence") && answer.status == 200;
        assert!(
            is_lenient || answer.is_proper_refusal(),
            "{query}: {} {}",
            answer.status,
            answer.body
        );
    }
    alice.send_texts(&room, 3).await;
    for count in ["0", "1", "4000000000"] {
        let filter = format!("{{\"room\":{{\"timeline\":{{\"limit\":{count}}}}}}}");
        let answer = bob
            .get(&format!("/v3/sync?timeout=0&filter={}", encoded(&filter)))
            .await;
        assert!(
            answer.status == 200 || answer.is_proper_refusal(),
            "{count}: {} {}",
            answer.status,
            answer.body
        );
        let events = answer.body["rooms"]["join"][&room]["timeline"]["events"]
            .as_array()
            .map_or(0, Vec::len);
        if count == "1" {
            assert_eq!(events, 1);
        }
    }
    for count in ["-1", "1.5", "\"ten\"", "9223372036854775808", "1e3"] {
        let filter = format!("{{\"room\":{{\"timeline\":{{\"limit\":{count}}}}}}}");
        let answer = bob
            .get(&format!("/v3/sync?timeout=0&filter={}", encoded(&filter)))
            .await;
        assert!(
            answer.is_proper_refusal(),
            "{count}: {} {}",
            answer.status,
            answer.body
        );
    }
}

#[tokio::test]
async fn a_message_sent_by_oneself_ends_ones_own_poll() {
    let server = Server::start().await;
    let (alice, _, room) = a_room_of_two(&server).await;
    alice.sync().await;
    let event = alice
        .send(&room, "m.room.message", text("note to self"))
        .await
        .event_id();
    let sync = alice.sync_until(timeline_has(&room, &event)).await;
    assert_eq!(ids(timeline(&sync, &room)), [event]);
}
