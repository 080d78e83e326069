//! What can go wrong below every verb, for no fault of who asked.

use hearth_storage::{StorageError, log::CommitError};

use crate::events::ParseError;

/// A failure of the server's own. Verbs carry it in their own errors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database refused, or is away.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A change could not be committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// What is stored can't be understood.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// The state of the room is still coming from other servers.
    #[error("the state of the room is not here yet")]
    Incomplete,
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_transient(),
            Self::Commit(error) => {
                matches!(
                    error,
                    CommitError::Unavailable | CommitError::SteppedDown | CommitError::Conflict
                )
            }
            Self::Incomplete => true,
            Self::Damaged(_) => false,
        }
    }
}

impl From<ParseError> for Error {
    fn from(error: ParseError) -> Self {
        let source = std::error::Error::source(&error)
            .map(ToString::to_string)
            .unwrap_or_default();
        Self::Damaged(format!("{error}: {source}"))
    }
}
