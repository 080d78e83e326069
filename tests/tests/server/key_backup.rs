//! Backups of room keys.

use hearth_tests::{Answer, Client, PASSWORD, Server, encoded};
use serde_json::{Value, json};

const ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";
const ROOM: &str = "!room:elsewhere.example";

fn described(public_key: &str) -> Value {
    json!({ "algorithm": ALGORITHM, "auth_data": { "public_key": public_key, "signatures": {} } })
}

fn key(is_verified: bool, first_message_index: i64, forwarded_count: i64, name: &str) -> Value {
    json!({
        "first_message_index": first_message_index,
        "forwarded_count": forwarded_count,
        "is_verified": is_verified,
        "session_data": { "ephemeral": "e", "ciphertext": name, "mac": "m" },
    })
}

async fn make(client: &Client) -> String {
    client
        .post("/v3/room_keys/version", described("key"))
        .await
        .string("version")
}

fn path(version: &str, room: Option<&str>, session: Option<&str>) -> String {
    let mut path = "/v3/room_keys/keys".to_owned();
    for part in [room, session].into_iter().flatten() {
        path = format!("{path}/{}", encoded(part));
    }
    format!("{path}?version={version}")
}

async fn put(client: &Client, version: &str, session: &str, key: Value) -> Answer {
    client.put(&path(version, Some(ROOM), Some(session)), key).await
}

/// The name that was given to the key of a session.
async fn stored(client: &Client, version: &str, session: &str) -> Value {
    let key = client.get(&path(version, Some(ROOM), Some(session))).await.ok();
    key["session_data"]["ciphertext"].clone()
}

#[tokio::test]
async fn a_backup_is_made_found_changed_and_deleted() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let latest = "/v3/room_keys/version";
    alice.get(latest).await.refused(404, "M_NOT_FOUND");
    let first = make(&alice).await;
    let expected = json!({
        "algorithm": ALGORITHM, "auth_data": { "public_key": "key", "signatures": {} },
        "count": 0, "etag": "0", "version": first,
    });
    assert_eq!(alice.get(latest).await.ok(), expected);
    let of = |version: &str| format!("/v3/room_keys/version/{version}");
    assert_eq!(alice.get(&of(&first)).await.ok(), expected);

    // Only what clients keep with it can be changed.
    let mut changed = described("another");
    changed["version"] = json!(first);
    alice.put(&of(&first), changed.clone()).await.ok();
    assert_eq!(alice.get(latest).await.ok()["auth_data"]["public_key"], "another");
    changed["version"] = json!("7");
    alice
        .put(&of(&first), changed)
        .await
        .refused(400, "M_INVALID_PARAM");
    let other = json!({ "algorithm": "org.example.other", "auth_data": {} });
    alice
        .put(&of(&first), other)
        .await
        .refused(400, "M_INVALID_PARAM");

    let second = make(&alice).await;
    assert_ne!(first, second);
    assert_eq!(alice.get(latest).await.ok()["version"], second);
    for unknown in ["7", "0", "-1", "01", "one", "+1"] {
        alice.get(&of(unknown)).await.refused(404, "M_NOT_FOUND");
        alice
            .put(&of(unknown), described("key"))
            .await
            .refused(404, "M_NOT_FOUND");
        alice.delete(&of(unknown), None).await.refused(404, "M_NOT_FOUND");
    }

    alice.delete(&of(&second), None).await.ok();
    alice.delete(&of(&second), None).await.ok();
    alice.get(&of(&second)).await.refused(404, "M_NOT_FOUND");
    alice
        .put(&of(&second), described("key"))
        .await
        .refused(404, "M_NOT_FOUND");
    assert_eq!(alice.get(latest).await.ok()["version"], first);
    // The version of one that was deleted is not given again.
    let third = make(&alice).await;
    assert!(third != first && third != second, "{third}");
}

#[tokio::test]
async fn the_better_key_of_a_session_stays() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let version = make(&alice).await;
    let mut etag = put(&alice, &version, "s", key(false, 5, 5, "first"))
        .await
        .string("etag");
    // What comes next, and whether it replaces what is there.
    for (offered, is_better) in [
        (key(false, 5, 5, "the same again"), false),
        (key(false, 6, 0, "begins later"), false),
        (key(false, 5, 6, "handed on more often"), false),
        (key(false, 5, 4, "handed on less often"), true),
        (key(false, 4, 9, "begins earlier"), true),
        (key(true, 9, 9, "verified"), true),
        (key(false, 0, 0, "not verified"), false),
        (key(true, 9, 9, "verified again"), false),
        (key(true, 8, 9, "verified, begins earlier"), true),
    ] {
        let before = stored(&alice, &version, "s").await;
        let answer = put(&alice, &version, "s", offered.clone()).await.ok();
        assert_eq!(answer["count"], 1);
        let expected = if is_better {
            &offered["session_data"]["ciphertext"]
        } else {
            &before
        };
        assert_eq!(stored(&alice, &version, "s").await, *expected);
        let now = answer["etag"].as_str().expect("an etag").to_owned();
        assert_eq!(
            now != etag,
            is_better,
            "{offered}: the etag tells whether anything changed"
        );
        etag = now;
    }
    let info = alice.get(&format!("/v3/room_keys/version/{version}")).await.ok();
    assert_eq!((&info["count"], &info["etag"]), (&json!(1), &json!(etag)));
}

#[tokio::test]
async fn keys_are_stored_read_and_deleted_one_by_one_by_room_and_all_together() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let version = make(&alice).await;
    let all = path(&version, None, None);
    assert_eq!(alice.get(&all).await.ok(), json!({ "rooms": {} }));
    let awkward = "a/b+c=\"\u{0}ü";
    let rooms = json!({ "rooms": {
        "!a:x.example": { "sessions": { "1": key(true, 0, 0, "a1"), awkward: key(false, 1, 2, "a2") } },
        "!b:x.example": { "sessions": { "1": key(true, 0, 0, "b1") } },
        "!empty:x.example": { "sessions": {} },
    } });
    assert_eq!(alice.put(&all, rooms.clone()).await.ok()["count"], 3);
    let mut expected = rooms;
    expected["rooms"]
        .as_object_mut()
        .expect("rooms")
        .remove("!empty:x.example");
    assert_eq!(alice.get(&all).await.ok(), expected);

    let of_room = |room: &str| path(&version, Some(room), None);
    let one = alice
        .get(&path(&version, Some("!a:x.example"), Some(awkward)))
        .await
        .ok();
    assert_eq!(one, key(false, 1, 2, "a2"));
    let room = json!({ "sessions": { "2": key(true, 0, 0, "b2") } });
    assert_eq!(alice.put(&of_room("!b:x.example"), room).await.ok()["count"], 4);
    let told = alice.get(&of_room("!b:x.example")).await.ok();
    assert_eq!(told["sessions"].as_object().map(serde_json::Map::len), Some(2));
    assert_eq!(
        alice.get(&of_room("!none:x.example")).await.ok(),
        json!({ "sessions": {} })
    );
    alice
        .get(&path(&version, Some("!none:x.example"), Some("1")))
        .await
        .refused(404, "M_NOT_FOUND");

    let one = path(&version, Some("!b:x.example"), Some("1"));
    let deleted = alice.delete(&one, None).await.ok();
    assert_eq!(deleted["count"], 3);
    assert_eq!(
        alice.delete(&one, None).await.ok(),
        deleted,
        "there was nothing left to delete"
    );
    assert_eq!(
        alice.delete(&of_room("!a:x.example"), None).await.ok()["count"],
        1
    );
    assert_eq!(alice.delete(&all, None).await.ok()["count"], 0);
    assert_eq!(alice.get(&all).await.ok(), json!({ "rooms": {} }));
}

#[tokio::test]
async fn keys_go_to_the_newest_backup_alone() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    put(&alice, "1", "s", key(true, 0, 0, "k"))
        .await
        .refused(404, "M_NOT_FOUND");
    let first = make(&alice).await;
    put(&alice, &first, "s", key(true, 0, 0, "old")).await.ok();
    let second = make(&alice).await;
    for version in [first.as_str(), "7", "one"] {
        let body = put(&alice, version, "s", key(true, 0, 0, "k"))
            .await
            .refused(403, "M_WRONG_ROOM_KEYS_VERSION");
        assert_eq!(body["current_version"], second);
    }
    // The old one is there to be read, and deleted from.
    assert_eq!(stored(&alice, &first, "s").await, "old");
    alice
        .get(&path(&second, Some(ROOM), Some("s")))
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .delete(&path(&first, Some(ROOM), Some("s")), None)
        .await
        .ok();

    // With the newest deleted, keys go to the one before.
    alice
        .delete(&format!("/v3/room_keys/version/{second}"), None)
        .await
        .ok();
    put(&alice, &first, "s", key(true, 0, 0, "k")).await.ok();
    for path in [
        path("7", None, None),
        path(&second, Some(ROOM), None),
        path("x", Some(ROOM), Some("s")),
    ] {
        alice.get(&path).await.refused(404, "M_NOT_FOUND");
        alice.delete(&path, None).await.refused(404, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn thousands_of_keys_come_back_as_they_were_stored() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let version = make(&alice).await;
    let mut sent = json!({});
    for number in 0..4_000 {
        let room = format!("!{}:x.example", number % 7);
        sent[&room]["sessions"][format!("session {number}")] = key(number % 2 == 0, number, 0, "k");
    }
    let all = path(&version, None, None);
    let stored = alice.put(&all, json!({ "rooms": sent })).await.ok();
    assert_eq!(stored["count"], 4_000);
    assert_eq!(alice.get(&all).await.ok()["rooms"], sent);
    let room = path(&version, Some("!3:x.example"), None);
    assert_eq!(alice.get(&room).await.ok(), sent["!3:x.example"]);
    // The same once more is no change.
    assert_eq!(alice.put(&all, json!({ "rooms": sent })).await.ok(), stored);
}

#[tokio::test]
async fn devices_that_store_at_the_same_time_lose_nothing() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let version = make(&alice).await;
    let stores = (0..40).map(|number| {
        let (alice, version) = (&alice, &version);
        async move {
            // Half of them store the same session, each a better key than the one before it.
            let session = if number % 2 == 0 {
                "shared".to_owned()
            } else {
                format!("own {number}")
            };
            put(
                alice,
                version,
                &session,
                key(true, 100 - number, 0, &number.to_string()),
            )
            .await
            .ok();
        }
    });
    futures_util::future::join_all(stores).await;
    assert_eq!(stored(&alice, &version, "shared").await, "38");
    let info = alice.get(&format!("/v3/room_keys/version/{version}")).await.ok();
    assert_eq!(info["count"], 21);
    let room = alice.get(&path(&version, Some(ROOM), None)).await.ok();
    assert_eq!(room["sessions"].as_object().map(serde_json::Map::len), Some(21));

    let versions = futures_util::future::join_all((0..10).map(|_| make(&alice))).await;
    let distinct: std::collections::BTreeSet<&String> = versions.iter().collect();
    assert_eq!(distinct.len(), 10);
}

#[tokio::test]
async fn a_backup_is_its_users_alone_outlives_a_restart_and_ends_with_the_account() {
    let mut server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let version = make(&alice).await;
    put(&alice, &version, "s", key(true, 0, 0, "k")).await.ok();
    bob.get(&format!("/v3/room_keys/version/{version}"))
        .await
        .refused(404, "M_NOT_FOUND");
    bob.get(&path(&version, None, None))
        .await
        .refused(404, "M_NOT_FOUND");
    assert_eq!(
        make(&bob).await,
        "1",
        "versions of one user tell nothing of another"
    );
    server
        .anonymous()
        .get("/v3/room_keys/version")
        .await
        .refused(401, "M_MISSING_TOKEN");
    server.restart().await;
    let tablet = alice.another_device().await;
    assert_eq!(stored(&tablet, &version, "s").await, "k");

    let identifier = json!({ "type": "m.id.user", "user": alice.user_id });
    let auth = json!({ "type": "m.login.password", "identifier": identifier, "password": PASSWORD });
    alice
        .post("/v3/account/deactivate", json!({ "auth": auth }))
        .await
        .ok();
    let mut connection = server.engine().db.acquire().await.expect("a connection");
    let user_id = alice.user_id.as_str();
    let user_nid = hearth_storage::users::find(&mut connection, user_id)
        .await
        .expect("it can be read")
        .expect("the user");
    let current = hearth_storage::key_backup::current(&mut connection, user_nid).await;
    assert!(current.expect("it can be read").is_none());
}

#[tokio::test]
async fn what_is_no_backup_and_no_key_is_refused_and_leaves_nothing() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let latest = "/v3/room_keys/version";
    for (body, errcode) in [
        (json!({}), "M_BAD_JSON"),
        (json!({ "algorithm": ALGORITHM }), "M_BAD_JSON"),
        (json!({ "algorithm": 7, "auth_data": {} }), "M_BAD_JSON"),
        (
            json!({ "algorithm": ALGORITHM, "auth_data": "text" }),
            "M_BAD_JSON",
        ),
        (json!({ "algorithm": "", "auth_data": {} }), "M_INVALID_PARAM"),
        (
            json!({ "algorithm": "x".repeat(256), "auth_data": {} }),
            "M_INVALID_PARAM",
        ),
    ] {
        alice.post(latest, body).await.refused(400, errcode);
    }
    let long = json!({ "algorithm": ALGORITHM, "auth_data": { "x": "x".repeat(1 << 16) } });
    alice.post(latest, long).await.refused(413, "M_TOO_LARGE");
    alice.get(latest).await.refused(404, "M_NOT_FOUND");
    // Of an algorithm that this server doesn't know it keeps what it is given.
    let odd = json!({ "algorithm": "org.example.\u{0}", "auth_data": { "\u{0}": "\u{0}" } });
    let version = alice.post(latest, odd.clone()).await.string("version");
    let told = alice.get(latest).await.ok();
    assert_eq!(
        (&told["algorithm"], &told["auth_data"]),
        (&odd["algorithm"], &odd["auth_data"])
    );

    let mut bad = vec![json!({}), json!({ "first_message_index": 0 })];
    for (field, value) in [
        ("first_message_index", json!(-1)),
        ("first_message_index", json!(1.5)),
        ("first_message_index", json!("0")),
        ("forwarded_count", json!(null)),
        ("is_verified", json!(1)),
        ("session_data", json!("text")),
        ("session_data", json!([])),
    ] {
        let mut key = key(true, 0, 0, "k");
        key[field] = value;
        bad.push(key);
    }
    for key in bad {
        put(&alice, &version, "s", key.clone())
            .await
            .refused(400, "M_BAD_JSON");
        // One bad key among many: none is stored.
        let room = json!({ "sessions": { "good": self::key(true, 0, 0, "k"), "bad": key } });
        alice
            .put(&path(&version, Some(ROOM), None), room)
            .await
            .refused(400, "M_BAD_JSON");
    }
    put(&alice, &version, "s", key(true, 0, 0, &"x".repeat(1 << 14)))
        .await
        .refused(413, "M_TOO_LARGE");
    put(&alice, &version, &"x".repeat(256), key(true, 0, 0, "k"))
        .await
        .refused(400, "M_BAD_JSON");
    let no_version = "/v3/room_keys/keys";
    alice.get(no_version).await.refused(400, "M_MISSING_PARAM");
    let bad_room = path(&version, Some("room"), Some("s"));
    alice
        .put(&bad_room, key(true, 0, 0, "k"))
        .await
        .refused(400, "M_INVALID_PARAM");
    assert_eq!(alice.get(latest).await.ok()["count"], 0);

    for _ in 1..50 {
        make(&alice).await;
    }
    alice
        .post(latest, described("key"))
        .await
        .refused(403, "M_FORBIDDEN");
}
