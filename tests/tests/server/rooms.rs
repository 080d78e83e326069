//! `createRoom` with everything it takes, and rooms of each version.

use hearth_tests::{Client, Server, encoded, is_invited, public_chat, text};
use serde_json::{Value, json};

/// Of each event of a room, in order: its type and state key.
async fn outline(client: &Client, room_id: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let events = client.page_through(room_id, "f", 50, None).await;
    events
        .iter()
        .map(|event| (text(&event["type"]), text(&event["state_key"])))
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(event_type, key)| ((*event_type).to_owned(), (*key).to_owned()))
        .collect()
}

#[tokio::test]
async fn a_room_begins_with_its_events_in_the_specifications_order() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice
        .create_room(json!({
            "preset": "private_chat",
            "room_alias_name": "den",
            "initial_state": [{ "type": "org.example.colour", "state_key": "walls", "content": { "is": "red" } }],
            "name": "The den",
            "topic": "Nothing much",
            "invite": [bob.user_id],
        }))
        .await
        .room_id();
    let expected = [
        ("m.room.create", ""),
        ("m.room.member", &alice.user_id),
        ("m.room.power_levels", ""),
        ("m.room.canonical_alias", ""),
        ("m.room.join_rules", ""),
        ("m.room.history_visibility", ""),
        ("m.room.guest_access", ""),
        ("org.example.colour", "walls"),
        ("m.room.name", ""),
        ("m.room.topic", ""),
        ("m.room.member", &bob.user_id),
    ];
    assert_eq!(outline(&alice, &room).await, pairs(&expected));

    let state = async |event_type| alice.state(&room, event_type, "").await.ok();
    assert_eq!(state("m.room.name").await["name"], "The den");
    let topic = state("m.room.topic").await;
    assert_eq!(topic["topic"], "Nothing much");
    assert_eq!(topic["m.topic"]["m.text"][0]["body"], "Nothing much");
    let alias = format!("#den:{}", server.name());
    assert_eq!(state("m.room.canonical_alias").await["alias"], alias);
    assert_eq!(
        alice
            .get(&format!("/v3/directory/room/{}", encoded(&alias)))
            .await
            .ok()["room_id"],
        room
    );
    assert_eq!(
        alice.state(&room, "org.example.colour", "walls").await.ok(),
        json!({ "is": "red" })
    );
    assert_eq!(
        alice.memberships(&room).await,
        json!({ &alice.user_id: "join", &bob.user_id: "invite" })
    );
}

#[tokio::test]
async fn a_preset_says_who_may_join_read_and_visit() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    for (parameters, join_rule, guest_access) in [
        (json!({}), "invite", "can_join"),
        (json!({ "visibility": "private" }), "invite", "can_join"),
        (json!({ "visibility": "public" }), "public", "forbidden"),
        (json!({ "preset": "private_chat" }), "invite", "can_join"),
        (json!({ "preset": "trusted_private_chat" }), "invite", "can_join"),
        (json!({ "preset": "public_chat" }), "public", "forbidden"),
        (
            json!({ "preset": "private_chat", "visibility": "public" }),
            "invite",
            "can_join",
        ),
    ] {
        let room = alice.create_room(parameters.clone()).await.room_id();
        let state = async |event_type| alice.state(&room, event_type, "").await.ok();
        assert_eq!(
            state("m.room.join_rules").await["join_rule"],
            join_rule,
            "{parameters}"
        );
        assert_eq!(
            state("m.room.history_visibility").await["history_visibility"],
            "shared",
            "{parameters}"
        );
        assert_eq!(
            state("m.room.guest_access").await["guest_access"],
            guest_access,
            "{parameters}"
        );
    }
}

#[tokio::test]
async fn new_private_rooms_are_encrypted_where_the_operator_says_so() {
    let server = Server::start_with(|settings| settings.rooms.encrypt_new_private_rooms = true).await;
    let alice = server.register("alice").await;
    let encryption = async |parameters: Value| {
        let room = alice.create_room(parameters).await.room_id();
        let state = alice.state(&room, "m.room.encryption", "").await;
        (state.status == 200).then_some(state.body)
    };
    let megolm = Some(json!({ "algorithm": "m.megolm.v1.aes-sha2" }));
    for parameters in [
        json!({}),
        json!({ "preset": "private_chat", "visibility": "public" }),
        json!({ "preset": "trusted_private_chat" }),
    ] {
        assert_eq!(encryption(parameters.clone()).await, megolm, "{parameters}");
    }
    for parameters in [
        json!({ "visibility": "public" }),
        json!({ "preset": "public_chat" }),
        json!({ "creation_content": { "type": "m.space" } }),
    ] {
        assert_eq!(encryption(parameters.clone()).await, None, "{parameters}");
    }
    // What the creator's client says stands.
    let own = json!({ "algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 7 });
    let initial_state = json!([{ "type": "m.room.encryption", "state_key": "", "content": own }]);
    assert_eq!(
        encryption(json!({ "initial_state": initial_state })).await,
        Some(own)
    );
}

#[tokio::test]
async fn initial_state_goes_before_the_preset_and_name_and_topic_before_it() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice
        .create_room(json!({
            "preset": "public_chat",
            "name": "by parameter",
            "initial_state": [
                { "type": "m.room.join_rules", "content": { "join_rule": "invite" } },
                { "type": "m.room.history_visibility", "state_key": "", "content": { "history_visibility": "joined" } },
                { "type": "m.room.name", "content": { "name": "by state" } },
                { "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } },
            ],
        }))
        .await
        .room_id();
    let state = async |event_type| alice.state(&room, event_type, "").await.ok();
    assert_eq!(state("m.room.join_rules").await["join_rule"], "invite");
    assert_eq!(
        state("m.room.history_visibility").await["history_visibility"],
        "joined"
    );
    assert_eq!(state("m.room.guest_access").await["guest_access"], "forbidden");
    assert_eq!(state("m.room.name").await["name"], "by parameter");
    assert_eq!(
        state("m.room.encryption").await["algorithm"],
        "m.megolm.v1.aes-sha2"
    );
}

#[tokio::test]
async fn the_creator_of_a_room_has_the_power_of_its_version() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let old = alice.create_room(json!({ "room_version": "11" })).await.room_id();
    let levels = alice.state(&old, "m.room.power_levels", "").await.ok();
    assert_eq!(levels["users"], json!({ &alice.user_id: 100 }));

    let new = alice.create_room(json!({ "room_version": "12" })).await.room_id();
    let levels = alice.state(&new, "m.room.power_levels", "").await.ok();
    assert!(levels["users"].get(&alice.user_id).is_none(), "{levels}");
    let state_default = levels["state_default"].as_i64().unwrap_or(50);
    assert!(
        levels["events"]["m.room.tombstone"].as_i64() > Some(state_default),
        "{levels}"
    );
}

#[tokio::test]
async fn the_override_of_power_levels_is_laid_over_the_defaults() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = format!("@bob:{}", server.name());
    let parameters = json!({
        "room_version": "11",
        "power_level_content_override": { "events_default": 10, "users": { &alice.user_id: 100, &bob: 50 } },
    });
    let room = alice.create_room(parameters).await.room_id();
    let levels = alice.state(&room, "m.room.power_levels", "").await.ok();
    assert_eq!(levels["events_default"], 10);
    assert_eq!(levels["users"], json!({ &alice.user_id: 100, &bob: 50 }));
    assert!(
        levels["events"].is_object(),
        "the defaults that were not overridden stay: {levels}"
    );
}

#[tokio::test]
async fn invitees_of_a_trusted_private_chat_have_the_power_of_its_creator() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let trusted = |version| json!({ "preset": "trusted_private_chat", "room_version": version, "invite": [bob.user_id] });
    let old = alice.create_room(trusted("11")).await.room_id();
    let levels = alice.state(&old, "m.room.power_levels", "").await.ok();
    assert_eq!(levels["users"], json!({ &alice.user_id: 100, &bob.user_id: 100 }));

    let new = alice.create_room(trusted("12")).await.room_id();
    let create = alice.state(&new, "m.room.create", "").await.ok();
    assert_eq!(create["additional_creators"], json!([bob.user_id]));
    bob.join(&new).await.ok();
    bob.send_state(
        &new,
        "m.room.tombstone",
        "",
        json!({ "body": "over", "replacement_room": old }),
    )
    .await
    .event_id();
}

#[tokio::test]
async fn creation_content_is_kept_except_for_what_the_server_says_itself() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let carol = format!("@carol:{}", server.name());
    let creation_content = json!({
        "m.federate": false, "type": "m.space", "org.example.reason": "why not", "creator": "@mallory:example.org",
        "room_version": "1", "additional_creators": [carol],
    });
    let parameters = json!({ "creation_content": creation_content, "room_version": "12" });
    let room = alice.create_room(parameters).await.room_id();
    let create = alice.state(&room, "m.room.create", "").await.ok();
    assert_eq!(create["m.federate"], false);
    assert_eq!(create["type"], "m.space");
    assert_eq!(create["org.example.reason"], "why not");
    assert_eq!(create["room_version"], "12");
    assert_eq!(create["additional_creators"], json!([carol]));
    assert_ne!(create["creator"], "@mallory:example.org");
}

#[tokio::test]
async fn a_direct_chat_says_so_in_its_invites() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let parameters = json!({ "is_direct": true, "preset": "trusted_private_chat", "invite": [bob.user_id] });
    let room = alice.create_room(parameters).await.room_id();
    assert_eq!(
        alice.state(&room, "m.room.member", &bob.user_id).await.ok()["is_direct"],
        true
    );
    let sync = bob.sync_until(is_invited(&room)).await;
    let stripped = sync["rooms"]["invite"][&room]["invite_state"]["events"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let invite = stripped
        .iter()
        .find(|event| event["state_key"] == bob.user_id)
        .expect("the invite itself is there");
    assert_eq!(invite["content"]["is_direct"], true);
    assert_eq!(invite["sender"], alice.user_id);
}

#[tokio::test]
async fn an_alias_that_is_taken_makes_no_second_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    alice
        .create_room(json!({ "room_alias_name": "den" }))
        .await
        .room_id();
    alice
        .create_room(json!({ "room_alias_name": "den" }))
        .await
        .refused(400, "M_ROOM_IN_USE");
    let joined = alice.get("/v3/joined_rooms").await.ok();
    assert_eq!(
        joined["joined_rooms"].as_array().map(Vec::len),
        Some(1),
        "nothing is left of the refused one"
    );
}

#[tokio::test]
async fn a_room_that_could_not_be_is_refused_whole() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let state = |event_type: &str, content: Value| json!({ "initial_state": [{ "type": event_type, "content": content }] });
    for (parameters, errcode) in [
        (json!({ "room_version": "1066" }), "M_UNSUPPORTED_ROOM_VERSION"),
        (
            json!({ "room_version": "11", "name": "x", "power_level_content_override": { "users": { &alice.user_id: 0 } } }),
            "M_INVALID_ROOM_STATE",
        ),
        (
            json!({ "room_version": "11", "power_level_content_override": { "users": { "nobody": 1 } } }),
            "M_INVALID_ROOM_STATE",
        ),
        (
            json!({ "room_version": "12", "power_level_content_override": { "users": { &alice.user_id: 100 } } }),
            "M_INVALID_ROOM_STATE",
        ),
        (json!({ "preset": 3 }), "M_BAD_JSON"),
        (json!({ "name": ["no"] }), "M_BAD_JSON"),
        (json!({ "invite": "everyone" }), "M_BAD_JSON"),
        (json!({ "invite": ["not a user"] }), "M_BAD_JSON"),
        (
            json!({ "initial_state": [{ "type": "m.room.name" }] }),
            "M_BAD_JSON",
        ),
        (json!({ "initial_state": [{ "content": {} }] }), "M_BAD_JSON"),
    ] {
        let answer = alice.create_room(parameters.clone()).await;
        assert_eq!(
            (answer.status, answer.errcode()),
            (400, errcode),
            "{parameters}: {}",
            answer.body
        );
    }
    for parameters in [
        state("m.room.create", json!({})),
        state("org.example.float", json!({ "f": 1.5 })),
        state("org.example.big", json!({ "text": "x".repeat(70_000) })),
        json!({ "room_alias_name": "has:colon" }),
        json!({ "room_alias_name": "" }),
        json!({ "creation_content": { "additional_creators": ["nobody"] }, "room_version": "12" }),
    ] {
        let answer = alice.create_room(parameters.clone()).await;
        assert!(
            answer.is_proper_refusal(),
            "{:.200}: {} {}",
            parameters.to_string(),
            answer.status,
            answer.body
        );
    }
    assert_eq!(
        alice.get("/v3/joined_rooms").await.ok()["joined_rooms"],
        json!([])
    );
}

#[tokio::test]
async fn rooms_of_each_version_can_be_made_and_used() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let capabilities = alice.get("/v3/capabilities").await.ok();
    let versions = &capabilities["capabilities"]["m.room_versions"];
    assert_eq!(versions["default"], "12");
    for version in 1..=12 {
        let name = version.to_string();
        assert_eq!(
            versions["available"][&name], "stable",
            "version {version} is advertised"
        );
        let parameters = json!({ "room_version": name, "name": "old and new", "invite": [bob.user_id] });
        let room = alice.create_room(parameters).await.room_id();
        assert_eq!(
            room.contains(':'),
            version < 12,
            "{room} is the ID of a room of version {version}"
        );
        let create = alice
            .get(&format!("/v3/rooms/{room}/state/m.room.create/?format=event"))
            .await
            .ok();
        assert_eq!(create["content"]["room_version"], name);
        assert_eq!(
            create["content"].get("creator").is_some(),
            version < 11,
            "{create}"
        );
        assert_eq!(create["sender"], alice.user_id);

        bob.join(&room).await.ok();
        let message = bob.send_text(&room, "hello").await.event_id();
        match version {
            1 | 2 => assert!(message.ends_with(&format!(":{}", server.name())), "{message}"),
            _ => assert_eq!(message.len(), 44, "{message} is a hash"),
        }
        alice
            .send_state(&room, "m.room.topic", "", json!({ "topic": "new" }))
            .await
            .event_id();
        bob.send_state(&room, "m.room.topic", "", json!({ "topic": "mine" }))
            .await
            .refused(403, "M_FORBIDDEN");
        let redaction = alice.redact(&room, &message, "was wrong").await.event_id();
        let redacted = bob.event(&room, &message).await.ok();
        assert_eq!(redacted["content"], json!({}), "version {version}");
        assert_eq!(
            redacted["unsigned"]["redacted_because"]["event_id"], redaction,
            "version {version}"
        );
        let redaction = bob.event(&room, &redaction).await.ok();
        let key = if version < 11 {
            &redaction["redacts"]
        } else {
            &redaction["content"]["redacts"]
        };
        assert_eq!(*key, message, "version {version}: {redaction}");
        assert_eq!(
            redaction["redacts"], message,
            "older clients look there in every version: {redaction}"
        );
        alice.kick(&room, &bob, None).await.ok();
        bob.send_text(&room, "still here?")
            .await
            .refused(403, "M_FORBIDDEN");
    }
}

#[tokio::test]
async fn the_operator_chooses_the_version_of_new_rooms() {
    let server = Server::start_with(|settings| {
        settings.rooms.default_version = "10".try_into().expect("a room version");
    })
    .await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await.room_id();
    assert_eq!(
        alice.state(&room, "m.room.create", "").await.ok()["room_version"],
        "10"
    );
    assert_eq!(
        alice.get("/v3/capabilities").await.ok()["capabilities"]["m.room_versions"]["default"],
        "10"
    );
}

#[tokio::test]
async fn aliases_are_set_found_listed_and_deleted() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    let alias = format!("#pub:{}", server.name());
    let path = format!("/v3/directory/room/{}", encoded(&alias));
    alice.get(&path).await.refused(404, "M_NOT_FOUND");
    bob.put(&path, json!({ "room_id": room }))
        .await
        .refused(403, "M_FORBIDDEN");
    alice.put(&path, json!({ "room_id": room })).await.ok();
    alice
        .put(&path, json!({ "room_id": room }))
        .await
        .refused(409, "M_UNKNOWN");
    let found = server.anonymous().get(&path).await.ok();
    assert_eq!(found["room_id"], room);
    assert_eq!(found["servers"], json!([server.name()]));
    bob.get(&format!("/v3/rooms/{room}/aliases"))
        .await
        .refused(403, "M_FORBIDDEN");
    assert_eq!(bob.join(&alias).await.room_id(), room);
    assert_eq!(
        bob.get(&format!("/v3/rooms/{room}/aliases")).await.ok()["aliases"],
        json!([alias])
    );

    bob.delete(&path, None).await.refused(403, "M_FORBIDDEN");
    alice
        .send_state(&room, "m.room.canonical_alias", "", json!({ "alias": alias }))
        .await
        .event_id();
    alice.delete(&path, None).await.ok();
    alice.get(&path).await.refused(404, "M_NOT_FOUND");
    alice.delete(&path, None).await.refused(404, "M_NOT_FOUND");
    bob.join(&alias).await.refused(404, "M_NOT_FOUND");
    let elsewhere = format!("/v3/directory/room/{}", encoded("#pub:elsewhere.example"));
    let answer = alice.put(&elsewhere, json!({ "room_id": room })).await;
    assert!(answer.is_proper_refusal(), "{} {}", answer.status, answer.body);
}

#[tokio::test]
async fn a_canonical_alias_must_lead_to_its_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice
        .create_room(json!({ "room_alias_name": "one" }))
        .await
        .room_id();
    alice
        .create_room(json!({ "room_alias_name": "two" }))
        .await
        .room_id();
    let alias = |name: &str| format!("#{name}:{}", server.name());
    let set = async |content| {
        alice
            .send_state(&room, "m.room.canonical_alias", "", content)
            .await
    };
    set(json!({ "alias": alias("nowhere") }))
        .await
        .refused(400, "M_BAD_ALIAS");
    set(json!({ "alias": alias("two") }))
        .await
        .refused(400, "M_BAD_ALIAS");
    set(json!({ "alias": alias("one"), "alt_aliases": [alias("two")] }))
        .await
        .refused(400, "M_BAD_ALIAS");
    set(json!({ "alias": "not an alias" }))
        .await
        .refused(400, "M_INVALID_PARAM");
    set(json!({ "alt_aliases": ["not an alias"] }))
        .await
        .refused(400, "M_INVALID_PARAM");
    set(json!({ "alias": alias("one"), "alt_aliases": [alias("one")] }))
        .await
        .event_id();
    set(json!({})).await.event_id();
}

#[tokio::test]
async fn a_room_and_its_state_outlive_a_restart() {
    let mut server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice
        .create_room(json!({ "preset": "public_chat", "name": "lasting" }))
        .await
        .room_id();
    bob.join(&room).await.ok();
    bob.send("!nowhere:example.org", "m.room.message", text("lost"))
        .await
        .refused(403, "M_FORBIDDEN");
    let message = bob.send_text(&room, "before").await.event_id();
    let before = outline(&alice, &room).await;
    server.restart().await;
    assert_eq!(outline(&alice, &room).await, before);
    assert_eq!(
        alice.state(&room, "m.room.name", "").await.ok()["name"],
        "lasting"
    );
    assert_eq!(
        alice.event(&room, &message).await.ok()["content"]["body"],
        "before"
    );
    bob.send_text(&room, "after").await.event_id();
    bob.send_state(&room, "m.room.name", "", json!({ "name": "mine" }))
        .await
        .refused(403, "M_FORBIDDEN");
}
