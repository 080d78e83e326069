//! Changes of keys become entries of the log: at once, and what a server that stopped in between left over, later.

use std::sync::Arc;

use hearth_storage::{
    StorageError, Transaction, UserNid, device_lists,
    log::{Change, Fact},
};

use crate::{Engine, Error};

/// Changes that one entry of the log's queue carries.
const AT_ONCE: i64 = 500;

/// The facts that a transaction left to be told of a user, its own among them.
pub(crate) async fn facts(
    transaction: &mut Transaction,
    user_nid: UserNid,
) -> Result<Vec<Fact>, StorageError> {
    let pending = device_lists::pending(transaction, Some(user_nid), AT_ONCE).await?;
    Ok(pending.into_iter().map(Fact::DeviceList).collect())
}

/// Commits a transaction that changes a user's keys, and enters that into the log. On a task of its own: a caller that
/// goes away in the middle leaves nothing half done.
pub(super) async fn commit(
    engine: &Arc<Engine>,
    transaction: Transaction,
    user_nid: UserNid,
) -> Result<(), Error> {
    commit_all(engine, transaction, vec![user_nid]).await
}

/// The same where the keys of several users change.
pub(super) async fn commit_all(
    engine: &Arc<Engine>,
    mut transaction: Transaction,
    user_nids: Vec<UserNid>,
) -> Result<(), Error> {
    let mut facts = Vec::new();
    for user_nid in user_nids {
        facts.extend(self::facts(&mut transaction, user_nid).await?);
    }
    // A change that could not be announced is not made.
    let slot = engine.log.reserve().await?;
    let task = tokio::spawn(async move {
        transaction.commit().await?;
        Ok(slot.queue(Change {
            facts,
            ..Change::default()
        }))
    });
    let outcome = task
        .await
        .unwrap_or_else(|error| Err(StorageError::Damaged(format!("a commit ended: {error}"))));
    engine.log.settle(outcome?).await?;
    Ok(())
}

/// Enters what is left over. Told twice, if somebody is just about to, it does no harm.
pub(crate) async fn enter_pending(engine: &Engine) -> Result<(), Error> {
    loop {
        let pending = device_lists::pending(&mut *engine.db.acquire().await?, None, AT_ONCE).await?;
        let is_last = i64::try_from(pending.len()).is_ok_and(|count| count < AT_ONCE);
        if !pending.is_empty() {
            let facts = pending.into_iter().map(Fact::DeviceList).collect();
            let change = Change {
                facts,
                ..Change::default()
            };
            engine.log.commit(change).await?;
        }
        if is_last {
            return Ok(());
        }
    }
}
