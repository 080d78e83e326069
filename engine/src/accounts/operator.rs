//! What the operator does from the command line: `hearth user …`. Nobody is asked for a password here: whoever can
//! reach the database may do all of this anyway.

pub use hearth_storage::accounts::Account;
use hearth_storage::{accounts, notices};
use ruma::OwnedUserId;

use super::{
    Password, credentials, deactivate,
    password::{ChangePasswordError, PasswordChange},
    register::{self, NewUser, RegisterError},
    usernames,
};
use crate::{Engine, Error};

/// Why the operator's wish was not done.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Nobody has that name here.
    #[error("there is no such user")]
    NoSuchUser,
    /// The account was deactivated.
    #[error("the account was deactivated")]
    Deactivated,
    /// The password is empty, or could not be hashed.
    #[error(transparent)]
    Password(ChangePasswordError),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(OperatorError);

/// Makes an account, whether or not registration is open. Without a password nobody can log in to it yet.
pub async fn add_user(
    engine: &Engine,
    username: &str,
    password: Option<Password>,
    is_admin: bool,
) -> Result<OwnedUserId, RegisterError> {
    let new = NewUser {
        username: Some(username.to_owned()),
        password,
        is_admin,
        is_guest: false,
        device: None,
    };
    Ok(register::create(engine, new, None).await?.user_id)
}

/// Sets the password of `name` (a localpart or a user ID), and deletes the user's devices if `logout_devices`.
pub async fn set_password(
    engine: &Engine,
    name: &str,
    password: &Password,
    logout_devices: bool,
) -> Result<(), OperatorError> {
    if password.is_empty() {
        return Err(OperatorError::Password(ChangePasswordError::Empty));
    }
    let account = find(engine, name).await?;
    let change = PasswordChange::prepare(engine, password)
        .await
        .map_err(OperatorError::Password)?;
    let transaction = engine.db.begin().await?;
    let changed = change
        .commit(
            engine,
            transaction,
            account.user_nid,
            logout_devices.then_some(None),
        )
        .await;
    changed.map_err(|error| match error {
        ChangePasswordError::Deactivated => OperatorError::Deactivated,
        ChangePasswordError::Failed(error) => OperatorError::Failed(error),
        error => OperatorError::Password(error),
    })
}

/// Deactivates the account of `name` (a localpart or a user ID) for good. The running server has it leave its rooms.
pub async fn deactivate(engine: &Engine, name: &str, erase: bool) -> Result<(), OperatorError> {
    let account = find(engine, name).await?;
    if account.deactivated_at.is_some() {
        return Err(OperatorError::Deactivated);
    }
    let mut transaction = engine.db.begin().await?;
    notices::account_changed(&mut transaction, account.user_nid).await?;
    Ok(deactivate::close(engine, transaction, account.user_nid, erase).await?)
}

/// Up to `limit` accounts in the order of their user IDs, from after `after` (empty: from the first).
pub async fn list(engine: &Engine, after: &str, limit: i64) -> Result<Vec<Account>, Error> {
    Ok(accounts::list(&mut *engine.db.acquire().await?, after, limit).await?)
}

async fn find(engine: &Engine, name: &str) -> Result<Account, OperatorError> {
    let meant = usernames::meant_by(name, &engine.config.server_name);
    credentials::find(engine, &meant)
        .await?
        .ok_or(OperatorError::NoSuchUser)
}
