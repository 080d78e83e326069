use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, response::Redirect, routing::get};
use futures_util::{FutureExt as _, future::BoxFuture, stream};
use http::{HeaderMap, StatusCode, Uri};
use tokio::net::TcpListener;

use super::*;

const LIMITS: Limits = Limits {
    body_bytes: 1000,
    total: Duration::from_secs(10),
    redirects: 3,
};

/// Serves `routes` on a port of this machine.
async fn served(routes: Router) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

fn outgoing(denied: &[&str]) -> Outgoing {
    let denied_networks = denied.iter().map(|network| network.parse().expect("a network"));
    Outgoing::new(&OutgoingSettings {
        denied_networks: denied_networks.collect(),
        ..OutgoingSettings::default()
    })
    .expect("a client")
}

async fn fetched(outgoing: &Outgoing, url: &str) -> Result<Response<Bytes>, OutgoingError> {
    let request = Request::get(url).body(Bytes::new()).expect("a request");
    outgoing.send(request, &LIMITS).await
}

#[tokio::test]
async fn a_server_is_found_by_address_and_by_name() {
    let hello = |headers: HeaderMap| async move { headers[USER_AGENT].to_str().expect("text").to_owned() };
    let port = served(Router::new().route("/", get(hello))).await.port();
    let outgoing = outgoing(&[]);
    for host in ["127.0.0.1", "localhost"] {
        let answer = fetched(&outgoing, &format!("http://{host}:{port}/"))
            .await
            .expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.body().starts_with(b"Hearth/"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_denied_network_is_reached_neither_by_address_nor_by_name_nor_by_redirect() {
    let address = served(Router::new().route("/", get(async || "secret"))).await;
    let port = address.port();
    let elsewhere = format!("http://127.0.0.1:{port}/");
    let redirects = Router::new().route("/", get(async move || Redirect::temporary(&elsewhere)));
    let listener = TcpListener::bind("127.0.0.2:0").await.expect("a free port");
    let from = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, redirects).await });

    let outgoing = outgoing(&["127.0.0.1/32", "::1/128"]);
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://{from}/"),
    ] {
        let answer = fetched(&outgoing, &url).await;
        assert!(matches!(answer, Err(OutgoingError::Denied)), "{url}: {answer:?}");
    }
}

#[tokio::test]
async fn a_body_is_bounded_by_what_it_declares_and_by_what_comes() {
    let endless = || {
        stream::repeat(Ok::<_, std::convert::Infallible>(Bytes::from_static(
            &[b'x'; 100],
        )))
    };
    let routes = Router::new()
        .route("/declared", get(async || vec![0_u8; 1001]))
        .route(
            "/endless",
            get(async move || axum::body::Body::from_stream(endless())),
        )
        .route("/fits", get(async || vec![0_u8; 1000]));
    let address = served(routes).await;
    let outgoing = outgoing(&[]);
    for path in ["declared", "endless"] {
        let answer = fetched(&outgoing, &format!("http://{address}/{path}")).await;
        assert!(
            matches!(answer, Err(OutgoingError::TooLarge(1000))),
            "{path}: {answer:?}"
        );
    }
    let fits = fetched(&outgoing, &format!("http://{address}/fits"))
        .await
        .expect("an answer");
    assert_eq!(fits.body().len(), 1000);
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up() {
    let silent = || async { std::future::pending::<()>().await };
    let address = served(Router::new().route("/", get(silent))).await;
    let request = Request::get(format!("http://{address}/"))
        .body(Bytes::new())
        .expect("a request");
    let total = Duration::from_millis(50);
    let answer = outgoing(&[]).send(request, &Limits { total, ..LIMITS }).await;
    assert!(matches!(answer, Err(OutgoingError::TimedOut(_))), "{answer:?}");
}

#[tokio::test]
async fn redirects_are_followed_so_often_and_no_further() {
    let routes = Router::new()
        .route("/loop", get(async || Redirect::temporary("/loop")))
        .route("/moved", get(async || Redirect::permanent("/here")))
        .route("/here", get(async || "here"));
    let address = served(routes).await;
    let outgoing = outgoing(&[]);
    let there = fetched(&outgoing, &format!("http://{address}/moved"))
        .await
        .expect("an answer");
    assert_eq!(there.body().as_ref(), b"here");
    let around = fetched(&outgoing, &format!("http://{address}/loop")).await;
    assert!(matches!(around, Err(OutgoingError::Redirect(_))), "{around:?}");
    let request = Request::get(format!("http://{address}/moved"))
        .body(Bytes::new())
        .expect("a request");
    let not_followed = outgoing
        .send(
            request,
            &Limits {
                redirects: 0,
                ..LIMITS
            },
        )
        .await;
    assert_eq!(
        not_followed.expect("an answer").status(),
        StatusCode::PERMANENT_REDIRECT
    );
}

/// Leads everybody to one address, and counts.
#[derive(Debug)]
struct Fixed(Vec<SocketAddr>, AtomicUsize);

impl Route for Fixed {
    fn addresses<'a>(&'a self, _: &'a Uri) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        async { Ok(self.0.clone()) }.boxed()
    }
}

#[tokio::test]
async fn a_route_chooses_addresses_and_connections_are_kept() {
    let told = |headers: HeaderMap| async move { headers["host"].to_str().expect("text").to_owned() };
    let address = served(Router::new().route("/", get(told))).await;
    // The first of them refuses.
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a free port");
    let closed = probe.local_addr().expect("an address");
    drop(probe);
    let route = Arc::new(Fixed(vec![closed, address], AtomicUsize::new(0)));
    let outgoing = outgoing(&[]).with_route(Arc::clone(&route) as Arc<dyn Route>);
    for _ in 0..3 {
        let answer = fetched(&outgoing, "http://somewhere.example/")
            .await
            .expect("an answer");
        assert_eq!(answer.body().as_ref(), b"somewhere.example");
    }
    assert_eq!(
        route.1.load(Ordering::Relaxed),
        1,
        "one connection served them all"
    );
}
