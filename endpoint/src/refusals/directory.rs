//! What refuses the directory of published rooms.

use hearth_engine::rooms::directory::DirectoryError;
use http::StatusCode;
use ruma::api::error::ErrorKind;

use crate::MatrixError;

impl From<DirectoryError> for MatrixError {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::NeedsLogin => Self::missing_token(),
            DirectoryError::NotForServers => {
                Self::forbidden("This server shows its directory of rooms to its own users alone.")
            }
            DirectoryError::BadToken => Self::invalid_param("`since` is not a token of this endpoint."),
            DirectoryError::UnknownRoom => Self::not_found("This server is not in that room."),
            DirectoryError::NotAllowed => Self::forbidden(
                "A room is published, or no longer, by a member with the power to set its canonical alias.",
            ),
            error @ DirectoryError::RefusedElsewhere(..) => Self::forbidden(error.to_string()),
            error @ DirectoryError::BadElsewhere(..) => Self::invalid_param(error.to_string()),
            error @ DirectoryError::Elsewhere(..) => {
                Self::new(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, error.to_string())
            }
            DirectoryError::Failed(error) => error.into(),
        }
    }
}
