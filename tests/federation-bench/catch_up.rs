//! Catching up after an outage: how long until each room is up to date, and until nothing of its history is missing.

use std::{collections::HashSet, sync::Arc, time::Duration};

use hearth_tests::{Authority, Client, encoded, event_ids, public_chat, within};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    figures::Table,
    peer::{Kind, Peer},
};

/// Rooms in which messages are sent at a time.
const AT_ONCE: usize = 8;
/// How long catching up may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// How long between two looks whether something has come.
const LOOK: Duration = Duration::from_millis(20);

/// A room with what was said in it during the outage.
struct Room {
    id: String,
    said: Vec<String>,
}

pub(crate) async fn measure(table: &mut Table, events: usize, rooms: usize, (from, to): (Kind, Kind)) {
    let authority = Authority::new();
    let sender = Peer::start(from, &authority).await;
    let mut receiver = Peer::start(to, &authority).await;
    let alice = Arc::new(sender.register("alice").await);
    let bob = receiver.register("bob").await;
    let mut ids = Vec::with_capacity(rooms);
    for _ in 0..rooms {
        let room = alice.create_room(public_chat()).await.room_id();
        let path = format!("/v3/join/{}?via={}", encoded(&room), encoded(sender.name()));
        bob.post(&path, json!({})).await.ok();
        ids.push(room);
    }
    bob.sync().await;
    receiver.stop().await;
    let rooms = talk(&alice, ids, events / rooms).await;

    let (cpu, sender_cpu, began) = (receiver.cpu(), sender.cpu(), Instant::now());
    receiver.start_again().await;
    let answered = began.elapsed();
    within(PATIENCE, "every room is up to date", up_to_date(&bob, &rooms)).await;
    let current = began.elapsed();
    let (cpu, sender_cpu) = (receiver.cpu().saturating_sub(cpu), sender.cpu() - sender_cpu);
    let whole = within(PATIENCE, "nothing is missing", whole(&bob, &rooms)).await;
    let complete = began.elapsed();
    let mut note = |what: &str, unit: &'static str, value: f64| {
        table.note(format!("{} → {}: {what}", from.name(), to.name()), unit, value);
    };
    note("until the server answers again", "s", answered.as_secs_f64());
    note(
        "from then until every room shows its newest message",
        "s",
        (current - answered).as_secs_f64(),
    );
    note(
        "CPU time of the one that was away until then, its start included",
        "s",
        cpu.as_secs_f64(),
    );
    note("CPU time of the other until then", "s", sender_cpu.as_secs_f64());
    note(
        "from then until a client that pages back has all of it",
        "s",
        (complete - current).as_secs_f64(),
    );
    note("messages that are nowhere to be had", "", whole as f64);
}

async fn talk(alice: &Arc<Client>, ids: Vec<String>, each: usize) -> Vec<Room> {
    let mut talking = JoinSet::new();
    let count = ids.len().div_ceil(AT_ONCE);
    for ids in ids.chunks(count) {
        let (alice, ids) = (Arc::clone(alice), ids.to_vec());
        talking.spawn(async move {
            let mut rooms = Vec::with_capacity(ids.len());
            for id in ids {
                let said = alice.send_texts(&id, each).await;
                rooms.push(Room { id, said });
            }
            rooms
        });
    }
    talking.join_all().await.into_iter().flatten().collect()
}

async fn up_to_date(bob: &Client, rooms: &[Room]) {
    for room in rooms {
        let last = room.said.last().expect("something was said");
        while bob.event(&room.id, last).await.status != 200 {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Pages back through all rooms: how many of the messages did not come up.
async fn whole(bob: &Client, rooms: &[Room]) -> usize {
    let mut missing = 0;
    for room in rooms {
        let shown = bob.page_through(&room.id, "b", 100, None).await;
        let shown: HashSet<String> = event_ids(&Value::from(shown)).into_iter().collect();
        missing += room.said.iter().filter(|id| !shown.contains(*id)).count();
    }
    missing
}
