//! Two thousand clients that all lose their server at once, and come back at once: each is told every message, in its
//! turn, once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use hearth_tests::{Client, HearthProcess, Ledger, Socket, public_chat, within};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Duration, MissedTickBehavior, interval, sleep},
};

const CLIENTS: usize = 2_000;
const ROOMS: usize = 4;
const USERS: usize = 40;
/// Between two messages of a room: each goes to five hundred clients, of a server that was built to be debugged.
const PACE: Duration = Duration::from_millis(500);
/// Before somebody who was refused comes again.
const PAUSE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(180);
const END: &str = "the end";

/// What a client does while the server lives for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It confirms what it is told.
    Prompt,
    /// It reads, and confirms nothing.
    Unconfirming,
    /// It stops reading, and its connection looks open.
    HalfOpen,
}

struct Storm {
    /// How often the server has been started.
    life: watch::Sender<usize>,
    /// How often a client was told something on a new connection.
    arrivals: AtomicUsize,
}

impl Storm {
    /// Follows a room until its last message, over as many connections as it takes.
    async fn follow(&self, user: &Client, room: &str, manner: Manner) -> Ledger {
        let (mut ledger, mut pos) = (Ledger::default(), None::<String>);
        let filter = json!({ "room": { "timeline": { "limit": 1_000 } } });
        let mut life = self.life.subscribe();
        loop {
            let now = *life.borrow_and_update();
            let Some(mut socket) = Socket::connect_if_up(user).await else {
                sleep(PAUSE).await;
                continue;
            };
            let sync = json!({ "op": "sync", "since": pos, "filter": filter });
            let mut is_up = socket.try_say(sync).await;
            let mut is_first = true;
            while is_up && let Ok(frame) = socket.hear().await {
                if frame["op"] != "sync" {
                    continue;
                }
                ledger.enter(&frame["data"]);
                pos = socket.pos.clone();
                if std::mem::take(&mut is_first) {
                    self.arrivals.fetch_add(1, Ordering::Relaxed);
                }
                if ledger.bodies(room).last().is_some_and(|body| body == END) {
                    return ledger;
                }
                match manner {
                    Manner::HalfOpen if now == 1 => {
                        life.changed().await.expect("the storm goes on");
                        is_up = false;
                    }
                    Manner::Unconfirming if now == 1 => {}
                    _ => is_up = socket.try_say(json!({ "op": "ack", "pos": pos })).await,
                }
            }
        }
    }

    /// Waits until all clients were told something on so many connections each.
    async fn arrived(&self, times: usize) {
        within(PATIENCE, "all clients are back", async {
            while self.arrivals.load(Ordering::Relaxed) < CLIENTS * times {
                sleep(PAUSE).await;
            }
        })
        .await;
    }
}

/// Says numbers in a room until told to stop, each until it is acknowledged: how many.
async fn count_aloud(user: Arc<Client>, room: String, stop: watch::Receiver<bool>) -> usize {
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    while !*stop.borrow() {
        ticks.tick().await;
        user.send_over_outages(&room, &number.to_string()).await;
        number += 1;
    }
    user.send_over_outages(&room, END).await;
    number
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_clients_come_through_a_kill_and_a_restart() {
    let mut hearth = HearthProcess::start().await;
    let alice = Arc::new(hearth.register("alice").await);
    let mut rooms = Vec::new();
    for _ in 0..ROOMS {
        rooms.push(alice.create_room(public_chat()).await.room_id());
    }
    let mut users = Vec::new();
    for number in 0..USERS {
        let user = hearth.register(&format!("user{number}")).await;
        user.join(&rooms[number % ROOMS]).await.ok();
        users.push(Arc::new(user));
    }

    let storm = Arc::new(Storm {
        life: watch::Sender::new(1),
        arrivals: AtomicUsize::new(0),
    });
    let stop = watch::Sender::new(false);
    let counting = rooms
        .iter()
        .map(|room| tokio::spawn(count_aloud(Arc::clone(&alice), room.clone(), stop.subscribe())));
    let counting: Vec<_> = counting.collect();
    let clients = (0..CLIENTS).map(|number| {
        let (storm, user) = (Arc::clone(&storm), Arc::clone(&users[number % USERS]));
        let room = rooms[number % ROOMS].clone();
        let manner = match number % 20 {
            0 => Manner::Unconfirming,
            10 => Manner::HalfOpen,
            _ => Manner::Prompt,
        };
        tokio::spawn(async move { storm.follow(&user, &room, manner).await })
    });
    let clients: Vec<_> = clients.collect();

    storm.arrived(1).await;
    hearth.kill();
    storm.life.send_replace(2);
    hearth.start_again().await;
    storm.arrived(2).await;
    hearth.stop().await;
    storm.life.send_replace(3);
    hearth.start_again().await;
    storm.arrived(3).await;
    stop.send_replace(true);

    let mut sent = Vec::new();
    for counted in counting {
        sent.push(counted.await.expect("all was sent"));
    }
    for (number, client) in clients.into_iter().enumerate() {
        let ledger = within(PATIENCE, "a client sees the end", client)
            .await
            .expect("it came through");
        let bodies = ledger.bodies(&rooms[number % ROOMS]);
        let mut wanted: Vec<String> = (0..sent[number % ROOMS])
            .map(|number| number.to_string())
            .collect();
        wanted.push(END.to_owned());
        // Whoever came when some had been said may begin later; from there on nothing is missing or said twice.
        assert!(
            wanted.ends_with(bodies) && bodies.len() > sent[number % ROOMS] / 2,
            "{} of {wanted:?}: {bodies:?}",
            bodies.len()
        );
    }
}
