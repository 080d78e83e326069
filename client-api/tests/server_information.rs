//! What the server tells about itself.

use axum::{Router, body::Body};
use hearth_engine::{Config, Support, SupportContact, accounts::register, test_engine};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use ruma::{api::client::account::register::RegistrationKind, owned_user_id, server_name};
use serde_json::{Value, json};
use tower::ServiceExt;

async fn server(configure: impl FnOnce(&mut Config)) -> (Router, String) {
    let mut config = Config::new(server_name!("localhost").to_owned());
    config.registration.guests = true;
    configure(&mut config);
    let (engine, _) = test_engine::start(config).await;
    let guest = register::Registration {
        kind: RegistrationKind::Guest,
        ..register::Registration::default()
    };
    let registered = register::register(&engine, guest, None).await.expect("a guest");
    (
        hearth_client_api::router(engine),
        registered.login.expect("a device").access_token,
    )
}

async fn get(router: &Router, path: &str, token: Option<&str>) -> (StatusCode, Value) {
    let mut request = Request::get(path);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Body::empty()).expect("a request");
    let response = router
        .clone()
        .oneshot(request)
        .await
        .expect("routers do not fail");
    let status = response.status();
    assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    let body = response
        .into_body()
        .collect()
        .await
        .expect("the answer's body")
        .to_bytes();
    (status, serde_json::from_slice(&body).expect("JSON"))
}

#[tokio::test]
async fn versions_are_told_to_everybody() {
    let (router, token) = server(|_| {}).await;
    for token in [None, Some(token.as_str())] {
        let (status, body) = get(&router, "/_matrix/client/versions", token).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body["unstable_features"]["chat.hearth.socket"], true);
        let versions = body["versions"].as_array().expect("versions");
        assert!(
            versions.contains(&json!("r0.6.1")) && versions.last() == Some(&json!("v1.17")),
            "{body}"
        );
    }
}

#[tokio::test]
async fn capabilities_name_the_room_versions_and_what_users_may_change() {
    let (router, token) = server(|_| {}).await;
    let (status, body) = get(&router, "/_matrix/client/v3/capabilities", None).await;
    assert_eq!(
        (status, &body["errcode"]),
        (StatusCode::UNAUTHORIZED, &json!("M_MISSING_TOKEN"))
    );
    let (status, body) = get(&router, "/_matrix/client/v3/capabilities", Some(&token)).await;
    assert_eq!(status, StatusCode::OK);
    let capabilities = &body["capabilities"];
    let room_versions = &capabilities["m.room_versions"];
    assert_eq!(room_versions["default"], "12");
    for version in 1..=12 {
        assert_eq!(room_versions["available"][version.to_string()], "stable");
    }
    assert_eq!(capabilities["m.3pid_changes"], json!({ "enabled": false }));
    // What the spec has clients assume where it isn't said.
    for (capability, assumed) in [("m.change_password", true), ("m.get_login_token", false)] {
        assert_eq!(
            capabilities[capability]["enabled"].as_bool().unwrap_or(assumed),
            assumed,
            "{capability}"
        );
    }
    assert_eq!(
        capabilities["m.profile_fields"],
        json!({ "enabled": true }),
        "any field may be set"
    );
}

#[tokio::test]
async fn nothing_is_told_that_was_not_configured() {
    let (router, _) = server(|_| {}).await;
    for name in ["client", "server", "support"] {
        let (status, body) = get(&router, &format!("/.well-known/matrix/{name}"), None).await;
        assert_eq!(
            (status, &body["errcode"]),
            (StatusCode::NOT_FOUND, &json!("M_NOT_FOUND")),
            "{name}"
        );
    }
}

#[tokio::test]
async fn clients_servers_and_users_find_what_they_look_for() {
    let (router, _) = server(|config| {
        config.public_url = Some("https://chat.example.org/".to_owned());
        config.support = Support {
            page: Some("https://example.org/help".to_owned()),
            contacts: vec![SupportContact {
                role: "m.role.admin".to_owned(),
                matrix_id: Some(owned_user_id!("@admin:example.org")),
                email_address: Some("admin@example.org".to_owned()),
            }],
        };
    })
    .await;
    let (_, client) = get(&router, "/.well-known/matrix/client", None).await;
    assert_eq!(
        client,
        json!({ "m.homeserver": { "base_url": "https://chat.example.org" } })
    );
    let (_, server) = get(&router, "/.well-known/matrix/server", None).await;
    assert_eq!(server, json!({ "m.server": "chat.example.org:443" }));
    let (_, support) = get(&router, "/.well-known/matrix/support", None).await;
    let contact = json!({
        "role": "m.role.admin",
        "matrix_id": "@admin:example.org",
        "email_address": "admin@example.org",
    });
    assert_eq!(
        support,
        json!({ "contacts": [contact], "support_page": "https://example.org/help" })
    );
}
