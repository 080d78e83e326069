//! Who is logged in, and what is refused.

use super::*;

#[tokio::test]
async fn user_logs_in_by_localpart_or_user_id_in_any_case() {
    let server = server().await;
    server.register("alice").await;
    for name in ["alice", "@alice:example.org", "ALICE", "@Alice:example.org"] {
        assert_eq!(server.login(name).await.user_id, "@alice:example.org", "{name}");
    }
    let deprecated = json!({ "type": "m.login.password", "user": "alice", "password": "password" });
    let deprecated = serde_json::from_value(deprecated).unwrap();
    let login = login::login(&server.engine, deprecated, DeviceRequest::default())
        .await
        .unwrap();
    assert_eq!(login.user_id, "@alice:example.org");
}

#[tokio::test]
async fn wrong_credentials_are_all_alike() {
    let server = server().await;
    server.register("alice").await;
    let cases = [
        ("alice", "wrong"),
        ("alice", ""),
        ("nobody", "password"),
        ("@alice:elsewhere.org", "password"),
        ("@", "password"),
        ("a\0", "password"),
    ];
    for (user, password) in cases {
        let error = server
            .login_with(user, password, DeviceRequest::default())
            .await
            .unwrap_err();
        assert!(
            matches!(error, LoginError::Credentials(CredentialsError::Wrong)),
            "{user}: {error}"
        );
    }
}

#[tokio::test]
async fn login_says_what_it_does_not_understand() {
    let server = server().await;
    let login = async |info| {
        let info = serde_json::from_value(info).unwrap();
        login::login(&server.engine, info, DeviceRequest::default())
            .await
            .unwrap_err()
    };
    let error = login(json!({ "type": "org.example.handshake" })).await;
    assert!(matches!(error, LoginError::UnsupportedType), "{error}");
    let error = login(json!({ "type": "m.login.token", "token": "abc" })).await;
    assert!(matches!(error, LoginError::UnsupportedType), "{error}");
    let error = login(json!({ "type": "m.login.password", "password": "x" })).await;
    assert!(matches!(error, LoginError::NoIdentifier), "{error}");
    let identifier = json!({ "type": "org.example.badge" });
    let error = login(json!({ "type": "m.login.password", "password": "x", "identifier": identifier })).await;
    assert!(
        matches!(
            error,
            LoginError::Credentials(CredentialsError::UnknownIdentifier)
        ),
        "{error}"
    );
    let identifier = json!({ "type": "m.id.thirdparty", "medium": "email", "address": "a@example.org" });
    let error = login(json!({ "type": "m.login.password", "password": "x", "identifier": identifier })).await;
    assert!(
        matches!(error, LoginError::Credentials(CredentialsError::Wrong)),
        "{error}"
    );
}

#[tokio::test]
async fn logging_a_device_in_again_ends_its_tokens_and_keeps_its_name() {
    let server = server().await;
    server.register("alice").await;
    let phone = |name: &str| DeviceRequest {
        device_id: Some("PHONE".into()),
        initial_display_name: Some(name.to_owned()),
        refreshes: true,
    };
    let first = server
        .login_with("alice", "password", phone("First"))
        .await
        .unwrap();
    assert!(server.works(&first.access_token).await);
    let second = server
        .login_with("alice", "password", phone("Second"))
        .await
        .unwrap();
    assert_eq!(second.device_id, "PHONE");
    assert!(server.is_unknown(&first.access_token).await);
    let refreshed = refresh::refresh(&server.engine, first.refresh_token.as_deref().unwrap()).await;
    assert!(matches!(refreshed, Err(refresh::RefreshError::Unknown)));
    let requester = server.requester(&second).await;
    let device = devices::get(&server.engine, &requester, "PHONE".into())
        .await
        .unwrap();
    assert_eq!(device.display_name.as_deref(), Some("First"));
}

#[tokio::test]
async fn device_ids_that_cannot_be_stored_are_refused() {
    let server = server().await;
    server.register("alice").await;
    for device_id in ["a\0b".to_owned(), "line\nbreak".to_owned(), "x".repeat(256)] {
        let device = DeviceRequest {
            device_id: Some(device_id.into()),
            ..DeviceRequest::default()
        };
        let error = server.login_with("alice", "password", device).await.unwrap_err();
        assert!(matches!(error, LoginError::InvalidDeviceId(_)), "{error}");
    }
    let empty = DeviceRequest {
        device_id: Some("".into()),
        ..DeviceRequest::default()
    };
    assert_eq!(
        server
            .login_with("alice", "password", empty)
            .await
            .unwrap()
            .device_id
            .as_str()
            .len(),
        10
    );
}

#[tokio::test]
async fn guessing_a_password_is_slowed_down_whether_or_not_the_account_exists() {
    let server = server_with(|config| config.rate_limits.enabled = true).await;
    server.register("alice").await;
    for user in ["alice", "nobody"] {
        for _ in 0..10 {
            let error = server
                .login_with(user, "wrong", DeviceRequest::default())
                .await
                .unwrap_err();
            assert!(
                matches!(error, LoginError::Credentials(CredentialsError::Wrong)),
                "{error}"
            );
        }
        let error = server
            .login_with(user, "password", DeviceRequest::default())
            .await
            .unwrap_err();
        let LoginError::Credentials(CredentialsError::TooManyAttempts { retry_after_ms }) = error else {
            panic!("{error}")
        };
        assert!(retry_after_ms > 0);
    }
    server.advance(60_000);
    for _ in 0..20 {
        server.login("alice").await;
    }
}

#[tokio::test]
async fn password_hash_of_lesser_settings_is_renewed_at_login() {
    let server = server().await;
    let alice = server.register("alice").await;
    let weak = "$argon2id$v=19$m=64,t=1,p=1$";
    let hash = {
        use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version, password_hash::phc::PasswordHash};
        let hasher = Argon2::new(
            Algorithm::Argon2id,
            Version::V0x13,
            Params::new(64, 1, 1, None).unwrap(),
        );
        let hash: PasswordHash = hasher
            .hash_password_with_salt(b"password", b"0123456789abcdef")
            .unwrap();
        hash.to_string()
    };
    assert!(hash.starts_with(weak), "{hash}");
    let nid = server.requester(&alice).await.user_nid;
    let mut connection = server.engine.db.acquire().await.unwrap();
    hearth_storage::accounts::set_password_hash(&mut connection, nid, &hash)
        .await
        .unwrap();
    drop(connection);

    server.login("alice").await;
    let account = operator::list(&server.engine, "", 1).await.unwrap().remove(0);
    assert!(!account.password_hash.unwrap().starts_with(weak));
    server.login("alice").await;
}
