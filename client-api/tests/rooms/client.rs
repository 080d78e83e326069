//! A client of a server that runs in this process.

use std::{fmt::Write as _, sync::Arc};

use axum::{Router, body::Body};
use hearth_engine::test_engine::{self, TestDatabase};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

/// A client, perhaps logged in.
#[derive(Clone)]
pub struct Client {
    router: Router,
    token: Option<String>,
    pub user_id: String,
    pub database: Arc<TestDatabase>,
}

/// What came back.
#[derive(Debug, PartialEq)]
pub struct Answer(StatusCode, Value);

impl Answer {
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.0, StatusCode::OK, "{}", self.1);
        self.1
    }

    #[track_caller]
    pub fn refused(self, status: u16, code: &str) {
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
pub async fn server() -> (Client, Client) {
    let (engine, database) = test_engine::start(test_engine::open_config()).await;
    let router = hearth_client_api::router(engine);
    let nobody = Client {
        router,
        token: None,
        user_id: String::new(),
        database: Arc::new(database),
    };
    (nobody.register("alice").await, nobody)
}

impl Client {
    /// A request; `path` is one of v3 unless it begins with `/_`.
    pub async fn send(&self, method: &str, path: &str, body: impl Into<Body>) -> Answer {
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

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, Body::empty()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, Body::empty()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, body.to_string()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, body.to_string()).await
    }

    pub async fn register(&self, username: &str) -> Self {
        let body =
            json!({ "username": username, "password": "password", "auth": { "type": "m.login.dummy" } });
        let registered = self.post("/register", body).await.ok();
        let text = |key: &str| registered[key].as_str().unwrap().to_owned();
        Self {
            token: Some(text("access_token")),
            user_id: text("user_id"),
            ..self.clone()
        }
    }

    pub async fn create_room(&self, body: Value) -> String {
        self.post("/createRoom", body).await.ok()["room_id"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// A room that anyone may join.
    pub async fn room(&self) -> String {
        self.create_room(json!({ "preset": "public_chat" })).await
    }

    pub async fn join(&self, room_id: &str) {
        self.post(&format!("/join/{room_id}"), json!({})).await.ok();
    }

    pub async fn leave(&self, room_id: &str) {
        self.post(&format!("/rooms/{room_id}/leave"), json!({}))
            .await
            .ok();
    }

    /// Sends an event of any type; its body, or its refusal.
    pub async fn try_send(&self, room_id: &str, event_type: &str, content: Value) -> Answer {
        static TXN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let txn_id = TXN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.put(&format!("/rooms/{room_id}/send/{event_type}/{txn_id}"), content)
            .await
    }

    /// Sends a message; its ID.
    pub async fn say(&self, room_id: &str, content: Value) -> String {
        let sent = self.try_send(room_id, "m.room.message", content).await.ok();
        sent["event_id"].as_str().unwrap().to_owned()
    }

    /// Says `text`; the ID of the message.
    pub async fn say_text(&self, room_id: &str, text: &str) -> String {
        self.say(room_id, json!({ "msgtype": "m.text", "body": text }))
            .await
    }

    /// Sends a message that relates to another; its ID.
    pub async fn relate(&self, room_id: &str, rel_type: &str, parent: &str, text: &str) -> String {
        let mut content = json!({
            "msgtype": "m.text", "body": text, "m.relates_to": { "rel_type": rel_type, "event_id": parent },
        });
        if rel_type == "m.replace" {
            content["m.new_content"] = json!({ "msgtype": "m.text", "body": text });
        }
        self.say(room_id, content).await
    }

    /// Ignores a user.
    pub async fn ignore(&self, user_id: &str) {
        let path = format!("/user/{}/account_data/m.ignored_user_list", self.user_id);
        self.put(&path, json!({ "ignored_users": { user_id: {} } }))
            .await
            .ok();
    }

    pub async fn set_state(&self, room_id: &str, event_type: &str, content: Value) -> String {
        let set = self
            .put(&format!("/rooms/{room_id}/state/{event_type}/"), content)
            .await
            .ok();
        set["event_id"].as_str().unwrap().to_owned()
    }

    pub async fn redact(&self, room_id: &str, event_id: &str) {
        self.put(
            &format!("/rooms/{room_id}/redact/{event_id}/{event_id}"),
            json!({}),
        )
        .await
        .ok();
    }
}

/// A path of v1.
pub fn v1(path: &str) -> String {
    format!("/_matrix/client/v1{path}")
}

/// JSON as a query parameter.
pub fn query(value: &Value) -> String {
    value.to_string().bytes().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "%{byte:02X}");
        text
    })
}

/// The IDs of a list of events.
#[track_caller]
pub fn ids(events: &Value) -> Vec<&str> {
    events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event_id"].as_str().unwrap())
        .collect()
}
