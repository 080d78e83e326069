//! Why the private PostgreSQL could not be started, told so that whoever runs the server knows what to do.

use std::{io, path::PathBuf};

/// Why the private PostgreSQL could not be started or upgraded.
#[derive(Debug, thiserror::Error)]
pub enum PrivatePostgresError {
    /// No PostgreSQL to make a new cluster with.
    #[error(
        "no PostgreSQL {minimum} or newer is installed: install the package postgresql \
         (on Debian 12 it brings postgresql-15), or name a database in [database] url"
    )]
    NotInstalled {
        /// The oldest major version that serves.
        minimum: u32,
    },
    /// The cluster was made by a major version that is not installed.
    #[error(
        "the data in {} was written by PostgreSQL {major}, which is not installed: \
         install the package postgresql-{major}", .directory.display()
    )]
    VersionNotInstalled {
        /// The cluster.
        directory: PathBuf,
        /// The missing major version.
        major: u32,
    },
    /// Another server runs on this `data_dir`.
    #[error("{} is in use by another server (process {holder})", .data_dir.display())]
    InUse {
        /// The directory both want.
        data_dir: PathBuf,
        /// The process id of the other server, or what is known of it.
        holder: String,
    },
    /// The server is root, and there is no user to run PostgreSQL as, which refuses to run as root.
    #[error(
        "PostgreSQL does not run as root, and there is neither a user postgres nor nobody to run it as: \
         run the server as an unprivileged user"
    )]
    NoUnprivilegedUser,
    /// A user id without an entry in the user database; `initdb` and `peer` authentication need one.
    #[error(
        "user id {uid} has no name on this machine, and PostgreSQL needs one: add the user to /etc/passwd"
    )]
    NamelessUser {
        /// The user id.
        uid: u32,
    },
    /// The cluster belongs to somebody else.
    #[error("{} belongs to user id {owner}: run the server as that user, or as root", .directory.display())]
    ForeignOwner {
        /// The cluster.
        directory: PathBuf,
        /// The user id of its owner.
        owner: u32,
    },
    /// PostgreSQL's user cannot reach the cluster.
    #[error(
        "PostgreSQL runs as user {user}, who may not enter {0}: run `chmod o+x {0}`, or choose another data_dir",
        .directory.display()
    )]
    NotTraversable {
        /// The first directory on the way that refuses.
        directory: PathBuf,
        /// Who has to enter it.
        user: String,
    },
    /// The socket's directory exists, and is not what we would have made.
    #[error("{} cannot hold the PostgreSQL socket: {reason}; remove it and start again", .directory.display())]
    SocketDirectory {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that we did not start, and cannot take over, uses the cluster.
    #[error("{} is in use: {by}", .directory.display())]
    Occupied {
        /// The cluster.
        directory: PathBuf,
        /// What uses it.
        by: String,
    },
    /// A program of PostgreSQL failed.
    #[error("{program} failed ({status}):\n{output}")]
    Failed {
        /// Which program.
        program: &'static str,
        /// How it ended.
        status: String,
        /// The last lines that it wrote.
        output: String,
    },
    /// PostgreSQL ended before it was ready.
    #[error("PostgreSQL ended while starting ({status}); {} ends with:\n{output}", .log.display())]
    Ended {
        /// How it ended.
        status: String,
        /// Where its log is.
        log: PathBuf,
        /// The last lines that it wrote.
        output: String,
    },
    /// PostgreSQL is still recovering; it is left running, and the next start goes on waiting.
    #[error("PostgreSQL is not ready after {minutes} minutes; it goes on recovering, see {}", .log.display())]
    NotReady {
        /// How long was waited, in minutes.
        minutes: u64,
        /// Where its log is.
        log: PathBuf,
    },
    /// PostgreSQL runs, and refused us.
    #[error("PostgreSQL runs, but its database could not be set up")]
    SetUp(#[source] sqlx::Error),
    /// The start was given up before PostgreSQL was ready.
    #[error("the start of PostgreSQL was given up")]
    Cancelled,
    /// A file or process could not be worked with.
    #[error("could not {action} {}", .path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

pub(super) type Result<T, E = PrivatePostgresError> = std::result::Result<T, E>;

/// Turns an I/O error into one that says what was attempted, with which file.
pub(super) trait Attempt<T> {
    fn attempt(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| PrivatePostgresError::Io {
            action,
            path: path.into(),
            source,
        })
    }
}
