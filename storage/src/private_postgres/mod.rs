//! The private PostgreSQL: the one that the server runs for itself when no `[database] url` is given.
//!
//! Owns everything from finding the binaries to the last signal at shutdown. Knows nothing of the schema: what it
//! hands out is a URL.
//!
//! In `data_dir` it keeps `postgres/` (the cluster), `postgres.log`, `postgres.lock` (held by the server, so that
//! two servers never run one cluster) and `postgres.socket/`. Where the path of that directory would be too long
//! for a socket, a directory named after a hash of the path in `/run` or `/tmp` takes its place. An operator's own
//! settings go to `postgresql.local.conf`; the files inside `postgres/` are written anew at every start.
//!
//! Who gets in: the socket's directory admits only the user that PostgreSQL runs as, and root. Within it, `peer`
//! authentication asks the kernel who is calling, and maps root, and the user that PostgreSQL runs as, to the roles
//! of the cluster. There is no password to lose and no port to reach. The server itself uses the role `hearth`,
//! which owns the database `hearth` and is no superuser.

mod account;
mod cluster;
mod error;
mod files;
mod installation;
mod lock;
mod pid_file;
mod postmaster;
mod processes;
mod roles;
mod server_log;
mod settings;
mod socket;
mod supervisor;
mod upgrade;

use std::path::Path;

use tokio::{sync::oneshot, task::JoinHandle};

pub use error::PrivatePostgresError;
pub use installation::Installations;
pub use upgrade::{Upgrade, upgrade, upgrade_with};

use cluster::Cluster;
use lock::Lock;
use supervisor::Supervisor;

/// A PostgreSQL of our own, running, and started again whenever it dies.
///
/// Dropped without [`PrivatePostgres::stop`] it is stopped in the background, if the runtime lives long enough. A
/// PostgreSQL that outlives its server, whatever killed it, is taken over by the next start.
#[derive(Debug)]
pub struct PrivatePostgres {
    url: String,
    /// Dropping it, too, tells the supervisor to stop.
    stop: oneshot::Sender<()>,
    supervisor: JoinHandle<()>,
}

impl PrivatePostgres {
    /// Starts the PostgreSQL in `data_dir`, and returns once it answers.
    ///
    /// The first time, the cluster is made, with the newest installed PostgreSQL. One left running by a server that
    /// was killed is taken over. After a crash of PostgreSQL this takes as long as its recovery: minutes, where much
    /// was written shortly before.
    ///
    /// As root, PostgreSQL runs as the user who owns the cluster, at first as `postgres` or, where there is none,
    /// `nobody`; that user must be able to enter `data_dir`.
    pub async fn start(data_dir: &Path) -> Result<Self, PrivatePostgresError> {
        Self::start_with(data_dir, &Installations::find().await).await
    }

    /// [`PrivatePostgres::start`], with these installations instead of those in the usual places.
    pub async fn start_with(
        data_dir: &Path,
        installations: &Installations,
    ) -> Result<Self, PrivatePostgresError> {
        let data_dir = cluster::open_data_dir(data_dir)?;
        let lock = Lock::take(&data_dir)?;
        upgrade::finish(&data_dir)?;
        let cluster = Cluster::open(&data_dir, installations).await?;
        let url = cluster.url();

        let (stop, stopped) = oneshot::channel();
        let (ready, started) = oneshot::channel();
        // From here on the task owns PostgreSQL: when this future is dropped, so is `stop`, and PostgreSQL ends.
        let supervisor = tokio::spawn(Supervisor::new(cluster, lock).run(ready, stopped));
        match started.await {
            Ok(Ok(())) => Ok(Self {
                url,
                stop,
                supervisor,
            }),
            Ok(Err(error)) => {
                // The lock is free again only once the task has ended.
                let _ = supervisor.await;
                Err(error)
            }
            Err(_) => Err(PrivatePostgresError::Cancelled),
        }
    }

    /// A `postgres://` URL of the database `hearth`, through the Unix socket; `psql` understands it as well.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops PostgreSQL, whoever is still connected, and returns once it has ended.
    ///
    /// It is given 30 s for its last checkpoint, and is then cut short; the next start recovers what was committed.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.supervisor.await {
            tracing::error!(%error, "the supervisor of PostgreSQL failed");
        }
    }
}
