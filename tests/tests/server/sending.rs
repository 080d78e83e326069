//! Sending events, state and redactions, and reading them back.

use futures_util::future::join_all;
use hearth_tests::{Client, Server, event_ids, public_chat, text, timeline, timeline_has, until};
use serde_json::{Value, json};

async fn a_room_of_two(server: &Server) -> (Client, Client, String) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    (alice, bob, room)
}

#[tokio::test]
async fn a_message_reaches_the_other_member_as_it_was_sent() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let content = json!({ "msgtype": "m.text", "body": "héllo 🌍\u{0} \u{7f}", "org.example.more": [1, { "a": null }, true] });
    let event = alice
        .send(&room, "m.room.message", content.clone())
        .await
        .event_id();
    let sync = bob.sync_until(timeline_has(&room, &event)).await;
    let seen = timeline(&sync, &room)
        .into_iter()
        .find(|seen| seen["event_id"] == event)
        .expect("it is there");
    assert_eq!(seen["content"], content);
    assert_eq!(seen["sender"], alice.user_id);
    assert_eq!(seen["type"], "m.room.message");
    assert!(seen["origin_server_ts"].as_u64() > Some(1_600_000_000_000));
    assert!(seen.get("state_key").is_none());

    let fetched = bob.event(&room, &event).await.ok();
    assert_eq!(fetched["content"], content);
    assert_eq!(fetched["room_id"], room);
    for key in ["auth_events", "prev_events", "hashes", "signatures", "depth"] {
        assert!(fetched.get(key).is_none(), "{key} is no client's business");
    }
}

#[tokio::test]
async fn only_the_sending_device_learns_the_transaction_id() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let laptop = alice.another_device().await;
    let event = alice
        .send_as("a txn/id", &room, "m.room.message", text("hello"))
        .await;
    assert_eq!(event.status, 404, "a slash in a path is a slash");
    let event = alice
        .send_as("a%20txn%2Fid", &room, "m.room.message", text("hello"))
        .await
        .event_id();
    let txn_id = async |client: &Client| {
        let synced = client.sync_until(timeline_has(&room, &event)).await;
        let synced = timeline(&synced, &room)
            .into_iter()
            .find(|seen| seen["event_id"] == event)
            .unwrap_or_default();
        let fetched = client.event(&room, &event).await.ok();
        (
            synced["unsigned"]["transaction_id"].clone(),
            fetched["unsigned"]["transaction_id"].clone(),
        )
    };
    assert_eq!(txn_id(&alice).await, (json!("a txn/id"), json!("a txn/id")));
    assert_eq!(txn_id(&laptop).await, (Value::Null, Value::Null));
    assert_eq!(txn_id(&bob).await, (Value::Null, Value::Null));
}

#[tokio::test]
async fn a_request_sent_again_makes_no_second_event() {
    let mut server = Server::start().await;
    let (alice, _, room) = a_room_of_two(&server).await;
    let laptop = alice.another_device().await;
    let send = async |who: &Client, event_type: &str, body: &str| {
        who.send_as("txn", &room, event_type, text(body)).await
    };
    let first = send(&alice, "m.room.message", "hello").await.event_id();
    assert_eq!(send(&alice, "m.room.message", "hello").await.event_id(), first);
    assert_eq!(
        send(&alice, "m.room.message", "what it says doesn't count")
            .await
            .event_id(),
        first
    );
    assert_ne!(
        send(&laptop, "m.room.message", "hello").await.event_id(),
        first,
        "another device"
    );
    assert_ne!(
        send(&alice, "org.example.other", "hello").await.event_id(),
        first,
        "another path"
    );
    let other_room = alice.create_room(json!({})).await.room_id();
    assert_ne!(
        alice
            .send_as("txn", &other_room, "m.room.message", text("hello"))
            .await
            .event_id(),
        first
    );

    server.restart().await;
    assert_eq!(
        send(&alice, "m.room.message", "hello").await.event_id(),
        first,
        "after a restart"
    );
    let history = event_ids(&Value::from(alice.page_through(&room, "b", 100, None).await));
    assert_eq!(history.iter().filter(|event_id| **event_id == first).count(), 1);
    let path = format!("/v3/rooms/{room}/redact/{first}/txn");
    let redaction = alice.put(&path, json!({})).await.event_id();
    assert_ne!(redaction, first);
    assert_eq!(alice.put(&path, json!({})).await.event_id(), redaction);
}

#[tokio::test]
async fn a_request_sent_many_times_at_once_makes_one_event() {
    let server = Server::start().await;
    let (alice, _, room) = a_room_of_two(&server).await;
    let before = alice.page_through(&room, "b", 100, None).await.len();
    for round in 0..5 {
        let txn_id = format!("at-once-{round}");
        let answers =
            join_all((0..20).map(|_| alice.send_as(&txn_id, &room, "m.room.message", text("hello")))).await;
        let mut made: Vec<_> = answers.into_iter().map(hearth_tests::Answer::event_id).collect();
        made.dedup();
        assert_eq!(made.len(), 1, "{made:?}");
    }
    assert_eq!(alice.page_through(&room, "b", 100, None).await.len(), before + 5);
}

#[tokio::test]
async fn a_refused_request_may_be_sent_again_under_the_same_transaction_id() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    bob.send_as("txn", &room, "m.room.message", text("too early"))
        .await
        .refused(403, "M_FORBIDDEN");
    bob.join(&room).await.ok();
    bob.send_as("txn", &room, "m.room.message", text("now"))
        .await
        .event_id();
}

#[tokio::test]
async fn a_redacted_event_loses_its_content_everywhere() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let event = bob.send_text(&room, "regretted").await.event_id();
    alice.sync_until(timeline_has(&room, &event)).await;
    let redaction = bob.redact(&room, &event, "typo").await.event_id();
    let sync = alice.sync_until(timeline_has(&room, &redaction)).await;
    let seen = timeline(&sync, &room).pop().expect("the redaction is the last");
    assert_eq!(
        (&seen["type"], &seen["content"]["reason"]),
        (&json!("m.room.redaction"), &json!("typo"))
    );
    assert_eq!(seen["content"]["redacts"], event);

    let in_history = alice.page_through(&room, "b", 100, None).await;
    let in_history = in_history
        .into_iter()
        .find(|seen| seen["event_id"] == event)
        .expect("it is still there");
    let fetched = alice.event(&room, &event).await.ok();
    let synced = alice
        .first_sync(&json!({ "room": { "timeline": { "limit": 50 } } }))
        .await;
    let synced = timeline(&synced, &room)
        .into_iter()
        .find(|seen| seen["event_id"] == event)
        .expect("it is still there");
    for redacted in [in_history, fetched, synced] {
        assert_eq!(redacted["content"], json!({}));
        assert_eq!(redacted["sender"], bob.user_id);
        assert_eq!(redacted["unsigned"]["redacted_because"]["event_id"], redaction);
        assert_eq!(
            redacted["unsigned"]["redacted_because"]["content"]["reason"],
            "typo"
        );
    }
}

#[tokio::test]
async fn redacted_state_keeps_what_the_room_needs() {
    let server = Server::start().await;
    let (alice, _, room) = a_room_of_two(&server).await;
    let name = alice
        .send_state(&room, "m.room.name", "", json!({ "name": "rude" }))
        .await
        .event_id();
    alice.redact(&room, &name, "rude").await.event_id();
    assert_eq!(alice.state(&room, "m.room.name", "").await.ok(), json!({}));
    let rules = alice
        .get(&format!("/v3/rooms/{room}/state/m.room.join_rules?format=event"))
        .await
        .string("event_id");
    alice.redact(&room, &rules, "why").await.event_id();
    assert_eq!(
        alice.state(&room, "m.room.join_rules", "").await.ok()["join_rule"],
        "public"
    );
}

#[tokio::test]
async fn another_users_event_is_redacted_only_with_power() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let of_alice = alice.send_text(&room, "mine").await.event_id();
    bob.redact(&room, &of_alice, "envy")
        .await
        .refused(403, "M_FORBIDDEN");
    assert_eq!(bob.event(&room, &of_alice).await.ok()["content"]["body"], "mine");
    let of_bob = bob.send_text(&room, "mine").await.event_id();
    alice.redact(&room, &of_bob, "power").await.event_id();
    let carol = server.register("carol").await;
    carol
        .redact(&room, &of_bob, "from outside")
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn an_event_of_another_room_cannot_be_redacted() {
    let server = Server::start().await;
    let (alice, _, room) = a_room_of_two(&server).await;
    let other = alice.create_room(json!({})).await.room_id();
    let event = alice.send_text(&other, "elsewhere").await.event_id();
    alice.redact(&room, &event, "").await.refused(404, "M_NOT_FOUND");
    alice
        .redact(&room, &format!("${}", "A".repeat(43)), "")
        .await
        .refused(404, "M_NOT_FOUND");
    assert_eq!(
        alice.event(&other, &event).await.ok()["content"]["body"],
        "elsewhere"
    );
}

#[tokio::test]
async fn state_is_set_read_and_replaced() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    bob.state(&room, "m.room.topic", "")
        .await
        .refused(404, "M_NOT_FOUND");
    let first = alice
        .send_state(&room, "m.room.topic", "", json!({ "topic": "one" }))
        .await
        .event_id();
    assert_eq!(
        bob.state(&room, "m.room.topic", "").await.ok(),
        json!({ "topic": "one" })
    );
    let path = format!("/v3/rooms/{room}/state/m.room.topic");
    let second = alice.put(&path, json!({ "topic": "two" })).await.event_id();
    assert_ne!(first, second);
    assert_eq!(bob.get(&path).await.ok(), json!({ "topic": "two" }));
    assert_eq!(bob.get(&format!("{path}/")).await.ok(), json!({ "topic": "two" }));

    let event = bob.get(&format!("{path}/?format=event")).await.ok();
    assert_eq!(event["event_id"], second);
    assert_eq!(
        (&event["state_key"], &event["room_id"]),
        (&json!(""), &json!(room))
    );
    assert_eq!(event["content"], json!({ "topic": "two" }));
    assert_eq!(event["unsigned"]["prev_content"], json!({ "topic": "one" }));
    assert_eq!(
        bob.get(&format!("{path}/?format=content")).await.ok(),
        json!({ "topic": "two" })
    );

    alice
        .send_state(&room, "org.example.shelf", "böoks/1", json!({ "n": 3 }))
        .await
        .event_id();
    assert_eq!(
        bob.state(&room, "org.example.shelf", "böoks/1").await.ok(),
        json!({ "n": 3 })
    );
    let whole = bob.get(&format!("/v3/rooms/{room}/state")).await.ok();
    let whole = whole.as_array().cloned().unwrap_or_default();
    let mut keys: Vec<_> = whole
        .iter()
        .map(|event| (event["type"].to_string(), event["state_key"].to_string()))
        .collect();
    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), count, "each key once");
    assert!(whole.iter().any(|event| event["event_id"] == second));
    assert!(whole.iter().all(|event| event["event_id"] != first));
    assert!(whole.iter().any(|event| event["state_key"] == "böoks/1"));
}

#[tokio::test]
async fn state_set_to_what_it_is_makes_no_event() {
    let server = Server::start().await;
    let (alice, _, room) = a_room_of_two(&server).await;
    let first = alice
        .send_state(&room, "m.room.topic", "", json!({ "topic": "one" }))
        .await
        .event_id();
    assert_eq!(
        alice
            .send_state(&room, "m.room.topic", "", json!({ "topic": "one" }))
            .await
            .event_id(),
        first
    );
    alice
        .send_state(&room, "m.room.topic", "", json!({ "topic": "two" }))
        .await
        .event_id();
    assert_ne!(
        alice
            .send_state(&room, "m.room.topic", "", json!({ "topic": "one" }))
            .await
            .event_id(),
        first
    );
}

#[tokio::test]
async fn state_under_ones_own_user_id_is_ones_own() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let levels = json!({ "events": { "org.example.mood": 0 }, "users": {} });
    alice
        .send_state(&room, "m.room.power_levels", "", levels)
        .await
        .event_id();
    bob.send_state(&room, "org.example.mood", &bob.user_id, json!({ "is": "good" }))
        .await
        .event_id();
    bob.send_state(&room, "org.example.mood", &alice.user_id, json!({ "is": "bad" }))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn members_are_listed_by_what_they_are() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let (carol, dave) = (server.register("carol").await, server.register("dave").await);
    alice.invite(&room, &carol).await.ok();
    alice.ban(&room, &dave, None).await.ok();
    let everyone = alice.memberships(&room).await;
    let expected = json!({ &alice.user_id: "join", &bob.user_id: "join", &carol.user_id: "invite", &dave.user_id: "ban" });
    assert_eq!(everyone, expected);
    let listed = async |query: &str| {
        let members = alice.get(&format!("/v3/rooms/{room}/members?{query}")).await.ok();
        let chunk = members["chunk"].as_array().cloned().unwrap_or_default();
        assert!(
            chunk.iter().all(|event| event["type"] == "m.room.member"),
            "{members}"
        );
        let mut users: Vec<_> = chunk
            .iter()
            .filter_map(|event| Some(event["state_key"].as_str()?.to_owned()))
            .collect();
        users.sort();
        users
    };
    assert_eq!(listed("membership=invite").await, [carol.user_id.as_str()]);
    assert_eq!(
        listed("not_membership=ban").await,
        [&alice.user_id, &bob.user_id, &carol.user_id].map(Clone::clone)
    );
    assert_eq!(
        listed("membership=join").await,
        [&alice.user_id, &bob.user_id].map(Clone::clone)
    );

    bob.set_displayname("Bob the Builder").await.ok();
    let joined = until("the new name is told", async || {
        let joined = alice.get(&format!("/v3/rooms/{room}/joined_members")).await.ok();
        (joined["joined"][&bob.user_id]["display_name"] == "Bob the Builder").then_some(joined)
    })
    .await;
    assert_eq!(joined["joined"].as_object().map(serde_json::Map::len), Some(2));
}

#[tokio::test]
async fn members_are_listed_as_of_a_sync_token() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    alice.sync().await;
    let then = alice.since().expect("a sync gives a token");
    bob.leave(&room).await.ok();
    let carol = server.register("carol").await;
    carol.join(&room).await.ok();
    let members = alice
        .get(&format!("/v3/rooms/{room}/members?membership=join&at={then}"))
        .await
        .ok();
    let chunk = members["chunk"].as_array().cloned().unwrap_or_default();
    let mut users: Vec<_> = chunk.iter().map(|event| event["state_key"].clone()).collect();
    users.sort_by_key(ToString::to_string);
    assert_eq!(users, [json!(alice.user_id), json!(bob.user_id)]);
}

#[tokio::test]
async fn what_may_not_be_sent_is_refused_with_its_reason() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    bob.send_state(&room, "m.room.create", "", json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
    let big = "x".repeat(65_536);
    alice.send_text(&room, &big).await.refused(413, "M_TOO_LARGE");
    alice
        .send_state(&room, "org.example.big", "", json!({ "text": big }))
        .await
        .refused(413, "M_TOO_LARGE");
    alice
        .send(&room, &"t".repeat(256), json!({}))
        .await
        .refused(413, "M_TOO_LARGE");
    alice
        .send_state(&room, "org.example", &"k".repeat(256), json!({}))
        .await
        .refused(413, "M_TOO_LARGE");
    for content in [
        r#"{"n":1.5}"#,
        r#"{"n":9007199254740992}"#,
        r#"{"n":-9007199254740992}"#,
        r#"{"n":1e2}"#,
        r#"{"n":[{"m":0.0}]}"#,
    ] {
        let path = format!("/v3/rooms/{room}/send/m.room.message/{}", alice.new_txn_id());
        let sent = alice
            .ask_bytes(reqwest::Method::PUT, &path, Some(content.into()))
            .await;
        assert_eq!(
            (sent.status, sent.errcode()),
            (400, "M_BAD_JSON"),
            "{content}: {}",
            sent.body
        );
        let path = format!("/v3/rooms/{room}/state/org.example.number/");
        let set = alice
            .ask_bytes(reqwest::Method::PUT, &path, Some(content.into()))
            .await;
        assert_eq!(
            (set.status, set.errcode()),
            (400, "M_BAD_JSON"),
            "{content}: {}",
            set.body
        );
    }
    let largest = json!({ "n": 9_007_199_254_740_991_i64, "m": -9_007_199_254_740_991_i64 });
    let event = alice
        .send(&room, "org.example.number", largest.clone())
        .await
        .event_id();
    assert_eq!(bob.event(&room, &event).await.ok()["content"], largest);
    alice.send_text(&room, &"x".repeat(60_000)).await.event_id();
}

#[tokio::test]
async fn an_event_that_is_not_there_or_not_for_ones_eyes_is_not_found() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let private = alice.create_room(json!({})).await.room_id();
    let secret = alice.send_text(&private, "secret").await.event_id();
    bob.event(&private, &secret).await.refused(404, "M_NOT_FOUND");
    bob.event(&room, &secret).await.refused(404, "M_NOT_FOUND");
    alice.event(&room, &secret).await.refused(404, "M_NOT_FOUND");
    alice
        .event(&room, &format!("${}", "B".repeat(43)))
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .event(&format!("!{}", "C".repeat(43)), &secret)
        .await
        .refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_new_display_name_is_told_in_every_room() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let other = bob
        .create_room(json!({ "invite": [alice.user_id] }))
        .await
        .room_id();
    alice.join(&other).await.ok();
    bob.set_displayname("Robert").await.ok();
    let profile = server
        .anonymous()
        .get(&format!("/v3/profile/{}", bob.user_id))
        .await
        .ok();
    assert_eq!(profile["displayname"], "Robert");
    for room in [&room, &other] {
        let name = until("the member event says so", async || {
            let member = alice.state(room, "m.room.member", &bob.user_id).await.ok();
            (member["displayname"] == "Robert").then_some(member)
        });
        assert_eq!(name.await["membership"], "join");
    }
    let path = format!("/v3/profile/{}/avatar_url", bob.user_id);
    bob.put(&path, json!({ "avatar_url": "mxc://example.org/abc" }))
        .await
        .ok();
    assert_eq!(alice.get(&path).await.ok()["avatar_url"], "mxc://example.org/abc");
    alice
        .put(&path, json!({ "avatar_url": "mxc://example.org/mallory" }))
        .await
        .refused(403, "M_FORBIDDEN");
    alice
        .get(&format!("/v3/profile/@nobody:{}", server.name()))
        .await
        .refused(404, "M_NOT_FOUND");
    let later = bob.create_room(json!({})).await.room_id();
    let member = bob.state(&later, "m.room.member", &bob.user_id).await.ok();
    assert_eq!(
        (&member["displayname"], &member["avatar_url"]),
        (&json!("Robert"), &json!("mxc://example.org/abc"))
    );
}

#[tokio::test]
async fn a_redaction_may_be_sent_as_an_event_in_every_version() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    for version in ["9", "10", "11", "12"] {
        let room = alice
            .create_room(json!({ "room_version": version }))
            .await
            .room_id();
        let event = alice.send_text(&room, "regretted").await.event_id();
        let content = json!({ "redacts": event, "reason": "typo" });
        let redaction = alice.send(&room, "m.room.redaction", content).await.event_id();
        let redacted = alice.event(&room, &event).await.ok();
        assert_eq!(redacted["content"], json!({}), "version {version}");
        assert_eq!(
            redacted["unsigned"]["redacted_because"]["event_id"], redaction,
            "version {version}"
        );
        let refused = alice
            .send(&room, "m.room.redaction", json!({ "reason": "of nothing" }))
            .await;
        assert!(refused.is_proper_refusal(), "{} {}", refused.status, refused.body);
    }
}

#[tokio::test]
async fn an_event_of_just_the_largest_size_is_sent() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    // What the server adds to the content is the same for each: find the largest that passes.
    let (mut fits, mut too_large) = (60_000, 65_536);
    while too_large - fits > 1 {
        let size = (fits + too_large) / 2;
        let answer = alice.send_text(&room, &"x".repeat(size)).await;
        match answer.status {
            200 => fits = size,
            _ => {
                answer.refused(413, "M_TOO_LARGE");
                too_large = size;
            }
        }
    }
    assert!(
        fits > 64_000,
        "the server needs little of an event for itself: {fits}"
    );
    let event = alice.send_text(&room, &"y".repeat(fits)).await.event_id();
    let seen = bob.event(&room, &event).await.ok();
    assert_eq!(seen["content"]["body"].as_str().map(str::len), Some(fits));
    alice.redact(&room, &event, "large").await.event_id();
}

#[tokio::test]
async fn nobody_reacts_to_a_message_twice_in_the_same_way() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    let (message, other) = (
        alice.send_text(&room, "hello").await.event_id(),
        alice.send_text(&room, "again").await.event_id(),
    );
    let reaction = |event_id: &str, key: &str| json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": event_id, "key": key } });
    let content = reaction(&message, "👍");
    let first = bob
        .send_as("once", &room, "m.reaction", content.clone())
        .await
        .event_id();
    let refused = async || {
        bob.send(&room, "m.reaction", content.clone())
            .await
            .refused(400, "M_DUPLICATE_ANNOTATION")
    };
    refused().await;
    let repeated = bob
        .send_as("once", &room, "m.reaction", content.clone())
        .await
        .event_id();
    assert_eq!(repeated, first, "the same request has the same answer");
    // Another key, event, type or user is another annotation.
    bob.send(&room, "m.reaction", reaction(&message, "👎")).await.ok();
    bob.send(&room, "m.reaction", reaction(&other, "👍")).await.ok();
    bob.send(&room, "org.example.annotation", content.clone())
        .await
        .ok();
    alice.send(&room, "m.reaction", content.clone()).await.ok();
    refused().await;
    bob.redact(&room, &first, "changed my mind").await.ok();
    bob.send(&room, "m.reaction", content.clone()).await.ok();
    refused().await;
    // What is no annotation, whatever it is, is nobody's concern here.
    for odd in [
        json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": message } }),
        json!({ "m.relates_to": { "rel_type": "m.annotation", "key": "👍" } }),
        json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": 5, "key": ["👍"] } }),
        json!({ "m.relates_to": "👍" }),
    ] {
        for _ in 0..2 {
            bob.send(&room, "m.reaction", odd.clone()).await.ok();
        }
    }
}

#[tokio::test]
async fn many_taps_on_a_reaction_are_one() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(public_chat()).await.room_id();
    let message = alice.send_text(&room, "hello").await.event_id();
    let content = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": message, "key": "👍" } });
    let taps = (0..20).map(|_| alice.send(&room, "m.reaction", content.clone()));
    let mut sent = 0;
    for answer in join_all(taps).await {
        match answer.status {
            200 => sent += 1,
            _ => drop(answer.refused(400, "M_DUPLICATE_ANNOTATION")),
        }
    }
    assert_eq!(sent, 1);
}
