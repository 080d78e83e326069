//! The one HTTP client of this server: whatever it requests of the outside goes through here.
//!
//! Its limits hold for every request, whoever makes it: `[outbound] denied_networks` is checked where a connection is
//! opened, after resolution, so that neither a name, nor an address in a URL, nor a redirect gets around it; bodies
//! are bounded while they arrive, and the whole exchange in time. No cookies, no proxies. Knows nothing of who is
//! asked for what.
//!
//! Built on hyper-util's client, as reqwest is, and not on reqwest, because a Matrix server is found by rules of its
//! own: the address and port of a connection, the name in its certificate and the `Host` header are three things,
//! which reqwest all takes from the URL. See [`Route`].

mod connect;
mod denied;
mod redirect;
mod resolver;
mod tls;

use std::{error::Error as StdError, fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::CONTENT_LENGTH, header::USER_AGENT};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{self, Client},
    rt::{TokioExecutor, TokioTimer},
};
use ipnet::IpNet;

use crate::bulk::{self, Crowded, Place, Places, ReadError};
use connect::{ByUrl, ConnectError, Connector};
use denied::DeniedNetworks;

pub use connect::Route;
pub use resolver::{ResolveError, Resolver, Srv};
pub use tls::RootsError;

/// How long an idle connection is kept. Peers and proxies close theirs after 60 to 75 s, and a request that meets
/// the closing has to be made again.
const IDLE: Duration = Duration::from_secs(50);
/// Idle HTTP/1.1 connections kept to one host.
const IDLE_PER_HOST: usize = 8;
/// HTTP/2: how often a silent peer is asked whether it is there while it owes an answer, and how long it has for that.
const PING: Duration = Duration::from_secs(20);

/// Answers of more bytes are large.
const LARGE: usize = 4 << 20;
/// Large answers that are in memory at a time, of any host and of one.
const LARGE_ANSWERS: usize = 4;
const LARGE_ANSWERS_OF_ONE: usize = 2;

/// What the operator says about requests of the server's own: `[outbound]`.
#[derive(Debug, Clone, Default)]
pub struct OutgoingSettings {
    /// Addresses that are never connected to.
    pub denied_networks: Vec<IpNet>,
    /// A PEM file of certificate authorities that are trusted beside the system's.
    pub extra_root_certificates: Option<PathBuf>,
    /// Who is asked for names; if nobody, those of `/etc/resolv.conf`.
    pub name_servers: Vec<SocketAddr>,
}

/// The bounds of one exchange.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most bytes in the answer's body.
    pub body_bytes: usize,
    /// From the call to the last byte of the answer, connecting and redirects included.
    pub total: Duration,
    /// The most redirects that a `GET` follows; another method follows none.
    pub redirects: u8,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    /// All of the host's addresses are in `denied_networks`.
    #[error("the address is in one of `[outbound] denied_networks`")]
    Denied,
    /// The host has no address that could be found.
    #[error(transparent)]
    Unresolved(ResolveError),
    /// No connection came about: refused, unreachable, or the certificate is not the host's.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection failed after the request had been sent, or the answer was no HTTP.
    #[error("the connection failed: {0}")]
    Broken(String),
    /// The answer was not there in time.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The answer's body is larger than was allowed.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The answer is large, and other large ones fill the place for them.
    #[error("the answer is large, and {Crowded}")]
    Crowded,
    /// The answer leads elsewhere too often, or to where this server does not go.
    #[error("the answer redirects {0}")]
    Redirect(&'static str),
}

/// The client. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Outgoing {
    client: Client<Connector, Full<Bytes>>,
    shared: Shared,
}

/// What all clients of a server have in common.
#[derive(Clone)]
struct Shared {
    resolver: Arc<Resolver>,
    denied: Arc<DeniedNetworks>,
    tls: Arc<rustls::ClientConfig>,
    /// For large answers, by the host that they are of.
    places: Arc<Places<String>>,
}

/// Keeps the place of a large answer: in the extensions of the response, as long as one of its clones is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    _place: Arc<Place>,
}

impl Outgoing {
    /// A client that connects as the URL of a request says.
    pub fn new(settings: &OutgoingSettings) -> Result<Self, RootsError> {
        let shared = Shared {
            resolver: Arc::new(Resolver::new(&settings.name_servers)),
            denied: Arc::new(DeniedNetworks::new(settings.denied_networks.clone())),
            tls: Arc::new(tls::client_config(settings.extra_root_certificates.as_deref())?),
            places: Arc::new(Places::new(LARGE_ANSWERS, LARGE_ANSWERS_OF_ONE)),
        };
        let by_url = Arc::new(ByUrl(Arc::clone(&shared.resolver)));
        Ok(Self::routed(shared, by_url))
    }

    /// A client with the same limits and connections of its own, which go where `route` says.
    #[must_use]
    pub fn with_route(&self, route: Arc<dyn Route>) -> Self {
        Self::routed(self.shared.clone(), route)
    }

    /// How this client finds the addresses of names.
    pub fn resolver(&self) -> &Arc<Resolver> {
        &self.shared.resolver
    }

    fn routed(shared: Shared, route: Arc<dyn Route>) -> Self {
        let connector = Connector::new(route, Arc::clone(&shared.denied), Arc::clone(&shared.tls));
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING)
            .http2_adaptive_window(true)
            .build(connector);
        Self { client, shared }
    }

    /// Sends a request and reads the whole answer, of any status. The request's URI is absolute. A large answer has
    /// [`Kept`] in its extensions.
    pub async fn send(
        &self,
        request: Request<Bytes>,
        limits: &Limits,
    ) -> Result<Response<Bytes>, OutgoingError> {
        match tokio::time::timeout(limits.total, self.follow(request, limits)).await {
            Ok(result) => result,
            Err(_) => Err(OutgoingError::TimedOut(limits.total)),
        }
    }

    async fn follow(
        &self,
        mut request: Request<Bytes>,
        limits: &Limits,
    ) -> Result<Response<Bytes>, OutgoingError> {
        request
            .headers_mut()
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(concat!(
                "Hearth/",
                env!("CARGO_PKG_VERSION")
            )));
        let mut hops = 0;
        loop {
            let response = self.exchange(request.clone(), limits.body_bytes).await?;
            let Some(next) = redirect::next(&request, &response)? else {
                return Ok(response);
            };
            if limits.redirects == 0 {
                return Ok(response);
            }
            if hops == limits.redirects {
                return Err(OutgoingError::Redirect("too often"));
            }
            hops += 1;
            request = next;
        }
    }

    async fn exchange(
        &self,
        request: Request<Bytes>,
        body_bytes: usize,
    ) -> Result<Response<Bytes>, OutgoingError> {
        let host = request
            .uri()
            .authority()
            .map_or("", |authority| authority.as_str());
        let host = host.to_owned();
        let answered = self.client.request(request.map(Full::new)).await;
        let (parts, body) = answered.map_err(|error| failure(&error))?.into_parts();
        let declared = parts
            .headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > body_bytes as u64) {
            return Err(OutgoingError::TooLarge(body_bytes));
        }
        let read = bulk::read(body, body_bytes, LARGE, self.shared.places.take(&host)).await;
        let (body, place) = read.map_err(|error| match error {
            ReadError::TooLarge => OutgoingError::TooLarge(body_bytes),
            ReadError::Crowded => OutgoingError::Crowded,
            ReadError::TooSlow => OutgoingError::Broken("a large answer came too slowly".to_owned()),
            ReadError::Broken(error) => OutgoingError::Broken(chain(&*error)),
        })?;
        let mut response = Response::from_parts(parts, body);
        if let Some(place) = place {
            response.extensions_mut().insert(Kept {
                _place: Arc::new(place),
            });
        }
        Ok(response)
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("denied", &self.shared.denied)
            .finish_non_exhaustive()
    }
}

fn failure(error: &legacy::Error) -> OutgoingError {
    let mut source = error.source();
    while let Some(cause) = source {
        match cause.downcast_ref::<ConnectError>() {
            Some(ConnectError::Denied) => return OutgoingError::Denied,
            Some(ConnectError::Unresolved(error)) => return OutgoingError::Unresolved(error.clone()),
            Some(other) => return OutgoingError::Connect(other.to_string()),
            None => source = cause.source(),
        }
    }
    // The outermost says "client error", which is said already.
    let said = error.source().map_or_else(|| error.to_string(), chain);
    if error.is_connect() {
        OutgoingError::Connect(said)
    } else {
        OutgoingError::Broken(said)
    }
}

/// An error in one line with what caused it, each thing once.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !line.contains(&said) {
            line.push_str(": ");
            line.push_str(&said);
        }
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests;
