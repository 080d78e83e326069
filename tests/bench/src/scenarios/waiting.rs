//! Memory of clients that wait: each with its own user and connection, in a long poll or on a WebSocket.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, future::join_all, stream};
use tokio::time::sleep;

use super::{Bench, KIB, PREPARING, ScenarioError};
use crate::{
    client::{Client, ClientError},
    listener::{Door, Listener},
    outcome::Outcome,
};

/// Members of each room that they are in.
const ROOM: usize = 10;
/// How long a client waits in one poll.
const POLL_MS: u64 = 60_000;
/// How long memory is left to settle before it is read.
const SETTLE: Duration = Duration::from_secs(5);

pub async fn run(bench: &Bench, door: Door) -> Result<Vec<Outcome>, ScenarioError> {
    if !bench.has(door).await? {
        return Ok(Vec::new());
    }
    let count = bench.sizes.waiting_clients as usize;
    bench.meter.server_memory().ok_or(ScenarioError::NoServerPid)?;
    let mut clients = bench.accounts.register(count, &bench.progress).await?;
    for members in clients.chunks_mut(ROOM) {
        bench.room_of(members).await?;
    }
    // What the second half adds: by then the server has the memory that the first syncs needed for themselves.
    let halves = clients.split_at(count / 2);
    let added = halves.1.len() as f64;
    let both = memory(bench, door, halves).await?;
    let each = both.map(|(before, after)| (after as f64 - before as f64) / KIB / added);
    let (name, on) = match door {
        Door::Polls => ("waiting", ""),
        Door::Socket => ("waiting-sockets", ", on WebSockets"),
    };
    let outcome = Outcome::bare(name, format!("{count} clients, rooms of {ROOM}{on}"));
    Ok(vec![
        Outcome {
            operations: count as u64,
            ..outcome
        }
        .with("KiB a client", each),
    ])
}

/// The server's memory before and after the second half connects, syncs and waits, while the first half waits.
async fn memory(
    bench: &Bench,
    door: Door,
    (first, second): (&[Client], &[Client]),
) -> Result<Option<(u64, u64)>, ClientError> {
    let mut first = first_syncs(bench, first, door).await?;
    let both = async {
        let before = settled_memory(bench).await;
        let mut second = first_syncs(bench, second, door).await?;
        let after = tokio::select! {
            // Polls that all failed leave nobody waiting, and no figure.
            _ = join_all(second.iter_mut().map(wait)) => None,
            after = settled_memory(bench) => after,
        };
        Ok(before.zip(after))
    };
    tokio::select! {
        _ = join_all(first.iter_mut().map(wait)) => Ok(None),
        both = both => both,
    }
}

async fn settled_memory(bench: &Bench) -> Option<u64> {
    sleep(SETTLE).await;
    bench.meter.server_memory()
}

/// Waits for what is new until the server fails.
async fn wait(waiter: &mut Listener) {
    while waiter.next().await.is_ok() {}
}

async fn first_syncs(bench: &Bench, clients: &[Client], door: Door) -> Result<Vec<Listener>, ClientError> {
    bench.progress.begin("syncing", clients.len() as u64);
    let sync = async |client: &Client| {
        let listener = Listener::begin(client, door, None, POLL_MS).await;
        bench.progress.step();
        listener
    };
    stream::iter(clients)
        .map(sync)
        .buffered(PREPARING)
        .try_collect()
        .await
}
