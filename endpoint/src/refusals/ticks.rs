//! What refuses to tell what became of a message.

use hearth_engine::ticks::StatusError;

use crate::MatrixError;

impl From<StatusError> for MatrixError {
    fn from(error: StatusError) -> Self {
        match error {
            StatusError::NotInRoom => Self::forbidden("You are not in this room."),
            StatusError::UnknownEvent => Self::not_found("There is no such event in this room."),
            StatusError::NotYours => Self::forbidden("Only who sent a message is told what became of it."),
            StatusError::Failed(error) => error.into(),
        }
    }
}
