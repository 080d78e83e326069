//! Two and three servers of Hearth, over real TLS: rooms shared as if they were one.

use hearth_tests::{Client, Two, has_left, is_invited, is_joined, public_chat, timeline_has, until};
use serde_json::{Value, json};

/// The state of a room as a sorted list of type, key and event.
async fn state_of(client: &Client, room: &str) -> Vec<String> {
    let state = client.get(&format!("/v3/rooms/{room}/state")).await.ok();
    let events = state.as_array().cloned().unwrap_or_default();
    let line = |event: &Value| format!("{} {} {}", event["type"], event["state_key"], event["event_id"]);
    let mut lines: Vec<String> = events.iter().map(line).collect();
    lines.sort();
    lines
}

async fn same_state(one: &Client, other: &Client, room: &str) {
    until("both servers have the same state", || async {
        (state_of(one, room).await == state_of(other, room).await).then_some(())
    })
    .await;
}

async fn talk_in_version(version: &str) {
    let Two { a, alice, bob, .. } = &Two::start().await;
    let mut parameters = public_chat();
    parameters["room_version"] = json!(version);
    let room = alice.create_room(parameters).await.room_id();
    alice.send_text(&room, "before").await.event_id();
    bob.join_via(&room, a.name()).await;
    alice
        .sync_until(|sync| {
            let events = sync["rooms"]["join"][&room]["timeline"]["events"]
                .as_array()
                .cloned();
            events
                .unwrap_or_default()
                .iter()
                .any(|event| event["state_key"] == bob.user_id)
        })
        .await;
    let hello = alice.send_text(&room, "hello").await.event_id();
    bob.sync_until(timeline_has(&room, &hello)).await;
    let answer = bob.send_text(&room, "and to you").await.event_id();
    alice.sync_until(timeline_has(&room, &answer)).await;
    alice
        .send_state(&room, "m.room.topic", "", json!({ "topic": "all of it" }))
        .await
        .event_id();
    same_state(alice, bob, &room).await;
    let redaction = alice.redact(&room, &hello, "a slip").await.event_id();
    bob.sync_until(timeline_has(&room, &redaction)).await;
    let redacted = bob.event(&room, &hello).await.ok();
    assert_eq!(redacted["content"], json!({}), "{redacted}");
}

#[tokio::test]
async fn two_servers_talk_in_a_room_of_version_1() {
    talk_in_version("1").await;
}

#[tokio::test]
async fn two_servers_talk_in_a_room_of_version_6() {
    talk_in_version("6").await;
}

#[tokio::test]
async fn two_servers_talk_in_a_room_of_version_10() {
    talk_in_version("10").await;
}

#[tokio::test]
async fn two_servers_talk_in_a_room_of_version_11() {
    talk_in_version("11").await;
}

#[tokio::test]
async fn two_servers_talk_in_a_room_of_version_12() {
    talk_in_version("12").await;
}

#[tokio::test]
async fn an_invite_crosses_servers_and_is_taken() {
    let Two { alice, bob, .. } = &Two::start().await;
    let room = alice.create_room(json!({ "name": "The den" })).await.room_id();
    alice.invite(&room, bob).await.ok();
    let sync = bob.sync_until(is_invited(&room)).await;
    let stripped = sync["rooms"]["invite"][&room]["invite_state"]["events"].to_string();
    assert!(stripped.contains("The den"), "{stripped}");
    bob.post(&format!("/v3/rooms/{room}/join"), json!({})).await.ok();
    bob.sync_until(is_joined(&room)).await;
    let hello = bob.send_text(&room, "thanks").await.event_id();
    alice.sync_until(timeline_has(&room, &hello)).await;
    same_state(alice, bob, &room).await;
}

#[tokio::test]
async fn an_invite_that_is_refused_is_seen_as_a_leave_by_who_sent_it() {
    let Two { alice, bob, .. } = &Two::start().await;
    let room = alice
        .create_room(json!({ "invite": [bob.user_id], "is_direct": true }))
        .await
        .room_id();
    bob.sync_until(is_invited(&room)).await;
    bob.leave(&room).await.ok();
    bob.sync_until(has_left(&room)).await;
    until("the inviter sees it", || async {
        let members = alice.memberships(&room).await;
        (members[&bob.user_id] == "leave").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_room_is_joined_by_the_alias_of_another_server() {
    let Two { a, alice, bob, .. } = &Two::start().await;
    let mut parameters = public_chat();
    parameters["room_alias_name"] = json!("lobby");
    let room = alice.create_room(parameters).await.room_id();
    let joined = bob
        .post(&format!("/v3/join/%23lobby:{}", a.name()), json!({}))
        .await
        .ok();
    assert_eq!(joined["room_id"], room);
}

#[tokio::test]
async fn a_private_room_lets_no_stranger_in_from_elsewhere() {
    let Two { a, alice, bob, .. } = &Two::start().await;
    let room = alice.create_room(json!({})).await.room_id();
    bob.post(&format!("/v3/join/{room}?via={}", a.name()), json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_kick_and_a_ban_reach_the_other_server() {
    let Two { a, alice, bob, .. } = &Two::start().await;
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join_via(&room, a.name()).await;
    until("the join is seen", || async {
        (alice.memberships(&room).await[&bob.user_id] == "join").then_some(())
    })
    .await;
    alice.kick(&room, bob, Some("out")).await.ok();
    bob.sync_until(has_left(&room)).await;
    bob.join_via(&room, a.name()).await;
    alice.ban(&room, bob, None).await.ok();
    bob.sync_until(has_left(&room)).await;
    bob.post(&format!("/v3/join/{room}?via={}", a.name()), json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_knock_crosses_servers_and_is_let_in() {
    let Two { a, alice, bob, .. } = &Two::start().await;
    let knock = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let room = alice
        .create_room(json!({ "initial_state": [knock] }))
        .await
        .room_id();
    bob.post(
        &format!("/v3/knock/{room}?via={}", a.name()),
        json!({ "reason": "me" }),
    )
    .await
    .ok();
    until("the knock is seen", || async {
        (alice.memberships(&room).await[&bob.user_id] == "knock").then_some(())
    })
    .await;
    alice.invite(&room, bob).await.ok();
    bob.sync_until(is_invited(&room)).await;
    bob.post(&format!("/v3/rooms/{room}/join"), json!({})).await.ok();
    bob.sync_until(is_joined(&room)).await;
}

#[tokio::test]
async fn a_restricted_room_lets_members_of_another_room_in_from_elsewhere() {
    let Two { a, alice, bob, .. } = &Two::start().await;
    let space = alice.create_room(public_chat()).await.room_id();
    let rules = json!({
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": space }],
    });
    let rules = json!({ "type": "m.room.join_rules", "content": rules });
    let room = alice
        .create_room(json!({ "initial_state": [rules] }))
        .await
        .room_id();
    bob.post(&format!("/v3/join/{room}?via={}", a.name()), json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
    bob.join_via(&space, a.name()).await;
    bob.join_via(&room, a.name()).await;
    let hello = bob.send_text(&room, "in").await.event_id();
    alice.sync_until(timeline_has(&room, &hello)).await;
}

#[tokio::test]
async fn messages_of_both_sides_at_once_all_arrive_and_the_state_is_one() {
    let Two { a, alice, bob, .. } = &Two::start().await;
    let mut parameters = public_chat();
    parameters["power_level_content_override"] = json!({ "state_default": 0 });
    let room = alice.create_room(parameters).await.room_id();
    bob.join_via(&room, a.name()).await;
    let send = async |client: &Client, name: &str| {
        let mut sent = Vec::new();
        for n in 0..40 {
            sent.push(client.send_text(&room, &format!("{name} {n}")).await.event_id());
            if n % 10 == 0 {
                let content = json!({ "name": format!("{name} {n}") });
                client
                    .send_state(&room, &format!("org.example.{name}"), "", content)
                    .await
                    .event_id();
            }
        }
        sent
    };
    let (from_alice, from_bob) = tokio::join!(send(alice, "alice"), send(bob, "bob"));
    for (reader, sent) in [(alice, &from_bob), (bob, &from_alice)] {
        until("every event has come", || async {
            for event_id in sent {
                if reader.event(&room, event_id).await.status != 200 {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }
    same_state(alice, bob, &room).await;
}

#[tokio::test]
async fn a_server_that_the_acl_denies_is_not_heard() {
    let Two { a, b, alice, bob, .. } = &Two::start().await;
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join_via(&room, a.name()).await;
    // Ports don't count in a server ACL: the two are one name to it.
    let denied = json!({ "allow": ["*"], "deny": ["localhost"], "allow_ip_literals": true });
    alice
        .send_state(&room, "m.room.server_acl", "", denied)
        .await
        .event_id();
    let unheard = bob.send_text(&room, "can you hear me?").await.event_id();
    let other = alice.create_room(public_chat()).await.room_id();
    bob.join_via(&other, a.name()).await;
    let heard = bob.send_text(&other, "here I may").await.event_id();
    alice.sync_until(timeline_has(&other, &heard)).await;
    alice.event(&room, &unheard).await.refused(404, "M_NOT_FOUND");
    assert_ne!(a.name(), b.name());
}
