//! Why a connection ends, as its close frame says it.

use std::time::Duration;

use hearth_endpoint::MatrixError;
use http::StatusCode;
use ruma::api::error::ErrorKind;
use tokio_tungstenite::tungstenite::{
    Error,
    error::{CapacityError, ProtocolError},
    protocol::frame::{CloseFrame, coding::CloseCode},
};

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The client closed it, or is not there any more.
    Gone,
    /// The client was silent for too long.
    Silent,
    /// The server stops; it may be back after so long.
    Shutdown(Duration),
    /// The token is not good any more, or never was.
    LoggedOut,
    /// The token expired, and there was no fresh one in time.
    Expired,
    /// The account was closed.
    Deactivated,
    /// The client did not say who it is.
    Unauthenticated,
    /// A fresh token was another device's.
    OtherDevice,
    /// The user has too many connections.
    TooMany,
    /// A frame that is not text.
    Binary,
    /// A frame that is too large.
    TooLarge,
    /// Text that is not UTF-8.
    NotUtf8,
    /// Not the WebSocket protocol.
    Protocol,
    /// The server failed.
    Failed,
}

impl End {
    /// The close frame; none where nobody is there to read it.
    pub fn frame(&self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Gone => return None,
            Self::Silent => (4007, "no answer to pings"),
            Self::Shutdown(after) => {
                let reason = format!("the server stops: come back in {} ms", after.as_millis());
                return Some(close(4000, reason));
            }
            Self::LoggedOut => (4001, "the access token is not known"),
            Self::Expired => (4002, "the access token has expired"),
            Self::Deactivated => (4003, "the account was deactivated"),
            Self::Unauthenticated => (4004, "no authentication"),
            Self::OtherDevice => (4005, "the token is another device's"),
            Self::TooMany => (4006, "too many connections"),
            Self::Binary => (1003, "frames are text"),
            Self::TooLarge => (1009, "the frame is too large"),
            Self::NotUtf8 => (1007, "the frame is not UTF-8"),
            Self::Protocol => (1002, "not the WebSocket protocol"),
            Self::Failed => (1011, "the server failed"),
        };
        Some(close(code, reason.to_owned()))
    }

    /// What an error frame says of it before the close.
    pub fn error(&self) -> Option<MatrixError> {
        Some(match self {
            Self::Gone | Self::Silent | Self::Protocol => return None,
            Self::Shutdown(after) => {
                let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                MatrixError::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    ErrorKind::Unknown,
                    "The server stops: come back in a moment.",
                )
                .with_field("retry_after_ms", after_ms)
            }
            Self::LoggedOut | Self::Deactivated => MatrixError::unknown_token(false),
            Self::Expired => MatrixError::unknown_token(true),
            Self::Unauthenticated => MatrixError::missing_token(),
            Self::OtherDevice => {
                MatrixError::forbidden("A connection is one device's: open another one for this token.")
            }
            Self::TooMany => MatrixError::limit_exceeded(Duration::from_secs(60)),
            Self::Binary => MatrixError::not_json("Every frame is text: one JSON object."),
            Self::TooLarge => {
                MatrixError::too_large("This frame is too large: request it over HTTP, by the same path.")
            }
            Self::NotUtf8 => MatrixError::not_json("This frame is not UTF-8."),
            Self::Failed => MatrixError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                ErrorKind::Unknown,
                "The server failed: connect again.",
            ),
        })
    }
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        match error {
            Error::Capacity(CapacityError::MessageTooLong { .. }) => Self::TooLarge,
            Error::Utf8(_) => Self::NotUtf8,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Gone,
            Error::Protocol(_) | Error::Capacity(_) => Self::Protocol,
            _ => Self::Gone,
        }
    }
}

fn close(code: u16, reason: String) -> CloseFrame {
    CloseFrame {
        code: CloseCode::from(code),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::End;

    #[test]
    fn a_reason_fits_a_close_frame() {
        for end in [
            End::Silent,
            End::Shutdown(std::time::Duration::from_millis(4999)),
            End::LoggedOut,
            End::Failed,
        ] {
            let frame = end.frame().expect("it has one");
            assert!(frame.reason.len() <= 123, "{frame:?}");
        }
    }
}
