//! Refusals of sync.

use hearth_engine::{filters::FilterError, sync::SyncError};

use crate::MatrixError;

impl From<SyncError> for MatrixError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::BadToken(error) => Self::invalid_param(format!("`since`: {error}")),
            // A parameter here, where the filter's own endpoint has it in its path.
            SyncError::Filter(FilterError::Unknown) => Self::invalid_param("You have no filter of this ID."),
            SyncError::Filter(error) => error.into(),
            SyncError::Unauthenticated(error) => error.into(),
            SyncError::Failed(error) => error.into(),
        }
    }
}
