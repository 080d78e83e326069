//! A whole server: its parts, put together in order, and taken apart in the reverse of it.

use std::{
    collections::HashMap,
    fmt::{self, Debug},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hearth_engine::{Engine, outgoing};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{Service, Settings},
    control::{ControlError, Door},
    health, key_file,
    listener::{BindError, Connections, Socket},
    metrics,
    parts::{Parts, PartsError},
    tls::Certificate,
};

/// How long requests under way may take to finish once the server is told to stop.
const GRACE: Duration = Duration::from_secs(10);
/// How often it is looked whether certificates were renewed.
const LOOK_FOR_RENEWAL: Duration = Duration::from_secs(60);
/// Connections that may be open at once, over all listeners; files for the rest of the server are left over.
const MAX_CONNECTIONS: usize = 50_000;
const RESERVED_FILES: u64 = 256;

/// A running server. Stop it with [`Server::stop`]; dropped, it leaves requests unanswered.
pub struct Server {
    parts: Parts,
    connections: Connections,
    addresses: Vec<SocketAddr>,
    certificates: Vec<Arc<Certificate>>,
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory can't be made.
    #[error("`data_dir` {path} cannot be made: {source}")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A listener can't be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// What listeners serve can't be started.
    #[error(transparent)]
    Parts(#[from] PartsError),
    /// The operator's door can't be opened.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl Server {
    /// Starts a server and returns once it answers. With `metrics`, its listeners serve those.
    pub async fn start(settings: &Settings, metrics: Option<PrometheusHandle>) -> Result<Self, StartError> {
        key_file::create_data_dir(&settings.data_dir).map_err(|source| StartError::DataDir {
            path: settings.data_dir.clone(),
            source,
        })?;
        // Before the database is touched: a second server at the same address must find out here.
        let mut sockets = Vec::new();
        for listener in &settings.listeners {
            sockets.push(Socket::bind(listener).await?);
        }
        let addresses = sockets.iter().map(|socket| socket.address).collect();
        let certificates: Vec<Arc<Certificate>> = sockets
            .iter()
            .filter_map(|socket| socket.certificate.clone())
            .collect();

        let parts = Parts::start(settings).await?;
        let engine = &parts.engine;
        let door = match Door::open(&settings.data_dir).await {
            Ok(door) => door,
            Err(error) => {
                parts.stop().await;
                return Err(error.into());
            }
        };

        let connections = Connections {
            permits: Arc::new(Semaphore::new(max_connections())),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        // Listeners that serve the same share its limits.
        let mut served = HashMap::new();
        for (socket, listener) in sockets.into_iter().zip(&settings.listeners) {
            let mut router = health::route(Arc::clone(engine));
            let apis = (
                listener.serves(Service::Client),
                listener.serves(Service::Federation),
            );
            if apis != (false, false) {
                let served = served
                    .entry(apis)
                    .or_insert_with(|| matrix(settings, &parts, apis));
                router = router.merge(served.clone());
            }
            if let Some(handle) = &metrics
                && listener.serves(Service::Metrics)
            {
                router = router.merge(metrics::route(handle.clone(), Arc::clone(engine)));
            }
            socket.serve(router, &connections);
        }
        if !certificates.is_empty() {
            let renewals = follow_renewals(certificates.clone());
            let stop = connections.stop.clone();
            connections
                .tasks
                .spawn(async move { stop.run_until_cancelled(renewals).await });
        }
        let federation = parts.federation.clone();
        door.serve(
            Arc::clone(engine),
            federation,
            connections.stop.clone(),
            &connections.tasks,
        );
        // Last: who is sent something may ask about it at once.
        match &parts.federation {
            Some(federation) => federation.start_sending(engine),
            None => outgoing::turn_off(engine),
        }
        Ok(Self {
            parts,
            connections,
            addresses,
            certificates,
        })
    }

    /// Where each listener of the configuration listens, in its order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What the server decides by.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.parts.engine
    }

    /// Reads the certificates again, as after a renewal. One that can't be used is logged, and the old one stays.
    pub fn reload_certificates(&self) {
        self.certificates
            .iter()
            .for_each(|certificate| reload(certificate));
    }

    /// Takes nothing new, lets the requests under way finish within ten seconds, then closes the database.
    pub async fn stop(self) {
        let Connections {
            stop, kill, tasks, ..
        } = self.connections;
        stop.cancel();
        // Whoever waits for news is answered now, with what there is.
        self.parts.engine.shutdown.cancel();
        tasks.close();
        if timeout(GRACE, tasks.wait()).await.is_err() {
            tracing::warn!(
                connections = tasks.len(),
                "cut off connections that did not finish in time"
            );
            kill.cancel();
            tasks.wait().await;
        }
        self.parts.stop().await;
    }
}

/// Reads certificates again whose files were written, for whoever renews them without a word to the server.
async fn follow_renewals(certificates: Vec<Arc<Certificate>>) {
    loop {
        sleep(LOOK_FOR_RENEWAL).await;
        let changed = certificates
            .iter()
            .filter(|certificate| certificate.has_changed());
        changed.for_each(|certificate| reload(certificate));
    }
}

fn reload(certificate: &Certificate) {
    match certificate.reload() {
        Ok(()) => tracing::info!("read a certificate again"),
        Err(error) => tracing::error!(%error, "kept the old certificate"),
    }
}

impl Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// The client API, the federation API or both. Where there is no route, it is the standard answer that is served.
fn matrix(settings: &Settings, parts: &Parts, (client, federation): (bool, bool)) -> Router {
    let mut routes = Router::new();
    if client {
        routes = routes.merge(hearth_client_api::routes());
    }
    if federation && let Some(federation) = &parts.federation {
        routes = routes.merge(hearth_federation::routes(Arc::clone(federation)));
    }
    let router = hearth_endpoint::serve(routes, Arc::clone(&parts.engine));
    if client {
        hearth_client_api::with_socket(router, &parts.engine, settings.socket())
    } else {
        router
    }
}

fn max_connections() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    // `None` is no limit.
    let files = files.map_or(MAX_CONNECTIONS, |files| {
        usize::try_from(files.saturating_sub(RESERVED_FILES)).unwrap_or(0)
    });
    files.clamp(64, MAX_CONNECTIONS)
}
