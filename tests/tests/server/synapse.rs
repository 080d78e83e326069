//! Hearth beside a real Synapse: rooms shared as if the two were one. What is said of one side holds of the other, so
//! that nearly every scenario is played twice, with the parts exchanged.
//!
//! Starting a Synapse takes seconds. A test here is a set of scenarios that are played at the same time with one pair of
//! servers; it fails when one of them does, and names all that did.

mod catching_up;
mod contents;
mod encryption;
mod events;
mod history;
mod killed;
mod members;
mod people;
mod rooms;
mod split;

use std::{collections::BTreeSet, future::Future, pin::Pin, sync::Arc};

use hearth_tests::{Authority, Client, Server, Synapse, encoded, event_ids, is_joined, until, until_ok};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

/// A Hearth and a Synapse that trust each other's certificates.
struct Pair {
    hearth: Server,
    synapse: Synapse,
    authority: Authority,
}

impl Pair {
    async fn start() -> Self {
        let authority = Authority::new();
        let (hearth, synapse) = tokio::join!(Server::start_federated(&authority), Synapse::start(&authority));
        Self {
            hearth,
            synapse,
            authority,
        }
    }

    fn hearth(&self) -> Side {
        Side::of(self.hearth.name(), self.hearth.anonymous())
    }

    fn synapse(&self) -> Side {
        Side::of(self.synapse.name(), self.synapse.anonymous())
    }

    /// Host and guest, both ways round.
    fn both_ways(&self) -> [(Side, Side); 2] {
        [(self.hearth(), self.synapse()), (self.synapse(), self.hearth())]
    }
}

/// One of the servers, as its users see it.
struct Side {
    name: String,
    anonymous: Client,
}

impl Side {
    fn of(name: &str, anonymous: &Client) -> Self {
        Self {
            name: name.to_owned(),
            anonymous: anonymous.with_token(None),
        }
    }

    fn is_hearth(&self) -> bool {
        self.name.starts_with("localhost")
    }

    async fn register(&self, username: &str) -> Client {
        self.anonymous
            .session_of(&self.anonymous.register(username).await.ok())
    }
}

type Playing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Scenarios that are played at the same time; only those that have `HEARTH_TEST_SCENARIO` in their names, if that is set.
#[derive(Default)]
struct Scenarios(Vec<(String, Playing)>);

impl Scenarios {
    fn add(&mut self, name: impl Into<String>, scenario: impl Future<Output = ()> + Send + 'static) {
        let name = name.into();
        if std::env::var("HEARTH_TEST_SCENARIO").is_ok_and(|wanted| !name.contains(&wanted)) {
            return;
        }
        self.0.push((name, Box::pin(scenario)));
    }

    /// Plays `scenario` with either as the host.
    fn both_ways<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        pair: &Pair,
        name: &str,
        scenario: impl Fn(Side, Side) -> F,
    ) {
        for (host, guest) in pair.both_ways() {
            let who = if host.is_hearth() { "Hearth" } else { "Synapse" };
            self.add(format!("{name}, on {who}"), scenario(host, guest));
        }
    }

    /// Plays all of them to their ends.
    ///
    /// # Panics
    ///
    /// When one of them did.
    async fn play(self) {
        let mut tasks = JoinSet::new();
        for (name, scenario) in self.0 {
            tasks.spawn(async move {
                let began = Instant::now();
                let ended = tokio::spawn(scenario).await;
                (name, began.elapsed(), ended)
            });
        }
        let mut failed = Vec::new();
        while let Some(played) = tasks.join_next().await {
            let (name, took, ended) = played.expect("the frame of a scenario does not fail");
            if ended.is_err() {
                failed.push(format!("{name} (after {took:.1?})"));
            }
        }
        assert!(failed.is_empty(), "failed: {failed:#?}");
    }
}

/// Joins a room that another server is in.
async fn join_via(client: &Client, room: &str, via: &Side) {
    let path = format!("/v3/join/{}?via={}", encoded(room), encoded(&via.name));
    client.post(&path, json!({})).await.ok();
    client.sync_until(is_joined(room)).await;
}

/// Waits until `observer` sees `user` with a membership.
async fn is_seen_as(observer: &Client, room: &str, user: &Client, membership: &str) {
    until(&format!("{} is seen as {membership}", user.user_id), || async {
        (observer.memberships(room).await[&user.user_id] == membership).then_some(())
    })
    .await;
}

/// The state of a room: type, key and event ID of each.
async fn state_of(client: &Client, room: &str) -> BTreeSet<String> {
    let state = client.get(&format!("/v3/rooms/{room}/state")).await.ok();
    let events = state.as_array().cloned().unwrap_or_default();
    let line = |event: &Value| format!("{} {} {}", event["type"], event["state_key"], event["event_id"]);
    events.iter().map(line).collect()
}

/// Waits until both servers have the same state of a room.
#[track_caller]
fn same_state<'a>(one: &'a Client, other: &'a Client, room: &'a str) -> impl Future<Output = ()> + 'a {
    until_ok(move || async move {
        let (ours, theirs) = tokio::join!(state_of(one, room), state_of(other, room));
        let only = |some: &BTreeSet<String>, others: &BTreeSet<String>| -> Vec<String> {
            some.difference(others).cloned().collect()
        };
        match ours == theirs {
            true => Ok(()),
            false => Err(format!(
                "the state of {room} is the same: {} has {:#?}, {} has {:#?}",
                one.user_id,
                only(&ours, &theirs),
                other.user_id,
                only(&theirs, &ours)
            )),
        }
    })
}

/// Waits until paging shows `reader` all of `wanted`: the IDs of all events there are, newest first, none twice.
#[track_caller]
fn has_all<'a>(
    reader: &'a Client,
    room: &'a str,
    wanted: &'a [String],
) -> impl Future<Output = Vec<String>> + 'a {
    until_ok(move || async move {
        let events = reader.page_through(room, "b", 100, None).await;
        let ids = event_ids(&Value::from(events));
        let distinct: BTreeSet<&String> = ids.iter().collect();
        assert_eq!(
            distinct.len(),
            ids.len(),
            "{} was shown an event twice",
            reader.user_id
        );
        let missing: Vec<&String> = wanted.iter().filter(|id| !distinct.contains(id)).collect();
        match missing.first() {
            None => Ok(ids),
            Some(first) => Err(format!(
                "{} has all of {room}: {} of {} events are missing, {first} the first of them",
                reader.user_id,
                missing.len(),
                wanted.len(),
            )),
        }
    })
}

/// A room of both: of `host`'s user, which `guest`'s has joined; both see it.
async fn shared_room(alice: &Client, bob: &Client, host: &Side, parameters: Value) -> String {
    let room = alice.create_room(parameters).await.room_id();
    join_via(bob, &room, host).await;
    is_seen_as(alice, &room, bob, "join").await;
    room
}

/// `count` texts of a user, by `at_once` of them at a time: the event IDs.
async fn send_many(client: Arc<Client>, room: String, count: usize, at_once: usize) -> Vec<String> {
    let mut senders = JoinSet::new();
    for _ in 0..at_once {
        let (client, room) = (Arc::clone(&client), room.clone());
        senders.spawn(async move { client.send_texts(&room, count / at_once).await });
    }
    senders.join_all().await.concat()
}
