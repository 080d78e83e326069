//! `postmaster.pid`: what a postmaster, running or long gone, says of itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::error::{Attempt, Result};

/// What matters here of `postmaster.pid`; its format is in PostgreSQL's `src/include/utils/pidfile.h`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PidFile {
    /// The process, which may have ended, and its number have gone to another. Negative for a single-user server.
    pub(super) pid: i32,
    /// Where its socket is; empty until it has one.
    pub(super) socket_directory: PathBuf,
    pub(super) status: Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// Not yet accepting connections.
    Starting,
    Ready,
    Stopping,
}

impl PidFile {
    /// Reads that of a cluster; nothing if its postmaster was stopped in order.
    pub(super) fn read(cluster: &Path) -> Result<Option<Self>> {
        let path = cluster.join("postmaster.pid");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).attempt("read", path),
        }
    }

    /// Nothing for an empty file, as one is for a moment while being made, and after a full disk.
    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().collect();
        let line = |number: usize| lines.get(number - 1).map(|line| line.trim()).unwrap_or_default();
        Some(Self {
            pid: line(1).parse().ok()?,
            socket_directory: PathBuf::from(line(5)),
            status: match line(8) {
                "ready" | "standby" => Status::Ready,
                "stopping" => Status::Stopping,
                _ => Status::Starting,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_postmaster_is_read() {
        let text = "7680\n/srv/data\n1795498995\n5432\n/run/x\n\n 10012799         4\nready   \n";
        let expected = PidFile {
            pid: 7680,
            socket_directory: PathBuf::from("/run/x"),
            status: Status::Ready,
        };
        assert_eq!(PidFile::parse(text), Some(expected));
    }

    #[test]
    fn a_postmaster_just_started_has_no_socket_yet() {
        let expected = PidFile {
            pid: 7680,
            socket_directory: PathBuf::new(),
            status: Status::Starting,
        };
        assert_eq!(
            PidFile::parse("7680\n/srv/data\n1795498995\n5432\n"),
            Some(expected)
        );
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert_eq!(PidFile::parse(""), None);
    }
}
