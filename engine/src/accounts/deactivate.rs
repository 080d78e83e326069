//! `account/deactivate`.

use hearth_storage::{Transaction, UserNid, accounts, devices};
use ruma::api::client::uiaa::AuthData;

use super::{
    Requester, changes,
    uia::{self, Operation, UiaError},
};
use crate::{Engine, Error};

/// Why an account was not deactivated.
#[derive(Debug, thiserror::Error)]
pub enum DeactivateError {
    /// The user has yet to show that it is them.
    #[error(transparent)]
    Uia(#[from] UiaError),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(DeactivateError);

/// Deactivates the requester's account after they have shown that it is them. With `erase` the wish is kept that
/// what they wrote be hidden from those who come later.
pub async fn deactivate(
    engine: &Engine,
    requester: &Requester,
    erase: bool,
    auth: Option<&AuthData>,
) -> Result<(), DeactivateError> {
    let operation = Operation::deactivate(requester, erase);
    let grant = uia::authorise(engine, &operation, Some(requester), auth).await?;
    let mut transaction = engine.db.begin().await?;
    grant.spend(engine, &operation, &mut transaction).await?;
    Ok(close(engine, transaction, requester.user_nid, erase).await?)
}

/// Closes an account for good: its password is forgotten, its devices and tokens are deleted, and its name is
/// never given out again. The one place where an account ends, whoever asked for it.
pub(super) async fn close(
    engine: &Engine,
    mut transaction: Transaction,
    user_nid: UserNid,
    erase: bool,
) -> Result<(), Error> {
    // First the account's row: a login that still holds it commits before its device is looked for below.
    accounts::deactivate(&mut transaction, user_nid, engine.clock.now_ms(), erase).await?;
    devices::delete_all(&mut transaction, user_nid, None).await?;
    changes::commit(engine, transaction, user_nid).await
}
