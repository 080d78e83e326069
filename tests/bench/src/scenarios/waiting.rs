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
const SETTLE: Duration = Duration::from_secs(5);

pub async fn run(bench: &Bench) -> Result<Vec<Outcome>, ScenarioError> {
    let count = bench.sizes.waiting_clients as usize;
    bench.meter.server_memory().ok_or(ScenarioError::NoServerPid)?;
    let mut clients = bench.accounts.register(count, &bench.progress).await?;
    for members in clients.chunks_mut(ROOM) {
        bench.room_of(members).await?;
    }
    let mut waiters = first_syncs(bench, &clients).await?;
    drop(clients);
    // What the second half adds: by then the server has the memory that the first syncs needed for themselves.
    let (first, second) = waiters.split_at_mut(count / 2);
    let added = second.len() as f64;
    let both = async {
        let before = settled_memory(bench).await;
        let after = tokio::select! {
            // Polls that all failed leave nobody waiting, and no figure.
            _ = join_all(second.iter_mut().map(poll)) => None,
            after = settled_memory(bench) => after,
        };
        before.zip(after)
    };
    let both = tokio::select! {
        _ = join_all(first.iter_mut().map(poll)) => None,
        both = both => both,
    };
    let each = both.map(|(before, after)| (after as f64 - before as f64) / KIB / added);
    let outcome = Outcome::bare("waiting", format!("{count} clients, rooms of {ROOM}"));
    Ok(vec![
        Outcome {
            operations: count as u64,
            ..outcome
        }
        .with("KiB a client", each),
    ])
}

async fn settled_memory(bench: &Bench) -> Option<u64> {
    sleep(SETTLE).await;
    bench.meter.server_memory()
}

/// Long-polls until the server fails.
async fn poll(waiter: &mut Waiter) {
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
