//! Membership between the two: invites, knocks, restricted rooms, kicks and bans.

use hearth_tests::{encoded, has_left, is_invited, is_joined, public_chat, timeline_has};
use serde_json::{Value, json};

use super::{Pair, Scenarios, Side, is_seen_as, join_via, same_state, shared_room};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_synapse_members_come_and_go() {
    let pair = Pair::start().await;
    let mut scenarios = Scenarios::default();
    for version in ["1", "6", "10", "12"] {
        scenarios.both_ways(
            &pair,
            &format!("an invite of version {version} that is taken"),
            move |host, guest| invite_taken(host, guest, version),
        );
        scenarios.both_ways(
            &pair,
            &format!("an invite of version {version} that is refused"),
            move |host, guest| invite_refused(host, guest, version),
        );
    }
    scenarios.both_ways(&pair, "an invite that is taken back", invite_taken_back);
    scenarios.both_ways(&pair, "a direct chat", direct_chat);
    scenarios.both_ways(&pair, "kick and ban", kick_and_ban);
    scenarios.both_ways(&pair, "a private room", private_room);
    scenarios.play().await;
}

async fn invite_taken(host: Side, guest: Side, version: &str) {
    let alice = host.register(&format!("alice.taken{version}")).await;
    let bob = guest.register(&format!("bob.taken{version}")).await;
    let room = alice
        .create_room(json!({ "name": "The den", "room_version": version }))
        .await
        .room_id();
    alice.invite(&room, &bob).await.ok();
    let sync = bob.sync_until(is_invited(&room)).await;
    let stripped = &sync["rooms"]["invite"][&room]["invite_state"]["events"];
    assert!(stripped.to_string().contains("The den"), "{stripped}");
    let events = stripped.as_array().cloned().unwrap_or_default();
    let own = events.iter().find(|event| event["state_key"] == bob.user_id);
    let own = own.unwrap_or_else(|| panic!("the invite is among its state: {stripped}"));
    assert_eq!(own["content"]["membership"], "invite");
    assert_eq!(own["sender"], alice.user_id);
    bob.post(&format!("/v3/rooms/{}/join", encoded(&room)), json!({}))
        .await
        .ok();
    bob.sync_until(is_joined(&room)).await;
    is_seen_as(&alice, &room, &bob, "join").await;
    let hello = bob.send_text(&room, "thanks").await.event_id();
    alice.sync_until(timeline_has(&room, &hello)).await;
    same_state(&alice, &bob, &room).await;
}

async fn invite_refused(host: Side, guest: Side, version: &str) {
    let alice = host.register(&format!("alice.refused{version}")).await;
    let bob = guest.register(&format!("bob.refused{version}")).await;
    let room = alice
        .create_room(json!({ "invite": [bob.user_id], "room_version": version }))
        .await
        .room_id();
    bob.sync_until(is_invited(&room)).await;
    bob.leave(&room).await.ok();
    bob.sync_until(has_left(&room)).await;
    is_seen_as(&alice, &room, &bob, "leave").await;
    // And once more, which is taken.
    alice.invite(&room, &bob).await.ok();
    bob.sync_until(is_invited(&room)).await;
    bob.join(&room).await.ok();
    bob.sync_until(is_joined(&room)).await;
    is_seen_as(&alice, &room, &bob, "join").await;
    same_state(&alice, &bob, &room).await;
}

async fn invite_taken_back(host: Side, guest: Side) {
    let (alice, bob) = (
        host.register("alice.back").await,
        guest.register("bob.back").await,
    );
    let room = alice.create_room(json!({})).await.room_id();
    alice.invite(&room, &bob).await.ok();
    bob.sync_until(is_invited(&room)).await;
    alice.kick(&room, &bob, Some("a mistake")).await.ok();
    bob.sync_until(has_left(&room)).await;
    // That there is nobody to ask, or that whom it asked said no: either will do.
    assert!(bob.join(&room).await.is_proper_refusal());
}

async fn direct_chat(host: Side, guest: Side) {
    let (alice, bob) = (
        host.register("alice.direct").await,
        guest.register("bob.direct").await,
    );
    let parameters = json!({ "preset": "trusted_private_chat", "is_direct": true, "invite": [bob.user_id] });
    let room = alice.create_room(parameters).await.room_id();
    let sync = bob.sync_until(is_invited(&room)).await;
    let events = sync["rooms"]["invite"][&room]["invite_state"]["events"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let own = events.iter().find(|event| event["state_key"] == bob.user_id);
    assert_eq!(
        own.cloned().unwrap_or_default()["content"]["is_direct"],
        true,
        "{events:?}"
    );
    bob.join(&room).await.ok();
    bob.sync_until(is_joined(&room)).await;
    is_seen_as(&alice, &room, &bob, "join").await;
    // Of a trusted private chat, the invited are as mighty as the creator.
    bob.send_state(&room, "m.room.name", "", json!({ "name": "Ours" }))
        .await
        .event_id();
    same_state(&alice, &bob, &room).await;
}

async fn kick_and_ban(host: Side, guest: Side) {
    let (alice, bob) = (
        host.register("alice.kick").await,
        guest.register("bob.kick").await,
    );
    let carol = guest.register("carol.kick").await;
    let room = shared_room(&alice, &bob, &host, public_chat()).await;
    join_via(&carol, &room, &host).await;
    is_seen_as(&alice, &room, &carol, "join").await;
    alice.kick(&room, &bob, Some("out")).await.ok();
    bob.sync_until(has_left(&room)).await;
    is_seen_as(&carol, &room, &bob, "leave").await;
    join_via(&bob, &room, &host).await;
    is_seen_as(&alice, &room, &bob, "join").await;
    alice.ban(&room, &bob, None).await.ok();
    bob.sync_until(has_left(&room)).await;
    is_seen_as(&carol, &room, &bob, "ban").await;
    let path = format!("/v3/join/{}?via={}", encoded(&room), encoded(&host.name));
    assert_eq!(bob.post(&path, json!({})).await.status, 403);
    alice.unban(&room, &bob).await.ok();
    is_seen_as(&carol, &room, &bob, "leave").await;
    join_via(&bob, &room, &host).await;
    is_seen_as(&alice, &room, &bob, "join").await;
    same_state(&alice, &bob, &room).await;

    // The last of a server goes, and comes back: what it missed is there.
    bob.leave(&room).await.ok();
    carol.leave(&room).await.ok();
    is_seen_as(&alice, &room, &bob, "leave").await;
    is_seen_as(&alice, &room, &carol, "leave").await;
    alice
        .send_state(&room, "m.room.topic", "", json!({ "topic": "without you" }))
        .await
        .event_id();
    join_via(&bob, &room, &host).await;
    is_seen_as(&alice, &room, &bob, "join").await;
    same_state(&alice, &bob, &room).await;
    let hello = bob.send_text(&room, "back").await.event_id();
    alice.sync_until(timeline_has(&room, &hello)).await;
}

async fn private_room(host: Side, guest: Side) {
    let (alice, bob) = (
        host.register("alice.private").await,
        guest.register("bob.private").await,
    );
    let room = alice.create_room(json!({})).await.room_id();
    let path = format!("/v3/join/{}?via={}", encoded(&room), encoded(&host.name));
    let refused = bob.post(&path, json!({})).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_synapse_rooms_are_knocked_on_and_restricted() {
    let pair = Pair::start().await;
    let mut scenarios = Scenarios::default();
    for version in ["7", "10", "12"] {
        scenarios.both_ways(
            &pair,
            &format!("a knock of version {version}"),
            move |host, guest| knock(host, guest, version),
        );
    }
    for version in ["8", "10", "12"] {
        scenarios.both_ways(
            &pair,
            &format!("a restricted room of version {version}"),
            move |host, guest| restricted(host, guest, version),
        );
    }
    scenarios.add(
        "a knock that is taken back",
        knock_taken_back(pair.synapse(), pair.hearth()),
    );
    scenarios.both_ways(
        &pair,
        "a restricted room of the guest's users",
        restricted_by_the_guests_room,
    );
    scenarios.play().await;
}

fn join_rules(content: &Value) -> Value {
    json!([{ "type": "m.room.join_rules", "state_key": "", "content": content }])
}

async fn knock(host: Side, guest: Side, version: &str) {
    let alice = host.register(&format!("alice.knock{version}")).await;
    let bob = guest.register(&format!("bob.knock{version}")).await;
    let rules = join_rules(&json!({ "join_rule": "knock" }));
    let room = alice
        .create_room(json!({ "initial_state": rules, "room_version": version, "name": "Knock first" }))
        .await
        .room_id();
    let path = format!("/v3/knock/{}?via={}", encoded(&room), encoded(&host.name));
    bob.post(&path, json!({ "reason": "me" })).await.ok();
    let sync = bob
        .sync_until(|sync| sync["rooms"]["knock"][&room].is_object())
        .await;
    let stripped = sync["rooms"]["knock"][&room]["knock_state"].to_string();
    assert!(stripped.contains("Knock first"), "{stripped}");
    is_seen_as(&alice, &room, &bob, "knock").await;
    alice.invite(&room, &bob).await.ok();
    bob.sync_until(is_invited(&room)).await;
    bob.join(&room).await.ok();
    bob.sync_until(is_joined(&room)).await;
    is_seen_as(&alice, &room, &bob, "join").await;
    same_state(&alice, &bob, &room).await;
}

/// Synapse forgets whom it knocked through, and takes a knock back on its own side only; and it tells no other server that
/// a knock was refused. What is left is that it hears of a knock that is taken back.
async fn knock_taken_back(host: Side, guest: Side) {
    let (alice, bob) = (
        host.register("alice.unknock").await,
        guest.register("bob.unknock").await,
    );
    let rules = join_rules(&json!({ "join_rule": "knock" }));
    let room = alice
        .create_room(json!({ "initial_state": rules }))
        .await
        .room_id();
    let path = format!("/v3/knock/{}?via={}", encoded(&room), encoded(&host.name));
    bob.post(&path, json!({})).await.ok();
    is_seen_as(&alice, &room, &bob, "knock").await;
    bob.leave(&room).await.ok();
    is_seen_as(&alice, &room, &bob, "leave").await;
}

async fn restricted(host: Side, guest: Side, version: &str) {
    let alice = host.register(&format!("alice.restricted{version}")).await;
    let bob = guest.register(&format!("bob.restricted{version}")).await;
    let carol = guest.register(&format!("carol.restricted{version}")).await;
    let space = alice.create_room(public_chat()).await.room_id();
    let rules = join_rules(&json!({
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": space }],
    }));
    let room = alice
        .create_room(json!({ "initial_state": rules, "room_version": version }))
        .await
        .room_id();
    let path = format!("/v3/join/{}?via={}", encoded(&room), encoded(&host.name));
    assert_eq!(bob.post(&path, json!({})).await.status, 403);
    join_via(&bob, &space, &host).await;
    is_seen_as(&alice, &space, &bob, "join").await;
    join_via(&bob, &room, &host).await;
    let hello = bob.send_text(&room, "in").await.event_id();
    alice.sync_until(timeline_has(&room, &hello)).await;
    let members = bob.get(&format!("/v3/rooms/{room}/members")).await.ok();
    let chunk = members["chunk"].as_array().cloned().unwrap_or_default();
    let own = chunk.iter().find(|event| event["state_key"] == bob.user_id);
    let vouched = &own.cloned().unwrap_or_default()["content"]["join_authorised_via_users_server"];
    assert_eq!(*vouched, alice.user_id);

    // The guest's server is in the room now, but nobody there may invite: the host's has to vouch again.
    join_via(&carol, &space, &host).await;
    is_seen_as(&alice, &space, &carol, "join").await;
    join_via(&carol, &room, &host).await;
    is_seen_as(&alice, &room, &carol, "join").await;
    same_state(&alice, &bob, &room).await;
}

/// A restricted room lets in who is in a room that its own server is in through another's user only.
async fn restricted_by_the_guests_room(host: Side, guest: Side) {
    let (alice, bob) = (host.register("alice.by").await, guest.register("bob.by").await);
    let space = bob.create_room(public_chat()).await.room_id();
    join_via(&alice, &space, &guest).await;
    let rules = join_rules(&json!({
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": space }],
    }));
    let room = alice
        .create_room(json!({ "initial_state": rules }))
        .await
        .room_id();
    join_via(&bob, &room, &host).await;
    is_seen_as(&alice, &room, &bob, "join").await;
    same_state(&alice, &bob, &room).await;
}
