//! Who is registered, and by what names.

use super::*;

#[tokio::test]
async fn user_registers_with_the_dummy_stage_sent_at_once() {
    let server = server().await;
    let alice = server.register("alice").await;
    assert_eq!(alice.user_id, "@alice:example.org");
    assert_eq!(
        (alice.refresh_token.as_deref(), alice.expires_in_ms),
        (None, None)
    );
    let requester = server.requester(&alice).await;
    assert_eq!(
        (&requester.user_id, &requester.device_id),
        (&alice.user_id, &alice.device_id)
    );
    assert!(!requester.is_admin && !requester.is_guest);
}

#[tokio::test]
async fn user_registers_in_the_session_that_the_challenge_names() {
    let server = server().await;
    let error = register::register(&server.engine, registration("alice"), None)
        .await
        .unwrap_err();
    let RegisterError::Uia(error) = error else {
        panic!("{error}")
    };
    let challenge = challenge(error);
    assert_eq!(challenge.flows, [[AuthType::Dummy]]);
    assert!(challenge.completed.is_empty() && challenge.failure.is_none());

    let in_session = auth(json!({ "type": "m.login.dummy", "session": challenge.session }));
    let registered = register::register(&server.engine, registration("alice"), Some(&in_session))
        .await
        .unwrap();
    assert_eq!(registered.user_id, "@alice:example.org");
}

#[tokio::test]
async fn session_authorises_once() {
    let server = server().await;
    let error = register::register(&server.engine, registration("alice"), None)
        .await
        .unwrap_err();
    let RegisterError::Uia(error) = error else {
        panic!("{error}")
    };
    let session = challenge(error).session;
    let in_session = auth(json!({ "type": "m.login.dummy", "session": session }));
    register::register(&server.engine, registration("alice"), Some(&in_session))
        .await
        .unwrap();
    // The stage on its own would do; that the session is done with shows when only the session is sent.
    let only_session = auth(json!({ "session": session }));
    let error = register::register(&server.engine, registration("bob"), Some(&only_session))
        .await
        .unwrap_err();
    let RegisterError::Uia(error) = error else {
        panic!("{error}")
    };
    assert_ne!(challenge(error).session, session);
}

#[tokio::test]
async fn completed_session_outlives_an_operation_that_fails_for_another_reason() {
    let server = server().await;
    let error = register::register(&server.engine, registration("alice"), None)
        .await
        .unwrap_err();
    let RegisterError::Uia(error) = error else {
        panic!("{error}")
    };
    let session = challenge(error).session;
    let without_password = Registration {
        password: None,
        ..registration("alice")
    };
    let in_session = auth(json!({ "type": "m.login.dummy", "session": session }));
    let error = register::register(&server.engine, without_password, Some(&in_session))
        .await
        .unwrap_err();
    assert!(matches!(error, RegisterError::NoPassword), "{error}");
    let only_session = auth(json!({ "session": session }));
    register::register(&server.engine, registration("alice"), Some(&only_session))
        .await
        .unwrap();
}

#[tokio::test]
async fn stage_of_no_flow_is_refused_in_the_session() {
    let server = server().await;
    let password = password_auth("alice", "password");
    let error = register::register(&server.engine, registration("alice"), Some(&password))
        .await
        .unwrap_err();
    let RegisterError::Uia(error) = error else {
        panic!("{error}")
    };
    assert_eq!(challenge(error).failure, Some(StageFailure::NotNext));

    let unknown = auth(json!({ "type": "org.example.handshake" }));
    let error = register::register(&server.engine, registration("alice"), Some(&unknown))
        .await
        .unwrap_err();
    let RegisterError::Uia(error) = error else {
        panic!("{error}")
    };
    assert_eq!(challenge(error).failure, Some(StageFailure::UnknownStage));
}

#[tokio::test]
async fn names_are_checked_before_anyone_authenticates() {
    let server = server().await;
    server.register("alice").await;
    let taken = register::register(&server.engine, registration("Alice"), None)
        .await
        .unwrap_err();
    assert!(matches!(taken, RegisterError::UsernameTaken), "{taken}");
    let invalid = register::register(&server.engine, registration("al ice"), None)
        .await
        .unwrap_err();
    assert!(
        matches!(invalid, RegisterError::InvalidUsername(UsernameError::Character)),
        "{invalid}"
    );

    let check = async |name| register::check_username(&server.engine, name).await;
    assert!(check("bob").await.is_ok());
    assert!(matches!(check("alice").await, Err(RegisterError::UsernameTaken)));
    assert!(matches!(
        check("bob,").await,
        Err(RegisterError::InvalidUsername(_))
    ));
}

#[tokio::test]
async fn one_of_two_who_register_a_name_at_once_gets_it() {
    let server = server().await;
    let (one, other) = (dummy(), dummy());
    let (one, other) = tokio::join!(
        register::register(&server.engine, registration("alice"), Some(&one)),
        register::register(&server.engine, registration("alice"), Some(&other)),
    );
    assert!(one.is_ok() != other.is_ok());
    let error = one.and(other).unwrap_err();
    assert!(matches!(error, RegisterError::UsernameTaken), "{error}");
}

#[tokio::test]
async fn closed_server_registers_nobody_and_tells_no_names() {
    let server = server_with(|config| config.registration.open = false).await;
    let error = register::register(&server.engine, registration("alice"), Some(&dummy()))
        .await
        .unwrap_err();
    assert!(matches!(error, RegisterError::Closed), "{error}");
    let error = register::check_username(&server.engine, "alice")
        .await
        .unwrap_err();
    assert!(matches!(error, RegisterError::Closed), "{error}");
}

#[tokio::test]
async fn guests_are_registered_only_where_they_are_let_in() {
    let guest = || Registration {
        kind: RegistrationKind::Guest,
        ..registration("ignored")
    };
    let closed = server().await;
    let error = register::register(&closed.engine, guest(), None)
        .await
        .unwrap_err();
    assert!(matches!(error, RegisterError::GuestsRefused), "{error}");

    let open = server_with(|config| config.registration.guests = true).await;
    let login = register::register(&open.engine, guest(), None)
        .await
        .unwrap()
        .login
        .unwrap();
    assert!(login.user_id.localpart().starts_with("guest-"));
    let requester = open.requester(&login).await;
    assert!(requester.is_guest);
    let denied = password::change_password(&open.engine, &requester, "new".into(), true, None)
        .await
        .unwrap_err();
    assert!(matches!(denied, password::ChangePasswordError::Guest), "{denied}");
}

#[tokio::test]
async fn name_device_and_login_are_optional() {
    let server = server().await;
    let nameless = Registration {
        username: None,
        ..registration("")
    };
    let registered = register::register(&server.engine, nameless, Some(&dummy()))
        .await
        .unwrap();
    assert_eq!(registered.user_id.localpart().len(), 12);

    let inhibited = Registration {
        inhibit_login: true,
        ..registration("alice")
    };
    assert!(
        register::register(&server.engine, inhibited, Some(&dummy()))
            .await
            .unwrap()
            .login
            .is_none()
    );

    let device = DeviceRequest {
        device_id: Some("MINE".into()),
        initial_display_name: Some("Phone".to_owned()),
        refreshes: true,
    };
    let named = Registration {
        device,
        ..registration("bob")
    };
    let bob = register::register(&server.engine, named, Some(&dummy()))
        .await
        .unwrap()
        .login
        .unwrap();
    assert_eq!(bob.device_id, "MINE");
    assert_eq!(bob.expires_in_ms, Some(ACCESS_TOKEN_LIFETIME_MS));
    assert!(bob.refresh_token.is_some());

    let empty = Registration {
        password: Some("".into()),
        ..registration("carol")
    };
    let error = register::register(&server.engine, empty, Some(&dummy()))
        .await
        .unwrap_err();
    assert!(matches!(error, RegisterError::EmptyPassword), "{error}");
}
