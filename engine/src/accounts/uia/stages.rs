//! The kinds of authentication, and what an attempt at each must bring.

use ruma::api::client::uiaa::{AuthData, AuthType, Password as PasswordAuth};

use super::UiaError;
use crate::{
    Engine,
    accounts::{
        Requester,
        credentials::{self, CredentialsError},
        usernames,
    },
};

/// A kind of authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// `m.login.dummy`: always succeeds.
    Dummy,
    /// `m.login.password`: the password of the user whose operation it is.
    Password,
}

/// Why an attempt failed that the client may repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageFailure {
    /// The password is not the user's.
    WrongPassword,
    /// There is no such stage.
    UnknownStage,
    /// The stage exists, but does not come next in any flow of the operation.
    NotNext,
}

impl Stage {
    /// The stage that the specification gives this type.
    pub fn from_auth_type(auth_type: &AuthType) -> Option<Self> {
        match auth_type {
            AuthType::Dummy => Some(Self::Dummy),
            AuthType::Password => Some(Self::Password),
            _ => None,
        }
    }

    /// The type that the specification gives the stage.
    pub fn auth_type(self) -> AuthType {
        match self {
            Self::Dummy => AuthType::Dummy,
            Self::Password => AuthType::Password,
        }
    }

    /// That type's name, by which completed stages are stored.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dummy => "m.login.dummy",
            Self::Password => "m.login.password",
        }
    }
}

/// Tries to complete the stage of `auth`. `None`: it is completed.
pub(super) async fn attempt(
    engine: &Engine,
    requester: Option<&Requester>,
    auth: &AuthData,
) -> Result<Option<StageFailure>, UiaError> {
    match (auth, requester) {
        (AuthData::Dummy(_), _) => Ok(None),
        (AuthData::Password(auth), Some(requester)) => attempt_password(engine, requester, auth).await,
        _ => Ok(Some(StageFailure::NotNext)),
    }
}

async fn attempt_password(
    engine: &Engine,
    requester: &Requester,
    auth: &PasswordAuth,
) -> Result<Option<StageFailure>, UiaError> {
    let name = match credentials::name_in(&auth.identifier) {
        Ok(name) => name,
        Err(CredentialsError::Wrong) => return Err(UiaError::OtherUser),
        Err(error) => return Err(UiaError::Credentials(error)),
    };
    // Another user's password is not even looked at.
    let meant = usernames::meant_by(name, &engine.config.server_name);
    if !meant.iter().any(|user_id| *user_id == requester.user_id) {
        return Err(UiaError::OtherUser);
    }
    let password = auth.password.as_str().into();
    match credentials::verify(engine, requester.user_id.as_str(), &password).await {
        Ok(_) => Ok(None),
        Err(CredentialsError::Wrong | CredentialsError::Deactivated) => Ok(Some(StageFailure::WrongPassword)),
        Err(error) => Err(UiaError::Credentials(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_stored_by_the_names_of_their_types() {
        for stage in [Stage::Dummy, Stage::Password] {
            assert_eq!(stage.auth_type().as_str(), stage.name());
            assert_eq!(Stage::from_auth_type(&stage.name().into()), Some(stage));
        }
    }
}
