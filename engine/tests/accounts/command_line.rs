//! What the operator does.

use super::*;

#[tokio::test]
async fn operator_adds_lists_and_deactivates_users_and_sets_passwords() {
    let server = server_with(|config| config.registration.open = false).await;
    let engine = &server.engine;
    operator::add_user(engine, "Root", Some("password".into()), true)
        .await
        .unwrap();
    operator::add_user(engine, "bot", None, false).await.unwrap();
    let error = operator::add_user(engine, "bot", None, false).await.unwrap_err();
    assert!(matches!(error, RegisterError::UsernameTaken), "{error}");
    let root = server.login("root").await;
    assert!(server.requester(&root).await.is_admin);
    let without_password = server.login_with("bot", "", DeviceRequest::default()).await;
    assert!(matches!(
        without_password,
        Err(LoginError::Credentials(CredentialsError::Wrong))
    ));

    let ids = |accounts: Vec<operator::Account>| accounts.into_iter().map(|a| a.user_id).collect::<Vec<_>>();
    assert_eq!(
        ids(operator::list(engine, "", 1).await.unwrap()),
        ["@bot:example.org"]
    );
    assert_eq!(
        ids(operator::list(engine, "@bot:example.org", 10).await.unwrap()),
        ["@root:example.org"]
    );

    operator::set_password(engine, "@bot:example.org", &"new".into(), true)
        .await
        .unwrap();
    let bot = server
        .login_with("bot", "new", DeviceRequest::default())
        .await
        .unwrap();
    assert!(server.works(&bot.access_token).await);
    operator::set_password(engine, "bot", &"newer".into(), true)
        .await
        .unwrap();
    assert!(server.is_unknown(&bot.access_token).await);

    operator::deactivate(engine, "bot", false).await.unwrap();
    let error = operator::deactivate(engine, "bot", false).await.unwrap_err();
    assert!(matches!(error, operator::OperatorError::Deactivated), "{error}");
    let error = operator::set_password(engine, "bot", &"x".into(), true)
        .await
        .unwrap_err();
    assert!(matches!(error, operator::OperatorError::Deactivated), "{error}");
    let error = operator::set_password(engine, "nobody", &"x".into(), true)
        .await
        .unwrap_err();
    assert!(matches!(error, operator::OperatorError::NoSuchUser), "{error}");
    let error = operator::set_password(engine, "root", &"".into(), true)
        .await
        .unwrap_err();
    assert!(matches!(error, operator::OperatorError::Password(_)), "{error}");
}
