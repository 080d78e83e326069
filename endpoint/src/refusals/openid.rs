//! What refuses a token for OpenID.

use hearth_engine::accounts::openid::OpenIdError;

use crate::MatrixError;

impl From<OpenIdError> for MatrixError {
    fn from(error: OpenIdError) -> Self {
        match error {
            OpenIdError::OfAnother => Self::forbidden("A token is given to the user whom it is for alone."),
            OpenIdError::UnknownToken => Self::unknown_token(false),
            OpenIdError::Failed(error) => error.into(),
        }
    }
}
