//! Lets go of what devices have, and of what nobody will ask for again.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use hearth_storage::to_device::{self, OutgoingPlace};
use ruma::ServerName;

use crate::{Engine, Error};

/// How long confirmations are gathered, so that one statement does for many devices.
const GATHER: Duration = Duration::from_millis(200);
/// How long the database is left alone after it failed.
const PAUSE: Duration = Duration::from_secs(2);
/// How many devices' messages are let go of at once.
const AT_ONCE: usize = 1_000;
/// How long it is remembered what was accepted, in milliseconds: a server that comes back from an outage sends again
/// what it does not know to have arrived.
const REMEMBERED_MS: i64 = 30 * 24 * 60 * 60 * 1000;
/// How long messages are kept for a server that takes nothing, in milliseconds.
const KEPT_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// Lets go of what devices confirm, for as long as there is an engine. What is confirmed just before a stop is let go
/// when the device confirms it again, by its next sync.
pub(crate) async fn keep(engine: Weak<Engine>) {
    let Some(alive) = engine.upgrade() else { return };
    let (queues, shutdown) = (Arc::clone(&alive.encryption.queues), alive.shutdown.clone());
    drop(alive);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = queues.news() => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(GATHER) => {}
        }
        let Some(alive) = engine.upgrade() else { return };
        if let Err(error) = let_go(&alive).await {
            tracing::warn!(%error, "messages that devices have could not be let go; trying again");
            drop(alive);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn let_go(engine: &Engine) -> Result<(), Error> {
    let queues = &engine.encryption.queues;
    let mut confirmed = queues.take_confirmed();
    while !confirmed.is_empty() {
        let some = confirmed.split_off(confirmed.len().saturating_sub(AT_ONCE));
        let deleted = async {
            let mut connection = engine.db.acquire().await?;
            to_device::delete(&mut connection, &some).await
        };
        if let Err(error) = deleted.await {
            queues.give_back(some);
            queues.give_back(confirmed);
            return Err(error.into());
        }
    }
    Ok(())
}

/// Does away with what is too old to matter, and with messages to devices that are gone, and to servers that are denied.
pub(crate) async fn drop_old(engine: &Engine) -> Result<(), Error> {
    let now = engine.clock.now_ms();
    let mut connection = engine.db.acquire().await?;
    to_device::forget_accepted(&mut connection, now.saturating_sub(REMEMBERED_MS)).await?;
    to_device::delete_orphans(&mut connection).await?;
    for (server, newest) in to_device::destinations(&mut connection).await? {
        if ServerName::parse(&server).is_ok_and(|name| engine.outgoing.denies(&name)) {
            let all = OutgoingPlace {
                position: newest,
                ordinal: i32::MAX,
            };
            to_device::delete_outgoing(&mut connection, &server, all).await?;
        }
    }
    let given_up = to_device::give_up_on_destinations(&mut connection, now.saturating_sub(KEPT_MS)).await?;
    if given_up > 0 {
        tracing::warn!(
            messages = given_up,
            "messages to devices were dropped: their servers took nothing for 30 days"
        );
    }
    Ok(())
}
