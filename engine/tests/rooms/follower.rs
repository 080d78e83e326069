//! The follower of the log: whatever the tail does, memory ends as a new engine would read it from the tables.

use std::{fmt, sync::Mutex};

use futures_util::future::join_all;
use hearth_engine::users;
use hearth_storage::log::{InProcessTail, TailMessage, TailReceiver};

use super::*;
use crate::{
    dice::Dice,
    people::{Cast, World},
};

/// Loses, doubles, delays and swaps messages.
struct UnreliableTail {
    inner: InProcessTail,
    dice: Mutex<Dice>,
    late: Mutex<Vec<TailMessage>>,
}

impl fmt::Debug for UnreliableTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnreliableTail")
    }
}

impl LogTail for UnreliableTail {
    fn publish(&self, message: TailMessage) {
        let mut late = self.late.lock().unwrap();
        match self.dice.lock().unwrap().roll(8) {
            0 => {}
            1 => late.push(message),
            2 => {
                self.inner.publish(message.clone());
                self.inner.publish(message);
            }
            3 => {
                self.inner.publish(message);
                late.drain(..)
                    .rev()
                    .for_each(|message| self.inner.publish(message));
            }
            _ => self.inner.publish(message),
        }
    }

    fn subscribe(&self) -> TailReceiver {
        self.inner.subscribe()
    }
}

/// Everything that can be asked of an engine, by everyone: it must be the same of one that followed and one that is new.
async fn account_of(
    engine: &Arc<Engine>,
    cast: &Cast,
    world: &World,
    tokens: &[String],
) -> Vec<(String, Value)> {
    let mut account = Vec::new();
    for device in cast.devices.iter().map(|devices| &devices[0]) {
        let user = users::load(engine, device.user_nid).await.unwrap();
        let mut rooms: Vec<_> = user.rooms.iter().collect();
        rooms.sort_by_key(|(room_nid, _)| **room_nid);
        account.push((
            format!("{}", device.user_id),
            json!(format!("{rooms:?} {:?} {:?}", user.newest, user.account_data)),
        ));
        for room_id in &world.rooms {
            let who = format!("{} in {room_id}", device.user_id);
            let state = state_ids(engine, device, room_id)
                .await
                .map(|state| format!("{state:?}"));
            account.push((format!("state of {who}"), json!(state)));
            let history = history(engine, device, room_id, 30)
                .await
                .map(|events| ageless(json!(events)));
            account.push((format!("history of {who}"), json!(history)));
        }
        for (limit, since) in tokens
            .iter()
            .enumerate()
            .map(|(limit, token)| (1 + limit * 3, Some(&**token)))
            .chain([(5, None)])
        {
            let filter = json!({ "room": { "timeline": { "limit": limit } } });
            let mut synced = sync_json(engine, device, since, filter, |_| ()).await.unwrap();
            // It ends in what typing stands at, which each run of a server counts for itself.
            let next = synced["next_batch"]
                .as_str()
                .unwrap()
                .split('_')
                .take(2)
                .collect::<Vec<_>>()
                .join("_");
            synced["next_batch"] = json!(next);
            account.push((
                format!("sync of {} since {since:?}", device.user_id),
                ageless(synced),
            ));
        }
    }
    account
}

/// Without what depends on when one asks, and in an order where there is none.
fn ageless(mut value: Value) -> Value {
    match &mut value {
        Value::Object(object) => {
            object.remove("age");
            for (key, value) in object.iter_mut() {
                *value = ageless(value.take());
                if let ("state" | "account_data", Some(events)) = (
                    key.as_str(),
                    value.get_mut("events").and_then(Value::as_array_mut),
                ) {
                    events.sort_by_key(Value::to_string);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| *value = ageless(value.take())),
        _ => {}
    }
    value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_tail_does_memory_ends_as_the_tables_are() {
    for seed in 1..=2 {
        let inner = InProcessTail::new(64);
        let tail = Arc::new(UnreliableTail {
            inner,
            dice: Mutex::new(Dice::new(seed)),
            late: Mutex::default(),
        });
        let mut server = Server::with_tail(tail).await;
        let cast = Cast::new(&server).await;
        let mut dice = Dice::new(seed + 50);
        let mut world = World::default();
        for _ in 0..3 {
            world.create(&server.engine, &cast, &mut dice).await;
        }
        let mut tokens = Vec::new();
        for _ in 0..3 {
            // Those who work side by side seldom have to wait until a lost message is missed.
            let plans: Vec<Vec<_>> = (0..8)
                .map(|_| (0..8).map(|_| world.plan(&mut dice)).collect())
                .collect();
            let (engine, present, people) = (&server.engine, &world, &cast);
            let acted = plans.iter().map(|deeds| async move {
                let mut made = Vec::new();
                for deed in deeds {
                    made.push((deed.clone(), present.act(engine, people, deed).await));
                }
                made
            });
            for (deed, event_id) in join_all(acted).await.into_iter().flatten() {
                event_id
                    .into_iter()
                    .for_each(|event_id| world.remember(&deed, event_id));
            }
            let head = server.engine.log.head();
            tokens.push(format!("h{}_{}", head.generation, head.position));
        }
        until("memory is at the end", async || {
            server.engine.log.head().position == server.log_end().await.1
        })
        .await;
        tokens.truncate(3);
        let followed = account_of(&server.engine, &cast, &world, &tokens).await;
        let fresh = server.another_engine().await;
        let read = account_of(&fresh, &cast, &world, &tokens).await;
        for (followed, read) in followed.iter().zip(&read) {
            assert_eq!(followed.0, read.0);
            assert!(
                followed.1 == read.1,
                "seed {seed}: {}\n{:#}\n{:#}",
                followed.0,
                followed.1,
                read.1
            );
        }
        server
            .truth()
            .await
            .rooms
            .values()
            .for_each(truth::TrueRoom::check);
        server.engine.shutdown.cancel();
        server.engine = fresh;
        server.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_client_hears_of_everything_in_spite_of_the_tail() {
    let inner = InProcessTail::new(64);
    let tail = Arc::new(UnreliableTail {
        inner,
        dice: Mutex::new(Dice::new(3)),
        late: Mutex::default(),
    });
    let server = Server::with_tail(tail).await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room_id = server.room(&alice).await;
    server.join(&bob, &room_id).await;
    let filter = || json!({ "room": { "timeline": { "limit": 50 } } });
    let first = sync_json(&server.engine, &bob, None, filter(), |_| ())
        .await
        .unwrap();
    let mut since = first["next_batch"].as_str().unwrap().to_owned();
    let says = async {
        let said = (0..5).map(|sender| {
            let (server, alice, room_id) = (&server, &alice, &room_id);
            async move {
                let mut said = Vec::new();
                for number in 0..8 {
                    said.push(
                        server
                            .say(alice, room_id, &format!("{sender} {number}"))
                            .await
                            .to_string(),
                    );
                }
                said
            }
        });
        join_all(said).await.concat()
    };
    let hears = async {
        let mut heard = Vec::new();
        while heard.len() < 40 {
            let synced = sync_json(&server.engine, &bob, Some(&since), filter(), |request| {
                request.timeout = PATIENCE
            });
            let synced = synced.await.unwrap();
            since = synced["next_batch"].as_str().unwrap().to_owned();
            let timeline = &synced["rooms"]["join"][room_id.as_str()]["timeline"];
            assert_eq!(timeline["limited"], false);
            heard.extend(ids_of(timeline["events"].as_array().unwrap()));
        }
        heard
    };
    let (mut said, mut heard) = within(PATIENCE, async { tokio::join!(says, hears) }).await;
    said.sort();
    heard.sort();
    assert_eq!(said, heard);
    server.end().await;
}
