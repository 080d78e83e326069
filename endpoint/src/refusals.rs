//! Which refusal of the engine has which of the spec's codes. Nothing else names a code for one.
//!
//! One `impl From<…> for MatrixError` per error enum of the engine, in a file per area; the sentence is for the
//! client's user. They are here, and not with the routes, because a trait and two types from elsewhere cannot be
//! joined there, and because a room refuses other servers for the same reasons as it does clients.

mod accounts;
mod aliases;
mod dehydrated_devices;
mod directory;
mod federation;
mod key_backup;
mod keys;
mod openid;
mod presence;
mod push_rules;
mod reports;
mod rooms;
mod spaces;
mod sync;
mod third_party;
mod ticks;
mod to_device;
mod upgrades;
mod user_data;

pub use keys::signature_failures;

use hearth_engine::{Error, accounts::AuthenticateError};
use http::StatusCode;
use ruma::api::error::ErrorKind;

use crate::MatrixError;

/// The server's own failure: 503 where the same request may succeed later, else 500.
impl From<Error> for MatrixError {
    fn from(error: Error) -> Self {
        match error {
            Error::Incomplete => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorKind::Unknown,
                "The rest of this room's state is still coming from other servers: try again later.",
            ),
            error if error.is_transient() => Self::unavailable(error),
            error => Self::internal(error),
        }
    }
}

impl From<AuthenticateError> for MatrixError {
    fn from(error: AuthenticateError) -> Self {
        match error {
            AuthenticateError::Unknown => Self::unknown_token(false),
            AuthenticateError::SoftLoggedOut => Self::unknown_token(true),
            AuthenticateError::Failed(error) => error.into(),
        }
    }
}
