//! Syncs of a user in many rooms: the first one of a new device, and one of a client that is a little behind.

use std::cell::RefCell;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use super::{Bench, KIB, PREPARING, ScenarioError};
use crate::{
    client::{Client, ClientError, SyncRequest, Synced},
    measure::{Limit, closed_loop},
    outcome::Outcome,
    text::message,
};

/// The same work for every server, whatever its defaults.
const FILTER: &str = r#"{"room":{"timeline":{"limit":10}}}"#;
/// By how many messages the client of the later sync is behind at most.
const BEHIND: usize = 10;

pub async fn run(bench: &Bench) -> Result<Vec<Outcome>, ScenarioError> {
    let mut outcomes = Vec::new();
    for rooms in &bench.sizes.sync_rooms {
        outcomes.extend(of_size(bench, *rooms).await?);
    }
    Ok(outcomes)
}

async fn of_size(bench: &Bench, rooms: u64) -> Result<[Outcome; 2], ScenarioError> {
    let mut clients = bench.accounts.register(1, &bench.progress).await?;
    let room_ids = rooms_of(bench, &clients[0], rooms).await?;
    let first = first_sync(bench, &clients[0], rooms).await?;
    let later = later_sync(bench, &mut clients[0], &room_ids).await?;
    Ok([first, later])
}

/// Makes rooms with a name and a few messages.
async fn rooms_of(bench: &Bench, client: &Client, rooms: u64) -> Result<Vec<String>, ClientError> {
    bench.progress.begin("making rooms", rooms);
    let make = async |number: u64| {
        let mut client = client.sibling();
        let mut request = bench.room("private_chat");
        request["name"] = json!(format!("Room {number}"));
        let room_id = client.create_room(&request).await?;
        for message_number in 0..bench.sizes.sync_messages {
            client
                .send_text(&room_id, &message(message_number, bench.sizes.message_bytes))
                .await?;
        }
        bench.progress.step();
        Ok(room_id)
    };
    stream::iter(0..rooms)
        .map(make)
        .buffered(PREPARING)
        .try_collect()
        .await
}

/// Each on a device of its own: a server may keep its answer for a client that asks again.
async fn first_sync(bench: &Bench, client: &Client, rooms: u64) -> Result<Outcome, ScenarioError> {
    let syncs = bench.sizes.syncs;
    let mut devices = bench
        .accounts
        .devices(client.user_id(), syncs as usize + 1)
        .await?;
    // One that isn't counted, to see that the answer is whole. It warms the server's caches too.
    if let Some(mut device) = devices.pop() {
        let body = device
            .sync(SyncRequest {
                filter: Some(FILTER),
                ..SyncRequest::default()
            })
            .await?;
        let got = Synced::read(&body)?.rooms();
        if got as u64 != rooms {
            return Err(ScenarioError::WrongSync {
                got,
                expected: rooms as usize,
            });
        }
    }
    let devices = RefCell::new(devices);
    let bytes = RefCell::new(Vec::new());
    let sync = async |_: &mut (), _| {
        let device = devices.borrow_mut().pop();
        if let Some(mut device) = device {
            let request = SyncRequest {
                filter: Some(FILTER),
                ..SyncRequest::default()
            };
            let length = device.sync(request).await?.len();
            bytes.borrow_mut().push(length);
        }
        Ok(())
    };
    let limit = Limit {
        operations: syncs,
        ..bench.limit()
    };
    let begin = bench.meter.begin().await?;
    let load = closed_loop(&mut [()], limit, &bench.progress, sync).await;
    let costs = bench.meter.end(begin, load.latencies.len()).await?;
    let size = bytes.borrow().first().map(|bytes| *bytes as f64 / KIB);
    let outcome = Outcome::of_load(
        format!("initial-sync-{rooms}"),
        format!("{rooms} rooms"),
        load,
        costs,
    );
    Ok(outcome.with("KiB an answer", size))
}

/// The last few messages of one room, over and over from different tokens. Nothing else happens meanwhile.
async fn later_sync(
    bench: &Bench,
    client: &mut Client,
    room_ids: &[String],
) -> Result<Outcome, ScenarioError> {
    let mut tokens = Vec::with_capacity(BEHIND);
    for number in 0..BEHIND as u64 {
        let since = tokens.last().map(String::as_str);
        let body = client
            .sync(SyncRequest {
                since,
                filter: Some(FILTER),
                timeout_ms: 0,
            })
            .await?;
        tokens.push(Synced::read(&body)?.next_batch.into_owned());
        client
            .send_text(&room_ids[0], &message(number, bench.sizes.message_bytes))
            .await?;
    }
    let sync = async |client: &mut Client, number: u64| {
        let request = SyncRequest {
            since: Some(&tokens[number as usize % BEHIND]),
            // Never waited for, and another at each request: a server may keep its answer to the same one.
            timeout_ms: number + 1,
            filter: Some(FILTER),
        };
        client.sync(request).await.map(drop)
    };
    let mut one = [client.sibling()];
    let begin = bench.meter.begin().await?;
    let load = closed_loop(&mut one, bench.limit(), &bench.progress, sync).await;
    let costs = bench.meter.end(begin, load.latencies.len()).await?;
    let what = format!("{} rooms, up to {BEHIND} messages behind in one", room_ids.len());
    Ok(Outcome::of_load(
        format!("incremental-sync-{}", room_ids.len()),
        what,
        load,
        costs,
    ))
}
