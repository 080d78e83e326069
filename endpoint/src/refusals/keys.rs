//! What refuses keys for end-to-end encryption.

use hearth_engine::encryption::{
    BadKey,
    cross_signing::UploadSigningKeysError,
    device_lists::ChangesError,
    query::QueryError,
    signatures::{Failures, SignatureFailure, UploadSignaturesError},
    upload::UploadError,
};
use http::StatusCode;
use ruma::api::{client::keys::upload_signatures::v3::FailureErrorCode, error::ErrorKind};
use serde_json::{Value, json};

use crate::MatrixError;

impl From<BadKey> for MatrixError {
    fn from(error: BadKey) -> Self {
        match error {
            BadKey::NotCanonical | BadKey::Property(_) => Self::bad_json(error.to_string()),
            BadKey::TooLarge => Self::too_large(error.to_string()),
            BadKey::Stranger(_) | BadKey::Usage | BadKey::Name => Self::invalid_param(error.to_string()),
        }
    }
}

impl From<UploadError> for MatrixError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::BadKey(error) => error.into(),
            UploadError::Exists(_) | UploadError::Fallbacks => Self::invalid_param(error.to_string()),
            UploadError::TooMany => Self::too_large(error.to_string()),
            UploadError::Gone => Self::unknown_token(false),
            UploadError::Failed(error) => error.into(),
        }
    }
}

impl From<QueryError> for MatrixError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::TooMany => Self::too_large(error.to_string()),
            QueryError::Failed(error) => error.into(),
        }
    }
}

impl From<ChangesError> for MatrixError {
    fn from(error: ChangesError) -> Self {
        match error {
            ChangesError::BadToken(_) => Self::invalid_param("`from` and `to` are tokens of syncs."),
            ChangesError::Failed(error) => error.into(),
        }
    }
}

impl From<UploadSigningKeysError> for MatrixError {
    fn from(error: UploadSigningKeysError) -> Self {
        match error {
            UploadSigningKeysError::BadKey(error) => error.into(),
            UploadSigningKeysError::NoMasterKey => Self::missing_param("There is no master key."),
            UploadSigningKeysError::InvalidSignature => Self::new(
                StatusCode::BAD_REQUEST,
                invalid_signature(),
                "The key is not signed by the master key.",
            ),
            UploadSigningKeysError::KeyInUse => Self::forbidden("Key ID in use"),
            UploadSigningKeysError::Uia(error) => error.into(),
            UploadSigningKeysError::Failed(error) => error.into(),
        }
    }
}

impl From<UploadSignaturesError> for MatrixError {
    fn from(error: UploadSignaturesError) -> Self {
        match error {
            UploadSignaturesError::TooMany => Self::too_large(error.to_string()),
            UploadSignaturesError::Failed(error) => error.into(),
        }
    }
}

/// `M_INVALID_SIGNATURE`, which ruma has with the one endpoint that answers it in a body.
fn invalid_signature() -> ErrorKind {
    let code = FailureErrorCode::InvalidSignature;
    let kind = serde_json::from_value(json!({ "errcode": code.as_str() }));
    kind.unwrap_or(ErrorKind::InvalidParam)
}

/// The body that says which signatures were not taken.
pub fn signature_failures(failures: &Failures) -> Value {
    let failures = failures.iter().map(|(user_id, keys)| {
        let keys = keys.iter().map(|(key, failure)| {
            let kind = match failure {
                SignatureFailure::NotFound => ErrorKind::NotFound,
                SignatureFailure::Mismatch => ErrorKind::InvalidParam,
                SignatureFailure::InvalidSignature => invalid_signature(),
            };
            let error = json!({ "errcode": kind.errcode().to_string(), "error": failure.to_string() });
            (key.clone(), error)
        });
        (user_id.to_string(), Value::Object(keys.collect()))
    });
    json!({ "failures": Value::Object(failures.collect()) })
}
