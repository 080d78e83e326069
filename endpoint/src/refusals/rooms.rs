//! Refusals of rooms.

use hearth_engine::rooms::{
    DecideError, HandshakeError, SendError, create::CreateRoomError, membership::MembershipError,
    messages::ReadError, send::SendMessageError, summary::SummaryError,
};
use http::StatusCode;
use ruma::api::error::ErrorKind;

use crate::MatrixError;

impl From<DecideError> for MatrixError {
    fn from(error: DecideError) -> Self {
        match error {
            DecideError::Forbidden(reason) => Self::forbidden(reason),
            DecideError::TooLarge(reason) => Self::too_large(reason),
            DecideError::UnknownRedacted => Self::not_found("The event to redact is not in this room."),
            DecideError::Failed(error) => error.into(),
            error @ (DecideError::AlreadySo | DecideError::Missing(_)) => Self::internal(error),
        }
    }
}

impl From<SendError> for MatrixError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Decided(error) => error.into(),
            error @ SendError::Constraint(_) => Self::internal(error),
        }
    }
}

impl From<SendMessageError> for MatrixError {
    fn from(error: SendMessageError) -> Self {
        match error {
            SendMessageError::UnknownRoom => Self::forbidden("You are not in this room."),
            SendMessageError::BadContent(error) => Self::bad_json(error.to_string()),
            error @ SendMessageError::RedactsNothing => Self::bad_json(error.to_string()),
            SendMessageError::Handshake(error) => error.into(),
            error @ SendMessageError::BadAlias(_) => {
                Self::new(StatusCode::BAD_REQUEST, ErrorKind::BadAlias, error.to_string())
            }
            error @ SendMessageError::NoAlias(_) => Self::invalid_param(error.to_string()),
            error @ SendMessageError::DuplicateAnnotation => Self::new(
                StatusCode::BAD_REQUEST,
                ErrorKind::DuplicateAnnotation,
                error.to_string(),
            ),
            SendMessageError::Send(error) => error.into(),
        }
    }
}

impl From<MembershipError> for MatrixError {
    fn from(error: MembershipError) -> Self {
        match error {
            MembershipError::UnknownRoom => Self::not_found("This server knows no such room."),
            MembershipError::Forbidden(reason) => Self::forbidden(reason),
            MembershipError::Handshake(error) => error.into(),
            MembershipError::NotLeft => Self::new(
                StatusCode::BAD_REQUEST,
                ErrorKind::Unknown,
                "You have not left this room.",
            ),
            MembershipError::Send(error) => error.into(),
        }
    }
}

impl From<HandshakeError> for MatrixError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::NoServers => Self::not_found("No server is known that is in this room."),
            HandshakeError::Forbidden(reason) => Self::forbidden(reason),
            HandshakeError::NotFound(reason) => Self::not_found(reason),
            error @ HandshakeError::UnsupportedVersion(_) => Self::new(
                StatusCode::BAD_REQUEST,
                ErrorKind::UnsupportedRoomVersion,
                error.to_string(),
            ),
            error @ (HandshakeError::Remote { .. } | HandshakeError::BadAnswer { .. }) => {
                Self::new(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, error.to_string())
            }
            HandshakeError::Failed(error) => error.into(),
        }
    }
}

impl From<ReadError> for MatrixError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotMember => Self::forbidden("You are not in this room, and were not in it before."),
            ReadError::NotFound => {
                Self::not_found("There is no such event in this room, or you may not see it.")
            }
            ReadError::NoLimit => Self::invalid_param("`limit` is greater than zero."),
            ReadError::BadToken(error) => Self::invalid_param(error.to_string()),
            ReadError::Failed(error) => error.into(),
        }
    }
}

impl From<CreateRoomError> for MatrixError {
    fn from(error: CreateRoomError) -> Self {
        let bad_request =
            |kind, error: CreateRoomError| Self::new(StatusCode::BAD_REQUEST, kind, error.to_string());
        match error {
            CreateRoomError::Failed(error) => error.into(),
            CreateRoomError::TooLarge(reason) => Self::too_large(reason),
            CreateRoomError::BadJson(reason) => Self::bad_json(reason),
            error @ CreateRoomError::UnsupportedVersion(_) => {
                bad_request(ErrorKind::UnsupportedRoomVersion, error)
            }
            error @ CreateRoomError::BadAlias(..) => bad_request(ErrorKind::InvalidParam, error),
            error @ CreateRoomError::AliasInUse(_) => bad_request(ErrorKind::RoomInUse, error),
            error @ CreateRoomError::InvalidState(_) => bad_request(ErrorKind::InvalidRoomState, error),
            error @ CreateRoomError::NoThirdPartyInvites => Self::new(
                StatusCode::FORBIDDEN,
                ErrorKind::ThreepidDenied,
                error.to_string(),
            ),
        }
    }
}

impl From<SummaryError> for MatrixError {
    fn from(error: SummaryError) -> Self {
        match error {
            SummaryError::NotFound => Self::not_found("There is no such room, or you may not see it."),
            SummaryError::Failed(error) => error.into(),
        }
    }
}
