//! Servers find each other, and learn each other's keys.

use std::collections::BTreeMap;

use hearth_engine::OsEntropy;
use hearth_tests::{Authority, Server};
use homeserver::key_file;
use ruma::MilliSecondsSinceUnixEpoch;
use serde_json::{Value, json};

/// What a server says about its keys.
async fn published(server: &Server) -> Value {
    server.anonymous().get_whole("/_matrix/key/v2/server").await.ok()
}

/// The names of the keys under `field`.
fn key_ids(keys: &Value, field: &str) -> Vec<String> {
    let keys = keys[field].as_object().expect("an object");
    keys.keys().cloned().collect()
}

/// What `notary` testifies of the keys of `of`.
async fn testified(notary: &Server, of: &Server) -> Value {
    let path = format!("/_matrix/key/v2/query/{}", of.name());
    notary.anonymous().get_whole(&path).await.ok()["server_keys"].take()
}

#[tokio::test]
async fn a_server_tells_its_name_version_and_keys() {
    let server = Server::start_federated(&Authority::new()).await;
    let version = server
        .anonymous()
        .get_whole("/_matrix/federation/v1/version")
        .await
        .ok();
    assert_eq!(version["server"]["name"], "Hearth");

    let keys = published(&server).await;
    assert_eq!(keys["server_name"], server.name());
    let in_use = key_ids(&keys, "verify_keys");
    assert_eq!(in_use.len(), 1);
    assert_eq!(keys["old_verify_keys"], json!({}));
    assert!(
        keys["signatures"][server.name()][&in_use[0]].is_string(),
        "{keys}"
    );
    let an_hour_on = u64::from(MilliSecondsSinceUnixEpoch::now().0) + 60 * 60 * 1000;
    assert!(keys["valid_until_ts"].as_u64() > Some(an_hour_on), "{keys}");
}

#[tokio::test]
async fn a_server_fetches_the_keys_of_another_over_tls_and_testifies_to_them() {
    let authority = Authority::new();
    let a = Server::start_federated(&authority).await;
    // Found by its address, as `a` is by its name.
    let b = Server::start_federated_with(&authority, |settings| {
        settings.server_name = "127.0.0.1".try_into().expect("a server name");
    })
    .await;
    for (notary, of) in [(&a, &b), (&b, &a)] {
        let own = published(of).await;
        let told = testified(notary, of).await;
        assert_eq!(told.as_array().expect("a list").len(), 1, "{told}");
        let told = &told[0];
        assert_eq!(told["server_name"], of.name());
        assert_eq!(told["verify_keys"], own["verify_keys"]);
        let signers: Vec<_> = told["signatures"]
            .as_object()
            .expect("an object")
            .keys()
            .collect();
        let mut expected = [a.name(), b.name()];
        expected.sort_unstable();
        assert_eq!(signers, expected);
    }
}

#[tokio::test]
async fn a_notary_is_asked_about_many_and_speaks_for_who_is_gone() {
    let authority = Authority::new();
    let notary = Server::start_federated(&authority).await;
    let mut gone = Server::start_federated(&authority).await;
    let unknown = "localhost:1";
    assert_eq!(
        testified(&notary, &gone).await.as_array().expect("a list").len(),
        1
    );
    gone.stop().await;

    let question = json!({"server_keys": {gone.name(): {}, unknown: {}, notary.name(): {}}});
    let request = notary
        .anonymous()
        .request(reqwest::Method::POST, "/_matrix/key/v2/query")
        .json(&question);
    let told = notary.anonymous().send_request(request).await.ok();
    let mut of: Vec<_> = told["server_keys"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|keys| keys["server_name"].as_str().expect("a name"))
        .collect();
    of.sort_unstable();
    let mut expected = [gone.name(), notary.name()];
    expected.sort_unstable();
    assert_eq!(of, expected);
}

#[tokio::test]
async fn a_key_that_was_rotated_is_still_known_for_what_it_signed() {
    let authority = Authority::new();
    let notary = Server::start_federated(&authority).await;
    let mut server = Server::start_federated(&authority).await;
    let before = key_ids(&published(&server).await, "verify_keys");

    server.stop().await;
    key_file::rotate(server.data_dir(), &OsEntropy, MilliSecondsSinceUnixEpoch::now())
        .expect("it can be rotated");
    server.restart().await;

    let keys = published(&server).await;
    assert_ne!(key_ids(&keys, "verify_keys"), before);
    assert_eq!(key_ids(&keys, "old_verify_keys"), before);
    assert!(
        keys["old_verify_keys"][&before[0]]["expired_ts"].is_u64(),
        "{keys}"
    );
    let told = testified(&notary, &server).await;
    assert_eq!(told[0]["old_verify_keys"], keys["old_verify_keys"]);
}

#[tokio::test]
async fn a_notary_is_believed_about_a_server_that_is_gone() {
    let authority = Authority::new();
    let notary = Server::start_federated(&authority).await;
    let mut gone = Server::start_federated(&authority).await;
    let in_use = key_ids(&published(&gone).await, "verify_keys");
    assert_eq!(
        testified(&notary, &gone).await.as_array().expect("a list").len(),
        1
    );
    gone.stop().await;

    let asks = |notaries: Vec<ruma::OwnedServerName>| {
        Server::start_federated_with(&authority, move |settings| {
            settings.federation.notaries = notaries
        })
    };
    let wanted = BTreeMap::from([(
        gone.name().try_into().expect("a server name"),
        BTreeMap::from([(
            in_use[0].as_str().try_into().expect("an ID"),
            MilliSecondsSinceUnixEpoch::now(),
        )]),
    )]);
    let alone = asks(vec![]).await;
    assert!(alone.engine().remote.public_keys(&wanted).await.is_empty());
    let told = asks(vec![notary.name().try_into().expect("a server name")]).await;
    let keys = told.engine().remote.public_keys(&wanted).await;
    assert!(keys[gone.name()].contains_key(&in_use[0]), "{keys:?}");
}

#[tokio::test]
async fn an_address_in_a_denied_network_is_not_asked() {
    let authority = Authority::new();
    let asked = Server::start_federated(&authority).await;
    let shy = Server::start_federated_with(&authority, |settings| {
        settings.outbound.denied_networks = vec!["127.0.0.0/8".parse().expect("a network")];
    })
    .await;
    assert_eq!(testified(&shy, &asked).await, json!([]));
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_not_believed() {
    let asked = Server::start_federated(&Authority::new()).await;
    let asks = Server::start_federated(&Authority::new()).await;
    assert_eq!(testified(&asks, &asked).await, json!([]));
}

#[tokio::test]
async fn a_server_that_does_not_federate_has_no_such_routes() {
    let server =
        Server::start_federated_with(&Authority::new(), |settings| settings.federation.enabled = false).await;
    for path in ["/_matrix/key/v2/server", "/_matrix/federation/v1/version"] {
        server
            .anonymous()
            .get_whole(path)
            .await
            .refused(404, "M_UNRECOGNIZED");
    }
}
