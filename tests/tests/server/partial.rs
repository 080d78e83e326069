//! Joining a large room of another server: the joiner is in it at once, and its members are told when they are known.

use std::collections::BTreeSet;

use hearth_tests::{Authority, Client, HearthProcess, Server, public_chat, timeline_has, until};
use serde_json::{Value, json};

/// Members of the room.
const CROWD: usize = 40;

/// A room of a server with many of its users in it.
async fn crowded(server: &Server) -> (Client, String) {
    let alice = server.register("alice").await;
    let room = alice.create_room(public_chat()).await.room_id();
    for number in 0..CROWD {
        let one = server.register(&format!("one{number}")).await;
        one.join(&room).await.ok();
    }
    (alice, room)
}

async fn join_via(client: &Client, room: &str, via: &str) {
    let path = format!("/v3/join/{room}?via={via}");
    client.post(&path, json!({})).await.ok();
}

/// The IDs of the events of a room's state.
async fn state_of(client: &Client, room: &str) -> BTreeSet<String> {
    let state = client.get(&format!("/v3/rooms/{room}/state")).await.ok();
    let events = state.as_array().cloned().unwrap_or_default();
    let id = |event: &Value| event["event_id"].as_str().map(ToOwned::to_owned);
    events.iter().filter_map(id).collect()
}

async fn same_state(one: &Client, other: &Client, room: &str) {
    until("both servers have the same state", || async {
        (state_of(one, room).await == state_of(other, room).await).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_joiner_of_a_crowded_room_speaks_at_once_and_knows_everybody_soon() {
    let authority = Authority::new();
    let (a, b) = (
        Server::start_federated(&authority).await,
        Server::start_federated(&authority).await,
    );
    let (alice, room) = crowded(&a).await;
    let bob = b.register("bob").await;
    join_via(&bob, &room, a.name()).await;
    // The first request after the join, whatever is here of the state.
    let hello = bob.send_text(&room, "hello, all of you").await.event_id();
    alice.sync_until(timeline_has(&room, &hello)).await;
    let members = bob.memberships(&room).await;
    let members = members.as_object().expect("an object");
    assert_eq!(members.len(), CROWD + 2);
    assert!(
        members.values().all(|membership| membership == "join"),
        "{members:?}"
    );
    same_state(&alice, &bob, &room).await;

    // This one loads members at once: it is told of the room with all of them.
    let eager = bob.another_device().await;
    let sync = eager.sync().await;
    let state = sync["rooms"]["join"][&room]["state"]["events"]
        .as_array()
        .cloned();
    let told = state.unwrap_or_default();
    let told = told
        .iter()
        .filter(|event| event["type"] == "m.room.member")
        .count();
    assert!(told > CROWD, "{told}");
    let summary = &sync["rooms"]["join"][&room]["summary"];
    assert_eq!(summary["m.joined_member_count"], json!(CROWD + 2), "{summary}");
}

#[tokio::test]
async fn a_server_killed_while_it_joins_a_crowded_room_knows_everybody_afterwards() {
    let authority = Authority::new();
    let a = Server::start_federated(&authority).await;
    let mut b = HearthProcess::start_federated(&authority).await;
    let (alice, room) = crowded(&a).await;
    let bob = b.register("bob").await;
    join_via(&bob, &room, a.name()).await;
    b.kill();
    b.start_again().await;
    let hello = bob.send_text(&room, "where was I?").await.event_id();
    alice.sync_until(timeline_has(&room, &hello)).await;
    let members = bob.memberships(&room).await;
    assert_eq!(members.as_object().expect("an object").len(), CROWD + 2);
    same_state(&alice, &bob, &room).await;
    b.stop().await;
}
