//! Refusals of sync.

use hearth_engine::sync::SyncError;

use crate::MatrixError;

impl From<SyncError> for MatrixError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::BadToken(error) => Self::invalid_param(format!("`since`: {error}")),
            SyncError::Filter(error) => error.into(),
            SyncError::Failed(error) => error.into(),
        }
    }
}
