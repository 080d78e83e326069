//! Requests of other servers: who is believed, and what is answered to the others.

use std::sync::Arc;

use axum::{Extension, Router, body::Body, extract::State};
use hearth_endpoint::{
    MatrixError,
    outgoing::{Outgoing, OutgoingSettings},
};
use hearth_engine::{
    Clock as _, Engine, OsEntropy, SigningKey, SystemClock,
    server_keys::{ServerKey, ServerKeyStore},
    test_engine::{self, TestDatabase},
};
use hearth_federation::{Federated, Federation, FederationRoutes as _, OwnKeys, Parts, ServerPolicy};
use http::{HeaderValue, Request, header::AUTHORIZATION};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName,
    api::federation::{
        authentication::{XMatrix, XMatrixSigningInput},
        event::{get_event::v1 as get_event, get_missing_events::v1 as get_missing_events},
        transactions::send_transaction_message::v1 as send_transaction,
    },
    owned_server_name,
    signatures::KeyPair as _,
};
use serde_json::{Value, json, value::to_raw_value};
use tower::ServiceExt as _;

const EVENT: &str = "/_matrix/federation/v1/event/$x:a.example";
const MISSING: &str = "/_matrix/federation/v1/get_missing_events/!r:a.example";

async fn get_event(
    State(_): State<Arc<Engine>>,
    Federated { origin, .. }: Federated<get_event::Request>,
) -> Result<get_event::Response, MatrixError> {
    let pdu = to_raw_value(&json!({})).expect("JSON");
    Ok(get_event::Response::new(
        origin,
        MilliSecondsSinceUnixEpoch::now(),
        pdu,
    ))
}

async fn get_missing_events(
    State(_): State<Arc<Engine>>,
    Federated { .. }: Federated<get_missing_events::Request>,
) -> Result<get_missing_events::Response, MatrixError> {
    Ok(get_missing_events::Response::new(Vec::new()))
}

async fn send_transaction_message(
    State(_): State<Arc<Engine>>,
    Federated { request, .. }: Federated<send_transaction::Request>,
) -> Result<send_transaction::Response, MatrixError> {
    assert_eq!(request.pdus.len(), 3);
    Ok(send_transaction::Response::new(Default::default()))
}

/// example.org, which knows a key of a.example and of 127.0.0.1:1, and reaches nobody.
struct ExampleOrg {
    router: Router,
    federation: Arc<Federation>,
    _database: TestDatabase,
}

fn key_of_a() -> SigningKey {
    SigningKey::from_seed("a_1", &[5; 32]).expect("a key")
}

async fn example_org(policy: ServerPolicy) -> ExampleOrg {
    let (engine, database) = test_engine::start(test_engine::open_config()).await;
    let store = ServerKeyStore::new(engine.db.clone());
    let now = SystemClock.now_ms();
    let known = |key: &SigningKey, valid_until: i64| ServerKey {
        server_name: "a.example".to_owned(),
        key_id: key.id().to_string(),
        public_key: key.public_key().to_vec(),
        valid_until,
        fetched_at: now,
        response: b"{}".to_vec(),
    };
    let expired = SigningKey::from_seed("a_0", &[6; 32]).expect("a key");
    let keys = [known(&key_of_a(), now + 60_000), known(&expired, now - 60_000)];
    store.keep(&keys).await.expect("keys can be stored");
    let nowhere = OutgoingSettings {
        denied_networks: ["0.0.0.0/0", "::/0"]
            .map(|all| all.parse().expect("a network"))
            .into(),
        ..OutgoingSettings::default()
    };
    let own_key = SigningKey::from_seed("1", &[1; 32]).expect("a key");
    let federation = Federation::new(Parts {
        own_keys: OwnKeys::new(owned_server_name!("example.org"), own_key, vec![], vec![]),
        policy,
        notaries: vec![],
        store,
        outgoing: &Outgoing::new(&nowhere).expect("a client"),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(OsEntropy),
    });
    let routes = Router::new()
        .federated(get_event)
        .federated(get_missing_events)
        .federated(send_transaction_message);
    let routes = routes.layer(Extension(Arc::clone(&federation)));
    ExampleOrg {
        router: hearth_endpoint::serve(routes, engine),
        federation,
        _database: database,
    }
}

impl ExampleOrg {
    /// Status and body of the answer.
    async fn answer(&self, request: Request<Vec<u8>>) -> (u16, Value) {
        let answered = self.router.clone().oneshot(request.map(Body::from)).await;
        let response = answered.expect("a router does not fail");
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20)
            .await
            .expect("a body");
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    async fn assert_refused(&self, request: Request<Vec<u8>>, status: u16, errcode: &str) {
        let (found, body) = self.answer(request).await;
        assert_eq!(
            (found, body["errcode"].as_str()),
            (status, Some(errcode)),
            "{body}"
        );
    }
}

fn get(path: &str) -> Request<Vec<u8>> {
    Request::get(path).body(Vec::new()).expect("a request")
}

fn post(path: &str, body: &Value) -> Request<Vec<u8>> {
    Request::post(path)
        .body(body.to_string().into_bytes())
        .expect("a request")
}

fn sign(request: &mut Request<Vec<u8>>, origin: &str, destination: &str, key: &SigningKey) {
    let name = |name: &str| OwnedServerName::try_from(name).expect("a server name");
    let input = XMatrixSigningInput::new(name(origin), name(destination), key.pair());
    let shown = XMatrix::sign_http_request(request, input).expect("it can be signed");
    request
        .headers_mut()
        .insert(AUTHORIZATION, HeaderValue::from(&shown));
}

fn signed(mut request: Request<Vec<u8>>) -> Request<Vec<u8>> {
    sign(&mut request, "a.example", "example.org", &key_of_a());
    request
}

#[tokio::test]
async fn a_signed_request_is_answered_to_whom_signed_it() {
    let server = example_org(ServerPolicy::default()).await;
    let (status, body) = server.answer(signed(get(EVENT))).await;
    assert_eq!((status, &body["origin"]), (200, &json!("a.example")), "{body}");
    let missing = json!({"latest_events": [], "earliest_events": []});
    assert_eq!(server.answer(signed(post(MISSING, &missing))).await.0, 200);
    let standing = server
        .federation
        .client
        .reachability
        .standing(&owned_server_name!("a.example"));
    assert!(standing.expect("it was heard from").last_success.is_some());
}

#[tokio::test]
async fn a_request_without_signature_is_refused() {
    let server = example_org(ServerPolicy::default()).await;
    server.assert_refused(get(EVENT), 401, "M_UNAUTHORIZED").await;
    for strange in [
        "Bearer abc",
        "X-Matrix",
        "X-Matrix origin=a.example",
        "X-Matrix origin=\"a b\",key=x,sig=y",
    ] {
        let mut request = get(EVENT);
        request
            .headers_mut()
            .insert(AUTHORIZATION, HeaderValue::from_static(strange));
        server.assert_refused(request, 401, "M_UNAUTHORIZED").await;
    }
}

#[tokio::test]
async fn a_signature_is_for_one_request() {
    let server = example_org(ServerPolicy::default()).await;
    let mut moved = signed(get(EVENT));
    *moved.uri_mut() = "/_matrix/federation/v1/event/$y:a.example"
        .parse()
        .expect("a path");
    server.assert_refused(moved, 401, "M_UNAUTHORIZED").await;

    let mut asks_more = signed(get(EVENT));
    *asks_more.uri_mut() = format!("{EVENT}?more").parse().expect("a path");
    server.assert_refused(asks_more, 401, "M_UNAUTHORIZED").await;

    let missing = |limit: u8| json!({"latest_events": [], "earliest_events": [], "limit": limit});
    let mut changed = signed(post(MISSING, &missing(1)));
    *changed.body_mut() = missing(2).to_string().into_bytes();
    server.assert_refused(changed, 401, "M_UNAUTHORIZED").await;
}

#[tokio::test]
async fn a_request_for_another_server_is_refused() {
    let server = example_org(ServerPolicy::default()).await;
    let mut request = get(EVENT);
    sign(&mut request, "a.example", "b.example", &key_of_a());
    server.assert_refused(request, 401, "M_UNAUTHORIZED").await;
}

#[tokio::test]
async fn only_keys_of_the_origin_that_are_valid_now_sign() {
    let server = example_org(ServerPolicy::default()).await;
    let of_another = SigningKey::from_seed("a_1", &[8; 32]).expect("a key");
    let expired = SigningKey::from_seed("a_0", &[6; 32]).expect("a key");
    for key in [of_another, expired] {
        let mut request = get(EVENT);
        sign(&mut request, "a.example", "example.org", &key);
        server.assert_refused(request, 401, "M_UNAUTHORIZED").await;
    }
    // One whose keys can't be had.
    let mut request = get(EVENT);
    sign(&mut request, "127.0.0.1:1", "example.org", &key_of_a());
    server.assert_refused(request, 401, "M_UNAUTHORIZED").await;
}

#[tokio::test]
async fn nobody_is_this_server_but_itself() {
    let server = example_org(ServerPolicy::default()).await;
    let own = SigningKey::from_seed("1", &[1; 32]).expect("a key");
    let mut request = get(EVENT);
    sign(&mut request, "example.org", "example.org", &own);
    server.assert_refused(request, 403, "M_FORBIDDEN").await;
}

#[tokio::test]
async fn a_denied_server_is_not_answered() {
    let deny = vec!["*.example".to_owned()];
    let server = example_org(ServerPolicy { allow: None, deny }).await;
    server
        .assert_refused(signed(get(EVENT)), 403, "M_FORBIDDEN")
        .await;
    let server = example_org(ServerPolicy {
        allow: Some(vec![]),
        deny: vec![],
    })
    .await;
    server
        .assert_refused(signed(get(EVENT)), 403, "M_FORBIDDEN")
        .await;
}

#[tokio::test]
async fn a_body_is_bounded_and_is_json() {
    let server = example_org(ServerPolicy::default()).await;
    let mut large = signed(post(MISSING, &json!({})));
    *large.body_mut() = vec![b' '; (12 << 20) + 1];
    server.assert_refused(large, 413, "M_TOO_LARGE").await;
    let mut broken = signed(post(MISSING, &json!({})));
    *broken.body_mut() = b"{".to_vec();
    server.assert_refused(broken, 400, "M_NOT_JSON").await;
    server
        .assert_refused(signed(post(MISSING, &json!({}))), 400, "M_BAD_JSON")
        .await;
}

/// A transaction of a.example with a body that ruma would not sign.
fn transaction(body: &str, signed_body: &str) -> Request<Vec<u8>> {
    let path = "/_matrix/federation/v1/send/1";
    let signed = format!(
        r#"{{"content":{signed_body},"destination":"example.org","method":"PUT","origin":"a.example","uri":"{path}"}}"#
    );
    let key = key_of_a();
    let signature = key.pair().sign(signed.as_bytes()).base64();
    let shown =
        format!(r#"X-Matrix origin=a.example,destination=example.org,key="ed25519:a_1",sig="{signature}""#);
    Request::put(path)
        .header(AUTHORIZATION, shown)
        .body(body.as_bytes().to_vec())
        .expect("a request")
}

#[tokio::test]
async fn events_that_are_not_canonical_do_not_keep_their_transaction_out() {
    let server = example_org(ServerPolicy::default()).await;
    let deep = format!("{}{}", "[".repeat(900), "]".repeat(900));
    let pdus = format!(r#"[{{"a": 1.5e+20}}, {{"deep": {deep}}}, {{"room_id": "!good:a.example"}}]"#);
    let body = format!(r#"{{"pdus": {pdus}, "origin": "a.example", "origin_server_ts": 1}}"#);
    let canonical = format!(
        r#"{{"origin":"a.example","origin_server_ts":1,"pdus":{}}}"#,
        pdus.replace(' ', "")
    );
    let (status, answer) = server.answer(transaction(&body, &canonical)).await;
    assert_eq!(status, 200, "{answer}");

    let other = canonical.replace("1.5e+20", "1.6e+20");
    server
        .assert_refused(transaction(&body, &other), 401, "M_UNAUTHORIZED")
        .await;
    let deeper = body.replace(&deep, &format!("{}{}", "[".repeat(1_000), "]".repeat(1_000)));
    server
        .assert_refused(transaction(&deeper, &canonical), 400, "M_BAD_JSON")
        .await;
}
