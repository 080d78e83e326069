//! Refusals of other servers.

use std::time::Duration;

use hearth_engine::federation::{ReceiveError, ServeError, TransactionError};
use http::StatusCode;
use ruma::api::error::{ErrorKind, IncompatibleRoomVersionErrorData};

use crate::MatrixError;

/// When a server may come again whose events wait to be judged.
const RECEIVE_AGAIN: Duration = Duration::from_secs(5);

impl From<ServeError> for MatrixError {
    fn from(error: ServeError) -> Self {
        let bad_request =
            |kind, error: ServeError| Self::new(StatusCode::BAD_REQUEST, kind, error.to_string());
        match error {
            ServeError::UnknownRoom => Self::not_found("This server is not in that room."),
            // As of a room that this server is not in: then others are asked.
            error @ ServeError::Incomplete => Self::not_found(error.to_string()),
            ServeError::UnknownEvent => Self::not_found("There is no such event here."),
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

impl From<TransactionError> for MatrixError {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::TooManyPdus | TransactionError::TooManyEdus => {
                Self::invalid_param(error.to_string())
            }
            TransactionError::OtherOrigin => {
                Self::forbidden("The transaction says that it is of another server.")
            }
            TransactionError::Receive(ReceiveError::TooMany) => Self::limit_exceeded(RECEIVE_AGAIN),
            TransactionError::Receive(ReceiveError::Failed(error)) => error.into(),
        }
    }
}
