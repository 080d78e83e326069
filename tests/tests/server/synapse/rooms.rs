//! Rooms of every version, made on either side: joined from the other by ID and by alias, talked in, and upgraded.

use hearth_tests::{Client, encoded, is_joined, public_chat, timeline, timeline_has, until};
use serde_json::{Value, json};

use super::{Pair, Scenarios, Side, is_seen_as, join_via, same_state, shared_room};

/// One of each format and of each set of rules that differ between servers.
const VERSIONS: [&str; 7] = ["1", "3", "6", "8", "10", "11", "12"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_synapse_rooms_of_every_version_are_shared() {
    let pair = Pair::start().await;
    let mut scenarios = Scenarios::default();
    for version in VERSIONS {
        scenarios.both_ways(
            &pair,
            &format!("a room of version {version}"),
            move |host, guest| talk_in_version(host, guest, version),
        );
    }
    scenarios.play().await;
}

async fn talk_in_version(host: Side, guest: Side, version: &str) {
    let alice = host.register(&format!("alice{version}")).await;
    let bob = guest.register(&format!("bob{version}")).await;
    let carol = guest.register(&format!("carol{version}")).await;
    let mut parameters = public_chat();
    parameters["room_version"] = json!(version);
    let alias = format!("room{version}");
    parameters["room_alias_name"] = json!(alias);
    let room = alice.create_room(parameters).await.room_id();
    alice.send_text(&room, "before").await.event_id();

    join_via(&bob, &room, &host).await;
    let joined = carol.join(&format!("#{alias}:{}", host.name)).await.ok();
    assert_eq!(joined["room_id"], room);
    carol.sync_until(is_joined(&room)).await;
    for guest in [&bob, &carol] {
        is_seen_as(&alice, &room, guest, "join").await;
    }

    let hello = alice.send_text(&room, "hello").await.event_id();
    bob.sync_until(timeline_has(&room, &hello)).await;
    let answer = bob.send_text(&room, "and to you").await.event_id();
    alice.sync_until(timeline_has(&room, &answer)).await;
    carol.sync_until(timeline_has(&room, &answer)).await;
    alice
        .send_state(&room, "m.room.topic", "", json!({ "topic": "all of it" }))
        .await
        .event_id();
    bob.set_displayname("Bob the guest").await.ok();
    same_state(&alice, &bob, &room).await;

    redact_and_see(&alice, &hello, &bob, &room).await;
    redact_and_see(&bob, &answer, &alice, &room).await;
    let left = carol.leave(&room).await;
    left.ok();
    is_seen_as(&alice, &room, &carol, "leave").await;
    same_state(&alice, &bob, &room).await;
}

async fn redact_and_see(redactor: &Client, event_id: &str, observer: &Client, room: &str) {
    let redaction = redactor.redact(room, event_id, "a slip").await.event_id();
    observer.sync_until(timeline_has(room, &redaction)).await;
    until("the event is redacted", || async {
        let event = observer.event(room, event_id).await.ok();
        (event["content"] == json!({})).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_synapse_a_room_is_upgraded_by_either() {
    let pair = Pair::start().await;
    let mut scenarios = Scenarios::default();
    for (from, to) in [("6", "10"), ("10", "12"), ("11", "12")] {
        scenarios.both_ways(
            &pair,
            &format!("an upgrade from {from} to {to}"),
            move |host, guest| upgrade(host, guest, from, to),
        );
    }
    scenarios.play().await;
}

async fn upgrade(host: Side, guest: Side, from: &'static str, to: &'static str) {
    let alice = host.register(&format!("alice{from}to{to}")).await;
    let bob = guest.register(&format!("bob{from}to{to}")).await;
    let mut parameters = public_chat();
    parameters["room_version"] = json!(from);
    parameters["name"] = json!("the old one");
    let old = shared_room(&alice, &bob, &host, parameters).await;
    let upgraded = alice
        .post(&format!("/v3/rooms/{old}/upgrade"), json!({ "new_version": to }))
        .await
        .ok();
    let new = upgraded["replacement_room"]
        .as_str()
        .expect("a room ID")
        .to_owned();
    let sync = bob
        .sync_until(|sync| {
            timeline(sync, &old)
                .iter()
                .any(|event| event["type"] == "m.room.tombstone")
        })
        .await;
    let tombstone = timeline(&sync, &old)
        .into_iter()
        .find(|event| event["type"] == "m.room.tombstone");
    assert_eq!(tombstone.unwrap_or_default()["content"]["replacement_room"], new);
    same_state(&alice, &bob, &old).await;

    // As a client follows a tombstone: through the server of who sent it.
    join_via(&bob, &new, &host).await;
    is_seen_as(&alice, &new, &bob, "join").await;
    let create = bob.state(&new, "m.room.create", "").await.ok();
    assert_eq!(create["room_version"], to);
    assert_eq!(create["predecessor"]["room_id"], old);
    assert_eq!(
        bob.state(&new, "m.room.name", "").await.ok()["name"],
        "the old one"
    );
    let hello = bob.send_text(&new, "still here").await.event_id();
    alice.sync_until(timeline_has(&new, &hello)).await;
    same_state(&alice, &bob, &new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_synapse_public_rooms_spaces_and_server_acls_are_understood() {
    let pair = Pair::start().await;
    let mut scenarios = Scenarios::default();
    scenarios.both_ways(&pair, "the public rooms", public_rooms);
    scenarios.both_ways(&pair, "a space", space);
    scenarios.both_ways(&pair, "a server ACL", server_acl);
    scenarios.play().await;
}

async fn public_rooms(host: Side, guest: Side) {
    let (alice, bob) = (host.register("alice").await, guest.register("bob").await);
    let mut parameters = public_chat();
    parameters["visibility"] = json!("public");
    parameters["name"] = json!("The lobby of the house");
    let room = alice.create_room(parameters).await.room_id();
    let server = encoded(&host.name);
    let listed = |answer: Value| {
        let rooms = answer["chunk"].as_array().cloned().unwrap_or_default();
        rooms.into_iter().find(|listed| listed["room_id"] == room)
    };
    let found = until("the room is listed", || async {
        let answer = bob.get(&format!("/v3/publicRooms?server={server}")).await.ok();
        listed(answer)
    })
    .await;
    assert_eq!(found["name"], "The lobby of the house");
    assert_eq!(found["num_joined_members"], 1);
    let search = |term: &str| json!({ "filter": { "generic_search_term": term } });
    let path = format!("/v3/publicRooms?server={server}");
    let answer = bob.post(&path, search("lobby of")).await.ok();
    assert!(listed(answer).is_some());
    let answer = bob.post(&path, search("no such room")).await.ok();
    assert!(listed(answer).is_none());
}

async fn space(host: Side, guest: Side) {
    let (alice, bob) = (
        host.register("alice.space").await,
        guest.register("bob.space").await,
    );
    let mut parameters = public_chat();
    parameters["creation_content"] = json!({ "type": "m.space" });
    parameters["name"] = json!("The house");
    let space = alice.create_room(parameters).await.room_id();
    let mut parameters = public_chat();
    parameters["name"] = json!("A room of the house");
    let child = alice.create_room(parameters).await.room_id();
    alice
        .send_state(&space, "m.space.child", &child, json!({ "via": [host.name] }))
        .await
        .event_id();
    // Joined to the space, the guest's server has to ask for its room.
    join_via(&bob, &space, &host).await;
    let hierarchy = bob
        .get(&format!("/v1/rooms/{}/hierarchy", encoded(&space)))
        .await
        .ok();
    let rooms = hierarchy["rooms"].as_array().cloned().unwrap_or_default();
    let names: Vec<&Value> = rooms.iter().map(|room| &room["name"]).collect();
    assert_eq!(names, ["The house", "A room of the house"], "{hierarchy}");
    assert_eq!(rooms[1]["room_id"], child);
}

async fn server_acl(host: Side, guest: Side) {
    let (alice, bob) = (host.register("alice.acl").await, guest.register("bob.acl").await);
    let room = shared_room(&alice, &bob, &host, public_chat()).await;
    let other = shared_room(&alice, &bob, &host, public_chat()).await;
    // To an ACL, servers are their names without the port.
    let guest_name = guest.name.split(':').next().unwrap_or_default();
    let denied = json!({ "allow": ["*"], "deny": [guest_name], "allow_ip_literals": true });
    alice
        .send_state(&room, "m.room.server_acl", "", denied)
        .await
        .event_id();
    let unheard = bob.send_text(&room, "can you hear me?").await.event_id();
    let heard = bob.send_text(&other, "here I may").await.event_id();
    alice.sync_until(timeline_has(&other, &heard)).await;
    assert_eq!(alice.event(&room, &unheard).await.status, 404);
    let carol = guest.register("carol.acl").await;
    let path = format!("/v3/join/{}?via={}", encoded(&room), encoded(&host.name));
    // Its own server may let her in, which is in the room; what it says is not heard any more.
    let _ = carol.post(&path, json!({})).await;
    let later = bob.send_text(&other, "still here").await.event_id();
    alice.sync_until(timeline_has(&other, &later)).await;
    assert_eq!(alice.memberships(&room).await[&carol.user_id], Value::Null);
}
