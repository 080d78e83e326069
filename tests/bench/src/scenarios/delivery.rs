//! From a send to the other members, by long polls or on WebSockets. An open loop: messages are due at a steady rate, however slow the
//! server is, and a latency counts from when its message was due.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{join_all, pending},
};
use tokio::time::{Instant as TokioInstant, sleep, sleep_until};

use super::{Bench, ScenarioError};
use crate::{
    client::{Client, ClientError, Synced},
    listener::{Door, Listener},
    measure::{Latencies, Load},
    outcome::Outcome,
    text::message,
};

/// How long a member waits in one poll.
const POLL_MS: u64 = 10_000;
/// How long what was sent may still arrive after the last send.
const GRACE: Duration = Duration::from_secs(5);
/// Only what comes of the messages themselves: joins are over.
const FILTER: &str = r#"{"room":{"timeline":{"limit":50}}}"#;

/// A room, with one who sends and others who listen.
struct Room {
    id: String,
    sender: Client,
    listeners: Vec<Listener>,
}

/// What is under way at one rate.
struct Traffic {
    /// When each message was due, by its number.
    due: RefCell<HashMap<u64, Instant>>,
    arrivals: RefCell<Latencies>,
    failed_sends: Cell<u64>,
    first_failure: RefCell<Option<String>>,
}

pub async fn run(bench: &Bench, door: Door) -> Result<Vec<Outcome>, ScenarioError> {
    if !bench.has(door).await? {
        return Ok(Vec::new());
    }
    let mut rooms = rooms(bench, door).await?;
    let mut outcomes = Vec::new();
    let mut first_number = 0;
    for rate in &bench.sizes.delivery_rates {
        let messages = ((*rate as f64 * bench.sizes.seconds) as u64)
            .min(bench.sizes.operations)
            .max(1);
        let outcome = at_rate(bench, &mut rooms, *rate, first_number, messages).await?;
        let (name, on) = match door {
            Door::Polls => ("delivery", ""),
            Door::Socket => ("push", ", on WebSockets"),
        };
        outcomes.push(Outcome {
            name: format!("{name}-{rate}"),
            what: format!("{}{on}", outcome.what),
            ..outcome
        });
        first_number += messages;
    }
    Ok(outcomes)
}

async fn rooms(bench: &Bench, door: Door) -> Result<Vec<Room>, ClientError> {
    let mut rooms = Vec::new();
    for _ in 0..bench.sizes.delivery_rooms {
        let members = bench.sizes.delivery_members as usize;
        let mut clients = bench.accounts.register(members, &bench.progress).await?;
        let id = bench.room_of(&mut clients).await?;
        let sender = clients.swap_remove(0);
        let mut listeners = Vec::new();
        for client in clients {
            listeners.push(Listener::begin(&client, door, Some(FILTER), POLL_MS).await?);
        }
        rooms.push(Room {
            id,
            sender,
            listeners,
        });
    }
    Ok(rooms)
}

async fn at_rate(
    bench: &Bench,
    rooms: &mut [Room],
    rate: u64,
    first_number: u64,
    messages: u64,
) -> Result<Outcome, ScenarioError> {
    let traffic = Traffic {
        due: RefCell::default(),
        arrivals: RefCell::default(),
        failed_sends: Cell::new(0),
        first_failure: RefCell::default(),
    };
    let (count, listening) = (
        rooms.len(),
        rooms.iter().map(|room| room.listeners.len()).sum::<usize>() / rooms.len(),
    );
    let expected = messages * listening as u64;
    bench.progress.begin("delivering", expected);
    let mut senders = Vec::new();
    let mut listeners = Vec::new();
    for room in rooms.iter_mut() {
        senders.push((&room.id, &mut room.sender));
        listeners.extend(room.listeners.iter_mut());
    }
    let begin = bench.meter.begin().await?;
    // The first long polls are there before the first message.
    let start = Instant::now() + Duration::from_millis(500);
    let due = |number: u64| start + Duration::from_secs_f64(number as f64 / rate as f64);
    let sends = senders.into_iter().zip(0..).map(|((room_id, client), first)| {
        let numbers = (first..messages).step_by(count);
        let traffic = &traffic;
        async move {
            for number in numbers {
                let due = due(number);
                sleep_until(TokioInstant::from_std(due)).await;
                traffic.due.borrow_mut().insert(first_number + number, due);
                let text = message(first_number + number, bench.sizes.message_bytes);
                if let Err(error) = client.send_text(room_id, &text).await {
                    traffic.failed_sends.set(traffic.failed_sends.get() + 1);
                    traffic
                        .first_failure
                        .borrow_mut()
                        .get_or_insert_with(|| error.to_string());
                }
            }
        }
    });
    let arrived = || traffic.arrivals.borrow().len();
    let all = async {
        join_all(sends).await;
        let last = Instant::now();
        while arrived() < expected && last.elapsed() < GRACE {
            sleep(Duration::from_millis(20)).await;
        }
        last - start
    };
    // A listener ends only when the server answers it with an error. The sends go on all the same.
    let listening = join_all(
        listeners
            .into_iter()
            .map(|listener| listen(bench, listener, &traffic)),
    );
    let elapsed = tokio::select! {
        elapsed = all => elapsed,
        _ = listening.then(|_| pending::<()>()) => Duration::ZERO,
    };
    let costs = bench.meter.end(begin, messages).await?;
    let load = Load {
        failed: expected.saturating_sub(arrived()),
        first_failure: traffic.first_failure.take(),
        latencies: traffic.arrivals.take(),
        elapsed,
    };
    let what = format!(
        "{rate} sends/s over {count} rooms of {} members",
        bench.sizes.delivery_members
    );
    let outcome = Outcome::of_load("", what, load, costs);
    // The costs are of a send with all that comes of it.
    let sent = messages.saturating_sub(traffic.failed_sends.get());
    let per_second = Some(sent as f64 / outcome.seconds.max(1e-9));
    Ok(Outcome {
        operations: sent,
        per_second,
        ..outcome
    })
}

async fn listen(bench: &Bench, listener: &mut Listener, traffic: &Traffic) {
    loop {
        let synced = listener.next().await;
        let now = Instant::now();
        let read = synced.and_then(|body| {
            let synced = Synced::read(&body)?;
            for text in synced.texts() {
                let number = text
                    .split(' ')
                    .next()
                    .and_then(|number| u64::from_str_radix(number, 16).ok());
                let due = number.and_then(|number| traffic.due.borrow().get(&number).copied());
                if let Some(due) = due {
                    traffic
                        .arrivals
                        .borrow_mut()
                        .record(now.saturating_duration_since(due));
                    bench.progress.step();
                }
            }
            Ok(())
        });
        if let Err(error) = read {
            traffic
                .first_failure
                .borrow_mut()
                .get_or_insert_with(|| error.to_string());
            return;
        }
    }
}
