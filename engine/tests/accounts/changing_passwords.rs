//! Changing the password, and the dialogue before it.

use super::*;

#[tokio::test]
async fn changing_the_password_ends_all_other_devices() {
    let server = server().await;
    let first = server.register("alice").await;
    let second = server.login("alice").await;
    assert!(server.works(&second.access_token).await);
    let requester = server.requester(&first).await;
    let auth = password_auth("alice", "password");
    password::change_password(&server.engine, &requester, "new".into(), true, Some(&auth))
        .await
        .unwrap();
    assert!(server.works(&first.access_token).await);
    assert!(server.is_unknown(&second.access_token).await);
    let old = server
        .login_with("alice", "password", DeviceRequest::default())
        .await;
    assert!(matches!(
        old,
        Err(LoginError::Credentials(CredentialsError::Wrong))
    ));
    server
        .login_with("alice", "new", DeviceRequest::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn changing_the_password_can_spare_other_devices() {
    let server = server().await;
    let first = server.register("alice").await;
    let second = server.login("alice").await;
    let requester = server.requester(&first).await;
    let auth = password_auth("@alice:example.org", "password");
    password::change_password(&server.engine, &requester, "new".into(), false, Some(&auth))
        .await
        .unwrap();
    assert!(server.works(&second.access_token).await);
}

#[tokio::test]
async fn wrong_password_leaves_the_session_and_ten_of_them_end_it() {
    let server = server().await;
    let alice = server.register("alice").await;
    let requester = server.requester(&alice).await;
    let attempt = async |auth: &AuthData| {
        let error =
            password::change_password(&server.engine, &requester, "new".into(), true, Some(auth)).await;
        let password::ChangePasswordError::Uia(error) = error.unwrap_err() else {
            panic!("not a challenge")
        };
        challenge(error)
    };
    let first = attempt(&password_auth("alice", "guess")).await;
    assert_eq!(first.failure, Some(StageFailure::WrongPassword));
    assert_eq!(first.flows, [[AuthType::Password]]);
    let in_session = password_auth_in(&first.session, "alice", "guess");
    for _ in 0..9 {
        assert_eq!(attempt(&in_session).await.session, first.session);
    }
    let last = attempt(&in_session).await;
    assert_ne!(last.session, first.session);
    assert_eq!(last.failure, Some(StageFailure::WrongPassword));
}

#[tokio::test]
async fn session_expires() {
    let server = server().await;
    let alice = server.register("alice").await;
    let requester = server.requester(&alice).await;
    let attempt = async |auth: Option<&AuthData>| {
        let error = password::change_password(&server.engine, &requester, "new".into(), true, auth).await;
        let password::ChangePasswordError::Uia(error) = error.unwrap_err() else {
            panic!("not a challenge")
        };
        challenge(error).session
    };
    let session = attempt(None).await;
    let only_session = auth(json!({ "session": session }));
    assert_eq!(attempt(Some(&only_session)).await, session);
    server.advance(15 * 60_000);
    assert_ne!(attempt(Some(&only_session)).await, session);
}

#[tokio::test]
async fn session_cannot_be_moved_to_another_operation() {
    let server = server().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let (alice, bob) = (server.requester(&alice).await, server.requester(&bob).await);
    let error = devices::delete(&server.engine, &alice, &["A".into()], None)
        .await
        .unwrap_err();
    let devices::DeleteDevicesError::Uia(error) = error else {
        panic!("{error}")
    };
    let session = challenge(error).session;

    let of_alice = password_auth_in(&session, "alice", "password");
    let of_bob = password_auth_in(&session, "bob", "password");
    let engine = &server.engine;
    let other_devices = devices::delete(engine, &alice, &["B".into()], Some(&of_alice))
        .await
        .unwrap_err();
    let more_devices = devices::delete(engine, &alice, &["A".into(), "B".into()], Some(&of_alice))
        .await
        .unwrap_err();
    let other_user = devices::delete(engine, &bob, &["A".into()], Some(&of_bob))
        .await
        .unwrap_err();
    for error in [other_devices, more_devices, other_user] {
        assert!(
            matches!(error, devices::DeleteDevicesError::Uia(UiaError::OtherOperation)),
            "{error}"
        );
    }
    let other_operation = deactivate::deactivate(engine, &alice, false, Some(&of_alice))
        .await
        .unwrap_err();
    assert!(matches!(
        other_operation,
        deactivate::DeactivateError::Uia(UiaError::OtherOperation)
    ));
    devices::delete(engine, &alice, &["A".into()], Some(&of_alice))
        .await
        .unwrap();
}

#[tokio::test]
async fn another_users_password_authorises_nothing() {
    let server = server().await;
    let alice = server.register("alice").await;
    server.register("bob").await;
    let alice = server.requester(&alice).await;
    let auth = password_auth("bob", "password");
    let error = devices::delete(&server.engine, &alice, &["A".into()], Some(&auth))
        .await
        .unwrap_err();
    assert!(
        matches!(error, devices::DeleteDevicesError::Uia(UiaError::OtherUser)),
        "{error}"
    );
}
