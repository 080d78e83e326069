//! Accounts end for good.

use super::*;

#[tokio::test]
async fn deactivated_account_is_closed_for_good() {
    let server = server().await;
    let first = server.register("alice").await;
    let second = server.login_refreshing("alice").await;
    assert!(server.works(&second.access_token).await);
    let requester = server.requester(&first).await;
    let wrong = password_auth("alice", "wrong");
    let error = deactivate::deactivate(&server.engine, &requester, false, Some(&wrong))
        .await
        .unwrap_err();
    assert!(
        matches!(error, deactivate::DeactivateError::Uia(UiaError::Challenge(_))),
        "{error}"
    );
    assert!(server.works(&first.access_token).await);

    let right = password_auth("alice", "password");
    deactivate::deactivate(&server.engine, &requester, true, Some(&right))
        .await
        .unwrap();
    assert!(server.is_unknown(&first.access_token).await);
    assert!(server.is_unknown(&second.access_token).await);
    let refreshed = refresh::refresh(&server.engine, second.refresh_token.as_deref().unwrap()).await;
    assert!(matches!(refreshed, Err(refresh::RefreshError::Unknown)));
    let login = server
        .login_with("alice", "password", DeviceRequest::default())
        .await;
    assert!(matches!(
        login,
        Err(LoginError::Credentials(CredentialsError::Deactivated))
    ));
    let error = register::register(&server.engine, registration("alice"), Some(&dummy()))
        .await
        .unwrap_err();
    assert!(matches!(error, RegisterError::UsernameTaken), "{error}");
}

#[tokio::test]
async fn deactivated_account_leaves_its_rooms() {
    let server = server().await;
    let alice = server.register("alice").await;
    let requester = server.requester(&alice).await;
    let engine = &server.engine;
    create_room(engine, &requester, create_room::v3::Request::new())
        .await
        .unwrap();
    assert_eq!(
        users::joined_rooms(engine, requester.user_nid)
            .await
            .unwrap()
            .len(),
        1
    );
    let auth = password_auth("alice", "password");
    deactivate::deactivate(engine, &requester, false, Some(&auth))
        .await
        .unwrap();
    assert!(
        users::joined_rooms(engine, requester.user_nid)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn account_that_the_operator_deactivates_leaves_its_rooms() {
    let server = server().await;
    let alice = server.register("alice").await;
    let requester = server.requester(&alice).await;
    let engine = &server.engine;
    create_room(engine, &requester, create_room::v3::Request::new())
        .await
        .unwrap();
    // As the command line does it: by an engine beside the server's.
    let key = SigningKey::from_seed("test", &[7; 32]).unwrap();
    let beside = Engine::beside(engine.config.clone(), engine.db.clone(), key, Outside::default());
    operator::deactivate(&beside, "alice", false).await.unwrap();

    let mut log = engine.log.watch();
    let left = async {
        while !users::joined_rooms(engine, requester.user_nid)
            .await
            .unwrap()
            .is_empty()
        {
            log.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), left)
        .await
        .expect("the server leaves the account's rooms");
    assert!(server.is_unknown(&alice.access_token).await);
}
