//! Sockets: accepting connections, HTTP/1.1 and HTTP/2 on them, and their end.
//!
//! Knows nothing of what is served: a router is handed in.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, extract::ConnectInfo};
use hyper::{
    Request,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::ServiceExt as _;

use crate::{
    config,
    tls::{self, Certificate, CertificateError},
};

/// A new connection must have asked for something within this time, handshakes included.
const FIRST_REQUEST: Duration = Duration::from_secs(15);
/// An HTTP/1.1 connection may be idle, or be sending a request's head, for this long.
const IDLE: Duration = Duration::from_secs(75);
/// HTTP/2: how often a silent peer is asked whether it is there, and how long it has to answer.
const PING: Duration = Duration::from_secs(30);
/// HTTP/2: requests that may be under way at once on one connection.
const STREAMS: u32 = 128;
/// How long to leave the socket alone when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address can't be listened on.
    #[error("cannot listen on {address}: {source}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate can't serve.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// rustls can't serve at all.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

/// An open socket, not yet accepting.
pub struct Socket {
    /// Where it listens: the real port, where 0 was asked for.
    pub address: SocketAddr,
    /// What it proves itself by, when it speaks TLS.
    pub certificate: Option<Arc<Certificate>>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

/// What every connection of the server shares.
#[derive(Debug, Clone)]
pub struct Connections {
    /// One permit for each connection that may be open.
    pub permits: Arc<Semaphore>,
    /// Cancelled: finish what is under way, take nothing new.
    pub stop: CancellationToken,
    /// Cancelled: end at once.
    pub kill: CancellationToken,
    /// Every task that accepts or serves, and every connection that is open.
    pub tasks: TaskTracker,
}

impl Socket {
    /// Opens what `settings` describe.
    pub async fn bind(settings: &config::Listener) -> Result<Self, BindError> {
        let certificate = match (&settings.tls_certificate, &settings.tls_private_key) {
            (Some(certificate), Some(key)) => Some(Arc::new(Certificate::read(certificate, key)?)),
            _ => None,
        };
        let tls = match &certificate {
            Some(certificate) => Some(TlsAcceptor::from(Arc::new(tls::server_config(Arc::clone(
                certificate,
            ))?))),
            None => None,
        };
        let failed = |source| BindError::Address {
            address: settings.address,
            source,
        };
        let listener = TcpListener::bind(settings.address).await.map_err(failed)?;
        Ok(Self {
            address: listener.local_addr().map_err(failed)?,
            certificate,
            listener,
            tls,
        })
    }

    /// Accepts connections and serves `router` on them until told to stop.
    pub fn serve(self, router: Router, connections: &Connections) {
        let connections = connections.clone();
        let tasks = connections.tasks.clone();
        tasks.spawn(async move {
            let stop = connections.stop.clone();
            // The socket is closed with this task: from then on a new connection is refused, not left waiting.
            stop.run_until_cancelled(self.accept(router, &connections)).await;
        });
    }

    async fn accept(self, router: Router, connections: &Connections) {
        loop {
            // With no permit left, new connections wait in the system's queue.
            let Ok(permit) = Arc::clone(&connections.permits).acquire_owned().await else {
                return;
            };
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_of_the_connection(&error) => continue,
                Err(error) => {
                    tracing::warn!(%error, address = %self.address, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let connection = Connection {
                peer,
                router: router.clone(),
                stop: connections.stop.clone(),
                open: Open {
                    _permit: permit,
                    _tracked: connections.tasks.token(),
                },
            };
            let tls = self.tls.clone();
            let kill = connections.kill.clone();
            connections.tasks.spawn(async move {
                kill.run_until_cancelled(connection.start(stream, tls)).await;
            });
        }
    }
}

/// The peer gave up before it was accepted: no fault of the socket.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

#[derive(Debug, Clone, Copy)]
enum Protocol {
    Http1,
    Http2,
}

struct Connection {
    peer: SocketAddr,
    router: Router,
    stop: CancellationToken,
    open: Open,
}

/// What a connection holds while it is open, be it served here or handed on by an upgrade.
#[derive(Debug)]
struct Open {
    _permit: OwnedSemaphorePermit,
    _tracked: TaskTrackerToken,
}

/// A stream that counts as open as long as it exists.
#[derive(Debug)]
struct Counted<S> {
    stream: S,
    _open: Open,
}

/// A connection being served, until it ends.
type Served = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is large is boxed, so that a connection takes the memory of what it is at, not of all that it could be: most do
/// nothing but wait.
impl Connection {
    async fn start(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        // An answer is written whole: waiting to fill a packet would only delay it.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, peer = %self.peer, "cannot set TCP_NODELAY");
        }
        if let Some(served) = self.open(stream, tls).await {
            served.await;
        }
    }

    /// Finds out what is to be spoken, and how.
    fn open(
        self,
        stream: TcpStream,
        tls: Option<TlsAcceptor>,
    ) -> Pin<Box<dyn Future<Output = Option<Served>> + Send>> {
        match tls {
            None => Box::pin(self.plain(stream)),
            Some(tls) => Box::pin(self.encrypted(stream, tls)),
        }
    }

    async fn plain(self, stream: TcpStream) -> Option<Served> {
        let stop = self.stop.clone();
        let spoken = stop.run_until_cancelled(timeout(FIRST_REQUEST, spoken(&stream)));
        match spoken.await? {
            Ok(Ok(protocol)) => Some(self.serve(stream, protocol)),
            Ok(Err(error)) => {
                tracing::debug!(%error, peer = %self.peer, "connection ended");
                None
            }
            Err(_) => None,
        }
    }

    async fn encrypted(self, stream: TcpStream, tls: TlsAcceptor) -> Option<Served> {
        match timeout(FIRST_REQUEST, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let protocol = match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => Protocol::Http2,
                    _ => Protocol::Http1,
                };
                Some(self.serve(stream, protocol))
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, peer = %self.peer, "TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!(peer = %self.peer, "TLS handshake took too long");
                None
            }
        }
    }

    fn serve(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        protocol: Protocol,
    ) -> Served {
        let Self {
            peer,
            router,
            stop,
            open,
        } = self;
        let has_asked = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&has_asked);
        let service = service_fn(move |mut request: Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(ConnectInfo(peer));
            router.clone().oneshot(request)
        });
        let stream = TokioIo::new(Counted { stream, _open: open });
        match protocol {
            Protocol::Http1 => {
                let connection = http1().serve_connection(stream, service).with_upgrades();
                Box::pin(drive(
                    Box::pin(connection),
                    |it| it.graceful_shutdown(),
                    peer,
                    stop,
                    has_asked,
                ))
            }
            Protocol::Http2 => {
                let connection = http2().serve_connection(stream, service);
                Box::pin(drive(
                    Box::pin(connection),
                    |it| it.graceful_shutdown(),
                    peer,
                    stop,
                    has_asked,
                ))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What is spoken on a connection without TLS. HTTP/2 begins with `PRI` (RFC 9113, section 3.4), HTTP/1.1 with a method.
///
/// The bytes are left in the socket: hyper's own way to find out has it read the first request in two pieces, for
/// which it doubles its buffer.
async fn spoken(stream: &TcpStream) -> io::Result<Protocol> {
    let mut start = [0; 3];
    stream.peek(&mut start).await?;
    Ok(if start == *b"PRI" {
        Protocol::Http2
    } else {
        Protocol::Http1
    })
}

/// Serves a connection until it ends: by itself, for want of a first request, or once told to `finish`.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<Box<C>>,
    finish: fn(Pin<&mut C>),
    peer: SocketAddr,
    stop: CancellationToken,
    has_asked: Arc<AtomicBool>,
) {
    let mut deadline = pin!(sleep(FIRST_REQUEST));
    let (mut is_stopping, mut is_watched) = (false, true);
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, %peer, "connection ended");
                }
                return;
            }
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                finish(connection.as_mut());
            }
            () = deadline.as_mut(), if is_watched => {
                if !has_asked.load(Ordering::Relaxed) {
                    return;
                }
                is_watched = false;
            }
        }
    }
}

fn http1() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE);
    http
}

fn http2() -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(STREAMS);
    http
}
