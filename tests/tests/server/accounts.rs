//! Accounts over HTTP: registration, logins, tokens, devices, passwords, deactivation.

use std::time::Duration;

use hearth_tests::{Client, HearthProcess, PASSWORD, SHARED_SECRET, Server, encoded, within};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha1::Sha1;

/// Goes through the user-interactive authentication that `body` meets, by password.
async fn with_password(client: &Client, path: &str, mut body: Value, password: &str) -> hearth_tests::Answer {
    let challenge = client.post(path, body.clone()).await;
    assert_eq!(challenge.status, 401, "{}", challenge.body);
    assert!(challenge.body["flows"].is_array(), "{}", challenge.body);
    body["auth"] = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": client.user_id },
        "password": password,
        "session": challenge.body["session"],
    });
    client.post(path, body).await
}

#[tokio::test]
async fn registration_asks_for_its_one_stage_and_then_gives_a_session() {
    let server = Server::start().await;
    let someone = server.anonymous();
    let mut body =
        json!({ "username": "alice", "password": PASSWORD, "initial_device_display_name": "phone" });
    let challenge = someone.post("/v3/register", body.clone()).await;
    assert_eq!(challenge.status, 401);
    assert_eq!(challenge.body["flows"], json!([{ "stages": ["m.login.dummy"] }]));
    assert!(challenge.body["params"].is_object());
    assert!(
        challenge.body.get("errcode").is_none(),
        "a first challenge is no error: {}",
        challenge.body
    );

    body["auth"] = json!({ "type": "m.login.dummy", "session": challenge.body["session"] });
    let alice = someone.session_of(&someone.post("/v3/register", body).await.ok());
    assert_eq!(alice.user_id, format!("@alice:{}", server.name()));
    let whoami = alice.get("/v3/account/whoami").await.ok();
    assert_eq!(whoami["user_id"], alice.user_id);
    assert_eq!(whoami["device_id"], alice.device_id);
    let devices = alice.get("/v3/devices").await.ok();
    assert_eq!(devices["devices"][0]["display_name"], "phone");
}

#[tokio::test]
async fn registration_without_login_gives_no_token() {
    let server = Server::start().await;
    let auth = json!({ "type": "m.login.dummy" });
    let body = json!({ "username": "alice", "password": PASSWORD, "auth": auth, "inhibit_login": true });
    let registered = server.anonymous().post("/v3/register", body).await.ok();
    assert_eq!(registered["user_id"], format!("@alice:{}", server.name()));
    assert!(registered.get("access_token").is_none());
    server.anonymous().login("alice", PASSWORD).await.ok();
}

#[tokio::test]
async fn user_names_are_checked_and_taken_once() {
    let server = Server::start().await;
    let someone = server.anonymous();
    someone.get("/v3/register/available?username=alice").await.ok();
    server.register("alice").await;
    someone
        .get("/v3/register/available?username=alice")
        .await
        .refused(400, "M_USER_IN_USE");
    someone.register("alice").await.refused(400, "M_USER_IN_USE");
    for name in ["with space", "ünicode", "semi;colon", "", "a\0b"] {
        let query = format!("/v3/register/available?username={}", encoded(name));
        someone.get(&query).await.refused(400, "M_INVALID_USERNAME");
    }
    for name in ["with space", "ünicode", "a\0b"] {
        someone.register(name).await.refused(400, "M_INVALID_USERNAME");
    }
    someone
        .register(&"a".repeat(300))
        .await
        .refused(400, "M_INVALID_USERNAME");
}

#[tokio::test]
async fn closed_registration_is_closed() {
    let server = Server::start_with(|settings| settings.registration.open = false).await;
    server
        .anonymous()
        .register("alice")
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn the_shared_secret_registers_even_an_admin() {
    let server = Server::start_with(|settings| settings.registration.open = false).await;
    let someone = server.anonymous();
    let path = "/_synapse/admin/v1/register";
    let nonce = someone.get_whole(path).await.string("nonce");
    let mac = |nonce: &str, secret: &str| {
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("any key will do");
        mac.update(format!("{nonce}\0root\0{PASSWORD}\0admin").as_bytes());
        mac.finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let post = async |nonce: &str, mac: String| {
        let body =
            json!({ "nonce": nonce, "username": "root", "password": PASSWORD, "admin": true, "mac": mac });
        someone
            .send_request(someone.request(reqwest::Method::POST, path).json(&body))
            .await
    };
    post(&nonce, mac(&nonce, "a guess"))
        .await
        .refused(403, "M_FORBIDDEN");
    let nonce = someone.get_whole(path).await.string("nonce");
    let root = someone.session_of(&post(&nonce, mac(&nonce, SHARED_SECRET)).await.ok());
    root.get("/v3/account/whoami").await.ok();
    let again = post(&nonce, mac(&nonce, SHARED_SECRET)).await;
    assert!(
        again.is_proper_refusal(),
        "a nonce serves once: {} {}",
        again.status,
        again.body
    );
}

#[tokio::test]
async fn a_login_needs_the_right_password() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let someone = server.anonymous();
    assert_eq!(
        someone.get("/v3/login").await.ok()["flows"][0]["type"],
        "m.login.password"
    );
    someone.login("alice", "wrong").await.refused(403, "M_FORBIDDEN");
    someone
        .login("nobody", PASSWORD)
        .await
        .refused(403, "M_FORBIDDEN");
    let laptop = someone.session_of(&someone.login(&alice.user_id, PASSWORD).await.ok());
    assert_ne!(laptop.device_id, alice.device_id);
    assert_ne!(laptop.token, alice.token);
}

#[tokio::test]
async fn a_login_with_the_same_device_replaces_its_token() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let identifier = json!({ "type": "m.id.user", "user": "alice" });
    let body = json!({
        "type": "m.login.password", "identifier": identifier, "password": PASSWORD, "device_id": alice.device_id,
    });
    let again = server
        .anonymous()
        .session_of(&server.anonymous().post("/v3/login", body).await.ok());
    assert_eq!(again.device_id, alice.device_id);
    alice
        .get("/v3/account/whoami")
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
    assert_eq!(
        again.get("/v3/devices").await.ok()["devices"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
}

#[tokio::test]
async fn a_logout_ends_one_device_and_logout_all_every_one() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let laptop = alice.another_device().await;
    alice.post("/v3/logout", json!({})).await.ok();
    let refused = alice
        .get("/v3/account/whoami")
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
    assert_ne!(refused["soft_logout"], true);
    let phone = laptop.another_device().await;
    phone.post("/v3/logout/all", json!({})).await.ok();
    laptop
        .get("/v3/account/whoami")
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
    phone
        .get("/v3/account/whoami")
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_long_poll_ends_when_its_device_is_logged_out() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let laptop = alice.another_device().await;
    laptop.sync().await;
    let logout = async {
        alice.post("/v3/logout/all", json!({})).await.ok();
    };
    let both = async { tokio::join!(laptop.sync_with("timeout=30000"), logout) };
    let (answer, ()) = within(Duration::from_secs(15), "the poll ends", both).await;
    assert!(
        answer.status == 200 || answer.is_proper_refusal(),
        "{} {}",
        answer.status,
        answer.body
    );
    laptop
        .sync_with("timeout=0")
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_refresh_token_gives_a_new_access_token_of_the_same_device() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let identifier = json!({ "type": "m.id.user", "user": "alice" });
    let body = json!({
        "type": "m.login.password", "identifier": identifier, "password": PASSWORD, "refresh_token": true,
    });
    let login = alice.post("/v3/login", body).await.ok();
    assert!(login["expires_in_ms"].as_u64().is_some(), "{login}");
    let device = alice.session_of(&login);
    let refreshed = alice
        .post("/v3/refresh", json!({ "refresh_token": login["refresh_token"] }))
        .await
        .ok();
    let renewed = device.with_token(refreshed["access_token"].as_str());
    let whoami = renewed.get("/v3/account/whoami").await.ok();
    assert_eq!(whoami["device_id"], device.device_id);
    alice
        .post("/v3/refresh", json!({ "refresh_token": "forged" }))
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn requests_without_a_token_and_with_a_forged_one_are_told_apart() {
    let server = Server::start().await;
    let someone = server.anonymous();
    for path in [
        "/v3/account/whoami",
        "/v3/devices",
        "/v3/sync",
        "/v3/joined_rooms",
    ] {
        someone.get(path).await.refused(401, "M_MISSING_TOKEN");
        someone
            .with_token(Some("forged"))
            .get(path)
            .await
            .refused(401, "M_UNKNOWN_TOKEN");
    }
}

#[tokio::test]
async fn tokens_outlive_a_restart() {
    let mut server = Server::start().await;
    let alice = server.register("alice").await;
    server.restart().await;
    assert_eq!(
        alice.get("/v3/account/whoami").await.ok()["user_id"],
        alice.user_id
    );
}

#[tokio::test]
async fn devices_are_listed_renamed_and_deleted() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let (laptop, tablet, watch) = (
        alice.another_device().await,
        alice.another_device().await,
        alice.another_device().await,
    );
    let path = format!("/v3/devices/{}", laptop.device_id);
    alice.put(&path, json!({ "display_name": "laptop" })).await.ok();
    let device = alice.get(&path).await.ok();
    assert_eq!(
        (&device["display_name"], &device["device_id"]),
        (&json!("laptop"), &json!(laptop.device_id))
    );

    let challenge = alice.delete(&path, Some(json!({}))).await;
    assert_eq!(challenge.status, 401);
    let auth = json!({
        "type": "m.login.password", "session": challenge.body["session"], "password": PASSWORD,
        "identifier": { "type": "m.id.user", "user": alice.user_id },
    });
    alice.delete(&path, Some(json!({ "auth": auth }))).await.ok();
    laptop
        .get("/v3/account/whoami")
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
    alice.get(&path).await.refused(404, "M_NOT_FOUND");

    let many = json!({ "devices": [tablet.device_id, watch.device_id] });
    with_password(&alice, "/v3/delete_devices", many, PASSWORD)
        .await
        .ok();
    tablet
        .get("/v3/account/whoami")
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
    watch
        .get("/v3/account/whoami")
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
    assert_eq!(
        alice.get("/v3/devices").await.ok()["devices"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
}

#[tokio::test]
async fn the_devices_of_others_are_out_of_reach() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let path = format!("/v3/devices/{}", alice.device_id);
    bob.get(&path).await.refused(404, "M_NOT_FOUND");
    bob.put(&path, json!({ "display_name": "mine now" }))
        .await
        .refused(404, "M_NOT_FOUND");
    alice.get("/v3/account/whoami").await.ok();
}

#[tokio::test]
async fn a_password_is_changed_with_the_old_one_and_ends_other_devices() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let laptop = alice.another_device().await;
    let body = json!({ "new_password": "another one entirely" });
    let wrong = with_password(&alice, "/v3/account/password", body.clone(), "wrong").await;
    assert_eq!(
        (wrong.status, wrong.errcode()),
        (401, "M_FORBIDDEN"),
        "{}",
        wrong.body
    );
    assert!(
        wrong.body["flows"].is_array(),
        "a failed stage may be tried again: {}",
        wrong.body
    );
    with_password(&alice, "/v3/account/password", body, PASSWORD)
        .await
        .ok();
    alice.get("/v3/account/whoami").await.ok();
    laptop
        .get("/v3/account/whoami")
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
    server
        .anonymous()
        .login("alice", PASSWORD)
        .await
        .refused(403, "M_FORBIDDEN");
    server
        .anonymous()
        .login("alice", "another one entirely")
        .await
        .ok();
}

#[tokio::test]
async fn a_deactivated_account_is_gone_and_its_name_is_not_given_again() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    with_password(&alice, "/v3/account/deactivate", json!({}), PASSWORD)
        .await
        .ok();
    alice
        .get("/v3/account/whoami")
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
    server
        .anonymous()
        .login("alice", PASSWORD)
        .await
        .refused(403, "M_USER_DEACTIVATED");
    server
        .anonymous()
        .register("alice")
        .await
        .refused(400, "M_USER_IN_USE");
}

#[tokio::test]
async fn rate_limits_are_on_by_default_and_say_when_to_come_back() {
    let server = Server::start_with(|settings| settings.rate_limits.enabled = true).await;
    let mut limited = None;
    for _ in 0..200 {
        let answer = server.anonymous().login("alice", "a guess").await;
        if answer.status == 429 {
            limited = Some(answer);
            break;
        }
        answer.refused(403, "M_FORBIDDEN");
    }
    let limited = limited.expect("200 guesses of a password are too many");
    let retry_after = limited
        .headers
        .get("retry-after")
        .and_then(|seconds| seconds.to_str().ok()?.parse::<u64>().ok());
    assert!(
        retry_after.is_some_and(|seconds| seconds > 0),
        "{:?}",
        limited.headers
    );
    limited.refused(429, "M_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn two_servers_in_one_process_know_nothing_of_each_other() {
    let (one, other) = (Server::start().await, Server::start().await);
    let alice = one.register("alice").await;
    assert_ne!(one.name(), other.name());
    other
        .anonymous()
        .with_token(alice.token.as_deref())
        .get("/v3/account/whoami")
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
    other.register("alice").await;
}

#[tokio::test]
async fn the_binary_serves_and_keeps_accounts_over_a_kill() {
    let mut hearth = HearthProcess::start().await;
    let alice = hearth.register("alice").await;
    hearth.kill();
    hearth.start_again().await;
    assert_eq!(
        alice.get("/v3/account/whoami").await.ok()["user_id"],
        alice.user_id
    );
}
