//! Opening connections: where to, whether that is allowed, and TLS.

use std::{
    fmt::Debug,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use http::Uri;
use hyper_rustls::{DefaultServerNameResolver, HttpsConnector, MaybeHttpsStream};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tower::Service;

use super::{
    chain,
    denied::DeniedNetworks,
    resolver::{ResolveError, Resolver},
};

/// How long a connection may take to come about, resolution and TLS included.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long an address has before the next one is tried beside it (RFC 8305).
const HEAD_START: Duration = Duration::from_millis(250);
/// The most addresses that are tried for one connection.
const MAX_ADDRESSES: usize = 16;

/// Which addresses a URI leads to.
///
/// The name in the certificate and the `Host` header are the URI's; the addresses, and the ports, are the route's to
/// choose. It is asked once for each connection, and connections are kept by scheme and authority.
pub trait Route: Debug + Send + Sync + 'static {
    /// The addresses to try, best first.
    fn addresses<'a>(&'a self, uri: &'a Uri) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>>;
}

/// As everybody does it: the port of the URL or its scheme's, and the addresses of its host.
#[derive(Debug)]
pub(super) struct ByUrl(pub(super) Arc<Resolver>);

impl Route for ByUrl {
    fn addresses<'a>(&'a self, uri: &'a Uri) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>> {
        async move {
            let is_http = uri.scheme_str() == Some("http");
            let port = uri.port_u16().unwrap_or(if is_http { 80 } else { 443 });
            let host = uri.host().unwrap_or_default();
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            if let Ok(address) = bare.parse::<IpAddr>() {
                return Ok(vec![SocketAddr::new(address, port)]);
            }
            let addresses = self.0.addresses(host).await?;
            Ok(addresses
                .into_iter()
                .map(|address| SocketAddr::new(address, port))
                .collect())
        }
        .boxed()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("all addresses are in denied networks")]
    Denied,
    #[error(transparent)]
    Unresolved(ResolveError),
    #[error("{0}")]
    Failed(String),
    #[error("it took longer than {} s", TIMEOUT.as_secs())]
    TimedOut,
}

/// TCP, and TLS where the scheme has it, within a bound of time.
#[derive(Debug, Clone)]
pub(super) struct Connector(HttpsConnector<Tcp>);

impl Connector {
    pub(super) fn new(route: Arc<dyn Route>, denied: Arc<DeniedNetworks>, tls: Arc<ClientConfig>) -> Self {
        let by_uri = Arc::new(DefaultServerNameResolver::default());
        Self(HttpsConnector::new(Tcp { route, denied }, tls, false, by_uri))
    }
}

type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, ConnectError>> + Send>>;

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = ConnectError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            match timeout(TIMEOUT, connecting).await {
                Ok(Ok(stream)) => Ok(stream),
                Ok(Err(error)) => Err(match error.downcast::<ConnectError>() {
                    Ok(error) => *error,
                    Err(error) => ConnectError::Failed(chain(&*error)),
                }),
                Err(_) => Err(ConnectError::TimedOut),
            }
        })
    }
}

/// TCP to where the route leads, if that is allowed.
#[derive(Debug, Clone)]
struct Tcp {
    route: Arc<dyn Route>,
    denied: Arc<DeniedNetworks>,
}

impl Service<Uri> for Tcp {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { route, denied } = self.clone();
        Box::pin(async move {
            let mut addresses = route.addresses(&uri).await.map_err(ConnectError::Unresolved)?;
            addresses.retain(|address| !denied.contain(address.ip()));
            if addresses.is_empty() {
                return Err(ConnectError::Denied);
            }
            addresses.truncate(MAX_ADDRESSES);
            let stream = first(addresses)
                .await
                .map_err(|error| ConnectError::Failed(error.to_string()))?;
            // A request is written whole: waiting to fill a packet would only delay it.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            Ok(TokioIo::new(stream))
        })
    }
}

/// Connects to the first address that answers. Each has a head start on the next; one that fails gives it up.
async fn first(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut tried = FuturesUnordered::new();
    let mut last_error = None;
    loop {
        match waiting.next() {
            Some(address) => tried.push(TcpStream::connect(address)),
            None if tried.is_empty() => {
                return Err(last_error.unwrap_or_else(|| io::Error::other("there is no address")));
            }
            None => {}
        }
        let head_start = async {
            match waiting.len() {
                0 => std::future::pending().await,
                _ => sleep(HEAD_START).await,
            }
        };
        tokio::select! {
            Some(connected) = tried.next() => match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => last_error = Some(error),
            },
            () = head_start => {}
        }
    }
}
