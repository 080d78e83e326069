//! What refuses what users keep for themselves and tell of themselves: profiles, account data, filters, typing,
//! receipts.

use hearth_engine::{
    account_data::AccountDataError, filters::FilterError, profiles::ProfileError, receipts::ReceiptError,
    typing::TypingError,
};
use http::StatusCode;
use ruma::api::error::ErrorKind;

use crate::MatrixError;

const NOT_IN_ROOM: &str = "You are not in this room.";

impl From<ProfileError> for MatrixError {
    fn from(error: ProfileError) -> Self {
        let bad_request = |kind, sentence: &'static str| Self::new(StatusCode::BAD_REQUEST, kind, sentence);
        match error {
            ProfileError::UnknownUser => Self::not_found("This server has no such user."),
            ProfileError::UnknownField => Self::not_found("The user's profile has no such field."),
            ProfileError::NotYours => Self::forbidden("You can change your own profile only."),
            ProfileError::BadField => Self::invalid_param("No field of a profile may have this name."),
            ProfileError::FieldTooLong => bad_request(
                ErrorKind::KeyTooLarge,
                "The name of a field is at most 255 bytes long.",
            ),
            ProfileError::NoValue(field) => Self::missing_param(format!("The body has no `{field}`.")),
            ProfileError::BadValue(reason) => Self::bad_json(format!("A bad value: {reason}.")),
            ProfileError::InvalidValue(reason) => Self::invalid_param(format!("A bad value: {reason}.")),
            ProfileError::TooLarge => bad_request(
                ErrorKind::ProfileTooLarge,
                "A whole profile is smaller than 64 KiB.",
            ),
            error @ ProfileError::Elsewhere(..) => {
                Self::new(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, error.to_string())
            }
            ProfileError::Failed(error) => error.into(),
        }
    }
}

impl From<AccountDataError> for MatrixError {
    fn from(error: AccountDataError) -> Self {
        match error {
            AccountDataError::NotYours => {
                Self::forbidden("You can see and change your own account data only.")
            }
            AccountDataError::ServerManaged(data_type) => Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                ErrorKind::BadJson,
                format!("{data_type} can't be set here: the server manages it."),
            ),
            AccountDataError::TypeTooLong => Self::invalid_param("A type is at most 255 bytes long."),
            AccountDataError::BadContent(reason) => {
                Self::bad_json(format!("This can't be account data: {reason}."))
            }
            AccountDataError::TooLarge => Self::too_large("Account data of one type is at most 1 MiB long."),
            AccountDataError::TooMuch => Self::too_large("You keep too much account data to add to it."),
            AccountDataError::UnknownRoom => Self::forbidden("You have never been in this room."),
            AccountDataError::NotSet => Self::not_found("There is no such account data."),
            AccountDataError::Failed(error) => error.into(),
        }
    }
}

/// As a request for a filter has it. A sync that names an unknown one has a bad parameter instead.
impl From<FilterError> for MatrixError {
    fn from(error: FilterError) -> Self {
        match error {
            FilterError::NotYours => Self::forbidden("You can store and read your own filters only."),
            FilterError::BadFilter(reason) => Self::bad_json(format!("This is not a filter: {reason}.")),
            FilterError::TooLarge => Self::too_large("A filter is at most 64 KiB long."),
            FilterError::Unknown => Self::not_found("You have no filter of this ID."),
            FilterError::Failed(error) => error.into(),
        }
    }
}

impl From<TypingError> for MatrixError {
    fn from(error: TypingError) -> Self {
        match error {
            TypingError::NotYou => Self::forbidden("You can say of yourself only that you are typing."),
            TypingError::NotInRoom => Self::forbidden(NOT_IN_ROOM),
            TypingError::Failed(error) => error.into(),
        }
    }
}

impl From<ReceiptError> for MatrixError {
    fn from(error: ReceiptError) -> Self {
        match error {
            ReceiptError::NotInRoom => Self::forbidden(NOT_IN_ROOM),
            ReceiptError::UnknownEvent => Self::not_found("There is no such event in this room."),
            ReceiptError::NotInThread => {
                Self::invalid_param("This event is not in the thread of `thread_id`.")
            }
            ReceiptError::Failed(error) => error.into(),
        }
    }
}
