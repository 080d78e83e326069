//! Refusals of reports to the administrator.

use hearth_engine::reports::ReportError;

use crate::MatrixError;

impl From<ReportError> for MatrixError {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::UnknownEvent => {
                Self::not_found("There is no such event, or you are not in its room.")
            }
            ReportError::UnknownRoom => Self::not_found("This server knows no such room."),
            ReportError::UnknownUser => Self::not_found("This server knows no such user."),
            ReportError::TooLarge => Self::too_large("A reason is at most 16 KiB long."),
            ReportError::Failed(error) => error.into(),
        }
    }
}
