//! What is remembered of how far other servers have been served: one position for all, and a row for those that are
//! behind it or fail.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use hearth_storage::{Position, destinations as stored};

use super::Progress;
use crate::{Engine, Error};

/// How often it is stored while something goes out: what is sent again after a crash.
const EVERY: Duration = Duration::from_secs(1);
/// How often relayed events that everybody has are forgotten, in rounds of [`EVERY`].
const FORGET_EVERY: u64 = 600;

/// Stores it from time to time, and once more at the end.
pub(super) async fn keep(engine: Weak<Engine>) {
    let mut round = 0_u64;
    loop {
        let Some(alive) = engine.upgrade() else { return };
        let shutdown = alive.shutdown.clone();
        drop(alive);
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
        let Some(alive) = engine.upgrade() else { return };
        if let Err(error) = save(&alive).await {
            tracing::warn!(%error, "could not store how far other servers have been served; trying again");
        }
        round += 1;
        if round.is_multiple_of(FORGET_EVERY)
            && let Err(error) = forget_relayed(&alive).await
        {
            tracing::warn!(%error, "could not forget what was relayed; trying again later");
        }
        if shutdown.is_cancelled() {
            return;
        }
    }
}

/// Stores what changed. Rows come before the position moves past what they remember: one transaction.
pub(super) async fn save(engine: &Arc<Engine>) -> Result<(), Error> {
    let _saving = engine.outgoing.saving.lock().await;
    let Some(progress) = engine.outgoing.progress(engine.clock.now_ms()) else {
        return Ok(());
    };
    let Progress { rows, gone, served } = &progress;
    let mut transaction = engine.db.begin().await?;
    if !rows.is_empty() {
        stored::store(&mut transaction, rows).await?;
    }
    if !gone.is_empty() {
        stored::forget(&mut transaction, gone).await?;
    }
    stored::set_served(&mut transaction, *served).await?;
    transaction.commit().await?;
    engine.outgoing.saved(progress);
    Ok(())
}

async fn forget_relayed(engine: &Engine) -> Result<(), Error> {
    let mut connection = engine.db.acquire().await?;
    let served = stored::served(&mut connection).await?;
    let behind = stored::all(&mut connection).await?;
    let oldest = behind.iter().filter_map(|destination| destination.behind_since);
    let upto = oldest.chain([served]).min().unwrap_or(Position(0));
    hearth_storage::outgoing::drop_relayed(&mut connection, upto).await?;
    Ok(())
}
