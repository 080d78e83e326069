//! The account routes as a client calls them: paths, bodies and error codes. The rules behind them are tested in
//! the engine.

use axum::{Router, body::Body};
use hearth_engine::{Config, test_engine};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

/// A server that is open to anyone, with a shared secret and without rate limits.
async fn server() -> Client {
    server_with(|_| ()).await
}

async fn server_with(change: impl FnOnce(&mut Config)) -> Client {
    let mut config = test_engine::open_config();
    config.registration.shared_secret = Some("shared_secret".to_owned());
    change(&mut config);
    let (engine, _) = test_engine::start(config).await;
    Client {
        router: hearth_client_api::router(engine),
        token: None,
    }
}

/// A client, perhaps logged in.
#[derive(Clone)]
struct Client {
    router: Router,
    token: Option<String>,
}

impl Client {
    async fn send(&self, method: &str, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        let path = if path.starts_with("/_") {
            path.to_owned()
        } else {
            format!("/_matrix/client/v3{path}")
        };
        let mut request = Request::builder().method(method).uri(path);
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
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.send("GET", path, Body::empty()).await
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.send("POST", path, body.to_string()).await
    }

    /// Sends what must be refused, and gives the status and the error code.
    async fn refused(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let (status, body) = self.send(method, path, body.to_string()).await;
        assert!(body["error"].is_string(), "{status} {body}");
        (status.as_u16(), body["errcode"].as_str().unwrap().to_owned())
    }

    fn with(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    async fn register(&self, username: &str) -> Self {
        let (status, body) = self.post("/register", registration(username)).await;
        assert_eq!(status, 200, "{body}");
        self.with(body["access_token"].as_str().unwrap())
    }

    async fn login(&self, user: &str) -> Self {
        let (status, body) = self.post("/login", login(user, "password")).await;
        assert_eq!(status, 200, "{body}");
        self.with(body["access_token"].as_str().unwrap())
    }
}

fn registration(username: &str) -> Value {
    json!({ "username": username, "password": "password", "auth": { "type": "m.login.dummy" } })
}

fn login(user: &str, password: &str) -> Value {
    json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": user }, "password": password,
    })
}

/// The `auth` of a user who gives `password`.
fn auth(user: &str, password: &str) -> Value {
    json!({ "auth": login(user, password) })
}

fn code(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn registration_asks_for_the_dummy_stage_and_takes_it() {
    let server = server().await;
    let (status, challenge) = server.post("/register", json!({})).await;
    assert_eq!(status, 401);
    assert_eq!(challenge["flows"], json!([{ "stages": ["m.login.dummy"] }]));
    assert_eq!(challenge["params"], json!({}));
    assert_eq!(
        (challenge.get("completed"), challenge.get("errcode")),
        (None, None)
    );

    let mut body = registration("alice");
    body["auth"]["session"] = challenge["session"].clone();
    body["device_id"] = json!("PHONE");
    body["refresh_token"] = json!(true);
    let (status, registered) = server.post("/register", body).await;
    assert_eq!(status, 200, "{registered}");
    assert_eq!(registered["user_id"], "@alice:example.org");
    assert_eq!(registered["device_id"], "PHONE");
    assert_eq!(registered["expires_in_ms"], 3_600_000);
    assert!(registered["refresh_token"].is_string());
    let (status, me) = server
        .with(registered["access_token"].as_str().unwrap())
        .get("/account/whoami")
        .await;
    assert_eq!(
        (status.as_u16(), me),
        (
            200,
            json!({ "user_id": "@alice:example.org", "device_id": "PHONE" })
        )
    );
}

#[tokio::test]
async fn inhibited_login_gives_only_the_user() {
    let server = server().await;
    let mut body = registration("alice");
    body["inhibit_login"] = json!(true);
    let (status, registered) = server.post("/register", body).await;
    assert_eq!(status, 200);
    assert_eq!(registered["user_id"], "@alice:example.org");
    assert!(registered.get("access_token").is_none());
}

#[tokio::test]
async fn registrations_are_refused_by_the_specifications_codes() {
    let server = server().await;
    server.register("alice").await;
    let refused = async |path: &str, body| server.refused("POST", path, body).await;
    assert_eq!(
        refused("/register", registration("Alice")).await,
        code(400, "M_USER_IN_USE")
    );
    assert_eq!(
        refused("/register", registration("a!")).await,
        code(400, "M_INVALID_USERNAME")
    );
    assert_eq!(
        refused("/register", registration("")).await,
        code(400, "M_INVALID_USERNAME")
    );
    assert_eq!(
        refused("/register", registration(&"a".repeat(250))).await,
        code(400, "M_INVALID_USERNAME")
    );
    let without_password = json!({ "username": "bob", "auth": { "type": "m.login.dummy" } });
    assert_eq!(
        refused("/register", without_password).await,
        code(400, "M_MISSING_PARAM")
    );
    let empty = json!({ "username": "bob", "password": "", "auth": { "type": "m.login.dummy" } });
    assert_eq!(refused("/register", empty).await, code(400, "M_WEAK_PASSWORD"));
    assert_eq!(
        refused("/register?kind=guest", json!({})).await,
        code(403, "M_FORBIDDEN")
    );
    assert_eq!(
        refused("/register?kind=robot", json!({})).await,
        code(400, "M_INVALID_PARAM")
    );
    assert_eq!(
        refused("/register", json!({ "username": 1 })).await,
        code(400, "M_BAD_JSON")
    );

    let available = async |name| server.get(&format!("/register/available?username={name}")).await;
    assert_eq!(available("bob").await.1, json!({ "available": true }));
    let (status, body) = available("alice").await;
    assert_eq!(
        (status.as_u16(), &body["errcode"]),
        (400, &json!("M_USER_IN_USE"))
    );
    let (status, body) = available("b,").await;
    assert_eq!(
        (status.as_u16(), &body["errcode"]),
        (400, &json!("M_INVALID_USERNAME"))
    );

    let closed = server_with(|config| config.registration.open = false).await;
    assert_eq!(
        closed.refused("POST", "/register", json!({})).await,
        code(403, "M_FORBIDDEN")
    );
}

#[tokio::test]
async fn unknown_stage_is_answered_in_the_dialogue() {
    let server = server().await;
    let body = json!({ "username": "bob", "password": "x", "auth": { "type": "org.example.handshake" } });
    let (status, challenge) = server.post("/register", body).await;
    assert_eq!(
        (status.as_u16(), &challenge["errcode"]),
        (401, &json!("M_UNRECOGNIZED"))
    );
    assert!(challenge["session"].is_string() && challenge["flows"].is_array());
}

#[tokio::test]
async fn shared_secret_registers_as_synapse_documents() {
    use hmac::{Hmac, KeyInit, Mac};
    let path = "/_synapse/admin/v1/register";
    let server = server_with(|config| config.registration.open = false).await;
    let mac = |nonce: &str, secret: &str| {
        let mut hmac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).unwrap();
        hmac.update(format!("{nonce}\0Root\0password\0admin").as_bytes());
        hmac.finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let request = async |secret| {
        let (status, body) = server.get(path).await;
        assert_eq!(status, 200);
        let nonce = body["nonce"].as_str().unwrap().to_owned();
        json!({
            "nonce": nonce, "username": "Root", "password": "password", "admin": true, "mac": mac(&nonce, secret),
        })
    };
    let wrong = request("guess").await;
    assert_eq!(
        server.refused("POST", path, wrong.clone()).await,
        code(403, "M_FORBIDDEN")
    );
    assert_eq!(server.refused("POST", path, wrong).await, code(400, "M_UNKNOWN"));
    let (status, body) = server.post(path, request("shared_secret").await).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        (&body["user_id"], &body["home_server"]),
        (&json!("@root:example.org"), &json!("example.org"))
    );
    assert!(body["access_token"].is_string() && body["device_id"].is_string());
    let again = request("shared_secret").await;
    assert_eq!(
        server.refused("POST", path, again).await,
        code(400, "M_USER_IN_USE")
    );
    let incomplete = json!({ "nonce": "x", "username": "y" });
    assert_eq!(
        server.refused("POST", path, incomplete).await,
        code(400, "M_BAD_JSON")
    );

    let without = server_with(|config| config.registration.shared_secret = None).await;
    assert_eq!(
        without
            .refused("POST", path, request("shared_secret").await)
            .await,
        code(404, "M_UNRECOGNIZED")
    );
}

#[tokio::test]
async fn login_answers_in_the_specifications_words() {
    let server = server().await;
    server.register("alice").await;
    let (status, flows) = server.get("/login").await;
    assert_eq!(
        (status.as_u16(), flows),
        (200, json!({ "flows": [{ "type": "m.login.password" }] }))
    );

    let mut body = login("@ALICE:example.org", "password");
    body["device_id"] = json!("PHONE");
    body["initial_device_display_name"] = json!("My phone");
    body["refresh_token"] = json!(true);
    let (status, logged_in) = server.post("/login", body).await;
    assert_eq!(status, 200, "{logged_in}");
    assert_eq!(
        (&logged_in["user_id"], &logged_in["device_id"]),
        (&json!("@alice:example.org"), &json!("PHONE"))
    );
    assert_eq!(logged_in["expires_in_ms"], 3_600_000);

    let refused = async |body| server.refused("POST", "/login", body).await;
    assert_eq!(refused(login("alice", "wrong")).await, code(403, "M_FORBIDDEN"));
    assert_eq!(
        refused(login("nobody", "password")).await,
        code(403, "M_FORBIDDEN")
    );
    assert_eq!(refused(json!({})).await, code(400, "M_MISSING_PARAM"));
    assert_eq!(refused(json!({ "type": 1 })).await, code(400, "M_MISSING_PARAM"));
    assert_eq!(
        refused(json!({ "type": "org.example.x" })).await,
        code(400, "M_UNKNOWN")
    );
    assert_eq!(
        refused(json!({ "type": "m.login.token", "token": "x" })).await,
        code(400, "M_UNKNOWN")
    );
    assert_eq!(
        refused(json!({ "type": "m.login.password", "password": "x" })).await,
        code(400, "M_MISSING_PARAM")
    );
    assert_eq!(
        refused(json!({ "type": "m.login.password", "user": "alice" })).await,
        code(400, "M_BAD_JSON")
    );
    assert_eq!(
        refused(json!({ "type": "m.login.password", "user": "alice", "password": 1 })).await,
        code(400, "M_BAD_JSON")
    );
    let (status, _) = server
        .post(
            "/login",
            json!({ "type": "m.login.password", "user": "alice", "password": "password" }),
        )
        .await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn guessing_is_answered_by_429_with_the_time_to_wait() {
    let server = server_with(|config| config.rate_limits.enabled = true).await;
    let mut limited = None;
    for _ in 0..12 {
        let (status, body) = server.post("/login", login("nobody", "wrong")).await;
        if status == 429 {
            limited = Some(body);
            break;
        }
        assert_eq!(status, 403);
    }
    let limited = limited.expect("some attempt is one too many");
    assert_eq!(limited["errcode"], "M_LIMIT_EXCEEDED");
    assert!(limited["retry_after_ms"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn refresh_gives_the_next_tokens_and_refuses_used_ones() {
    let server = server().await;
    server.register("alice").await;
    let mut body = login("alice", "password");
    body["refresh_token"] = json!(true);
    let (_, logged_in) = server.post("/login", body).await;
    let old = json!({ "refresh_token": logged_in["refresh_token"] });
    let (status, next) = server.post("/refresh", old.clone()).await;
    assert_eq!(status, 200, "{next}");
    assert!(next["refresh_token"].is_string());
    assert_eq!(next["expires_in_ms"], 3_600_000);
    let (status, _) = server
        .with(next["access_token"].as_str().unwrap())
        .get("/account/whoami")
        .await;
    assert_eq!(status, 200);
    assert_eq!(
        server.refused("POST", "/refresh", old).await,
        code(401, "M_UNKNOWN_TOKEN")
    );
    let (status, body) = server
        .with(logged_in["access_token"].as_str().unwrap())
        .get("/account/whoami")
        .await;
    assert_eq!((status.as_u16(), &body["soft_logout"]), (401, &json!(true)));
}

#[tokio::test]
async fn logout_ends_the_token_and_needs_one() {
    let server = server().await;
    let alice = server.register("alice").await;
    let phone = server.login("alice").await;
    assert_eq!(
        phone.post("/logout", json!({})).await,
        (StatusCode::OK, json!({}))
    );
    assert_eq!(
        phone.refused("POST", "/logout", json!({})).await,
        code(401, "M_UNKNOWN_TOKEN")
    );
    assert_eq!(
        server.refused("POST", "/logout", json!({})).await,
        code(401, "M_MISSING_TOKEN")
    );
    // Clients send no body at all.
    assert_eq!(
        alice.send("POST", "/logout/all", Body::empty()).await,
        (StatusCode::OK, json!({}))
    );
    assert_eq!(
        alice.refused("POST", "/logout/all", json!({})).await,
        code(401, "M_UNKNOWN_TOKEN")
    );
}

#[tokio::test]
async fn password_is_changed_in_a_dialogue() {
    let server = server().await;
    let alice = server.register("alice").await;
    let path = "/account/password";
    let (status, challenge) = alice.post(path, json!({ "new_password": "new" })).await;
    assert_eq!(status, 401);
    assert_eq!(challenge["flows"], json!([{ "stages": ["m.login.password"] }]));

    let mut body = auth("alice", "wrong");
    body["new_password"] = json!("new");
    body["auth"]["session"] = challenge["session"].clone();
    let (status, failed) = alice.post(path, body.clone()).await;
    assert_eq!(
        (status.as_u16(), &failed["errcode"]),
        (401, &json!("M_FORBIDDEN"))
    );
    assert_eq!(failed["session"], challenge["session"]);
    body["auth"]["password"] = json!("password");
    assert_eq!(alice.post(path, body).await, (StatusCode::OK, json!({})));
    let (status, _) = server.post("/login", login("alice", "new")).await;
    assert_eq!(status, 200);

    assert_eq!(
        server.refused("POST", path, json!({ "new_password": "x" })).await,
        code(401, "M_MISSING_TOKEN")
    );
    assert_eq!(
        alice.refused("POST", path, json!({ "new_password": "" })).await,
        code(400, "M_WEAK_PASSWORD")
    );
    assert_eq!(
        alice.refused("POST", path, json!({})).await,
        code(400, "M_BAD_JSON")
    );
}

#[tokio::test]
async fn account_is_deactivated_for_good() {
    let server = server().await;
    let alice = server.register("alice").await;
    let path = "/account/deactivate";
    let (status, challenge) = alice.post(path, json!({})).await;
    assert_eq!(status, 401);
    assert_eq!(challenge["flows"], json!([{ "stages": ["m.login.password"] }]));
    let (status, body) = alice.post(path, auth("alice", "password")).await;
    assert_eq!(
        (status.as_u16(), body),
        (200, json!({ "id_server_unbind_result": "success" }))
    );
    let login = server.refused("POST", "/login", login("alice", "password")).await;
    assert_eq!(login, code(403, "M_USER_DEACTIVATED"));
    assert_eq!(
        server.refused("POST", "/register", registration("alice")).await,
        code(400, "M_USER_IN_USE")
    );
    let (status, body) = alice.get("/account/whoami").await;
    assert_eq!(
        (status.as_u16(), &body["errcode"]),
        (401, &json!("M_UNKNOWN_TOKEN"))
    );
    assert!(
        body.get("soft_logout")
            .is_none_or(|soft_logout| soft_logout == false)
    );
}

#[tokio::test]
async fn devices_are_shown_renamed_and_deleted() {
    let server = server().await;
    let alice = server.register("alice").await;
    server.register("bob").await;
    let mut body = login("alice", "password");
    body["device_id"] = json!("PHONE/1");
    body["initial_device_display_name"] = json!("My phone");
    server.post("/login", body).await;
    let device = "/devices/PHONE%2F1";

    let (status, shown) = alice.get(device).await;
    assert_eq!(status, 200);
    assert_eq!(
        (&shown["device_id"], &shown["display_name"]),
        (&json!("PHONE/1"), &json!("My phone"))
    );
    let renamed = alice
        .send("PUT", device, json!({ "display_name": "Old phone" }).to_string())
        .await;
    assert_eq!(renamed, (StatusCode::OK, json!({})));
    let (_, listed) = alice.get("/devices").await;
    let names: Vec<_> = listed["devices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|device| &device["display_name"])
        .collect();
    assert_eq!(names, [&Value::Null, &json!("Old phone")]);
    assert_eq!(
        alice
            .refused("PUT", "/devices/NONE", json!({ "display_name": "x" }))
            .await,
        code(404, "M_NOT_FOUND")
    );
    let (status, body) = alice.get("/devices/NONE").await;
    assert_eq!((status.as_u16(), &body["errcode"]), (404, &json!("M_NOT_FOUND")));
    let long = json!({ "display_name": "x".repeat(300) });
    assert_eq!(
        alice.refused("PUT", device, long).await,
        code(400, "M_INVALID_PARAM")
    );

    let (status, challenge) = alice.send("DELETE", device, Body::empty()).await;
    assert_eq!(status, 401);
    assert!(
        challenge["session"].is_string() && challenge["flows"].is_array() && challenge["params"].is_object()
    );
    let (status, failed) = alice
        .send("DELETE", device, auth("alice", "wrong").to_string())
        .await;
    assert_eq!(
        (status.as_u16(), &failed["errcode"]),
        (401, &json!("M_FORBIDDEN"))
    );
    assert_eq!(
        alice.refused("DELETE", device, auth("bob", "password")).await,
        code(403, "M_FORBIDDEN")
    );
    let mut moved = auth("alice", "password");
    moved["auth"]["session"] = challenge["session"].clone();
    assert_eq!(
        alice.refused("DELETE", "/devices/OTHER", moved.clone()).await,
        code(403, "M_FORBIDDEN")
    );
    assert_eq!(
        alice.send("DELETE", device, moved.to_string()).await,
        (StatusCode::OK, json!({}))
    );
    let (status, _) = alice.get(device).await;
    assert_eq!(status, 404);

    let mut several = auth("alice", "password");
    several["devices"] = json!(["A", "B"]);
    assert_eq!(
        alice.post("/delete_devices", several).await,
        (StatusCode::OK, json!({}))
    );
    assert_eq!(
        alice.refused("POST", "/delete_devices", json!({})).await,
        code(400, "M_BAD_JSON")
    );
}

#[tokio::test]
async fn guest_is_registered_where_guests_are_let_in() {
    let server = server_with(|config| config.registration.guests = true).await;
    let (status, guest) = server
        .post("/register?kind=guest", json!({ "username": "ignored" }))
        .await;
    assert_eq!(status, 200, "{guest}");
    let guest = server.with(guest["access_token"].as_str().unwrap());
    let (status, me) = guest.get("/account/whoami").await;
    assert_eq!((status.as_u16(), &me["is_guest"]), (200, &json!(true)));
}
