//! What is wrong with a configuration, and where. Never repeats a value: it may be a secret.

use std::{
    fmt::{self, Display},
    io,
    path::{Path, PathBuf},
};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of the configuration file, counted from 1.
    Line(usize),
    /// An environment variable.
    Variable(String),
}

/// A configuration that can't be used. Its text names the place, the key and what was expected there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Where in it, or in which variable; `None` for something that is missing.
    pub origin: Option<Origin>,
    /// The key, as `section.key` or `listener[0].key`; empty where the fault has none.
    pub key: String,
    /// What is wrong, and what was expected.
    pub problem: String,
}

impl ConfigError {
    pub(super) fn new(origin: Option<Origin>, key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            file: None,
            origin,
            key: key.into(),
            problem: problem.into(),
        }
    }

    pub(super) fn missing(key: &str, expected: &str) -> Self {
        Self::new(None, key, format!("missing; expected {expected}"))
    }

    pub(super) fn unreadable(file: &Path, error: &io::Error) -> Self {
        let problem = match error.kind() {
            // Ours is plain, the standard library's names a trait.
            io::ErrorKind::InvalidData => "cannot be read: it is not UTF-8 text".to_owned(),
            _ => format!("cannot be read: {error}"),
        };
        Self {
            file: Some(file.to_owned()),
            origin: None,
            key: String::new(),
            problem,
        }
    }

    pub(super) fn in_file(mut self, file: Option<&Path>) -> Self {
        if self.file.is_none() {
            self.file = file.map(Path::to_owned);
        }
        self
    }
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, &self.file) {
            (Some(Origin::Variable(name)), _) => write!(f, "{name}: ")?,
            (Some(Origin::Line(line)), Some(file)) => write!(f, "{}, line {line}: ", file.display())?,
            (Some(Origin::Line(line)), None) => write!(f, "line {line}: ")?,
            (None, Some(file)) => write!(f, "{}: ", file.display())?,
            (None, None) => {}
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for ConfigError {}
