//! `account/deactivate`.

use std::sync::Arc;

use hearth_storage::{
    Transaction, UserNid, account_data, accounts, devices, filters, key_backup, presence, profiles,
};
use ruma::{UserId, api::client::uiaa::AuthData};

use super::{
    Requester, changes,
    uia::{self, Operation, UiaError},
};
use crate::{Engine, Error, rooms::membership};

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

/// Deactivates the requester's account after they have shown that it is them, and leaves its rooms. With `erase` the wish is kept that
/// what they wrote be hidden from those who come later.
pub async fn deactivate(
    engine: &Arc<Engine>,
    requester: &Requester,
    erase: bool,
    auth: Option<&AuthData>,
) -> Result<(), DeactivateError> {
    let operation = Operation::deactivate(requester, erase);
    let grant = uia::authorise(engine, &operation, Some(requester), auth).await?;
    let mut transaction = engine.db.begin().await?;
    grant.spend(engine, &operation, &mut transaction).await?;
    close(engine, transaction, requester.user_nid, erase).await?;
    // The account is closed, whatever keeps it from leaving its rooms; and it leaves them though its user goes away.
    let engine = Arc::clone(engine);
    let leaving = tokio::spawn(async move { leave_rooms(&engine).await });
    if let Err(error) = leaving.await.unwrap_or(Ok(())) {
        tracing::warn!(%error, "a closed account is still in its rooms; trying again later");
    }
    Ok(())
}

/// Closes an account for good: its password is forgotten, its devices and tokens are deleted, so is what it kept for
/// itself and told of itself, and its name is never given out again. The one place where an account ends, whoever asked
/// for it. Nobody could delete those data later, so that they don't wait for who asks to be erased.
pub(super) async fn close(
    engine: &Engine,
    mut transaction: Transaction,
    user_nid: UserNid,
    erase: bool,
) -> Result<(), Error> {
    // First the account's row: a login that still holds it commits before its device is looked for below.
    accounts::deactivate(&mut transaction, user_nid, engine.clock.now_ms(), erase).await?;
    devices::delete_all(&mut transaction, user_nid, None, engine.clock.now_ms()).await?;
    profiles::delete_all(&mut transaction, user_nid).await?;
    account_data::delete_all(&mut transaction, user_nid).await?;
    filters::delete_all(&mut transaction, user_nid).await?;
    presence::delete(&mut transaction, user_nid).await?;
    key_backup::delete_all(&mut transaction, user_nid).await?;
    changes::commit(engine, transaction, user_nid).await?;
    engine.presence.forget(user_nid);
    Ok(())
}

/// Leaves the rooms of accounts that were closed: just now, or by the command line, or before the server stopped in
/// the middle.
pub(crate) async fn leave_rooms(engine: &Arc<Engine>) -> Result<(), Error> {
    let closed = accounts::leaving_rooms(&mut *engine.db.acquire().await?).await?;
    for (user_nid, user_id) in closed {
        let user_id = UserId::parse(user_id).map_err(|error| Error::Damaged(error.to_string()))?;
        membership::leave_all(engine, &Requester::without_device(user_id, user_nid)).await?;
        accounts::has_left_rooms(&mut *engine.db.acquire().await?, user_nid).await?;
    }
    Ok(())
}
