//! `account/password`.

use hearth_storage::{DeviceNid, Transaction, UserNid, accounts, devices};
use ruma::api::client::uiaa::AuthData;

use super::{
    Password, Requester, changes,
    credentials::CredentialsError,
    uia::{self, Operation, UiaError},
};
use crate::{Engine, Error};

/// Why a password was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangePasswordError {
    /// The new password is empty.
    #[error("a password must not be empty")]
    Empty,
    /// Guests have no password.
    #[error("guests have no password")]
    Guest,
    /// The account was deactivated meanwhile.
    #[error("the account was deactivated")]
    Deactivated,
    /// The user has yet to show that it is them.
    #[error(transparent)]
    Uia(#[from] UiaError),
    /// The new password could not be hashed.
    #[error(transparent)]
    Hashing(CredentialsError),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(ChangePasswordError);

/// Changes the requester's password after they have shown that it is them. With `logout_devices` all their devices
/// but the requester's are deleted.
pub async fn change_password(
    engine: &Engine,
    requester: &Requester,
    new_password: Password,
    logout_devices: bool,
    auth: Option<&AuthData>,
) -> Result<(), ChangePasswordError> {
    if requester.is_guest {
        return Err(ChangePasswordError::Guest);
    }
    if new_password.is_empty() {
        return Err(ChangePasswordError::Empty);
    }
    let operation = Operation::change_password(requester, &new_password, logout_devices);
    let grant = uia::authorise(engine, &operation, Some(requester), auth).await?;
    let change = PasswordChange::prepare(engine, &new_password).await?;
    let mut transaction = engine.db.begin().await?;
    grant.spend(engine, &operation, &mut transaction).await?;
    let logout_all_but = logout_devices.then_some(Some(requester.device_nid));
    change
        .commit(engine, transaction, requester.user_nid, logout_all_but)
        .await
}

/// A new password, hashed.
pub(super) struct PasswordChange {
    hash: String,
}

impl PasswordChange {
    /// Hashes the password, which takes a while: before the transaction.
    pub(super) async fn prepare(engine: &Engine, password: &Password) -> Result<Self, ChangePasswordError> {
        let hash = engine.accounts.hashing.hash(&*engine.entropy, password).await;
        Ok(Self {
            hash: hash.map_err(|error| ChangePasswordError::Hashing(error.into()))?,
        })
    }

    /// Makes it the user's. `logout_all_but` says whether devices are deleted, and which one stays.
    pub(super) async fn commit(
        self,
        engine: &Engine,
        mut transaction: Transaction,
        user_nid: UserNid,
        logout_all_but: Option<Option<DeviceNid>>,
    ) -> Result<(), ChangePasswordError> {
        // First the account's row: a login that still holds it commits before its device is looked for below.
        if !accounts::set_password_hash(&mut transaction, user_nid, &self.hash).await? {
            return Err(ChangePasswordError::Deactivated);
        }
        if let Some(except) = logout_all_but {
            devices::delete_all(&mut transaction, user_nid, except, engine.clock.now_ms()).await?;
        }
        Ok(changes::commit(engine, transaction, user_nid).await?)
    }
}
