//! The task that owns PostgreSQL: brings it up, brings it up again whenever it dies, and stops it.

use std::time::{Duration, Instant};

use tokio::{
    select,
    sync::oneshot::{Receiver, Sender},
    time::{interval, sleep},
};

use super::{
    cluster::Cluster,
    error::{PrivatePostgresError, Result},
    lock::Lock,
    postmaster::{self, Postmaster},
    roles, socket,
};

const LOG_CHECK_INTERVAL: Duration = Duration::from_secs(60);
const SHORTEST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// After this long without dying, a death is the first again.
const STEADY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Supervisor {
    cluster: Cluster,
    postmaster: Option<Postmaster>,
    /// Last, so that it is freed when all else is done.
    _lock: Lock,
}

impl Supervisor {
    pub(super) fn new(cluster: Cluster, lock: Lock) -> Self {
        Self {
            cluster,
            postmaster: None,
            _lock: lock,
        }
    }

    /// Runs until told to stop, or until the first start fails. `stop` counts when its sender is dropped, too.
    pub(super) async fn run(mut self, ready: Sender<Result<()>>, mut stop: Receiver<()>) {
        let started = select! {
            started = self.start() => started,
            _ = &mut stop => Err(PrivatePostgresError::Cancelled),
        };
        match started {
            Ok(()) => {
                // Nobody may be waiting any more; then `stop` is dropped as well.
                let _ = ready.send(Ok(()));
                self.watch(&mut stop).await;
                self.shut_down().await;
            }
            Err(error) => {
                // A recovery goes on, and the next start finds it further.
                if !matches!(error, PrivatePostgresError::NotReady { .. }) {
                    self.shut_down().await;
                }
                let _ = ready.send(Err(error));
            }
        }
    }

    async fn start(&mut self) -> Result<()> {
        let begun = Instant::now();
        postmaster::bring_up(&self.cluster, &mut self.postmaster).await?;
        roles::ensure_database(&self.cluster).await?;
        tracing::info!(
            version = self.cluster.installation.major, user = self.cluster.account.name,
            socket = %self.cluster.socket_directory.display(), milliseconds = begun.elapsed().as_millis(),
            "PostgreSQL is ready"
        );
        Ok(())
    }

    /// Keeps PostgreSQL running until told to stop.
    async fn watch(&mut self, stop: &mut Receiver<()>) {
        let mut log_check = interval(LOG_CHECK_INTERVAL);
        let mut delay = Duration::ZERO;
        let mut begun = Instant::now();
        loop {
            let died = async {
                match &mut self.postmaster {
                    Some(postmaster) => postmaster.wait(&self.cluster).await,
                    None => "not running".to_owned(),
                }
            };
            select! {
                status = died => {
                    self.postmaster = None;
                    if begun.elapsed() > STEADY {
                        delay = Duration::ZERO;
                    }
                    tracing::error!(status, delay_ms = delay.as_millis(), "PostgreSQL is down; starting it again");
                }
                _ = log_check.tick() => {
                    self.cluster.log.rotate();
                    continue;
                }
                _ = &mut *stop => return,
            }
            let restart = async {
                sleep(delay).await;
                postmaster::bring_up(&self.cluster, &mut self.postmaster).await
            };
            begun = Instant::now();
            select! {
                restarted = restart => match restarted {
                    Ok(()) => tracing::info!(seconds = begun.elapsed().as_secs_f32(), "PostgreSQL is back"),
                    Err(error) => tracing::error!(%error, "PostgreSQL could not be started again"),
                },
                _ = &mut *stop => return,
            }
            delay = (delay * 2).clamp(SHORTEST_DELAY, LONGEST_DELAY);
        }
    }

    async fn shut_down(&mut self) {
        if let Some(postmaster) = &mut self.postmaster {
            postmaster.shut_down(&self.cluster).await;
            socket::tidy(&self.cluster.socket_directory);
            tracing::info!("PostgreSQL is stopped");
        }
        self.postmaster = None;
    }
}
