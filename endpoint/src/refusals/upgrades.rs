//! Refusals of upgrades of rooms.

use hearth_engine::rooms::upgrade::UpgradeError;
use http::StatusCode;
use ruma::api::error::ErrorKind;

use crate::MatrixError;

impl From<UpgradeError> for MatrixError {
    fn from(error: UpgradeError) -> Self {
        match error {
            error @ UpgradeError::UnsupportedVersion(_) => Self::new(
                StatusCode::BAD_REQUEST,
                ErrorKind::UnsupportedRoomVersion,
                error.to_string(),
            ),
            UpgradeError::NotInRoom => Self::forbidden("You are not in this room."),
            UpgradeError::Forbidden(reason) => Self::forbidden(reason),
            error @ UpgradeError::Impossible(_) => Self::new(
                StatusCode::BAD_REQUEST,
                ErrorKind::InvalidRoomState,
                error.to_string(),
            ),
            UpgradeError::Failed(error) => error.into(),
        }
    }
}
