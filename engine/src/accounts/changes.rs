//! The one way in which a change of an account that others cache becomes true: commit, invalidate, announce.

use std::sync::Arc;

use hearth_storage::{
    StorageError, Transaction, UserNid,
    log::{Change, Fact},
    notices::account_changed,
};

use super::Accounts;
use crate::{Engine, Error, encryption::announce};

/// Commits a change to the tokens, devices or standing of a user, and voids what is cached about them: here before
/// this returns, on other nodes by an entry in the log.
///
/// On a task of its own: a caller that goes away in the middle would leave the change made and the caches as they
/// were. On an error they are voided too, since the change may have been made all the same.
pub(super) async fn commit(
    engine: &Engine,
    mut transaction: Transaction,
    user_nid: UserNid,
) -> Result<(), Error> {
    if !engine.log.has_committer() {
        // A process beside the server: the notice goes out with the commit, and the server enters it into the log.
        account_changed(&mut transaction, user_nid).await?;
        return Ok(transaction.commit().await?);
    }
    let mut facts = announce::facts(&mut transaction, user_nid).await?;
    facts.push(Fact::Account(user_nid));
    // A change that could not be announced is not made.
    let slot = engine.log.reserve().await?;
    let accounts = Arc::clone(&engine.accounts);
    let task = tokio::spawn(async move {
        let committed = transaction.commit().await;
        invalidate(&accounts, user_nid);
        committed.map(|()| {
            slot.queue(Change {
                facts,
                ..Change::default()
            })
        })
    });
    let outcome = task
        .await
        .unwrap_or_else(|error| Err(StorageError::Damaged(format!("a commit ended: {error}"))));
    engine.log.settle(outcome?).await?;
    Ok(())
}

/// Voids what this server keeps in memory about a user: called when the user's account changed, here or on
/// another node.
pub fn invalidate(accounts: &Accounts, user_nid: UserNid) {
    accounts.invalidations.invalidate(user_nid);
}

/// Voids what this server keeps in memory about anyone.
pub(crate) fn invalidate_all(accounts: &Accounts) {
    accounts.invalidations.invalidate_all();
}
