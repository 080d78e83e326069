//! Coming to rooms and going from them: invites, joins, leaves, kicks, bans, and what each allows.

use hearth_tests::{Client, Server, has_left, is_invited, is_joined, public_chat, timeline_has};
use serde_json::{Value, json};

async fn alice_bob_and_carol(server: &Server) -> (Client, Client, Client) {
    (
        server.register("alice").await,
        server.register("bob").await,
        server.register("carol").await,
    )
}

async fn joined_rooms(client: &Client) -> Value {
    client.get("/v3/joined_rooms").await.ok()["joined_rooms"].clone()
}

#[tokio::test]
async fn an_invited_user_sees_what_the_room_is_and_joins() {
    let server = Server::start().await;
    let (alice, bob, carol) = alice_bob_and_carol(&server).await;
    let room = alice.create_room(json!({ "name": "The den" })).await.room_id();
    bob.sync().await;
    alice.invite(&room, &bob).await.ok();
    let sync = bob.sync_until(is_invited(&room)).await;
    let stripped = sync["rooms"]["invite"][&room]["invite_state"]["events"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let content = |event_type: &str| {
        let event = stripped.iter().find(|event| event["type"] == event_type);
        event.map(|event| event["content"].clone()).unwrap_or_default()
    };
    assert_eq!(content("m.room.name")["name"], "The den");
    assert_eq!(content("m.room.create")["room_version"], "12");
    assert_eq!(content("m.room.join_rules")["join_rule"], "invite");
    assert!(
        stripped
            .iter()
            .any(|event| event["state_key"] == bob.user_id && event["content"]["membership"] == "invite")
    );
    assert!(
        stripped
            .iter()
            .all(|event| event["type"].is_string() && event["sender"].is_string())
    );

    assert_eq!(joined_rooms(&bob).await, json!([]));
    assert_eq!(bob.join(&room).await.room_id(), room);
    bob.sync_until(is_joined(&room)).await;
    assert_eq!(joined_rooms(&bob).await, json!([room]));
    assert_eq!(
        alice.memberships(&room).await,
        json!({ &alice.user_id: "join", &bob.user_id: "join" })
    );
    bob.invite(&room, &carol).await.ok();
}

#[tokio::test]
async fn nobody_comes_uninvited_to_a_private_room() {
    let server = Server::start().await;
    let (alice, bob, _) = alice_bob_and_carol(&server).await;
    let room = alice.create_room(json!({})).await.room_id();
    bob.join(&room).await.refused(403, "M_FORBIDDEN");
    bob.post(&format!("/v3/rooms/{room}/join"), json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
    bob.send_text(&room, "hello?").await.refused(403, "M_FORBIDDEN");
    bob.get(&format!("/v3/rooms/{room}/state"))
        .await
        .refused(403, "M_FORBIDDEN");
    bob.get(&format!("/v3/rooms/{room}/members"))
        .await
        .refused(403, "M_FORBIDDEN");
    bob.get(&format!("/v3/rooms/{room}/joined_members"))
        .await
        .refused(403, "M_FORBIDDEN");
    bob.messages(&room, "dir=b").await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_room_that_is_not_there_cannot_be_joined() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let nowhere = format!("!nowhere:{}", server.name());
    let answer = alice.join(&nowhere).await;
    assert!(
        answer.is_proper_refusal() && [403, 404].contains(&answer.status),
        "{} {}",
        answer.status,
        answer.body
    );
    let answer = alice.join(&format!("!{}", "A".repeat(43))).await;
    assert!(
        answer.is_proper_refusal() && [403, 404].contains(&answer.status),
        "{} {}",
        answer.status,
        answer.body
    );
    alice
        .join(&format!("#nowhere:{}", server.name()))
        .await
        .refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn anyone_joins_a_public_room_once() {
    let server = Server::start().await;
    let (alice, bob, _) = alice_bob_and_carol(&server).await;
    let room = alice.create_room(public_chat()).await.room_id();
    let body = json!({ "reason": "to listen" });
    bob.post(&format!("/v3/rooms/{room}/join"), body).await.room_id();
    assert_eq!(
        alice.state(&room, "m.room.member", &bob.user_id).await.ok()["reason"],
        "to listen"
    );
    let events = alice.page_through(&room, "f", 100, None).await.len();
    assert_eq!(bob.join(&room).await.room_id(), room, "joining again is no error");
    assert_eq!(
        alice.page_through(&room, "f", 100, None).await.len(),
        events,
        "nor an event"
    );
}

#[tokio::test]
async fn a_member_of_one_room_joins_another_restricted_to_it() {
    let server = Server::start().await;
    let (alice, bob, carol) = alice_bob_and_carol(&server).await;
    let club = alice.create_room(public_chat()).await.room_id();
    let rule =
        json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": club }] });
    for version in ["8", "10", "12"] {
        let initial_state = json!([{ "type": "m.room.join_rules", "content": rule }]);
        let room = alice
            .create_room(json!({ "room_version": version, "initial_state": initial_state }))
            .await
            .room_id();
        carol.join(&room).await.refused(403, "M_FORBIDDEN");
        bob.join(&club).await.ok();
        bob.join(&room).await.room_id();
        let member = alice.state(&room, "m.room.member", &bob.user_id).await.ok();
        assert_eq!(
            member["join_authorised_via_users_server"], alice.user_id,
            "version {version}"
        );
    }
}

#[tokio::test]
async fn an_invite_needs_the_right_to_invite() {
    let server = Server::start().await;
    let (alice, bob, carol) = alice_bob_and_carol(&server).await;
    let room = alice.create_room(public_chat()).await.room_id();
    bob.invite(&room, &carol).await.refused(403, "M_FORBIDDEN");
    bob.join(&room).await.ok();
    alice.invite(&room, &bob).await.refused(403, "M_FORBIDDEN");
    alice
        .send_state(&room, "m.room.power_levels", "", json!({ "invite": 50 }))
        .await
        .event_id();
    bob.invite(&room, &carol).await.refused(403, "M_FORBIDDEN");
    alice.ban(&room, &carol, None).await.ok();
    alice.invite(&room, &carol).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn an_invite_can_be_declined_and_withdrawn() {
    let server = Server::start().await;
    let (alice, bob, carol) = alice_bob_and_carol(&server).await;
    let room = alice
        .create_room(json!({ "invite": [bob.user_id, carol.user_id] }))
        .await
        .room_id();
    bob.sync_until(is_invited(&room)).await;
    bob.leave(&room).await.ok();
    bob.sync_until(has_left(&room)).await;
    bob.join(&room).await.refused(403, "M_FORBIDDEN");

    carol.sync_until(is_invited(&room)).await;
    alice.kick(&room, &carol, Some("a mistake")).await.ok();
    carol.sync_until(has_left(&room)).await;
    carol.join(&room).await.refused(403, "M_FORBIDDEN");
    let memberships = alice.memberships(&room).await;
    assert_eq!(
        memberships,
        json!({ &alice.user_id: "join", &bob.user_id: "leave", &carol.user_id: "leave" })
    );
}

#[tokio::test]
async fn who_leaves_is_gone_and_may_come_back_to_a_public_room() {
    let server = Server::start().await;
    let (alice, bob, _) = alice_bob_and_carol(&server).await;
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    bob.sync().await;
    bob.post(&format!("/v3/rooms/{room}/leave"), json!({ "reason": "supper" }))
        .await
        .ok();
    bob.sync_until(has_left(&room)).await;
    assert_eq!(joined_rooms(&bob).await, json!([]));
    let member = alice.state(&room, "m.room.member", &bob.user_id).await.ok();
    assert_eq!(
        (&member["membership"], &member["reason"]),
        (&json!("leave"), &json!("supper"))
    );
    bob.send_text(&room, "one more thing")
        .await
        .refused(403, "M_FORBIDDEN");
    bob.join(&room).await.ok();
    bob.send_text(&room, "back").await.event_id();
}

#[tokio::test]
async fn who_left_reads_what_was_said_until_then_and_nothing_later() {
    let server = Server::start().await;
    let (alice, bob, _) = alice_bob_and_carol(&server).await;
    let room = alice
        .create_room(json!({ "preset": "public_chat", "name": "before" }))
        .await
        .room_id();
    bob.join(&room).await.ok();
    let heard = alice.send_text(&room, "heard").await.event_id();
    bob.leave(&room).await.ok();
    let unheard = alice.send_text(&room, "unheard").await.event_id();
    alice
        .send_state(&room, "m.room.name", "", json!({ "name": "after" }))
        .await
        .event_id();

    let read = hearth_tests::event_ids(&Value::from(bob.page_through(&room, "b", 50, None).await));
    assert!(read.contains(&heard), "history until leaving can be read");
    assert!(!read.contains(&unheard), "and no later");
    bob.event(&room, &heard).await.ok();
    bob.event(&room, &unheard).await.refused(404, "M_NOT_FOUND");
    assert_eq!(
        bob.state(&room, "m.room.name", "").await.ok()["name"],
        "before",
        "state is that of the leaving"
    );
    let state = bob.get(&format!("/v3/rooms/{room}/state")).await.ok();
    let name = state
        .as_array()
        .and_then(|state| state.iter().find(|event| event["type"] == "m.room.name"))
        .cloned();
    assert_eq!(name.unwrap_or_default()["content"]["name"], "before");
    bob.get(&format!("/v3/rooms/{room}/joined_members"))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_kick_needs_power_and_a_member_to_kick() {
    let server = Server::start().await;
    let (alice, bob, carol) = alice_bob_and_carol(&server).await;
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    bob.kick(&room, &alice, None).await.refused(403, "M_FORBIDDEN");
    carol.kick(&room, &bob, None).await.refused(403, "M_FORBIDDEN");
    alice.kick(&room, &carol, None).await.refused(403, "M_FORBIDDEN");
    bob.sync().await;
    alice.kick(&room, &bob, Some("noise")).await.ok();
    let sync = bob.sync_until(has_left(&room)).await;
    let kick = hearth_tests::timeline(&sync, &room)
        .pop()
        .expect("the kick is the last that is seen");
    assert_eq!(
        (&kick["state_key"], &kick["sender"]),
        (&json!(bob.user_id), &json!(alice.user_id))
    );
    assert_eq!(
        kick["content"],
        json!({ "membership": "leave", "reason": "noise" })
    );
    bob.join(&room).await.ok();
}

#[tokio::test]
async fn a_banned_user_cannot_rejoin_until_unbanned() {
    let server = Server::start().await;
    let (alice, bob, carol) = alice_bob_and_carol(&server).await;
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    carol.join(&room).await.ok();
    bob.ban(&room, &carol, None).await.refused(403, "M_FORBIDDEN");
    alice.ban(&room, &bob, Some("spam")).await.ok();
    let member = alice.state(&room, "m.room.member", &bob.user_id).await.ok();
    assert_eq!(
        (&member["membership"], &member["reason"]),
        (&json!("ban"), &json!("spam"))
    );
    bob.join(&room).await.refused(403, "M_FORBIDDEN");
    bob.send_text(&room, "but why").await.refused(403, "M_FORBIDDEN");
    carol.unban(&room, &bob).await.refused(403, "M_FORBIDDEN");
    alice.unban(&room, &bob).await.ok();
    alice.unban(&room, &bob).await.refused(403, "M_FORBIDDEN");
    bob.join(&room).await.ok();
}

#[tokio::test]
async fn someone_who_never_came_can_be_banned() {
    let server = Server::start().await;
    let (alice, bob, _) = alice_bob_and_carol(&server).await;
    let room = alice.create_room(public_chat()).await.room_id();
    alice.ban(&room, &bob, None).await.ok();
    bob.join(&room).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_room_is_forgotten_only_after_it_was_left() {
    let server = Server::start().await;
    let (alice, bob, _) = alice_bob_and_carol(&server).await;
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    bob.forget(&room).await.refused(400, "M_UNKNOWN");
    bob.leave(&room).await.ok();
    bob.messages(&room, "dir=b").await.ok();
    let with_left = json!({ "room": { "include_leave": true } });
    assert!(has_left(&room)(&bob.first_sync(&with_left).await));
    bob.forget(&room).await.ok();
    assert!(!has_left(&room)(&bob.first_sync(&with_left).await));
    bob.messages(&room, "dir=b").await.refused(403, "M_FORBIDDEN");
    bob.join(&room).await.ok();
    bob.sync_until(is_joined(&room)).await;
    bob.messages(&room, "dir=b").await.ok();
}

#[tokio::test]
async fn power_is_needed_to_change_the_room_and_cannot_be_given_beyond_ones_own() {
    let server = Server::start().await;
    let (alice, bob, carol) = alice_bob_and_carol(&server).await;
    let room = alice
        .create_room(json!({ "preset": "public_chat", "room_version": "11" }))
        .await
        .room_id();
    bob.join(&room).await.ok();
    carol.join(&room).await.ok();
    bob.send_state(&room, "m.room.name", "", json!({ "name": "bob's" }))
        .await
        .refused(403, "M_FORBIDDEN");

    let mut levels = alice.state(&room, "m.room.power_levels", "").await.ok();
    levels["users"][&bob.user_id] = 50.into();
    alice
        .send_state(&room, "m.room.power_levels", "", levels.clone())
        .await
        .event_id();
    bob.send_state(&room, "m.room.name", "", json!({ "name": "bob's" }))
        .await
        .event_id();
    bob.kick(&room, &carol, None).await.ok();
    bob.kick(&room, &alice, None).await.refused(403, "M_FORBIDDEN");

    levels["users"][&bob.user_id] = 100.into();
    bob.send_state(&room, "m.room.power_levels", "", levels.clone())
        .await
        .refused(403, "M_FORBIDDEN");
    levels["users"][&bob.user_id] = "lots".into();
    let answer = alice.send_state(&room, "m.room.power_levels", "", levels).await;
    assert!(
        answer.is_proper_refusal(),
        "a level is an integer: {} {}",
        answer.status,
        answer.body
    );
    bob.send(&room, "m.room.message", hearth_tests::text("still in order"))
        .await
        .event_id();
}

#[tokio::test]
async fn a_creator_of_version_12_stands_above_all_levels() {
    let server = Server::start().await;
    let (alice, bob, _) = alice_bob_and_carol(&server).await;
    let room = alice
        .create_room(json!({ "preset": "public_chat", "room_version": "12" }))
        .await
        .room_id();
    bob.join(&room).await.ok();
    let mut levels = alice.state(&room, "m.room.power_levels", "").await.ok();
    levels["users"][&bob.user_id] = 9_000_000.into();
    alice
        .send_state(&room, "m.room.power_levels", "", levels.clone())
        .await
        .event_id();
    bob.kick(&room, &alice, None).await.refused(403, "M_FORBIDDEN");
    levels["users"][&alice.user_id] = 100.into();
    alice
        .send_state(&room, "m.room.power_levels", "", levels)
        .await
        .refused(403, "M_FORBIDDEN");
    alice.kick(&room, &bob, None).await.ok();
}

#[tokio::test]
async fn history_is_visible_as_the_room_says() {
    let server = Server::start().await;
    let (alice, bob, carol) = alice_bob_and_carol(&server).await;
    for (visibility, before_invite, after_invite, to_stranger) in [
        ("joined", false, false, false),
        ("invited", false, true, false),
        ("shared", true, true, false),
        ("world_readable", true, true, true),
    ] {
        let initial_state =
            json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": visibility } }]);
        let room = alice
            .create_room(json!({ "initial_state": initial_state }))
            .await
            .room_id();
        let first = alice.send_text(&room, "before the invite").await.event_id();
        alice.invite(&room, &bob).await.ok();
        let second = alice.send_text(&room, "after the invite").await.event_id();
        bob.join(&room).await.ok();
        let third = alice.send_text(&room, "after the join").await.event_id();

        let seen = hearth_tests::event_ids(&Value::from(bob.page_through(&room, "b", 3, None).await));
        let expected = [(&first, before_invite), (&second, after_invite), (&third, true)];
        for (event_id, visible) in expected {
            assert_eq!(seen.contains(event_id), visible, "{visibility}: paging");
            let status = bob.event(&room, event_id).await.status;
            assert_eq!(
                status,
                if visible { 200 } else { 404 },
                "{visibility}: the event itself"
            );
        }
        bob.set_since(None);
        let sync = bob.sync_with("timeout=0&full_state=true").await.ok();
        for (event_id, visible) in expected {
            assert_eq!(
                timeline_has(&room, event_id)(&sync),
                visible,
                "{visibility}: syncing"
            );
        }
        assert_eq!(
            carol.messages(&room, "dir=b").await.status,
            if to_stranger { 200 } else { 403 },
            "{visibility}"
        );
        assert_eq!(
            carol.event(&room, &third).await.status,
            if to_stranger { 200 } else { 404 },
            "{visibility}"
        );
    }
}

#[tokio::test]
async fn a_membership_can_be_set_as_state_under_the_same_rules() {
    let server = Server::start().await;
    let (alice, bob, carol) = alice_bob_and_carol(&server).await;
    let room = alice.create_room(json!({})).await.room_id();
    let set = async |who: &Client, whom: &Client, membership: &str| {
        who.send_state(
            &room,
            "m.room.member",
            &whom.user_id,
            json!({ "membership": membership }),
        )
        .await
    };
    set(&bob, &bob, "join").await.refused(403, "M_FORBIDDEN");
    set(&alice, &bob, "invite").await.event_id();
    bob.sync_until(is_invited(&room)).await;
    set(&alice, &carol, "join").await.refused(403, "M_FORBIDDEN");
    set(&bob, &bob, "join").await.event_id();
    bob.sync_until(is_joined(&room)).await;

    let odd = set(&alice, &bob, "dancing").await;
    assert!(odd.is_proper_refusal(), "{} {}", odd.status, odd.body);
    set(&bob, &bob, "leave").await.event_id();
    bob.sync_until(has_left(&room)).await;
}
