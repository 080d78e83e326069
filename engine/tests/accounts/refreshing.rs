//! Refresh tokens, and what becomes of the old ones.

use super::*;

#[tokio::test]
async fn access_token_of_a_client_that_refreshes_expires_softly() {
    let server = server().await;
    server.register("alice").await;
    let login = server.login_refreshing("alice").await;
    server.advance(ACCESS_TOKEN_LIFETIME_MS - 1);
    assert!(server.works(&login.access_token).await);
    server.advance(1);
    assert!(server.is_soft_logged_out(&login.access_token).await);
    let next = refresh::refresh(&server.engine, login.refresh_token.as_deref().unwrap())
        .await
        .unwrap();
    assert_eq!(next.expires_in_ms, Some(ACCESS_TOKEN_LIFETIME_MS));
    let requester = authenticate(&server.engine, &next.access_token).await.unwrap();
    assert_eq!(requester.device_id, login.device_id);
}

#[tokio::test]
async fn old_tokens_last_until_a_new_one_is_used() {
    let server = server().await;
    server.register("alice").await;
    let login = server.login_refreshing("alice").await;
    let old = login.refresh_token.unwrap();
    let next = refresh::refresh(&server.engine, &old).await.unwrap();
    assert!(server.works(&login.access_token).await);
    assert!(server.works(&next.access_token).await);
    // Used: the old pair is over, softly, for requests that are still under way.
    assert!(server.is_soft_logged_out(&login.access_token).await);
    assert!(matches!(
        refresh::refresh(&server.engine, &old).await,
        Err(refresh::RefreshError::Unknown)
    ));
    assert!(server.works(&next.access_token).await);
}

#[tokio::test]
async fn using_the_new_refresh_token_ends_the_old_one_too() {
    let server = server().await;
    server.register("alice").await;
    let login = server.login_refreshing("alice").await;
    let old = login.refresh_token.unwrap();
    let second = refresh::refresh(&server.engine, &old).await.unwrap();
    let third = refresh::refresh(&server.engine, second.refresh_token.as_deref().unwrap())
        .await
        .unwrap();
    assert!(matches!(
        refresh::refresh(&server.engine, &old).await,
        Err(refresh::RefreshError::Unknown)
    ));
    assert!(server.works(&second.access_token).await);
    assert!(server.works(&third.access_token).await);
}

#[tokio::test]
async fn client_that_lost_the_answer_refreshes_again() {
    let server = server().await;
    server.register("alice").await;
    let login = server.login_refreshing("alice").await;
    let old = login.refresh_token.unwrap();
    let lost = refresh::refresh(&server.engine, &old).await.unwrap();
    let next = refresh::refresh(&server.engine, &old).await.unwrap();
    assert!(server.is_unknown(&lost.access_token).await);
    let refreshed = refresh::refresh(&server.engine, lost.refresh_token.as_deref().unwrap()).await;
    assert!(matches!(refreshed, Err(refresh::RefreshError::Unknown)));
    assert!(server.works(&next.access_token).await);
}

#[tokio::test]
async fn of_two_refreshes_at_once_one_pair_survives() {
    let server = server().await;
    server.register("alice").await;
    let login = server.login_refreshing("alice").await;
    let old = login.refresh_token.unwrap();
    let (one, other) = tokio::join!(
        refresh::refresh(&server.engine, &old),
        refresh::refresh(&server.engine, &old)
    );
    let (one, other) = (one.unwrap().access_token, other.unwrap().access_token);
    assert!(server.works(&one).await != server.works(&other).await);
}

#[tokio::test]
async fn refresh_tokens_and_access_tokens_are_not_each_other() {
    let server = server().await;
    server.register("alice").await;
    let login = server.login_refreshing("alice").await;
    assert!(server.is_unknown(login.refresh_token.as_deref().unwrap()).await);
    let refreshed = refresh::refresh(&server.engine, &login.access_token).await;
    assert!(matches!(refreshed, Err(refresh::RefreshError::Unknown)));
}
