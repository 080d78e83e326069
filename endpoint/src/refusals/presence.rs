//! What refuses presence.

use hearth_engine::presence::{GetPresenceError, SetPresenceError};

use crate::MatrixError;

impl From<SetPresenceError> for MatrixError {
    fn from(error: SetPresenceError) -> Self {
        match error {
            SetPresenceError::NotYou => Self::forbidden("You can set your own presence only."),
            SetPresenceError::UnknownState => {
                Self::invalid_param("`presence` is online, unavailable or offline.")
            }
            SetPresenceError::TooLong => Self::too_large("A status message is at most 2048 bytes long."),
        }
    }
}

impl From<GetPresenceError> for MatrixError {
    fn from(error: GetPresenceError) -> Self {
        match error {
            GetPresenceError::UnknownUser => Self::not_found("There is no such user."),
            GetPresenceError::NothingShared => {
                Self::forbidden("You see the presence only of those you share a room with.")
            }
            GetPresenceError::NothingKnown => Self::not_found("Nothing is known of this user's presence."),
            GetPresenceError::Failed(error) => error.into(),
        }
    }
}
