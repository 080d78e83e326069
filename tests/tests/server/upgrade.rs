//! Rooms that go on in rooms of another version.

use std::collections::BTreeMap;

use hearth_tests::{
    Answer, Client, Server, Two, account_data, encoded, is_joined, public_chat, state_has, timeline,
    timeline_has,
};
use serde_json::{Value, json};

async fn upgrade(client: &Client, room: &str, version: &str) -> Answer {
    upgrade_with(client, room, json!({ "new_version": version })).await
}

async fn upgrade_with(client: &Client, room: &str, body: Value) -> Answer {
    client.post(&format!("/v3/rooms/{room}/upgrade"), body).await
}

async fn content(client: &Client, room: &str, event_type: &str) -> Value {
    client.state(room, event_type, "").await.ok()
}

/// The contents of the state that two rooms should have in common.
async fn description(client: &Client, room: &str) -> BTreeMap<&'static str, Value> {
    let mut contents = BTreeMap::new();
    for event_type in [
        "m.room.join_rules",
        "m.room.history_visibility",
        "m.room.guest_access",
        "m.room.encryption",
        "m.room.server_acl",
        "m.room.name",
        "m.room.avatar",
        "m.room.topic",
    ] {
        contents.insert(event_type, content(client, room, event_type).await);
    }
    contents
}

fn described_room(version: &str) -> Value {
    let state = |event_type: &str, content: Value| json!({ "type": event_type, "content": content });
    let mut parameters = public_chat();
    parameters["room_version"] = json!(version);
    parameters["name"] = json!("Town hall");
    parameters["topic"] = json!("All of it");
    parameters["creation_content"] = json!({ "type": "org.example.hall", "m.federate": false });
    parameters["initial_state"] = json!([
        state("m.room.avatar", json!({ "url": "mxc://example.org/hall" })),
        state(
            "m.room.encryption",
            json!({ "algorithm": "m.megolm.v1.aes-sha2" })
        ),
        state(
            "m.room.server_acl",
            json!({ "allow": ["*"], "deny": ["evil.example"] })
        ),
        state("org.example.private", json!({ "stays": true })),
    ]);
    parameters
}

#[tokio::test]
async fn a_room_of_any_version_goes_on_in_one_of_any_other() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let versions = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];
    let pairs = versions
        .iter()
        .map(|version| (*version, "12"))
        .chain(versions.iter().map(|version| ("12", *version)))
        .chain([("10", "11"), ("6", "6")]);
    for (from, to) in pairs {
        let old = alice.create_room(described_room(from)).await.room_id();
        let last = alice.send_text(&old, "the last word").await.event_id();
        let new = upgrade(&alice, &old, to).await.string("replacement_room");

        let create = content(&alice, &new, "m.room.create").await;
        assert_eq!(create["room_version"], to, "{from} to {to}");
        assert_eq!(create["type"], "org.example.hall");
        assert_eq!(create["m.federate"], false);
        assert_eq!(
            create["predecessor"],
            json!({ "room_id": old, "event_id": last }),
            "{from} to {to}"
        );
        let tombstone = content(&alice, &old, "m.room.tombstone").await;
        assert_eq!(tombstone["replacement_room"], new);
        assert!(tombstone["body"].is_string(), "{tombstone}");
        assert_eq!(
            description(&alice, &new).await,
            description(&alice, &old).await,
            "{from} to {to}"
        );
        alice
            .state(&new, "org.example.private", "")
            .await
            .refused(404, "M_NOT_FOUND");
        assert_eq!(
            alice.memberships(&new).await,
            json!({ alice.user_id.as_str(): "join" })
        );
        let levels = content(&alice, &old, "m.room.power_levels").await;
        assert_eq!(
            (&levels["events_default"], &levels["invite"]),
            (&json!(50), &json!(50))
        );
        // Who upgraded it may do there what they could before.
        alice.send_text(&new, "go on").await.event_id();
        alice
            .send_state(&new, "m.room.name", "", json!({ "name": "New town hall" }))
            .await
            .event_id();
        alice
            .send_state(
                &new,
                "m.room.power_levels",
                "",
                json!({ "events_default": 10, "users": users_of(&alice, to) }),
            )
            .await
            .event_id();
    }
}

fn users_of(client: &Client, version: &str) -> Value {
    match version {
        "12" => json!({}),
        _ => json!({ client.user_id.as_str(): 100 }),
    }
}

#[tokio::test]
async fn members_see_the_tombstone_and_may_follow_and_nobody_is_taken_along() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let old = alice.create_room(public_chat()).await.room_id();
    bob.join(&old).await.ok();
    bob.sync().await;
    let new = upgrade(&alice, &old, "11").await.string("replacement_room");
    let sync = bob.sync_until(state_has(&old, "m.room.tombstone", "")).await;
    assert!(sync["rooms"]["join"][&new].is_null(), "{sync}");
    bob.send_text(&old, "one more thing")
        .await
        .refused(403, "M_FORBIDDEN");
    bob.join(&new).await.ok();
    bob.sync_until(is_joined(&new)).await;
    bob.send_text(&new, "here I am").await.event_id();
}

#[tokio::test]
async fn power_goes_on_and_creators_are_those_who_are_named() {
    let server = Server::start().await;
    let (alice, bob, carol) = (
        server.register("alice").await,
        server.register("bob").await,
        server.register("carol").await,
    );
    let mut parameters = public_chat();
    parameters["room_version"] = json!("11");
    parameters["power_level_content_override"] = json!({
        "users": { alice.user_id.as_str(): 100, bob.user_id.as_str(): 100, carol.user_id.as_str(): 50 },
        "events": { "org.example": 75 }, "kick": 60,
    });
    let old = alice.create_room(parameters).await.room_id();
    let wanted = json!({ "new_version": "12", "additional_creators": [bob.user_id, alice.user_id] });
    let new = upgrade_with(&alice, &old, wanted)
        .await
        .string("replacement_room");
    let create = content(&alice, &new, "m.room.create").await;
    assert_eq!(create["additional_creators"], json!([bob.user_id]));
    let levels = content(&alice, &new, "m.room.power_levels").await;
    assert_eq!(levels["users"], json!({ carol.user_id.as_str(): 50 }));
    assert_eq!(
        (&levels["kick"], &levels["events"]["org.example"]),
        (&json!(60), &json!(75))
    );

    // Back: those who had power without end keep more than anybody else may get.
    bob.join(&new).await.ok();
    let back = upgrade(&alice, &new, "11").await.string("replacement_room");
    let levels = content(&alice, &back, "m.room.power_levels").await;
    assert_eq!(
        levels["users"],
        json!({ alice.user_id.as_str(): 100, bob.user_id.as_str(): 100, carol.user_id.as_str(): 50 })
    );
}

#[tokio::test]
async fn who_is_banned_stays_banned() {
    let server = Server::start().await;
    let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
    let old = alice.create_room(public_chat()).await.room_id();
    mallory.join(&old).await.ok();
    alice.ban(&old, &mallory, Some("spam")).await.ok();
    let new = upgrade(&alice, &old, "10").await.string("replacement_room");
    let member = alice.state(&new, "m.room.member", &mallory.user_id).await.ok();
    assert_eq!(member, json!({ "membership": "ban", "reason": "spam" }));
    mallory.join(&new).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn aliases_and_the_place_in_the_directory_go_over() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let alias = |name: &str| format!("#{name}:{}", server.name());
    let mut parameters = public_chat();
    parameters["room_alias_name"] = json!("hall");
    parameters["visibility"] = json!("public");
    let old = alice.create_room(parameters).await.room_id();
    let path = format!("/v3/directory/room/{}", encoded(&alias("annex")));
    alice.put(&path, json!({ "room_id": old })).await.ok();
    let named = json!({ "alias": alias("hall"), "alt_aliases": [alias("annex")] });
    alice
        .send_state(&old, "m.room.canonical_alias", "", named.clone())
        .await
        .event_id();

    let new = upgrade(&alice, &old, "12").await.string("replacement_room");
    assert_eq!(content(&alice, &new, "m.room.canonical_alias").await, named);
    assert_eq!(content(&alice, &old, "m.room.canonical_alias").await, json!({}));
    for name in ["hall", "annex"] {
        let joined = bob.join(&alias(name)).await.room_id();
        assert_eq!(joined, new);
    }
    let published = server
        .anonymous()
        .get(&format!("/v3/directory/list/room/{new}"))
        .await;
    let unpublished = server
        .anonymous()
        .get(&format!("/v3/directory/list/room/{old}"))
        .await;
    assert_eq!(published.ok()["visibility"], "public");
    assert_eq!(unpublished.ok()["visibility"], "private");
}

/// What a user keeps for a room, as the tests set it.
async fn keep_settings(client: &Client, room: &str, other: &Client) {
    let user = encoded(&client.user_id);
    let tag = format!("/v3/user/{user}/rooms/{room}/tags/m.favourite");
    client.put(&tag, json!({ "order": 0.5 })).await.ok();
    let rule = format!("/v3/pushrules/global/room/{}", encoded(room));
    client.put(&rule, json!({ "actions": ["notify"] })).await.ok();
    let muted = format!("/v3/pushrules/global/override/{}", encoded(room));
    let condition = json!({ "kind": "event_match", "key": "room_id", "pattern": room });
    client
        .put(&muted, json!({ "actions": [], "conditions": [condition] }))
        .await
        .ok();
    client
        .set_account_data("m.direct", json!({ other.user_id.as_str(): [room] }))
        .await
        .ok();
}

async fn has_settings(client: &Client, room: &str, other: &Client) {
    let user = encoded(&client.user_id);
    let tags = client
        .get(&format!("/v3/user/{user}/rooms/{room}/tags"))
        .await
        .ok();
    assert_eq!(tags["tags"], json!({ "m.favourite": { "order": 0.5 } }));
    let rule = client
        .get(&format!("/v3/pushrules/global/room/{}", encoded(room)))
        .await
        .ok();
    assert_eq!(rule["actions"], json!(["notify"]));
    let muted = client
        .get(&format!("/v3/pushrules/global/override/{}", encoded(room)))
        .await
        .ok();
    assert_eq!(muted["conditions"][0]["pattern"], room);
    let direct = client
        .get(&format!("/v3/user/{user}/account_data/m.direct"))
        .await
        .ok();
    let direct = direct[&other.user_id].as_array().cloned().unwrap_or_default();
    assert!(direct.iter().any(|direct| direct == room), "{direct:?}");
}

#[tokio::test]
async fn what_users_keep_for_a_room_goes_over_when_they_follow() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let old = alice.create_room(public_chat()).await.room_id();
    bob.join(&old).await.ok();
    keep_settings(&alice, &old, &bob).await;
    keep_settings(&bob, &old, &alice).await;
    let new = upgrade(&alice, &old, "12").await.string("replacement_room");
    has_settings(&alice, &new, &bob).await;
    bob.sync().await;
    bob.join(&new).await.ok();
    has_settings(&bob, &new, &alice).await;
    let sync = bob.sync().await;
    let tags = account_data(&sync["rooms"]["join"][&new], "m.tag");
    assert_eq!(
        tags,
        [json!({ "tags": { "m.favourite": { "order": 0.5 } } })],
        "{sync}"
    );
    assert!(
        timeline(&sync, &new)
            .iter()
            .any(|event| event["state_key"] == bob.user_id)
    );
}

#[tokio::test]
async fn a_room_that_only_claims_to_replace_another_gets_nothing_of_it() {
    let server = Server::start().await;
    let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
    let old = alice.create_room(public_chat()).await.room_id();
    keep_settings(&alice, &old, &mallory).await;
    let mut parameters = public_chat();
    parameters["creation_content"] = json!({ "predecessor": { "room_id": old } });
    let claimed = mallory.create_room(parameters).await.room_id();
    alice.join(&claimed).await.ok();
    let user = encoded(&alice.user_id);
    let tags = alice
        .get(&format!("/v3/user/{user}/rooms/{claimed}/tags"))
        .await
        .ok();
    assert_eq!(tags["tags"], json!({}));
}

#[tokio::test]
async fn the_same_upgrade_again_is_answered_by_the_same_room() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut parameters = public_chat();
    parameters["power_level_content_override"] =
        json!({ "users": { alice.user_id.as_str(): 100, bob.user_id.as_str(): 100 } });
    parameters["room_version"] = json!("11");
    let old = alice.create_room(parameters).await.room_id();
    bob.join(&old).await.ok();
    let (one, other) = tokio::join!(upgrade(&alice, &old, "10"), upgrade(&alice, &old, "10"));
    let new = one.string("replacement_room");
    assert_eq!(other.string("replacement_room"), new);
    assert_eq!(upgrade(&alice, &old, "10").await.string("replacement_room"), new);
    // Another version, or another user, means another room.
    let third = upgrade(&alice, &old, "12").await.string("replacement_room");
    assert_ne!(third, new);
    let fourth = upgrade(&bob, &old, "12").await.string("replacement_room");
    assert_ne!(fourth, third);
    assert_eq!(
        content(&alice, &old, "m.room.tombstone").await["replacement_room"],
        fourth
    );
}

#[tokio::test]
async fn a_space_takes_its_rooms_along() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let space = alice
        .create_room(json!({ "creation_content": { "type": "m.space" } }))
        .await
        .room_id();
    let via = json!({ "via": [server.name()] });
    alice
        .send_state(&space, "m.space.child", "!kept:example.org", via.clone())
        .await
        .event_id();
    alice
        .send_state(&space, "m.space.child", "!gone:example.org", json!({}))
        .await
        .event_id();
    let new = upgrade(&alice, &space, "12").await.string("replacement_room");
    assert_eq!(
        alice.state(&new, "m.space.child", "!kept:example.org").await.ok(),
        via
    );
    alice
        .state(&new, "m.space.child", "!gone:example.org")
        .await
        .refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn who_may_not_upgrade_a_room_changes_nothing() {
    let server = Server::start().await;
    let (alice, bob, carol) = (
        server.register("alice").await,
        server.register("bob").await,
        server.register("carol").await,
    );
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    let before = bob.get("/v3/joined_rooms").await.ok();
    upgrade(&bob, &room, "11").await.refused(403, "M_FORBIDDEN");
    assert_eq!(bob.get("/v3/joined_rooms").await.ok(), before);
    upgrade(&carol, &room, "11").await.refused(403, "M_FORBIDDEN");
    upgrade(&alice, "!unknown:example.org", "11")
        .await
        .refused(403, "M_FORBIDDEN");
    upgrade(&alice, &room, "99")
        .await
        .refused(400, "M_UNSUPPORTED_ROOM_VERSION");
    upgrade_with(&alice, &room, json!({}))
        .await
        .refused(400, "M_BAD_JSON");
    upgrade_with(
        &alice,
        &room,
        json!({ "new_version": "12", "additional_creators": ["nobody"] }),
    )
    .await
    .refused(400, "M_BAD_JSON");
    alice
        .state(&room, "m.room.tombstone", "")
        .await
        .refused(404, "M_NOT_FOUND");
    alice.leave(&room).await.ok();
    upgrade(&alice, &room, "11").await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn who_may_upgrade_a_room_but_not_change_its_power_levels_leaves_them_as_they_are() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut parameters = public_chat();
    parameters["room_version"] = json!("10");
    parameters["power_level_content_override"] = json!({
        "users": { alice.user_id.as_str(): 100, bob.user_id.as_str(): 50 },
        "events": { "m.room.power_levels": 100, "m.room.tombstone": 50 },
    });
    let old = alice.create_room(parameters).await.room_id();
    bob.join(&old).await.ok();
    let before = content(&alice, &old, "m.room.power_levels").await;
    let new = upgrade(&bob, &old, "11").await.string("replacement_room");
    assert_eq!(content(&alice, &old, "m.room.power_levels").await, before);
    let levels = content(&bob, &new, "m.room.power_levels").await;
    assert_eq!(levels["users"], before["users"]);
    bob.send_state(&new, "m.room.power_levels", "", json!({ "users": {} }))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn members_of_other_servers_follow_and_their_servers_aliases_with_them() {
    let two = Two::start().await;
    let Two { a, b, alice, bob, .. } = &two;
    let carol = b.register("carol").await;
    let old = two.room().await;
    carol.join(&old).await.ok();
    let alias = format!("#there:{}", b.name());
    bob.put(
        &format!("/v3/directory/room/{}", encoded(&alias)),
        json!({ "room_id": old }),
    )
    .await
    .ok();
    keep_settings(bob, &old, alice).await;
    keep_settings(&carol, &old, bob).await;

    let new = upgrade(alice, &old, "12").await.string("replacement_room");
    let sync = bob.sync_until(state_has(&old, "m.room.tombstone", "")).await;
    let tombstone = timeline(&sync, &old)
        .into_iter()
        .find(|event| event["type"] == "m.room.tombstone");
    assert_eq!(
        tombstone.expect("it was there")["content"]["replacement_room"],
        new
    );
    bob.join_via(&new, a.name()).await;
    has_settings(bob, &new, alice).await;
    let led = carol.join(&alias).await.room_id();
    assert_eq!(led, new);
    has_settings(&carol, &new, bob).await;
    let hello = alice.send_text(&new, "all here?").await.event_id();
    carol.sync_until(timeline_has(&new, &hello)).await;
}
