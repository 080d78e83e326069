//! What refuses a room alias.

use hearth_engine::aliases::AliasError;
use http::StatusCode;
use ruma::api::error::ErrorKind;

use crate::MatrixError;

impl From<AliasError> for MatrixError {
    fn from(error: AliasError) -> Self {
        match error {
            AliasError::Unknown(alias) => Self::not_found(format!("The alias {alias} points to no room.")),
            AliasError::Invalid(reason) => Self::invalid_param(format!("This can't be an alias: {reason}.")),
            AliasError::Taken(alias) => Self::new(
                StatusCode::CONFLICT,
                ErrorKind::Unknown,
                format!("The alias {alias} is taken."),
            ),
            AliasError::NotInRoom => Self::forbidden("You are not in this room."),
            AliasError::NotAllowed => Self::forbidden(
                "An alias is deleted by who made it, or by a member with the power to set the room's aliases.",
            ),
            error @ AliasError::Elsewhere(..) => {
                Self::new(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, error.to_string())
            }
            AliasError::Failed(error) => error.into(),
        }
    }
}
