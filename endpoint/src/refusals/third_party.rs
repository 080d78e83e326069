//! Refusals of invites by e-mail or telephone number.

use hearth_engine::rooms::third_party::ThirdPartyError;

use crate::MatrixError;

impl From<ThirdPartyError> for MatrixError {
    fn from(error: ThirdPartyError) -> Self {
        match error {
            ThirdPartyError::Bad(reason) => Self::invalid_param(reason),
            ThirdPartyError::Forbidden(reason) => Self::forbidden(reason),
            ThirdPartyError::Handshake(error) => error.into(),
            ThirdPartyError::Failed(error) => error.into(),
        }
    }
}
