//! Account changes that a process without a committer, such as the command line, tells of: each becomes an entry of
//! the log.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use hearth_storage::{
    UserNid,
    log::{Change, Fact},
    notices::AccountNotices,
};

use crate::Engine;

const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Enters what other processes tell into the log.
pub(crate) async fn hear(engine: Weak<Engine>) {
    loop {
        let Some(alive) = engine.upgrade() else { return };
        let (db, shutdown) = (alive.db.clone(), alive.shutdown.clone());
        drop(alive);
        let listened = async {
            let mut notices = AccountNotices::listen(&db).await?;
            loop {
                let user_nid = notices.next().await?;
                let Some(engine) = engine.upgrade() else {
                    return Ok(());
                };
                enter(&engine, user_nid).await;
            }
        };
        let ended: Result<(), hearth_storage::StorageError> = tokio::select! {
            () = shutdown.cancelled() => return,
            ended = listened => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "listening for account changes failed; trying again");
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn enter(engine: &Arc<Engine>, user_nid: UserNid) {
    // At once here, whatever becomes of the entry.
    crate::accounts::invalidate(&engine.accounts, user_nid);
    if let Err(error) = engine.log.commit(Change::of(Fact::Account(user_nid))).await {
        tracing::warn!(%error, "the change of an account could not be announced to other nodes");
    }
    // Devices may be gone, of which others are to hear.
    if let Err(error) = crate::encryption::announce::enter_pending(engine).await {
        tracing::warn!(%error, "changes of keys could not be entered into the log; trying again later");
    }
    // It may have been closed, which a process beside the server can only begin.
    if let Err(error) = crate::accounts::deactivate::leave_rooms(engine).await {
        tracing::warn!(%error, "closed accounts are still in their rooms; trying again later");
    }
}
