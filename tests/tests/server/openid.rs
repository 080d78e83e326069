//! Users show other services who they are.

use hearth_tests::{Authority, Client, PASSWORD, Server, encoded};
use serde_json::json;

async fn token(client: &Client) -> String {
    let path = format!("/v3/user/{}/openid/request_token", encoded(&client.user_id));
    let given = client.post(&path, json!({})).await.ok();
    assert_eq!(given["token_type"], "Bearer");
    assert_eq!(given["expires_in"], 3600);
    let server = client.user_id.split_once(':').expect("a user ID").1;
    assert_eq!(given["matrix_server_name"], server);
    given["access_token"].as_str().expect("a token").to_owned()
}

async fn userinfo(server: &Server, token: &str) -> hearth_tests::Answer {
    let path = format!(
        "/_matrix/federation/v1/openid/userinfo?access_token={}",
        encoded(token)
    );
    server.anonymous().get_whole(&path).await
}

#[tokio::test]
async fn a_service_learns_whose_a_token_is_though_the_server_was_restarted() {
    let authority = Authority::new();
    let mut server = Server::start_federated(&authority).await;
    let alice = server.register("alice").await;
    let token = token(&alice).await;
    assert_eq!(
        userinfo(&server, &token).await.ok(),
        json!({ "sub": alice.user_id })
    );
    server.restart().await;
    assert_eq!(userinfo(&server, &token).await.ok()["sub"], alice.user_id);

    let another = server.start_another_on_its_database().await;
    assert_eq!(userinfo(&another, &token).await.ok()["sub"], alice.user_id);
    userinfo(&server, "hot_nothing")
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
    let path = "/_matrix/federation/v1/openid/userinfo";
    server
        .anonymous()
        .get_whole(path)
        .await
        .refused(400, "M_MISSING_PARAM");
}

#[tokio::test]
async fn a_token_is_for_its_user_alone_and_ends_with_the_account() {
    let server = Server::start_federated(&Authority::new()).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let path = format!("/v3/user/{}/openid/request_token", encoded(&bob.user_id));
    alice.post(&path, json!({})).await.refused(403, "M_FORBIDDEN");
    let token = token(&alice).await;
    // It opens nothing else.
    alice
        .with_token(Some(&token))
        .get("/v3/account/whoami")
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
    let identifier = json!({ "type": "m.id.user", "user": alice.user_id });
    let auth = json!({ "type": "m.login.password", "identifier": identifier, "password": PASSWORD });
    alice
        .post("/v3/account/deactivate", json!({ "auth": auth }))
        .await
        .ok();
    userinfo(&server, &token).await.refused(401, "M_UNKNOWN_TOKEN");
}
