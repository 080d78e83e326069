//! `postgres.log`: what PostgreSQL writes to its standard error, kept short.
//!
//! It is a plain file that PostgreSQL inherits, so that it goes on being written when the server is gone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::error::{Attempt, Result};

const BYTES_LIMIT: u64 = 16 << 20;
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 16 << 10;

#[derive(Debug)]
pub(super) struct ServerLog {
    pub(super) path: PathBuf,
}

impl ServerLog {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self {
            path: data_dir.join("postgres.log"),
        }
    }

    /// Opens it to be written at its end, wherever that is by then.
    pub(super) fn open(&self) -> Result<File> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)
            .attempt("open", &self.path)
    }

    /// Its length in bytes, to be given to [`ServerLog::tail`] later.
    pub(super) fn len(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// The last lines of what was written since it had this length.
    pub(super) fn tail(&self, since: u64) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(
                since.min(end).max(end.saturating_sub(TAIL_BYTES)),
            ))?;
            let mut bytes = Vec::new();
            file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&bytes)).to_owned()
    }

    /// Once it is long, moves what it holds to `postgres.log.1`.
    ///
    /// PostgreSQL has the file open, so it is emptied, not renamed; a line written in that moment may be lost.
    pub(super) fn rotate(&self) {
        if self.len() < BYTES_LIMIT {
            return;
        }
        let older = self.path.with_extension("log.1");
        let rotated = fs::copy(&self.path, older)
            .and_then(|_| OpenOptions::new().write(true).open(&self.path))
            .and_then(|file| file.set_len(0));
        if let Err(error) = rotated {
            tracing::warn!(%error, path = %self.path.display(), "could not rotate the log of PostgreSQL");
        }
    }
}

/// The last twenty lines.
pub(super) fn last_lines(text: &str) -> &str {
    let text = text.trim_end();
    match text.rmatch_indices('\n').nth(TAIL_LINES - 1) {
        Some((start, _)) => &text[start + 1..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_is_the_last_twenty_lines() {
        let text: String = (1..=30).map(|number| format!("line {number}\n")).collect();
        let tail: Vec<&str> = last_lines(&text).lines().collect();
        assert_eq!(tail.len(), 20);
        assert_eq!((tail[0], tail[19]), ("line 11", "line 30"));
        assert_eq!(last_lines("one\ntwo\n"), "one\ntwo");
    }

    #[test]
    fn long_log_is_moved_aside_and_goes_on() {
        let scratch = std::env::temp_dir().join(format!("hearth-log-{}", std::process::id()));
        fs::create_dir_all(&scratch).unwrap();
        let log = ServerLog::new(&scratch);
        let mut file = log.open().unwrap();
        io::Write::write_all(&mut file, &vec![b'x'; BYTES_LIMIT as usize]).unwrap();
        log.rotate();
        io::Write::write_all(&mut file, b"after\n").unwrap();
        assert_eq!(log.tail(0), "after");
        assert_eq!(
            fs::metadata(scratch.join("postgres.log.1")).unwrap().len(),
            BYTES_LIMIT
        );
        fs::remove_dir_all(scratch).unwrap();
    }
}
