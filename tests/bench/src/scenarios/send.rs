//! Send throughput: how many messages the server takes, and what each costs.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Bench, ScenarioError};
use crate::{
    client::{Client, ClientError},
    measure::{Limit, closed_loop},
    outcome::Outcome,
    text::message,
};

/// Messages each sender sends before anything counts: connections, caches and room heads are warm then.
const WARM_UP: u64 = 5;

/// A user and the room to send to.
struct Sender {
    client: Client,
    room_id: String,
}

pub async fn one_at_a_time(bench: &Bench) -> Result<Vec<Outcome>, ScenarioError> {
    let senders = in_own_rooms(bench, 1).await?;
    measure(
        bench,
        "send-one-at-a-time",
        "1 sender, 1 room".to_owned(),
        senders,
    )
    .await
}

pub async fn many_rooms(bench: &Bench) -> Result<Vec<Outcome>, ScenarioError> {
    let count = bench.sizes.senders;
    let senders = in_own_rooms(bench, count).await?;
    measure(
        bench,
        "send-many-rooms",
        format!("{count} senders, {count} rooms"),
        senders,
    )
    .await
}

pub async fn one_room(bench: &Bench) -> Result<Vec<Outcome>, ScenarioError> {
    let count = bench.sizes.senders;
    let mut clients = bench.accounts.register(count as usize, &bench.progress).await?;
    let room_id = bench.room_of(&mut clients).await?;
    let senders = clients
        .into_iter()
        .map(|client| Sender {
            client,
            room_id: room_id.clone(),
        })
        .collect();
    measure(
        bench,
        "send-one-room",
        format!("{count} senders, 1 room"),
        senders,
    )
    .await
}

async fn in_own_rooms(bench: &Bench, count: u64) -> Result<Vec<Sender>, ClientError> {
    let clients = bench.accounts.register(count as usize, &bench.progress).await?;
    let request = bench.room("public_chat");
    stream::iter(clients)
        .map(async |mut client| {
            let room_id = client.create_room(&request).await?;
            Ok(Sender { client, room_id })
        })
        .buffered(4)
        .try_collect()
        .await
}

async fn measure(
    bench: &Bench,
    name: &str,
    what: String,
    mut senders: Vec<Sender>,
) -> Result<Vec<Outcome>, ScenarioError> {
    let bytes = bench.sizes.message_bytes;
    let send = async |sender: &mut Sender, number| {
        sender
            .client
            .send_text(&sender.room_id, &message(number, bytes))
            .await
    };
    let warm_up = Limit {
        operations: senders.len() as u64 * WARM_UP,
        time: Duration::from_secs(30),
    };
    closed_loop(&mut senders, warm_up, &bench.progress, send).await;
    let begin = bench.meter.begin().await?;
    let load = closed_loop(&mut senders, bench.limit(), &bench.progress, send).await;
    let costs = bench.meter.end(begin, load.latencies.len()).await?;
    Ok(vec![Outcome::of_load(name, what, load, costs)])
}
