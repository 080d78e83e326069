//! The HTTP edge from outside: a router of a few ruma endpoints, asked as a client asks.

use std::{
    io::Write,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, State},
    response::Response,
};
use hearth_endpoint::{MatrixError, Ruma, RumaRoutes, serve};
use hearth_engine::{Config, Engine, accounts::register, test_engine};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use ruma::{
    api::client::{
        account::{
            get_username_availability::v3 as get_username_availability, register::RegistrationKind,
            whoami::v3 as whoami,
        },
        membership::join_room_by_id_or_alias::v3 as join_room_by_id_or_alias,
        profile::get_profile::v3 as get_profile,
        room::create_room::v3 as create_room,
        session::{get_login_types::v3 as get_login_types, login::v3 as login},
        state::{
            get_state_event_for_key::v3 as get_state_event_for_key, send_state_event::v3 as send_state_event,
        },
    },
    event_id, room_id, server_name,
};
use serde_json::{Value, json};
use tower::ServiceExt;

type Handled<T> = Result<T, MatrixError>;
type Engines = State<Arc<Engine>>;

async fn whoami(_: Engines, Ruma { requester, .. }: Ruma<whoami::Request>) -> Handled<whoami::Response> {
    let mut response = whoami::Response::new(requester.user_id.clone(), requester.is_guest);
    response.device_id = Some(requester.device_id.clone());
    Ok(response)
}

async fn login(_: Engines, Ruma { requester: (), .. }: Ruma<login::Request>) -> Handled<login::Response> {
    Err(MatrixError::forbidden("Wrong password."))
}

async fn get_login_types(
    _: Engines,
    _: Ruma<get_login_types::Request>,
) -> Handled<get_login_types::Response> {
    Ok(get_login_types::Response::new(Vec::new()))
}

async fn get_username_availability(
    _: Engines,
    Ruma { request, .. }: Ruma<get_username_availability::Request>,
) -> Handled<get_username_availability::Response> {
    Ok(get_username_availability::Response::new(
        request.username == "free",
    ))
}

/// Stands for a bug.
async fn get_profile(
    _: Engines,
    Ruma { request, .. }: Ruma<get_profile::Request>,
) -> Handled<get_profile::Response> {
    panic!("no profile of {}", request.user_id)
}

async fn create_room(_: Engines, _: Ruma<create_room::Request>) -> Handled<create_room::Response> {
    Ok(create_room::Response::new(room_id!("!made:localhost").to_owned()))
}

async fn join_room_by_id_or_alias(
    _: Engines,
    _: Ruma<join_room_by_id_or_alias::Request>,
) -> Handled<join_room_by_id_or_alias::Response> {
    Ok(join_room_by_id_or_alias::Response::new(
        room_id!("!joined:localhost").to_owned(),
    ))
}

/// Answers with what it was asked, in the event ID.
async fn send_state_event(
    _: Engines,
    Ruma { request, .. }: Ruma<send_state_event::Request>,
) -> Handled<send_state_event::Response> {
    assert_eq!(request.event_type.to_string(), "m.room.topic");
    assert_eq!(request.state_key, "");
    Ok(send_state_event::Response::new(event_id!("$sent").to_owned()))
}

async fn get_state_event_for_key(
    _: Engines,
    _: Ruma<get_state_event_for_key::Request>,
) -> Handled<get_state_event_for_key::Response> {
    Err(MatrixError::not_found("There is no such state."))
}

struct Server {
    router: Router,
    engine: Arc<Engine>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the answer is JSON")
    }

    /// The status and code of an error, which must have the standard body and CORS headers.
    fn error(&self) -> (u16, String) {
        let body = self.json();
        assert!(body["error"].is_string(), "{body}");
        assert_eq!(self.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        (
            self.status.as_u16(),
            body["errcode"].as_str().expect("an errcode").to_owned(),
        )
    }
}

fn code(status: u16, errcode: &str) -> (u16, String) {
    (status, errcode.to_owned())
}

impl Server {
    async fn start() -> Self {
        Self::configured(|config| config.rate_limits.enabled = false).await
    }

    async fn configured(configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(server_name!("localhost").to_owned());
        config.registration.guests = true;
        configure(&mut config);
        let (engine, _) = test_engine::start(config).await;
        let routes = Router::new()
            .ruma(whoami)
            .ruma(login)
            .ruma(get_login_types)
            .ruma(get_username_availability)
            .ruma(get_profile)
            .ruma(create_room)
            .ruma(join_room_by_id_or_alias)
            .ruma(send_state_event)
            .ruma(get_state_event_for_key);
        Self {
            router: serve(routes, Arc::clone(&engine)),
            engine,
        }
    }

    /// A new account's token.
    async fn token(&self, kind: RegistrationKind) -> String {
        let auth = serde_json::from_value(json!({ "type": "m.login.dummy" })).expect("authentication data");
        let registration = register::Registration {
            kind,
            password: Some("password".into()),
            ..register::Registration::default()
        };
        let registered = register::register(&self.engine, registration, Some(&auth))
            .await
            .expect("an account");
        registered.login.expect("a device").access_token
    }

    async fn call(&self, request: Request<Body>) -> Answer {
        let response: Response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("routers do not fail");
        let (parts, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .expect("the answer's body")
            .to_bytes()
            .to_vec();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    async fn send(&self, method: Method, path: &str, token: Option<&str>, body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.call(request.body(body.into()).expect("a request")).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, "").await
    }

    async fn login(&self, body: impl Into<Body>) -> Answer {
        self.send(Method::POST, "/_matrix/client/v3/login", None, body)
            .await
    }
}

const LOGIN: &str =
    r#"{"type":"m.login.password","identifier":{"type":"m.id.user","user":"a"},"password":"b"}"#;

#[tokio::test]
async fn what_is_no_endpoint_is_unrecognized() {
    let server = Server::start().await;
    for path in [
        "/",
        "/_matrix/client/v3/nothing",
        "/_matrix/client/v3/login/",
        "/_matrix/client/v3//login",
        "/_matrix/client/v3/login/more",
        "/_matrix/client/v3/loginx",
        "/_matrix/client/v3/%FF",
        "/_matrix/client/v3/login%00",
    ] {
        assert_eq!(
            server.get(path).await.error(),
            code(404, "M_UNRECOGNIZED"),
            "{path}"
        );
    }
    for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::TRACE] {
        let answer = server
            .send(method.clone(), "/_matrix/client/v3/login", None, "")
            .await;
        assert_eq!(answer.error(), code(405, "M_UNRECOGNIZED"), "{method}");
    }
}

#[tokio::test]
async fn endpoints_answer_on_all_their_paths_and_methods() {
    let server = Server::start().await;
    for path in ["/_matrix/client/v3/login", "/_matrix/client/r0/login"] {
        assert_eq!(server.get(path).await.json(), json!({ "flows": [] }));
        assert_eq!(
            server.send(Method::POST, path, None, LOGIN).await.error(),
            code(403, "M_FORBIDDEN")
        );
        let head = server.send(Method::HEAD, path, None, "").await;
        assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    }
}

#[tokio::test]
async fn web_pages_of_any_origin_may_ask() {
    let server = Server::start().await;
    for path in [
        "/_matrix/client/v3/login",
        "/_matrix/client/v3/createRoom",
        "/nothing",
    ] {
        for method in [Method::OPTIONS, Method::GET] {
            let answer = server.send(method.clone(), path, None, "").await;
            let headers = &answer.headers;
            assert_eq!(
                headers[header::ACCESS_CONTROL_ALLOW_ORIGIN],
                "*",
                "{method} {path}"
            );
            assert_eq!(
                headers[header::ACCESS_CONTROL_ALLOW_METHODS],
                "GET, POST, PUT, DELETE, OPTIONS"
            );
            assert_eq!(
                headers[header::ACCESS_CONTROL_ALLOW_HEADERS],
                "X-Requested-With, Content-Type, Authorization"
            );
            if method == Method::OPTIONS {
                assert_eq!(
                    (answer.status, answer.body.len()),
                    (StatusCode::NO_CONTENT, 0),
                    "{path}"
                );
            }
        }
    }
}

#[tokio::test]
async fn bodies_that_are_not_as_they_should_be_have_their_codes() {
    let server = Server::start().await;
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(50_000), "]".repeat(50_000));
    let cases: [(&[u8], (u16, String)); 10] = [
        (b"{", code(400, "M_NOT_JSON")),
        (b"user=a", code(400, "M_NOT_JSON")),
        (
            b"{\"type\":\"m.login.password\",\"password\":\"\xff\"}",
            code(400, "M_NOT_JSON"),
        ),
        (b"{} trailing", code(400, "M_NOT_JSON")),
        (b"[]", code(400, "M_BAD_JSON")),
        (b"null", code(400, "M_BAD_JSON")),
        (b"{}", code(400, "M_BAD_JSON")),
        (b"", code(400, "M_BAD_JSON")),
        (b"{\"type\":17}", code(400, "M_BAD_JSON")),
        (deep.as_bytes(), code(400, "M_BAD_JSON")),
    ];
    for (body, expected) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
        assert_eq!(server.login(body.to_vec()).await.error(), expected, "{shown}");
    }
    assert_eq!(
        server.login(vec![b' '; 200 << 10]).await.error(),
        code(413, "M_TOO_LARGE")
    );
}

#[tokio::test]
async fn nul_characters_reach_the_handler() {
    let server = Server::start().await;
    let body = LOGIN.replace("\"b\"", "\"\\u0000\"");
    assert_eq!(server.login(body).await.error(), code(403, "M_FORBIDDEN"));
    let available = server
        .get("/_matrix/client/v3/register/available?username=%00")
        .await;
    assert_eq!(available.status, StatusCode::OK);
}

#[tokio::test]
async fn parameters_are_missing_or_invalid() {
    let server = Server::start().await;
    let missing = server.get("/_matrix/client/v3/register/available").await;
    assert_eq!(missing.error(), code(400, "M_MISSING_PARAM"));
    for user in ["%FF", "not-a-user", "%00", "@%C3%28:x"] {
        let answer = server.get(&format!("/_matrix/client/v3/profile/{user}")).await;
        assert_eq!(answer.error(), code(400, "M_INVALID_PARAM"), "{user}");
    }
}

#[tokio::test]
async fn tokens_are_missing_unknown_or_good() {
    let server = Server::start().await;
    let path = "/_matrix/client/v3/account/whoami";
    assert_eq!(server.get(path).await.error(), code(401, "M_MISSING_TOKEN"));
    let unknown = server.send(Method::GET, path, Some("nonsense"), "").await;
    assert_eq!(unknown.error(), code(401, "M_UNKNOWN_TOKEN"));
    assert_ne!(unknown.json()["soft_logout"], true);
    let long = "x".repeat(7000);
    assert_eq!(
        server.send(Method::GET, path, Some(&long), "").await.error(),
        code(401, "M_UNKNOWN_TOKEN")
    );
    for (value, expected) in [
        ("Basic YTpi", "M_MISSING_TOKEN"),
        ("Bearer", "M_MISSING_TOKEN"),
        ("Bearer ü", "M_UNKNOWN_TOKEN"),
    ] {
        let value = http::HeaderValue::from_bytes(value.as_bytes()).expect("a header value");
        let request = Request::get(path)
            .header(header::AUTHORIZATION, value)
            .body(Body::empty());
        assert_eq!(
            server.call(request.expect("a request")).await.error(),
            code(401, expected)
        );
    }

    let token = server.token(RegistrationKind::Guest).await;
    let known = server.send(Method::GET, path, Some(&token), "").await;
    assert_eq!(known.status, StatusCode::OK);
    assert_eq!(known.json()["is_guest"], true);
    let in_query = server.get(&format!("{path}?access_token={token}")).await;
    assert_eq!(in_query.json(), known.json());
}

#[tokio::test]
async fn guests_may_do_little_and_users_much() {
    let server = Server::configured(|config| {
        config.rate_limits.enabled = false;
        config.registration.open = true;
    })
    .await;
    let guest = server.token(RegistrationKind::Guest).await;
    let create = "/_matrix/client/v3/createRoom";
    let refused = server.send(Method::POST, create, Some(&guest), "{}").await;
    assert_eq!(refused.error(), code(403, "M_GUEST_ACCESS_FORBIDDEN"));
    let join = "/_matrix/client/v3/join/%23alias:localhost";
    assert_eq!(
        server.send(Method::POST, join, Some(&guest), "").await.status,
        StatusCode::OK
    );
    let user = server.token(RegistrationKind::User).await;
    assert_eq!(
        server.send(Method::POST, create, Some(&user), "{}").await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_body_may_be_left_out_where_it_is_optional() {
    let server = Server::start().await;
    let token = server.token(RegistrationKind::Guest).await;
    let join = "/_matrix/client/v3/join/!room:localhost";
    assert_eq!(
        server.send(Method::POST, join, Some(&token), "").await.status,
        StatusCode::OK
    );
    let state = "/_matrix/client/v3/rooms/!room:localhost/state/m.room.topic/";
    assert_eq!(
        server.send(Method::PUT, state, Some(&token), "").await.error(),
        code(400, "M_NOT_JSON")
    );
}

#[tokio::test]
async fn an_empty_state_key_may_go_without_its_slash() {
    let server = Server::start().await;
    let token = server.token(RegistrationKind::Guest).await;
    for version in ["r0", "v3"] {
        for end in ["", "/"] {
            let path = format!("/_matrix/client/{version}/rooms/!room:localhost/state/m.room.topic{end}");
            let put = server
                .send(Method::PUT, &path, Some(&token), r#"{"topic":"t"}"#)
                .await;
            assert_eq!(put.status, StatusCode::OK, "{path}");
            let get = server.send(Method::GET, &path, Some(&token), "").await;
            assert_eq!(get.error(), code(404, "M_NOT_FOUND"), "{path}");
        }
    }
}

#[tokio::test]
async fn bodies_are_bounded_for_users_too() {
    let server = Server::start().await;
    let token = server.token(RegistrationKind::Guest).await;
    let path = "/_matrix/client/v3/rooms/!room:localhost/state/m.room.topic";
    let large = |bytes: usize| format!(r#"{{"topic":"{}"}}"#, "x".repeat(bytes));
    let accepted = server.send(Method::PUT, path, Some(&token), large(1 << 20)).await;
    assert_eq!(accepted.status, StatusCode::OK);
    let refused = server.send(Method::PUT, path, Some(&token), large(9 << 20)).await;
    assert_eq!(refused.error(), code(413, "M_TOO_LARGE"));
}

#[tokio::test]
async fn a_panic_is_a_500_like_any_other() {
    let server = Server::start().await;
    let answer = server.get("/_matrix/client/v3/profile/@a:localhost").await;
    assert_eq!(answer.error(), code(500, "M_UNKNOWN"));
    assert!(!answer.json().to_string().contains("@a:localhost"));
    assert!(answer.headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn every_request_has_an_id_of_its_own() {
    let server = Server::start().await;
    let first = server.get("/_matrix/client/v3/login").await.headers["x-request-id"].clone();
    let second = server.get("/nothing").await.headers["x-request-id"].clone();
    assert_ne!(first, second);
}

#[tokio::test]
async fn guessing_passwords_is_slowed_by_address() {
    let server = Server::configured(|_| {}).await;
    let from = |address: &str, forwarded: Option<&str>| {
        let peer: SocketAddr = format!("{address}:4711").parse().expect("an address");
        let mut request = Request::post("/_matrix/client/v3/login").extension(ConnectInfo(peer));
        if let Some(forwarded) = forwarded {
            request = request.header("x-forwarded-for", forwarded);
        }
        request.body(Body::from(LOGIN)).expect("a request")
    };
    for _ in 0..10 {
        assert_eq!(
            server.call(from("203.0.113.9", None)).await.error(),
            code(403, "M_FORBIDDEN")
        );
    }
    let refused = server.call(from("203.0.113.9", Some("203.0.113.10"))).await;
    assert_eq!(refused.error(), code(429, "M_LIMIT_EXCEEDED"));
    let seconds: u64 = refused.headers[header::RETRY_AFTER]
        .to_str()
        .expect("ASCII")
        .parse()
        .expect("seconds");
    assert!((1..=5).contains(&seconds), "{seconds}");
    assert!(
        refused.json()["retry_after_ms"]
            .as_u64()
            .is_some_and(|ms| ms <= seconds * 1000)
    );
    let proxied = server.call(from("127.0.0.1", Some("203.0.113.10"))).await;
    assert_eq!(proxied.error(), code(403, "M_FORBIDDEN"));
}

/// What a subscriber of this thread wrote.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_has_the_route_the_user_and_the_id_and_no_secret() {
    let server = Server::start().await;
    let token = server.token(RegistrationKind::Guest).await;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    let answer = {
        let _guard = tracing::subscriber::set_default(subscriber);
        server.login(LOGIN.replace("\"b\"", "\"a secret\"")).await;
        server.get("/_matrix/client/v3/profile/@somebody:localhost").await;
        server
            .get(&format!("/_matrix/client/v3/account/whoami?access_token={token}"))
            .await
    };
    let user = answer.json()["user_id"].as_str().expect("a user").to_owned();
    let id = answer.headers["x-request-id"].to_str().expect("ASCII").to_owned();
    let log = String::from_utf8(log.0.lock().expect("not poisoned").clone()).expect("UTF-8");
    let line = log
        .lines()
        .find(|line| line.contains(&id))
        .expect("a line for the request");
    for part in [
        "GET",
        "/_matrix/client/v3/account/whoami",
        "status=200",
        "duration_ms",
        &user,
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    let failure = log
        .lines()
        .find(|line| line.contains("ERROR"))
        .expect("a line for the failure");
    assert!(
        failure.contains("a handler panicked") && failure.contains("/profile/{user_id}"),
        "{failure}"
    );
    for secret in [&*token, "access_token", "a secret", "@somebody:localhost"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
