//! Redactions in every room version: what is served, from wherever it comes, and what is left in the database.

use super::*;

const SECRET: &str = "the secret word";

struct Scene {
    room_id: OwnedRoomId,
    message: OwnedEventId,
    topic: OwnedEventId,
    redaction: OwnedEventId,
    topic_redaction: OwnedEventId,
}

/// Checks what is served of redacted events.
async fn check_served(server: &Server, alice: &Requester, scene: &Scene, version: &str) {
    let Scene {
        room_id,
        message,
        topic,
        redaction,
        topic_redaction,
    } = scene;
    let get = async |event_id: &EventId| -> Value {
        let event = hearth_engine::rooms::messages::event(&server.engine, alice, room_id, event_id)
            .await
            .unwrap();
        serde_json::from_str(event.get()).unwrap()
    };
    let all = history(&server.engine, alice, room_id, 4).await.unwrap();
    let filter = json!({ "room": { "timeline": { "limit": 50 } } });
    let synced = sync_json(&server.engine, alice, None, filter, |_| ())
        .await
        .unwrap();
    for source in [
        json!(all),
        synced["rooms"]["join"][room_id.as_str()].clone(),
        json!(get(topic).await),
    ] {
        assert!(
            !source.to_string().contains(SECRET),
            "version {version}: {source:#}"
        );
    }
    for (event_id, because) in [(message, redaction), (topic, topic_redaction)] {
        let event = get(event_id).await;
        assert_eq!(event["content"], json!({}), "version {version}");
        let served = &event["unsigned"]["redacted_because"];
        assert_eq!(
            served["event_id"],
            because.as_str(),
            "version {version}: {event:#}"
        );
        assert_eq!(served["type"], "m.room.redaction");
        assert_eq!(served["content"]["reason"], "no reason");
        // In both places, whichever the version has (client-server API, "m.room.redaction").
        assert_eq!(
            served["redacts"],
            event_id.as_str(),
            "version {version}: {event:#}"
        );
        assert_eq!(
            served["content"]["redacts"],
            event_id.as_str(),
            "version {version}: {event:#}"
        );
        assert_eq!(
            all.iter()
                .find(|other| id_of(other) == event_id.as_str())
                .unwrap()["content"],
            json!({})
        );
    }
    let newer = get(&EventId::parse(id_of(
        &json!({ "event_id": newest_topic(server, alice, room_id).await }),
    ))
    .unwrap())
    .await;
    assert_eq!(newer["content"]["topic"], "harmless");
    assert_eq!(
        newer["unsigned"]["prev_content"],
        json!({}),
        "version {version}: what was replaced is redacted"
    );
}

async fn newest_topic(server: &Server, alice: &Requester, room_id: &RoomId) -> String {
    let state = state_ids(&server.engine, alice, room_id).await.unwrap();
    state[&("m.room.topic".to_owned(), String::new())].clone()
}

#[tokio::test]
async fn rooms_of_all_versions_are_made_and_redacted() {
    let mut server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let mut scenes = Vec::new();
    for version in 6..=12 {
        let version = version.to_string();
        let room_id = server
            .create(
                &alice,
                json!({ "preset": "public_chat", "room_version": version }),
            )
            .await;
        server.join(&bob, &room_id).await;
        let message = server.say(&bob, &room_id, SECRET).await;
        let topic = server
            .set_state(&alice, &room_id, "m.room.topic", "", json!({ "topic": SECRET }))
            .await;
        server
            .set_state(
                &alice,
                &room_id,
                "m.room.topic",
                "",
                json!({ "topic": "harmless" }),
            )
            .await;
        let redaction = server.redact(&alice, &room_id, &message).await;
        let topic_redaction = server.redact(&alice, &room_id, &topic).await;
        let stored = server.truth().await;
        let pdu = &stored.rooms[&room_id].find(redaction.as_str()).unwrap().pdu;
        let (top, content) = (pdu.get("redacts"), pdu["content"].get("redacts"));
        let named = Some(json!(message.as_str()));
        let expected = if matches!(version.as_str(), "11" | "12") {
            (None, named.as_ref())
        } else {
            (named.as_ref(), None)
        };
        assert_eq!((top, content), expected, "version {version}");
        assert_eq!(room_id.as_str().contains(':'), version != "12", "{room_id}");
        scenes.push((
            version,
            Scene {
                room_id,
                message,
                topic,
                redaction,
                topic_redaction,
            },
        ));
    }
    for (version, scene) in &scenes {
        check_served(&server, &alice, scene, version).await;
    }
    server.engine.drop_idle();
    for (version, scene) in &scenes {
        check_served(&server, &alice, scene, version).await;
    }
    // An engine that starts takes the content out of the database at once.
    server.restart().await;
    until("the content is gone", async || {
        server
            .database
            .texts("SELECT event_nid::text FROM redactions WHERE NOT pruned")
            .await
            .is_empty()
    })
    .await;
    let left = format!("SELECT event_nid::text FROM events WHERE position('{SECRET}'::bytea IN pdu) > 0");
    assert!(
        server.database.texts(&left).await.is_empty(),
        "no content of a redacted event is left"
    );
    server.engine.drop_idle();
    for (version, scene) in &scenes {
        check_served(&server, &alice, scene, version).await;
    }
    server.end().await;
}

#[tokio::test]
async fn a_redaction_that_is_redacted_no_longer_says_why() {
    let mut server = Server::start().await;
    let alice = server.user("alice").await;
    for version in ["10", "12"] {
        let room_id = server
            .create(
                &alice,
                json!({ "preset": "public_chat", "room_version": version }),
            )
            .await;
        let message = server.say(&alice, &room_id, "hello").await;
        let first = send::redact(&server.engine, &alice, &room_id, &message, "first", Some(SECRET))
            .await
            .unwrap();
        let second = server.redact(&alice, &room_id, &first).await;
        for round in 0..3 {
            let served = json!(history(&server.engine, &alice, &room_id, 50).await.unwrap());
            assert!(
                !served.to_string().contains(SECRET),
                "version {version}, round {round}: {served:#}"
            );
            let synced = sync_json(&server.engine, &alice, None, json!({}), |_| ())
                .await
                .unwrap();
            assert!(
                !synced.to_string().contains(SECRET),
                "version {version}, round {round}: {synced:#}"
            );
            let served = served.as_array().unwrap();
            let because = |event_id: &EventId| {
                let event = served
                    .iter()
                    .find(|event| id_of(event) == event_id.as_str())
                    .unwrap();
                event["unsigned"]["redacted_because"]["event_id"].clone()
            };
            assert_eq!(
                (because(&message), because(&first)),
                (json!(first.as_str()), json!(second.as_str()))
            );
            match round {
                0 => server.engine.drop_idle(),
                _ => server.restart().await,
            }
        }
    }
    server.end().await;
}

#[tokio::test]
async fn who_may_redact_is_held_to_the_same_in_every_version() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    for version in ["6", "11", "12"] {
        let room_id = server
            .create(
                &alice,
                json!({ "preset": "public_chat", "room_version": version }),
            )
            .await;
        server.join(&bob, &room_id).await;
        let (hers, his) = (
            server.say(&alice, &room_id, "hers").await,
            server.say(&bob, &room_id, "his").await,
        );
        let other = server.room(&alice).await;
        let redact = async |user: &Requester, room_id: &RoomId, event_id: &EventId| {
            let txn_id = server.engine.entropy.alphanumeric(9);
            send::redact(&server.engine, user, room_id, event_id, &txn_id, None).await
        };
        let refused = redact(&bob, &room_id, &hers).await.unwrap_err();
        assert!(
            format!("{refused:?}").contains("Forbidden"),
            "version {version}: {refused:?}"
        );
        let unknown = redact(&alice, &other, &hers).await.unwrap_err();
        assert!(
            format!("{unknown:?}").contains("UnknownRedacted"),
            "version {version}: {unknown:?}"
        );
        redact(&bob, &room_id, &his).await.unwrap();
        // Twice is allowed; the first is the one that counts.
        let again = redact(&alice, &room_id, &his).await.unwrap();
        let event = hearth_engine::rooms::messages::event(&server.engine, &alice, &room_id, &his)
            .await
            .unwrap();
        let event: Value = serde_json::from_str(event.get()).unwrap();
        assert_ne!(event["unsigned"]["redacted_because"]["event_id"], again.as_str());
        assert_eq!(
            event["unsigned"]["redacted_because"]["sender"],
            bob.user_id.as_str()
        );
    }
    server.end().await;
}
