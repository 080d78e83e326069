//! The running server's door for its operator: a Unix socket in the data directory, for `hearth user …` and
//! `hearth federation …`.
//!
//! A command goes through the running server because the server knows best: what it keeps in memory about an
//! account changes with it. One JSON object each way, then the connection ends. Only the user that the server runs
//! as, and root, are let in.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{ffi::OsStrExt as _, net},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hearth_engine::Engine;
use hearth_federation::Federation;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::operator::{self, Answer, Command};

const NAME: &str = "hearth.socket";
/// A socket's path may have 107 bytes on Linux.
const LONGEST_PATH: usize = 107;
/// A command is short; a longer one is not from us.
const MAX_COMMAND: u64 = 64 << 10;
/// How long a caller may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the door can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Somebody answers behind it.
    #[error("another hearth runs with the data directory {0}")]
    InUse(PathBuf),
    /// The socket can't be made.
    #[error("the control socket in {data_dir}: {source}")]
    Io {
        /// The data directory.
        data_dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The open door, not yet served. The socket's file goes when this is dropped.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
}

impl Door {
    /// Opens the door of the server with this data directory, unless one answers there already.
    pub async fn open(data_dir: &Path) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Io {
            data_dir: data_dir.to_owned(),
            source,
        };
        if connect(data_dir).await.map_err(failed)?.is_some() {
            return Err(ControlError::InUse(data_dir.to_owned()));
        }
        let path = data_dir.join(NAME);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = reach(data_dir, |path| net::UnixListener::bind(path)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self {
            listener: UnixListener::from_std(listener).map_err(failed)?,
            path,
        })
    }

    /// Answers commands until told to stop.
    pub fn serve(
        self,
        engine: Arc<Engine>,
        federation: Option<Arc<Federation>>,
        stop: CancellationToken,
        tasks: &TaskTracker,
    ) {
        let tracker = tasks.clone();
        tasks.spawn(stop.run_until_cancelled_owned(async move {
            loop {
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        let (engine, federation) = (Arc::clone(&engine), federation.clone());
                        tracker.spawn(async move {
                            if let Err(error) = answer(&engine, federation.as_deref(), stream).await {
                                tracing::debug!(%error, "a command ended early");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a command");
                        tokio::time::sleep(PATIENCE).await;
                    }
                }
            }
        }));
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Left over, it would be taken over by the next start.
        let _ = fs::remove_file(&self.path);
    }
}

async fn answer(
    engine: &Arc<Engine>,
    federation: Option<&Federation>,
    mut stream: UnixStream,
) -> io::Result<()> {
    let caller = stream.peer_cred()?.uid();
    if caller != 0 && caller != rustix::process::geteuid().as_raw() {
        tracing::warn!(uid = caller, "refused a command of another user");
        return Ok(());
    }
    let mut text = Vec::new();
    let mut limited = (&mut stream).take(MAX_COMMAND);
    timeout(PATIENCE, limited.read_to_end(&mut text)).await??;
    let command: Command = serde_json::from_slice(&text)?;
    let answer = operator::execute(engine, federation, command).await;
    stream.write_all(&serde_json::to_vec(&answer)?).await
}

/// Has the running server do `command`; `None` where no server runs with this data directory.
pub async fn ask(data_dir: &Path, command: &Command) -> io::Result<Option<Answer>> {
    let Some(mut stream) = connect(data_dir).await? else {
        return Ok(None);
    };
    stream.write_all(&serde_json::to_vec(command)?).await?;
    stream.shutdown().await?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await?;
    if text.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the running server belongs to another user",
        ));
    }
    Ok(Some(serde_json::from_slice(&text)?))
}

/// Whether a server runs with this data directory.
pub async fn is_running(data_dir: &Path) -> io::Result<bool> {
    Ok(connect(data_dir).await?.is_some())
}

async fn connect(data_dir: &Path) -> io::Result<Option<UnixStream>> {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    match reach(data_dir, |path| net::UnixStream::connect(path)) {
        Ok(stream) => {
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream).map(Some)
        }
        Err(error) if matches!(error.kind(), ConnectionRefused | NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Works with the socket's path, or a shorter one to the same place.
fn reach<T>(data_dir: &Path, with: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = data_dir.join(NAME);
    if path.as_os_str().as_bytes().len() <= LONGEST_PATH {
        return with(&path);
    }
    let directory = File::open(data_dir)?;
    with(
        &Path::new("/proc/self/fd")
            .join(directory.as_raw_fd().to_string())
            .join(NAME),
    )
}
