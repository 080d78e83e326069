//! Users going on and off in shared rooms, and others who see it. An open loop, as with delivery: changes are due at a
//! steady rate, each by another user, and a latency counts from when its change was due.

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
    client::{Client, Synced},
    listener::{Door, Listener},
    measure::{Latencies, Load},
    outcome::Outcome,
};

const POLL_MS: u64 = 10_000;
/// How long what changed may still arrive after the last change.
const GRACE: Duration = Duration::from_secs(5);
/// Nothing else is wanted.
const FILTER: &str = r#"{"room":{"rooms":[]},"account_data":{"not_types":["*"]}}"#;

/// What is under way.
#[derive(Default)]
struct Traffic {
    /// When each change was due, by its number, which is the user's message.
    due: RefCell<HashMap<u64, Instant>>,
    arrivals: RefCell<Latencies>,
    failed: Cell<u64>,
    first_failure: RefCell<Option<String>>,
}

impl Traffic {
    fn note_failure(&self, error: &dyn std::fmt::Display) {
        self.first_failure
            .borrow_mut()
            .get_or_insert_with(|| error.to_string());
    }
}

pub async fn run(bench: &Bench) -> Result<Vec<Outcome>, ScenarioError> {
    let sizes = &bench.sizes;
    let (room, watchers) = (sizes.presence_members as usize, sizes.presence_watchers as usize);
    let mut users = bench
        .accounts
        .register(sizes.presence_users as usize, &bench.progress)
        .await?;
    let mut listeners = Vec::new();
    for members in users.chunks_mut(room) {
        bench.room_of(members).await?;
        for watcher in members.iter().take(watchers) {
            listeners.push(Listener::begin(watcher, Door::Polls, Some(FILTER), POLL_MS).await?);
        }
    }
    let changes = ((sizes.presence_rate as f64 * sizes.seconds) as u64)
        .min(sizes.operations)
        .max(1);
    let begin = bench.meter.begin().await?;
    let traffic = Traffic::default();
    let expected: u64 = (0..changes)
        .map(|number| watching(number, users.len(), room, watchers))
        .sum();
    bench.progress.begin("going on and off", expected);
    let elapsed = {
        let listening = join_all(listeners.iter_mut().map(|one| listen(bench, one, &traffic)));
        tokio::select! {
            elapsed = change_all(bench, &mut users, changes, expected, &traffic) => elapsed,
            _ = listening.then(|_| pending::<()>()) => Duration::ZERO,
        }
    };
    let costs = bench.meter.end(begin, changes).await?;
    let arrived = traffic.arrivals.borrow().len();
    let load = Load {
        failed: expected.saturating_sub(arrived),
        first_failure: traffic.first_failure.take(),
        latencies: traffic.arrivals.take(),
        elapsed,
    };
    let what = format!(
        "{} users on and off, {} a second, rooms of {room}, {watchers} watch each",
        users.len(),
        sizes.presence_rate
    );
    let outcome = Outcome::of_load("presence", what, load, costs);
    // The costs are of a change with all that comes of it.
    let done = changes.saturating_sub(traffic.failed.get());
    let per_second = Some(done as f64 / outcome.seconds.max(1e-9));
    Ok(vec![Outcome {
        operations: done,
        per_second,
        ..outcome
    }])
}

/// How many watch the user of a change, who may be one of them: they see themselves.
fn watching(number: u64, users: usize, room: usize, watchers: usize) -> u64 {
    let index = number as usize % users;
    let members = (users - index / room * room).min(room);
    members.min(watchers) as u64
}

async fn change_all(
    bench: &Bench,
    users: &mut [Client],
    changes: u64,
    expected: u64,
    traffic: &Traffic,
) -> Duration {
    // The first long polls are there before the first change.
    let start = Instant::now() + Duration::from_millis(500);
    let rate = bench.sizes.presence_rate as f64;
    let count = users.len();
    let changing = users
        .iter_mut()
        .zip(0..)
        .map(async |(user, first): (&mut Client, u64)| {
            for (round, number) in (first..changes).step_by(count).enumerate() {
                let due = start + Duration::from_secs_f64(number as f64 / rate);
                sleep_until(TokioInstant::from_std(due)).await;
                traffic.due.borrow_mut().insert(number, due);
                let state = ["online", "unavailable"][round % 2];
                if let Err(error) = user.set_presence(state, &format!("{number:x}")).await {
                    traffic.failed.set(traffic.failed.get() + 1);
                    traffic.note_failure(&error);
                }
            }
        });
    join_all(changing).await;
    let last = Instant::now();
    while traffic.arrivals.borrow().len() < expected && last.elapsed() < GRACE {
        sleep(Duration::from_millis(20)).await;
    }
    last.saturating_duration_since(start)
}

async fn listen(bench: &Bench, listener: &mut Listener, traffic: &Traffic) {
    loop {
        let heard = listener.next().await;
        let now = Instant::now();
        let read = heard.and_then(|body| {
            for message in Synced::read(&body)?.status_messages() {
                let number = u64::from_str_radix(message, 16).ok();
                let due = number.and_then(|number| traffic.due.borrow().get(&number).copied());
                if let Some(due) = due {
                    let latency = now.saturating_duration_since(due);
                    traffic.arrivals.borrow_mut().record(latency);
                    bench.progress.step();
                }
            }
            Ok(())
        });
        if let Err(error) = read {
            traffic.note_failure(&error);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::watching;

    #[test]
    fn whoever_watches_a_room_watches_all_of_its_members() {
        // Rooms of 4, 4 and 2.
        assert_eq!(watching(0, 10, 4, 3), 3);
        assert_eq!(watching(7, 10, 4, 5), 4);
        assert_eq!(watching(8, 10, 4, 3), 2);
        assert_eq!(watching(19, 10, 4, 3), 2);
    }
}
