//! The routes of profiles, account data, filters, typing, receipts and aliases as a client calls them: paths, bodies
//! and error codes. The rules behind them are tested in the engine.

use axum::{Router, body::Body};
use hearth_engine::test_engine;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

const ALICE: &str = "@alice:example.org";
const BOB: &str = "@bob:example.org";

/// A client, perhaps logged in.
#[derive(Clone)]
struct Client {
    router: Router,
    token: Option<String>,
}

/// What came back.
#[derive(Debug, PartialEq)]
struct Answer(StatusCode, Value);

impl Answer {
    #[track_caller]
    fn ok(self) -> Value {
        assert_eq!(self.0, StatusCode::OK, "{}", self.1);
        self.1
    }

    #[track_caller]
    fn refused(self, status: u16, code: &str) {
        assert_eq!(
            (self.0.as_u16(), &self.1["errcode"]),
            (status, &json!(code)),
            "{}",
            self.1
        );
        assert!(self.1["error"].is_string(), "{}", self.1);
    }
}

/// Alice on a server of her own, and one who isn't logged in.
async fn server() -> (Client, Client) {
    let (engine, _) = test_engine::start(test_engine::open_config()).await;
    let nobody = Client {
        router: hearth_client_api::router(engine),
        token: None,
    };
    (nobody.register("alice").await, nobody)
}

impl Client {
    async fn send(&self, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        let path = if path.starts_with("/_") {
            path.to_owned()
        } else {
            format!("/_matrix/client/v3{path}")
        };
        let mut request = Request::builder().method(method).uri(path.replace('#', "%23"));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = self
            .router
            .clone()
            .oneshot(request.body(body.into()).unwrap())
            .await
            .unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answer(status, serde_json::from_slice(&body).unwrap())
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, Body::empty()).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, Body::empty()).await
    }

    async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, body.to_string()).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, body.to_string()).await
    }

    async fn register(&self, username: &str) -> Self {
        let body =
            json!({ "username": username, "password": "password", "auth": { "type": "m.login.dummy" } });
        let registered = self.post("/register", body).await.ok();
        Self {
            router: self.router.clone(),
            token: Some(registered["access_token"].as_str().unwrap().to_owned()),
        }
    }

    async fn room(&self) -> String {
        let created = self
            .post("/createRoom", json!({ "preset": "public_chat" }))
            .await
            .ok();
        created["room_id"].as_str().unwrap().to_owned()
    }

    async fn say(&self, room_id: &str, txn_id: &str, content: Value) -> String {
        let path = format!("/rooms/{room_id}/send/m.room.message/{txn_id}");
        self.put(&path, content).await.ok()["event_id"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

#[tokio::test]
async fn profiles_are_read_by_anyone_and_set_by_their_user() {
    let (alice, nobody) = server().await;
    let profile = format!("/profile/{ALICE}");
    let (name, avatar) = (format!("{profile}/displayname"), format!("{profile}/avatar_url"));
    assert_eq!(nobody.get(&profile).await.ok(), json!({}));
    nobody.get(&name).await.refused(404, "M_NOT_FOUND");
    assert_eq!(
        alice
            .put(&name, json!({ "displayname": "Alice", "other": 1 }))
            .await
            .ok(),
        json!({})
    );
    alice
        .put(&avatar, json!({ "avatar_url": "mxc://example.org/a" }))
        .await
        .ok();
    assert_eq!(nobody.get(&name).await.ok(), json!({ "displayname": "Alice" }));
    let old = format!("/_matrix/client/r0/profile/{ALICE}/avatar_url");
    assert_eq!(
        nobody.get(&old).await.ok(),
        json!({ "avatar_url": "mxc://example.org/a" })
    );
    let both = json!({ "displayname": "Alice", "avatar_url": "mxc://example.org/a" });
    assert_eq!(nobody.get(&profile).await.ok(), both);
    assert_eq!(alice.delete(&avatar).await.ok(), json!({}));
    alice.put(&name, json!({ "displayname": "" })).await.ok();
    assert_eq!(nobody.get(&profile).await.ok(), json!({}));
    alice
        .put(
            &format!("{profile}/org.example.a"),
            json!({ "org.example.a": [null] }),
        )
        .await
        .ok();
    assert_eq!(
        nobody.get(&profile).await.ok(),
        json!({ "org.example.a": [null] })
    );
}

#[tokio::test]
async fn a_bad_profile_field_has_the_code_of_its_fault() {
    let (alice, nobody) = server().await;
    let path = |field: &str| format!("/profile/{ALICE}/{field}");
    let name = path("displayname");
    nobody
        .get(&format!("/profile/{BOB}"))
        .await
        .refused(404, "M_NOT_FOUND");
    nobody
        .get("/profile/@alice:elsewhere.org")
        .await
        .refused(404, "M_NOT_FOUND");
    nobody.get("/profile/alice").await.refused(400, "M_INVALID_PARAM");
    nobody
        .put(&name, json!({ "displayname": "Alice" }))
        .await
        .refused(401, "M_MISSING_TOKEN");
    alice
        .put(
            &format!("/profile/{BOB}/displayname"),
            json!({ "displayname": "Bob" }),
        )
        .await
        .refused(403, "M_FORBIDDEN");
    alice
        .delete(&format!("/profile/{BOB}/displayname"))
        .await
        .refused(403, "M_FORBIDDEN");
    alice
        .put(&name, json!({ "name": "Alice" }))
        .await
        .refused(400, "M_MISSING_PARAM");
    alice
        .put(&name, json!({ "displayname": 1 }))
        .await
        .refused(400, "M_BAD_JSON");
    alice
        .put(&name, json!(["Alice"]))
        .await
        .refused(400, "M_BAD_JSON");
    alice
        .send("PUT", &name, "{\"displayname\":")
        .await
        .refused(400, "M_NOT_JSON");
    alice
        .put(&path("avatar_url"), json!({ "avatar_url": "http://a/b" }))
        .await
        .refused(400, "M_INVALID_PARAM");
    alice
        .put(&path("pronouns"), json!({ "pronouns": "she" }))
        .await
        .refused(400, "M_INVALID_PARAM");
    alice
        .delete(&path("pronouns"))
        .await
        .refused(400, "M_INVALID_PARAM");
    let long = format!("org.{}", "x".repeat(300));
    alice
        .put(&path(&long), json!({ long.as_str(): 1 }))
        .await
        .refused(400, "M_KEY_TOO_LARGE");
    let large = json!({ "org.example.a": "x".repeat(64 << 10) });
    alice
        .put(&path("org.example.a"), large)
        .await
        .refused(400, "M_PROFILE_TOO_LARGE");
}

#[tokio::test]
async fn account_data_is_a_users_own() {
    let (alice, nobody) = server().await;
    let room_id = alice.room().await;
    let global = format!("/user/{ALICE}/account_data/org.example");
    let of_room = format!("/user/{ALICE}/rooms/{room_id}/account_data/org.example");
    for path in [&global, &of_room] {
        alice.get(path).await.refused(404, "M_NOT_FOUND");
        assert_eq!(alice.put(path, json!({ "at": path })).await.ok(), json!({}));
        assert_eq!(alice.get(path).await.ok(), json!({ "at": path }));
        alice.put(path, json!([])).await.refused(400, "M_BAD_JSON");
        alice.send("PUT", path, "{").await.refused(400, "M_NOT_JSON");
        alice
            .send("PUT", path, r#"{"a":"\ud800"}"#)
            .await
            .refused(400, "M_BAD_JSON");
        alice
            .put(path, json!({ "a": "x".repeat(1 << 20) }))
            .await
            .refused(413, "M_TOO_LARGE");
        for managed in ["m.fully_read", "m.push_rules"] {
            let path = path.replace("org.example", managed);
            alice.put(&path, json!({})).await.refused(405, "M_BAD_JSON");
        }
        let of_another = path.replace(ALICE, BOB);
        alice.get(&of_another).await.refused(403, "M_FORBIDDEN");
        alice
            .put(&of_another, json!({}))
            .await
            .refused(403, "M_FORBIDDEN");
        nobody.get(path).await.refused(401, "M_MISSING_TOKEN");
    }
    let no_room_id = of_room.replace(&room_id, "no-room");
    alice
        .put(&no_room_id, json!({}))
        .await
        .refused(400, "M_INVALID_PARAM");
    alice.get(&no_room_id).await.refused(400, "M_INVALID_PARAM");
    let elsewhere = of_room.replace(&room_id, "!elsewhere:example.org");
    alice.put(&elsewhere, json!({})).await.refused(403, "M_FORBIDDEN");
    alice.get(&elsewhere).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn filters_come_back_as_they_were_stored() {
    let (alice, _) = server().await;
    let path = format!("/user/{ALICE}/filter");
    let filter =
        json!({ "room": { "timeline": { "limit": 5, "org.example": true } }, "event_fields": ["type"] });
    let stored = alice.post(&path, filter.clone()).await.ok();
    let filter_id = stored["filter_id"].as_str().unwrap();
    assert!(!filter_id.starts_with('{'));
    assert_eq!(alice.get(&format!("{path}/{filter_id}")).await.ok(), filter);
    assert_eq!(alice.post(&path, filter).await.ok(), stored);
    alice
        .post(&path, json!({ "room": [] }))
        .await
        .refused(400, "M_BAD_JSON");
    alice
        .post(&path, json!({ "event_fields": ["x".repeat(64 << 10)] }))
        .await
        .refused(413, "M_TOO_LARGE");
    alice
        .get("/sync?filter=unknown")
        .await
        .refused(400, "M_INVALID_PARAM");
    alice
        .get("/sync?filter=%7B%22room%22%3A5%7D")
        .await
        .refused(400, "M_BAD_JSON");
    let named = format!("/sync?filter={filter_id}");
    alice.get(&named).await.ok();
    alice
        .get(&format!("{path}/unknown"))
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .get(&format!("/user/{BOB}/filter/{filter_id}"))
        .await
        .refused(403, "M_FORBIDDEN");
    alice
        .post(&format!("/user/{BOB}/filter"), json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn typing_needs_no_timeout() {
    let (alice, nobody) = server().await;
    let room_id = alice.room().await;
    let path = format!("/rooms/{room_id}/typing/{ALICE}");
    for body in [
        json!({ "typing": true }),
        json!({ "typing": true, "timeout": 5000 }),
        json!({ "typing": false }),
    ] {
        assert_eq!(alice.put(&path, body).await.ok(), json!({}));
    }
    alice.put(&path, json!({})).await.refused(400, "M_BAD_JSON");
    alice
        .put(&path, json!({ "typing": true, "timeout": -1 }))
        .await
        .refused(400, "M_BAD_JSON");
    alice
        .put(&path.replace(ALICE, BOB), json!({ "typing": true }))
        .await
        .refused(403, "M_FORBIDDEN");
    let bob = nobody.register("bob").await;
    bob.put(&path.replace(ALICE, BOB), json!({ "typing": true }))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn receipts_are_for_events_of_the_room_and_their_threads() {
    let (alice, nobody) = server().await;
    let room_id = alice.room().await;
    let text = json!({ "msgtype": "m.text", "body": "hello" });
    let event_id = alice.say(&room_id, "1", text.clone()).await;
    let in_thread = json!({
        "msgtype": "m.text", "body": "re", "m.relates_to": { "rel_type": "m.thread", "event_id": event_id },
    });
    let reply = alice.say(&room_id, "2", in_thread).await;
    let path =
        |receipt_type: &str, event_id: &str| format!("/rooms/{room_id}/receipt/{receipt_type}/{event_id}");
    for receipt_type in ["m.read", "m.read.private", "m.fully_read"] {
        assert_eq!(
            alice.post(&path(receipt_type, &event_id), json!({})).await.ok(),
            json!({})
        );
    }
    alice
        .send("POST", &path("m.read", &event_id), Body::empty())
        .await
        .ok();
    alice
        .post(&path("m.read", &event_id), json!({ "thread_id": "main" }))
        .await
        .ok();
    alice
        .post(&path("m.read", &reply), json!({ "thread_id": event_id }))
        .await
        .ok();
    for bad in [
        json!(""),
        json!(1),
        json!(null),
        json!("thread"),
        json!("main"),
        json!(reply.replace('$', "$x")),
    ] {
        let set = alice
            .post(&path("m.read", &reply), json!({ "thread_id": bad }))
            .await;
        set.refused(400, "M_INVALID_PARAM");
    }
    alice
        .post(&path("m.fully_read", &event_id), json!({ "thread_id": "main" }))
        .await
        .refused(400, "M_INVALID_PARAM");
    alice
        .post(&path("m.unknown", &event_id), json!({}))
        .await
        .refused(400, "M_INVALID_PARAM");
    alice
        .post(&path("m.read", "$nowhere"), json!({}))
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .post(&path("m.read", "nothing"), json!({}))
        .await
        .refused(400, "M_INVALID_PARAM");
    let bob = nobody.register("bob").await;
    bob.post(&path("m.read", &event_id), json!({}))
        .await
        .refused(403, "M_FORBIDDEN");

    let markers = format!("/rooms/{room_id}/read_markers");
    let later = alice.say(&room_id, "3", text).await;
    let all = json!({ "m.fully_read": later, "m.read": later, "m.read.private": later });
    assert_eq!(alice.post(&markers, all).await.ok(), json!({}));
    alice.post(&markers, json!({})).await.ok();
    let fully_read = alice
        .get(&format!(
            "/user/{ALICE}/rooms/{room_id}/account_data/m.fully_read"
        ))
        .await;
    assert_eq!(fully_read.ok(), json!({ "event_id": later }));
    alice
        .post(&markers, json!({ "m.fully_read": "$nowhere" }))
        .await
        .refused(404, "M_NOT_FOUND");
    bob.post(&markers, json!({ "m.read": later }))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn aliases_point_to_rooms() {
    let (alice, nobody) = server().await;
    let room_id = alice.room().await;
    let path = "/directory/room/#hearth:example.org";
    nobody.get(path).await.refused(404, "M_NOT_FOUND");
    assert_eq!(
        alice.put(path, json!({ "room_id": room_id })).await.ok(),
        json!({})
    );
    let expected = json!({ "room_id": room_id, "servers": ["example.org"] });
    assert_eq!(nobody.get(path).await.ok(), expected);
    let of_room = format!("/rooms/{room_id}/aliases");
    assert_eq!(
        alice.get(&of_room).await.ok(),
        json!({ "aliases": ["#hearth:example.org"] })
    );
    alice
        .put(path, json!({ "room_id": room_id }))
        .await
        .refused(409, "M_UNKNOWN");

    let bob = nobody.register("bob").await;
    bob.get(&of_room).await.refused(403, "M_FORBIDDEN");
    bob.get("/rooms/no-room/aliases")
        .await
        .refused(400, "M_INVALID_PARAM");
    bob.delete(path).await.refused(403, "M_FORBIDDEN");
    bob.put("/directory/room/#bob:example.org", json!({ "room_id": room_id }))
        .await
        .refused(403, "M_FORBIDDEN");
    let long = format!("/directory/room/#{}:example.org", "x".repeat(250));
    for bad in [
        "/directory/room/hearth",
        "/directory/room/#hearth:elsewhere.org",
        "/directory/room/#a%20b:example.org",
        &long,
    ] {
        alice
            .put(bad, json!({ "room_id": room_id }))
            .await
            .refused(400, "M_INVALID_PARAM");
    }
    nobody
        .get("/directory/room/hearth")
        .await
        .refused(400, "M_INVALID_PARAM");
    nobody
        .get("/directory/room/#hearth:elsewhere.org")
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .put("/directory/room/#b:example.org", json!({}))
        .await
        .refused(400, "M_BAD_JSON");

    assert_eq!(alice.delete(path).await.ok(), json!({}));
    alice.delete(path).await.refused(404, "M_NOT_FOUND");
    assert_eq!(alice.get(&of_room).await.ok(), json!({ "aliases": [] }));
}
