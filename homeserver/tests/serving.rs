//! A whole server's listeners: health, metrics, TLS, HTTP/2, and an end that cuts nobody off.

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use hearth_storage::test_database::TestDatabase;
use homeserver::{
    Server,
    config::{Listener, Service, Settings, load},
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring};
use rustls_pki_types::ServerName;
use serde_json::Value;
use support::{connect, request, response};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

/// A server on a database and in a directory of its own.
struct Place {
    directory: TempDir,
    database: TestDatabase,
}

impl Place {
    async fn new() -> Self {
        Self {
            directory: TempDir::new().expect("a directory"),
            database: TestDatabase::new().await,
        }
    }

    fn settings(&self, listeners: Vec<Listener>) -> Settings {
        let variables = [("HEARTH_DATABASE__URL".into(), self.database.url.clone().into())];
        let settings = load(None, variables).expect("a configuration").settings;
        Settings {
            data_dir: self.directory.path().to_owned(),
            listeners,
            ..settings
        }
    }

    async fn start(&self, listeners: Vec<Listener>) -> Server {
        Server::start(&self.settings(listeners), None)
            .await
            .expect("a server")
    }
}

fn any_port() -> Listener {
    Listener::plain(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// A request from a thread that may wait.
async fn get(address: SocketAddr, path: &'static str) -> (u16, String) {
    spawn_blocking(move || request(address, "GET", path, "", ""))
        .await
        .expect("a response")
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_that_database_and_log_are_there() {
    let place = Place::new().await;
    let server = place.start(vec![any_port()]).await;
    let (status, body) = get(server.addresses()[0], "/health").await;
    assert_eq!(status, 200);
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        body,
        serde_json::json!({ "status": "ok", "database": true, "log": true })
    );
    server.stop().await;
    place.database.drop_now().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listener_serves_what_it_is_told_to() {
    let place = Place::new().await;
    let only_metrics = Listener {
        serves: vec![Service::Metrics],
        ..any_port()
    };
    let only_client = Listener {
        serves: vec![Service::Client],
        ..any_port()
    };
    let only_federation = Listener {
        serves: vec![Service::Federation],
        ..any_port()
    };
    let metrics = homeserver::metrics::install().expect("the first recorder of this process");
    let settings = place.settings(vec![only_metrics, only_client, only_federation]);
    let server = Server::start(&settings, Some(metrics)).await.expect("a server");
    let (with_metrics, with_client) = (server.addresses()[0], server.addresses()[1]);

    assert_eq!(get(with_client, "/_matrix/client/versions").await.0, 200);
    assert_eq!(get(with_metrics, "/_matrix/client/versions").await.0, 404);
    assert_eq!(get(with_client, "/metrics").await.0, 404);
    assert_eq!(get(with_metrics, "/health").await.0, 200);
    let (status, error) = get(server.addresses()[2], "/_matrix/federation/v1/event/x").await;
    assert_eq!(status, 401);
    assert!(error.contains("M_UNAUTHORIZED"), "{error}");
    let (status, error) = get(server.addresses()[2], "/_matrix/client/versions").await;
    assert_eq!(status, 404);
    assert!(error.contains("M_UNRECOGNIZED"), "{error}");
    let (status, text) = get(with_metrics, "/metrics").await;
    assert_eq!(status, 200);
    for part in [
        "hearth_http_requests_total{method=\"GET\",route=\"/_matrix/client/versions\",status=\"200\"} 1",
        "hearth_http_request_duration_seconds_bucket{",
        "hearth_database_connections{state=\"idle\"}",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    server.stop().await;
    place.database.drop_now().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn request_under_way_finishes_and_new_ones_are_refused_when_the_server_stops() {
    let place = Place::new().await;
    let server = place.start(vec![any_port()]).await;
    let address = server.addresses()[0];

    // One that has sent half of its body, and one that is connected and idle.
    let body =
        r#"{"type":"m.login.password","identifier":{"type":"m.id.user","user":"nobody"},"password":"x"}"#;
    let (first, second) = body.split_at(20);
    let mut under_way = connect(address);
    let length = body.len();
    let head = format!(
        "POST /_matrix/client/v3/login HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{first}"
    );
    under_way.write_all(head.as_bytes()).expect("taken");
    let mut idle = connect(address);
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
        .expect("taken");
    let mut answer = [0; 12];
    std::io::Read::read_exact(&mut idle, &mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");

    let stopping = tokio::spawn(server.stop());
    // The socket closes; then nobody gets in.
    let refused = spawn_blocking(move || {
        while TcpStream::connect(address).is_ok() {
            std::thread::yield_now();
        }
    });
    tokio::time::timeout(Duration::from_secs(5), refused)
        .await
        .expect("new connections are refused")
        .expect("joins");
    assert!(!stopping.is_finished(), "a request is under way");

    let (status, _) = spawn_blocking(move || {
        under_way.write_all(second.as_bytes()).expect("taken");
        response(&mut under_way)
    })
    .await
    .expect("joins");
    assert_eq!(status, 403, "the request that was under way is answered");
    tokio::time::timeout(Duration::from_secs(5), stopping)
        .await
        .expect("then the server ends")
        .expect("joins");
    place.database.drop_now().await;
}

/// A certificate for `localhost` in `directory`, and who trusts it.
fn certificate(directory: &Path) -> RootCertStore {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).expect("a file");
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).expect("a file");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    roots
}

/// A health check over TLS: what the two sides agreed to speak, and the answer to HTTP/1.1 if it is that.
fn over_tls(
    address: SocketAddr,
    roots: RootCertStore,
    offer: &[&[u8]],
) -> Result<(Vec<u8>, u16), std::io::Error> {
    let mut stream = connected_by_tls(address, roots, offer)?;
    let spoken = stream.conn.alpn_protocol().unwrap_or_default().to_vec();
    if spoken == b"h2" {
        return Ok((spoken, 0));
    }
    let status = health(&mut stream, "close")?;
    Ok((spoken, status))
}

/// Asks for the server's health by HTTP/1.1: the status. Reads the answer and no further: the connection may go on.
fn health(stream: &mut Tls, connection: &str) -> Result<u16, std::io::Error> {
    let request = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
    }
    let head = String::from_utf8(head).expect("a head").to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a number"))];
    stream.read_exact(&mut body)?;
    let status = head.split(' ').nth(1).expect("a status");
    Ok(status.parse().expect("a number"))
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn connected_by_tls(
    address: SocketAddr,
    roots: RootCertStore,
    offer: &[&[u8]],
) -> Result<Tls, std::io::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = offer.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let mut stream = StreamOwned::new(connection, connect(address));
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_listener_speaks_both_versions_of_http_and_takes_a_renewed_certificate() {
    let place = Place::new().await;
    let directory = place.directory.path().to_owned();
    let roots = certificate(&directory);
    let listener = Listener {
        tls_certificate: Some(directory.join("cert.pem")),
        tls_private_key: Some(directory.join("key.pem")),
        ..any_port()
    };
    let server = place.start(vec![listener]).await;
    let address = server.addresses()[0];
    let ask = |roots: RootCertStore, offer: &'static [&'static [u8]]| async move {
        spawn_blocking(move || over_tls(address, roots, offer))
            .await
            .expect("joins")
    };

    assert_eq!(
        ask(roots.clone(), &[b"http/1.1"]).await.expect("TLS"),
        (b"http/1.1".to_vec(), 200)
    );
    assert_eq!(ask(roots.clone(), &[]).await.expect("TLS"), (Vec::new(), 200));
    assert_eq!(
        ask(roots.clone(), &[b"h2", b"http/1.1"]).await.expect("TLS").0,
        b"h2"
    );

    // One who is connected stays so.
    let connected = roots.clone();
    let mut before = spawn_blocking(move || {
        let mut before = connected_by_tls(address, connected, &[b"http/1.1"]).expect("TLS");
        assert_eq!(health(&mut before, "keep-alive").expect("an answer"), 200);
        before
    })
    .await
    .expect("joins");
    let renewed = certificate(&directory);
    server.reload_certificates();
    let answer = spawn_blocking(move || health(&mut before, "close"))
        .await
        .expect("joins");
    assert_eq!(answer.expect("the connection is there"), 200);
    assert_eq!(
        ask(renewed.clone(), &[b"http/1.1"])
            .await
            .expect("the renewed certificate")
            .1,
        200
    );
    assert!(ask(roots, &[b"http/1.1"]).await.is_err(), "the old one is gone");

    std::fs::write(directory.join("key.pem"), "nonsense").expect("a file");
    server.reload_certificates();
    assert_eq!(
        ask(renewed, &[b"http/1.1"])
            .await
            .expect("the last good certificate")
            .1,
        200
    );
    server.stop().await;
    place.database.drop_now().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn port_that_is_taken_is_an_error_that_names_the_address() {
    let place = Place::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let settings = place.settings(vec![Listener::plain(address)]);
    let error = Server::start(&settings, None)
        .await
        .expect_err("the port is taken");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    place.database.drop_now().await;
}
