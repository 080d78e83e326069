//! Tokens for OpenID are good for an hour, and for nothing else.

use hearth_engine::accounts::openid::{OpenIdError, request_token, user_of};

use super::*;

impl Server {
    async fn openid_token(&self, login: &Login) -> String {
        let requester = self.requester(login).await;
        let user_id = requester.user_id.clone();
        let given = request_token(&self.engine, &requester, &user_id).await.unwrap();
        assert_eq!(given.expires_in, Duration::from_secs(3600));
        given.token
    }

    async fn knows(&self, token: &str) -> bool {
        match user_of(&self.engine, token).await {
            Ok(_) => true,
            Err(OpenIdError::UnknownToken) => false,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_token_names_its_user_for_an_hour() {
    let server = server().await;
    let alice = server.register("alice").await;
    let token = server.openid_token(&alice).await;
    assert_eq!(
        user_of(&server.engine, &token).await.unwrap(),
        "@alice:example.org"
    );
    server.advance(3_599_999);
    let later = server.openid_token(&alice).await;
    assert!(server.knows(&token).await);
    server.advance(1);
    assert!(!server.knows(&token).await);
    // Another one clears the void one away, and nothing else.
    let last = server.openid_token(&alice).await;
    assert!(server.knows(&later).await && server.knows(&last).await);
}

#[tokio::test]
async fn neither_kind_of_token_stands_for_the_other() {
    let server = server().await;
    let alice = server.register("alice").await;
    let token = server.openid_token(&alice).await;
    assert!(server.is_unknown(&token).await);
    assert!(!server.knows(&alice.access_token).await);
    for strange in ["", "hot_", "\0", &"x".repeat(100_000)] {
        assert!(!server.knows(strange).await);
    }
}

#[tokio::test]
async fn nobody_gets_a_token_in_anothers_name() {
    let server = server().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let requester = server.requester(&alice).await;
    let refused = request_token(&server.engine, &requester, &bob.user_id).await;
    assert!(matches!(refused, Err(OpenIdError::OfAnother)), "{refused:?}");
}
