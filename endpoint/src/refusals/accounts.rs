//! What refuses a registration, a login, or a change of an account or its devices.

use std::time::Duration;

use hearth_engine::accounts::{
    admin_register::AdminRegisterError,
    credentials::CredentialsError,
    deactivate::DeactivateError,
    devices::{DeleteDevicesError, DeviceError},
    login::LoginError,
    logins::InvalidDeviceId,
    password::ChangePasswordError,
    refresh::RefreshError,
    register::RegisterError,
    uia::{Challenge, StageFailure, UiaError},
    usernames::UsernameError,
};
use http::StatusCode;
use ruma::api::{
    client::uiaa::{AuthFlow, UiaaInfo},
    error::{ErrorKind, StandardErrorBody},
};
use serde_json::value::RawValue;

use crate::MatrixError;

impl From<CredentialsError> for MatrixError {
    fn from(error: CredentialsError) -> Self {
        match error {
            CredentialsError::Wrong => Self::forbidden("The user name or the password is wrong."),
            CredentialsError::Deactivated => Self::new(
                StatusCode::FORBIDDEN,
                ErrorKind::UserDeactivated,
                "This account was deactivated.",
            ),
            CredentialsError::UnknownIdentifier => {
                Self::invalid_param("This server knows no such type of user identifier.")
            }
            CredentialsError::TooManyAttempts { retry_after_ms } => {
                Self::limit_exceeded(Duration::from_millis(retry_after_ms.unsigned_abs()))
            }
            CredentialsError::Busy => Self::limit_exceeded(Duration::from_secs(2)),
            CredentialsError::Hashing => Self::internal(error),
            CredentialsError::Failed(error) => error.into(),
        }
    }
}

impl From<InvalidDeviceId> for MatrixError {
    fn from(_: InvalidDeviceId) -> Self {
        Self::invalid_param("A device ID must have 1 to 255 bytes and no control characters.")
    }
}

impl From<LoginError> for MatrixError {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::UnsupportedType => Self::new(
                StatusCode::BAD_REQUEST,
                ErrorKind::Unknown,
                "This server does not support this type of login.",
            ),
            LoginError::NoIdentifier => Self::missing_param("The request does not say who logs in."),
            LoginError::InvalidDeviceId(error) => error.into(),
            LoginError::Credentials(error) => error.into(),
            LoginError::Failed(error) => error.into(),
        }
    }
}

impl From<RefreshError> for MatrixError {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::Unknown => Self::unknown_token(false),
            RefreshError::Failed(error) => error.into(),
        }
    }
}

impl From<UsernameError> for MatrixError {
    fn from(error: UsernameError) -> Self {
        let message = match error {
            UsernameError::Empty => "A user name must not be empty.",
            UsernameError::Character => {
                "A user name may contain only a-z, 0-9, and the characters . _ = - / +"
            }
            UsernameError::Reserved => "A user name must not begin with an underscore.",
            UsernameError::TooLong => "This user name is too long.",
        };
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::InvalidUsername, message)
    }
}

impl From<RegisterError> for MatrixError {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::Closed => Self::forbidden("Registration is closed on this server."),
            RegisterError::GuestsRefused => Self::forbidden("This server does not let guests in."),
            RegisterError::UnknownKind => Self::invalid_param("There is no such kind of account."),
            RegisterError::InvalidUsername(error) => error.into(),
            RegisterError::UsernameTaken => Self::new(
                StatusCode::BAD_REQUEST,
                ErrorKind::UserInUse,
                "This user name is taken.",
            ),
            RegisterError::NoPassword => Self::missing_param("A password is needed."),
            RegisterError::EmptyPassword => empty_password(),
            RegisterError::InvalidDeviceId(error) => error.into(),
            RegisterError::Uia(error) => error.into(),
            RegisterError::Hashing(error) => error.into(),
            RegisterError::Failed(error) => error.into(),
        }
    }
}

impl From<AdminRegisterError> for MatrixError {
    fn from(error: AdminRegisterError) -> Self {
        match error {
            AdminRegisterError::Off => Self::unrecognized(),
            AdminRegisterError::InvalidNonce => Self::new(
                StatusCode::BAD_REQUEST,
                ErrorKind::Unknown,
                "This nonce was not given out, was used before, or is too old.",
            ),
            AdminRegisterError::Nul => Self::invalid_param("Neither user name nor password may have a NUL."),
            AdminRegisterError::WrongMac => Self::forbidden("The HMAC is wrong."),
            AdminRegisterError::Register(error) => error.into(),
            AdminRegisterError::Failed(error) => error.into(),
        }
    }
}

impl From<ChangePasswordError> for MatrixError {
    fn from(error: ChangePasswordError) -> Self {
        match error {
            ChangePasswordError::Empty => empty_password(),
            ChangePasswordError::Guest => Self::new(
                StatusCode::FORBIDDEN,
                ErrorKind::GuestAccessForbidden,
                "Guests have no password.",
            ),
            ChangePasswordError::Deactivated => CredentialsError::Deactivated.into(),
            ChangePasswordError::Uia(error) => error.into(),
            ChangePasswordError::Hashing(error) => error.into(),
            ChangePasswordError::Failed(error) => error.into(),
        }
    }
}

impl From<DeactivateError> for MatrixError {
    fn from(error: DeactivateError) -> Self {
        match error {
            DeactivateError::Uia(error) => error.into(),
            DeactivateError::Failed(error) => error.into(),
        }
    }
}

impl From<DeviceError> for MatrixError {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::NotFound => Self::not_found("You have no such device."),
            DeviceError::InvalidDisplayName => {
                Self::invalid_param("A device's name must have 256 characters at most, and no NUL.")
            }
            DeviceError::Failed(error) => error.into(),
        }
    }
}

impl From<DeleteDevicesError> for MatrixError {
    fn from(error: DeleteDevicesError) -> Self {
        match error {
            DeleteDevicesError::Uia(error) => error.into(),
            DeleteDevicesError::Failed(error) => error.into(),
        }
    }
}

impl From<UiaError> for MatrixError {
    fn from(error: UiaError) -> Self {
        match error {
            UiaError::Challenge(challenge) => Self::uiaa(uiaa_info(*challenge)),
            UiaError::OtherOperation => Self::forbidden("This session belongs to another operation."),
            UiaError::OtherUser => Self::forbidden("Only the user whose account this is may do this."),
            UiaError::Credentials(error) => error.into(),
            UiaError::Failed(error) => error.into(),
        }
    }
}

/// The body that asks for further stages. `params` is there even when no stage needs any: clients look into it.
fn uiaa_info(challenge: Challenge) -> UiaaInfo {
    let mut info = UiaaInfo::new(challenge.flows.into_iter().map(AuthFlow::new).collect());
    info.completed = challenge.completed;
    info.session = Some(challenge.session);
    info.params = RawValue::from_string("{}".to_owned()).ok();
    info.auth_error = challenge.failure.map(|failure| {
        let (kind, message) = match failure {
            StageFailure::WrongPassword => (ErrorKind::Forbidden, "The password is wrong."),
            StageFailure::UnknownStage => (ErrorKind::Unrecognized, "There is no such stage."),
            StageFailure::NotNext => (ErrorKind::Forbidden, "This stage does not come next in any flow."),
        };
        Box::new(StandardErrorBody::new(kind, message.to_owned()))
    });
    info
}

fn empty_password() -> MatrixError {
    MatrixError::new(
        StatusCode::BAD_REQUEST,
        ErrorKind::WeakPassword,
        "A password must not be empty.",
    )
}
