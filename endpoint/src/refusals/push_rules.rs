//! What refuses push rules.

use hearth_engine::push_rules::PushRuleError;
use http::StatusCode;
use ruma::api::error::ErrorKind;

use crate::MatrixError;

impl From<PushRuleError> for MatrixError {
    fn from(error: PushRuleError) -> Self {
        match error {
            PushRuleError::NotFound => Self::not_found("The push rule was not found."),
            // The code is that of the specification's example.
            PushRuleError::UnknownNeighbour(rule_id) => Self::new(
                StatusCode::BAD_REQUEST,
                ErrorKind::Unknown,
                format!("before/after rule not found: {rule_id}"),
            ),
            PushRuleError::ServerNeighbour => {
                Self::invalid_param("A rule can't be placed before or after one of the server's.")
            }
            PushRuleError::ReservedId => {
                Self::invalid_param("IDs that begin with a dot are those of the server's rules.")
            }
            PushRuleError::BadId => {
                Self::invalid_param("The ID of a rule is not empty, and has no slashes or backslashes.")
            }
            PushRuleError::ServerRule => {
                Self::invalid_param("The server's rules can be disabled, not deleted.")
            }
            PushRuleError::TooLarge => Self::too_large("Your push rules together are at most 256 KiB long."),
            PushRuleError::Failed(error) => error.into(),
        }
    }
}
