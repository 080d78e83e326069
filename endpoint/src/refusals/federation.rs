//! Refusals of other servers.

use hearth_engine::federation::ServeError;
use http::StatusCode;
use ruma::api::error::{ErrorKind, IncompatibleRoomVersionErrorData};

use crate::MatrixError;

impl From<ServeError> for MatrixError {
    fn from(error: ServeError) -> Self {
        let bad_request = |kind, error: ServeError| Self::new(StatusCode::BAD_REQUEST, kind, error.to_string());
        match error {
            ServeError::UnknownRoom => Self::not_found("This server is not in that room."),
            ServeError::Forbidden(reason) => Self::forbidden(reason),
            ServeError::IncompatibleVersion(ref version) => {
                let data = IncompatibleRoomVersionErrorData::new(version.clone());
                bad_request(ErrorKind::IncompatibleRoomVersion(data), error)
            }
            error @ ServeError::UnableToAuthorise => bad_request(ErrorKind::UnableToAuthorizeJoin, error),
            error @ ServeError::UnableToGrant => bad_request(ErrorKind::UnableToGrantJoin, error),
            ServeError::Bad(reason) => Self::invalid_param(reason),
            ServeError::Failed(error) => error.into(),
        }
    }
}
