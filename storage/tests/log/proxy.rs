//! Stands between a committer and PostgreSQL, and fails at a chosen statement in a chosen way.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use sqlx::{
    ConnectOptions as _,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{mpsc, oneshot},
};

/// What happens to the statement that carries the marker.
pub enum Fault {
    /// It takes effect, and its answer never arrives.
    LoseAnswer,
    /// Its connection breaks before it arrives.
    LoseStatement,
    /// Its connection breaks for the client, and it arrives when it is let go; the reply goes to the sender.
    Delay(oneshot::Receiver<()>, mpsc::Sender<Vec<u8>>),
    /// Neither it nor an answer arrives, and nobody is told.
    Silence,
}

type Trap = Arc<Mutex<Option<(Vec<u8>, Fault)>>>;

pub struct Proxy {
    /// The database, by way of the proxy.
    pub url: String,
    trap: Trap,
    closed: Arc<AtomicBool>,
}

impl Proxy {
    pub async fn start(url: &str) -> Self {
        let server: PgConnectOptions = url.parse().expect("a postgres:// URL");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let options = server
            .clone()
            .host("127.0.0.1")
            .port(port)
            .ssl_mode(PgSslMode::Disable);
        assert!(
            server.get_socket().is_none() || options.get_socket().is_none(),
            "{options:?}"
        );
        let trap = Trap::default();
        let closed = Arc::new(AtomicBool::new(false));
        let proxy = Self {
            url: options.to_url_lossy().to_string(),
            trap: Arc::clone(&trap),
            closed: Arc::clone(&closed),
        };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if !closed.load(Ordering::Relaxed) {
                    tokio::spawn(serve(client, server.clone(), Arc::clone(&trap)));
                }
            }
        });
        proxy
    }

    /// The next statement that carries `marker` meets with `fault`.
    pub fn arm(&self, marker: &str, fault: Fault) {
        *self.trap.lock().expect("no test panics here") = Some((marker.as_bytes().to_vec(), fault));
    }

    /// Lets nobody in, or everybody again; who is in stays.
    pub fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::Relaxed);
    }

    /// Whether a fault has happened since it was armed.
    pub fn sprung(&self) -> bool {
        self.trap.lock().expect("no test panics here").is_none()
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(server: &PgConnectOptions) -> std::io::Result<Box<dyn Stream>> {
    Ok(match server.get_socket() {
        Some(directory) => {
            Box::new(UnixStream::connect(directory.join(format!(".s.PGSQL.{}", server.get_port()))).await?)
        }
        None => Box::new(TcpStream::connect((server.get_host(), server.get_port())).await?),
    })
}

/// Ends when either side does; what is left is dropped.
async fn serve(mut client: TcpStream, server: PgConnectOptions, trap: Trap) {
    let Ok(mut server) = connect(&server).await else {
        return;
    };
    let (mut from_client, mut from_server) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(length @ 1..) = read else { return };
                let mut statement = from_client[..length].to_vec();
                let Some(fault) = sprung_by(&trap, &statement) else {
                    if server.write_all(&statement).await.is_err() { return }
                    continue;
                };
                read_to(&mut client, &mut statement, is_synced).await;
                return fail(fault, statement, client, server).await;
            }
            read = server.read(&mut from_server) => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&from_server[..length]).await.is_err() { return }
            }
        }
    }
}

fn sprung_by(trap: &Trap, statement: &[u8]) -> Option<Fault> {
    let mut trap = trap.lock().expect("no test panics here");
    let (marker, _) = trap.as_ref()?;
    let springs = statement.windows(marker.len()).any(|window| window == marker);
    if springs {
        trap.take().map(|(_, fault)| fault)
    } else {
        None
    }
}

async fn fail(fault: Fault, statement: Vec<u8>, client: TcpStream, mut server: Box<dyn Stream>) {
    match fault {
        Fault::LoseStatement => {}
        Fault::LoseAnswer => {
            let mut reply = Vec::new();
            let _ = server.write_all(&statement).await;
            read_to(&mut server, &mut reply, is_ready).await;
        }
        Fault::Delay(release, replies) => {
            drop(client);
            let _ = release.await;
            let mut reply = Vec::new();
            let _ = server.write_all(&statement).await;
            read_to(&mut server, &mut reply, is_ready).await;
            let _ = replies.send(reply).await;
        }
        Fault::Silence => std::future::pending().await,
    }
}

/// Reads on until `complete`, or the end.
async fn read_to(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>, complete: fn(&[u8]) -> bool) {
    while !complete(bytes) {
        if !matches!(stream.read_buf(bytes).await, Ok(1..)) {
            return;
        }
    }
}

/// Ends with a Sync message.
fn is_synced(bytes: &[u8]) -> bool {
    bytes.ends_with(b"S\0\0\0\x04")
}

/// Ends with a ReadyForQuery message: a transaction that is committed is so by now.
fn is_ready(bytes: &[u8]) -> bool {
    matches!(bytes, [.., b'Z', 0, 0, 0, 5, _])
}
