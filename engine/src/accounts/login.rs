//! `login`: a user name and a password for a device's tokens.

use hearth_storage::accounts;
use ruma::{
    UserId,
    api::client::session::login::v3::{LoginInfo, Password as PasswordLogin},
};

use super::{
    changes,
    credentials::{self, CredentialsError},
    logins::{self, DeviceRequest, InvalidDeviceId, Login},
};
use crate::{Engine, Error};

/// Why nobody was logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The login type is not among those that `GET /login` names.
    #[error("the login type is not supported")]
    UnsupportedType,
    /// Nobody was named.
    #[error("the request does not say who logs in")]
    NoIdentifier,
    /// The device cannot have this ID.
    #[error(transparent)]
    InvalidDeviceId(#[from] InvalidDeviceId),
    /// The credentials do not open the account.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(LoginError);

/// Logs a device in. If the user has it already, its earlier tokens end.
pub async fn login(engine: &Engine, info: LoginInfo, device: DeviceRequest) -> Result<Login, LoginError> {
    let LoginInfo::Password(info) = info else {
        return Err(LoginError::UnsupportedType);
    };
    let (device_id, device) = device.with_device_id(engine)?;
    let name = name_in(&info)?.to_owned();
    let account = credentials::verify(engine, &name, &info.password.into()).await?;

    let user_id = UserId::parse(&account.user_id).map_err(|error| Error::Damaged(error.to_string()))?;
    let user = (&*user_id, account.user_nid);
    let mut transaction = engine.db.begin().await?;
    // The password was right when it was read. If it was changed while it was checked, which takes a while, a
    // device logged in now would outlive the logout that came with the change.
    if !accounts::hold_unchanged(
        &mut transaction,
        account.user_nid,
        account.password_hash.as_deref(),
    )
    .await?
    {
        return Err(CredentialsError::Wrong.into());
    }
    let (login, replaces_tokens) = logins::open(engine, &mut transaction, user, device_id, &device).await?;
    if replaces_tokens {
        changes::commit(engine, transaction, account.user_nid).await?;
    } else {
        transaction.commit().await?;
    }
    Ok(login)
}

/// Who logs in, by the present or the deprecated fields.
#[expect(deprecated, reason = "clients of today still send `user` alone")]
fn name_in(info: &PasswordLogin) -> Result<&str, LoginError> {
    match (&info.identifier, &info.user, &info.address) {
        (Some(identifier), _, _) => Ok(credentials::name_in(identifier)?),
        (None, Some(user), _) => Ok(user),
        // A third-party identifier: nobody has any.
        (None, None, Some(_)) => Err(CredentialsError::Wrong.into()),
        (None, None, None) => Err(LoginError::NoIdentifier),
    }
}
