//! Memory of clients that wait: each with its own user, connection and long poll.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, future::join_all, stream};
use tokio::time::sleep;

use super::{Bench, KIB, PREPARING, ScenarioError};
use crate::{
    client::{Client, ClientError, SyncRequest, Synced},
    outcome::Outcome,
};

/// Members of each room that they are in.
const ROOM: usize = 10;
/// How long memory is left to settle before it is read.
const SETTLE: Duration = Duration::from_secs(3);

pub async fn run(bench: &Bench) -> Result<Vec<Outcome>, ScenarioError> {
    let count = bench.sizes.waiting_clients as usize;
    bench.meter.server_memory().ok_or(ScenarioError::NoServerPid)?;
    let mut clients = bench.accounts.register(count, &bench.progress).await?;
    for members in clients.chunks_mut(ROOM) {
        bench.room_of(members).await?;
    }
    // Once for nothing, so that what the first syncs needed for themselves doesn't hide what waiting needs.
    let mut waiters = first_syncs(bench, &clients).await?;
    memory_while_waiting(bench, &mut waiters).await;
    let mut waiters = first_syncs(bench, &clients).await?;
    drop(clients);
    sleep(SETTLE).await;
    let before = bench.meter.server_memory();
    let after = memory_while_waiting(bench, &mut waiters).await;
    let grown = before
        .zip(after)
        .map(|(before, after)| after as f64 - before as f64);
    let each = grown.map(|grown| grown / KIB / count as f64);
    let outcome = Outcome::bare("waiting", format!("{count} clients, rooms of {ROOM}"));
    Ok(vec![
        Outcome {
            operations: count as u64,
            ..outcome
        }
        .with("KiB a client", each),
    ])
}

/// The server's memory when all have waited for a while.
async fn memory_while_waiting(bench: &Bench, waiters: &mut [Waiter]) -> Option<u64> {
    let polls = waiters.iter_mut().map(async |waiter| {
        // A server may answer the first one at once, for something that is new to it alone.
        loop {
            let request = SyncRequest {
                since: Some(&waiter.since),
                timeout_ms: 60_000,
                filter: None,
            };
            let Ok(body) = waiter.client.sync(request).await else {
                return;
            };
            let Ok(synced) = Synced::read(&body) else { return };
            waiter.since = synced.next_batch.into_owned();
        }
    });
    let memory = async {
        sleep(SETTLE).await;
        bench.meter.server_memory()
    };
    tokio::select! {
        // Polls that all failed leave nobody waiting, and no figure.
        _ = join_all(polls) => None,
        memory = memory => memory,
    }
}

/// A client that has synced, and its token.
struct Waiter {
    client: Client,
    since: String,
}

async fn first_syncs(bench: &Bench, clients: &[Client]) -> Result<Vec<Waiter>, ClientError> {
    bench.progress.begin("syncing", clients.len() as u64);
    let sync = async |client: &Client| {
        let mut client = client.sibling();
        let body = client.sync(SyncRequest::default()).await?;
        let since = Synced::read(&body)?.next_batch.into_owned();
        bench.progress.step();
        // Its connection closes: waiting begins with one of its own.
        Ok(Waiter {
            client: client.sibling(),
            since,
        })
    };
    stream::iter(clients)
        .map(sync)
        .buffered(PREPARING)
        .try_collect()
        .await
}
