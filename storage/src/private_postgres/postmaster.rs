//! The postmaster: brought up, from nothing or from whatever an earlier one left, watched, and shut down.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::{process::Child, time::sleep};

use super::{
    cluster::Cluster,
    error::{PrivatePostgresError, Result},
    pid_file::{PidFile, Status},
    processes, roles, socket,
};

/// Recovery from a crash replays up to `max_wal_size`, and syncs every file of the cluster first.
const READY_LIMIT: Duration = Duration::from_secs(15 * 60);
/// How often a start that takes long is told of.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// What a postmaster gets to end itself, in turn: a fast shutdown writes a last checkpoint, an immediate one leaves
/// the work to the next start.
const SHUTDOWN: [(Signal, Duration); 3] = [
    (Signal::SIGINT, Duration::from_secs(30)),
    (Signal::SIGQUIT, Duration::from_secs(10)),
    (Signal::SIGKILL, Duration::from_secs(5)),
];

/// What the children of a postmaster that was killed get to end by themselves, before they are signalled.
const LINGERING: [(Duration, Signal); 2] = [
    (Duration::from_secs(5), Signal::SIGQUIT),
    (Duration::from_secs(15), Signal::SIGKILL),
];
const LINGERING_LIMIT: Duration = Duration::from_secs(60);

/// A running postmaster of a cluster.
#[derive(Debug)]
pub(super) struct Postmaster {
    pid: i32,
    /// None for one that another server started.
    child: Option<Child>,
}

/// Sees to it that a postmaster runs and answers. It is left in `slot` as soon as there is one, so that a caller who
/// gives up waiting can still stop it.
pub(super) async fn bring_up(cluster: &Cluster, slot: &mut Option<Postmaster>) -> Result<()> {
    let left = PidFile::read(&cluster.directory)?;
    if let Some(left) = &left {
        if take_over(cluster, slot, left).await? {
            return Ok(());
        }
        wait_for_lingering(cluster).await?;
    }
    // Seen where containers share a volume: not a process of this machine, but alive all the same.
    if socket::answers(&cluster.socket_directory) {
        return Err(PrivatePostgresError::Occupied {
            directory: cluster.directory.clone(),
            by: format!(
                "something that we did not start answers in {}",
                cluster.socket_directory.display()
            ),
        });
    }
    let log_start = cluster.log.len();
    let postmaster = slot.insert(Postmaster::spawn(cluster, left.map(|left| left.pid))?);
    postmaster.wait_until_ready(cluster, log_start).await
}

/// Takes over the postmaster that this pid file tells of, if it still runs. Where that is not to be, stops it.
async fn take_over(cluster: &Cluster, slot: &mut Option<Postmaster>, left: &PidFile) -> Result<bool> {
    if !processes::find(left.pid.abs()).is_some_and(|process| cluster.is_postmaster(&process)) {
        return Ok(false);
    }
    if left.pid < 0 {
        let by = format!(
            "a single-user PostgreSQL (process {}) is at work on it",
            -left.pid
        );
        return Err(PrivatePostgresError::Occupied {
            directory: cluster.directory.clone(),
            by,
        });
    }
    let orphan = slot.insert(Postmaster {
        pid: left.pid,
        child: None,
    });
    let can_serve = left.status == Status::Starting || left.socket_directory == cluster.socket_directory;
    if can_serve && left.status != Status::Stopping {
        tracing::info!(
            pid = left.pid,
            "taking over a PostgreSQL left by a server that was killed"
        );
        match orphan.wait_until_ready(cluster, cluster.log.len()).await {
            Ok(()) if orphan.serves(cluster)? => {
                // It reads the configuration that was written a moment ago.
                processes::signal(left.pid, Signal::SIGHUP);
                roles::end_sessions(cluster).await?;
                return Ok(true);
            }
            Ok(()) => {}
            Err(PrivatePostgresError::Ended { .. }) => {
                *slot = None;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
    tracing::info!(
        pid = left.pid,
        "stopping a PostgreSQL left by a server that was killed"
    );
    orphan.shut_down(cluster).await;
    *slot = None;
    Ok(false)
}

/// Waits for the children of a postmaster that was killed: they still write to the files.
async fn wait_for_lingering(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    let mut signals = LINGERING.iter().peekable();
    loop {
        let lingering: Vec<_> = processes::all()
            .into_iter()
            .filter(|process| cluster.has_process(process))
            .collect();
        let Some(first) = lingering.first() else {
            return Ok(());
        };
        if begun.elapsed() > LINGERING_LIMIT {
            let by = format!(
                "process {} of a PostgreSQL that was killed does not end",
                first.pid
            );
            return Err(PrivatePostgresError::Occupied {
                directory: cluster.directory.clone(),
                by,
            });
        }
        if let Some((_, signal)) = signals.next_if(|(after, _)| begun.elapsed() > *after) {
            tracing::warn!(processes = lingering.len(), %signal, "ending what is left of a PostgreSQL");
            lingering
                .iter()
                .for_each(|process| processes::signal(process.pid, *signal));
        }
        sleep(Duration::from_millis(10)).await;
    }
}

impl Postmaster {
    /// Starts one. `stale` is the process id in a `postmaster.pid` that is not that of a postmaster of this cluster.
    fn spawn(cluster: &Cluster, stale: Option<i32>) -> Result<Self> {
        let program = cluster.installation.program("postgres");
        let log = cluster.log.open()?;
        let errors = cluster.log.open()?;
        let mut command = cluster.account.command(&program, &cluster.directory);
        command
            .arg("-D")
            .arg(&cluster.directory)
            .arg("-k")
            .arg(&cluster.socket_directory);
        // On the command line nothing in a file can change it.
        command
            .arg("-p")
            .arg(socket::PORT.to_string())
            .args(["-c", "listen_addresses="]);
        command
            .arg("-c")
            .arg(format!("cluster_name={}", cluster.identity));
        command.stdout(Stdio::from(log)).stderr(Stdio::from(errors));
        // In a group of its own, Ctrl-C reaches it through us alone.
        command.process_group(0);
        if let Some(pid) = stale {
            // PostgreSQL takes any living process of that number for its predecessor, except its own ancestors, of
            // which pg_ctl names one in this variable. Removing the file would do too, but would also remove the
            // number of the shared memory by which PostgreSQL tells whether children of a predecessor live.
            command.env("PG_GRANDPARENT_PID", pid.abs().to_string());
        }
        let child = command
            .spawn()
            .map_err(|error| cluster.account.spawn_error(&program, &cluster.directory, error))?;
        let pid = child.id().map_or(0, u32::cast_signed);
        tracing::debug!(pid, "started PostgreSQL");
        Ok(Self {
            pid,
            child: Some(child),
        })
    }

    /// Waits until it says that it accepts connections. `log_start` is the length of the log when it was started.
    async fn wait_until_ready(&mut self, cluster: &Cluster, log_start: u64) -> Result<()> {
        let begun = Instant::now();
        let mut told = begun;
        loop {
            if let Some(status) = self.ended(cluster) {
                let output = cluster.log.tail(log_start);
                return Err(PrivatePostgresError::Ended {
                    status,
                    log: cluster.log.path.clone(),
                    output,
                });
            }
            let state = PidFile::read(&cluster.directory)?;
            if state.is_some_and(|state| state.pid == self.pid && state.status == Status::Ready) {
                return Ok(());
            }
            if begun.elapsed() > READY_LIMIT {
                let minutes = READY_LIMIT.as_secs() / 60;
                return Err(PrivatePostgresError::NotReady {
                    minutes,
                    log: cluster.log.path.clone(),
                });
            }
            if told.elapsed() > PROGRESS_INTERVAL {
                told = Instant::now();
                let said = cluster.log.tail(log_start);
                let last = said.lines().next_back().unwrap_or_default();
                tracing::info!(
                    seconds = begun.elapsed().as_secs(),
                    last,
                    "PostgreSQL is starting or recovering"
                );
            }
            // Quick at first, as a start after an ordinary stop is.
            sleep((begun.elapsed() / 10).clamp(Duration::from_millis(2), Duration::from_millis(200))).await;
        }
    }

    /// Whether it can be reached where the server will look for it.
    fn serves(&self, cluster: &Cluster) -> Result<bool> {
        let state = PidFile::read(&cluster.directory)?;
        Ok(
            state.is_some_and(|state| state.socket_directory == cluster.socket_directory)
                && socket::answers(&cluster.socket_directory),
        )
    }

    /// How it ended, if it has.
    fn ended(&mut self, cluster: &Cluster) -> Option<String> {
        match &mut self.child {
            Some(child) => match child.try_wait() {
                Ok(status) => status.map(|status| status.to_string()),
                Err(error) => Some(error.to_string()),
            },
            // Not our child: no status to wait for, and its number may pass to another.
            None => match processes::find(self.pid) {
                Some(process) if cluster.is_postmaster(&process) => None,
                _ => Some("no longer there".to_owned()),
            },
        }
    }

    /// Waits until it has ended, and says how. Can be dropped and called again.
    pub(super) async fn wait(&mut self, cluster: &Cluster) -> String {
        if let Some(child) = &mut self.child {
            return match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
        }
        loop {
            if let Some(status) = self.ended(cluster) {
                return status;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends it, in order if it can.
    pub(super) async fn shut_down(&mut self, cluster: &Cluster) {
        for (signal, patience) in SHUTDOWN {
            if self.ended(cluster).is_some() {
                return;
            }
            processes::signal(self.pid, signal);
            if tokio::time::timeout(patience, self.wait(cluster)).await.is_ok() {
                return;
            }
            tracing::warn!(pid = self.pid, %signal, seconds = patience.as_secs(), "PostgreSQL does not stop");
        }
    }
}
