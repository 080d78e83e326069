//! Coming into a large room of another server: how long until one may speak there, and until all of it is there.

use std::{sync::Arc, time::Duration};

use hearth_tests::{Authority, Client, encoded, within};
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    figures::Table,
    peer::{Kind, Peer},
};

/// Who comes into the room at a time, while it is made.
const AT_ONCE: usize = 8;
/// How long one join may take with all that comes of it.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long between two looks whether something has come.
const LOOK: Duration = Duration::from_millis(10);

pub(crate) async fn measure(
    table: &mut Table,
    members: usize,
    host_kind: Kind,
    joiners: &[Kind],
    rounds: usize,
) {
    let authority = Authority::new();
    let host = Arc::new(Peer::start(host_kind, &authority).await);
    let alice = host.register("alice").await;
    let guests = json!({
        "type": "m.room.guest_access", "state_key": "", "content": { "guest_access": "can_join" },
    });
    let parameters = json!({ "preset": "public_chat", "room_version": "11", "initial_state": [guests] });
    let room = alice.create_room(parameters).await.room_id();
    fill(&host, &room, members - 1).await;
    for round in 0..rounds {
        // Who comes second finds the machine warm: each does every other time.
        let mut order = joiners.to_vec();
        order.rotate_left(round % joiners.len());
        for kind in order {
            within(
                PATIENCE,
                "the join is over",
                join(table, kind, &authority, &host, &alice, &room),
            )
            .await;
        }
    }
}

/// Has `count` guests join.
async fn fill(host: &Arc<Peer>, room: &str, count: usize) {
    let mut joining = JoinSet::new();
    for worker in 0..AT_ONCE {
        let (host, room) = (Arc::clone(host), room.to_owned());
        joining.spawn(async move {
            for _ in (worker..count).step_by(AT_ONCE) {
                host.register_guest().await.join(&room).await.ok();
            }
        });
    }
    joining.join_all().await;
}

async fn join(table: &mut Table, kind: Kind, authority: &Authority, host: &Peer, alice: &Client, room: &str) {
    let joiner = Peer::start(kind, authority).await;
    let bob = joiner.register("bob").await;
    let count = alice.memberships(room).await.as_object().map_or(0, |all| {
        all.values().filter(|membership| *membership == "join").count()
    });
    let (cpu, host_cpu, began) = (joiner.cpu(), host.cpu(), Instant::now());
    let path = format!("/v3/join/{}?via={}", encoded(room), encoded(host.name()));
    bob.post(&path, json!({})).await.ok();
    let joined = began.elapsed();
    let sent = bob.send_text(room, "here I am").await.event_id();
    let can_send = began.elapsed();
    while alice.event(room, &sent).await.status != 200 {
        tokio::time::sleep(LOOK).await;
    }
    let heard = began.elapsed();
    // A server may let its users in before it knows everybody; the list of members waits until it does.
    let members = bob.get(&format!("/v3/rooms/{room}/joined_members")).await.ok();
    let known = members["joined"].as_object().map_or(0, serde_json::Map::len);
    assert_eq!(known, count + 1, "all members are known");
    let whole = began.elapsed();
    let (cpu, host_cpu) = (joiner.cpu() - cpu, host.cpu() - host_cpu);
    let mut note = |what: &str, value: Duration| {
        table.note(format!("{} joins: {what}", kind.name()), "s", value.as_secs_f64());
    };
    note("until the join is answered", joined);
    note("until a message is acknowledged", can_send);
    note("until the host has the message", heard);
    note("until all members are listed", whole);
    note("CPU time of the joiner until then", cpu);
    note("CPU time of the host until then", host_cpu);
    bob.leave(room).await.ok();
    while alice.memberships(room).await[&bob.user_id] != "leave" {
        tokio::time::sleep(LOOK).await;
    }
    // Whoever joins next hangs on this, and not on what a server said whose keys nobody can ask for any more.
    alice.send_text(room, "and gone").await.ok();
}
