//! Much at once: both sides send as fast as they can, messages and state, and end with the same room.

use std::sync::Arc;

use hearth_tests::{Client, public_chat};
use serde_json::{Value, json};

use super::{Pair, has_all, same_state, send_many, shared_room};

/// Messages of each side.
const MESSAGES: usize = 500;
/// Requests of each side under way at a time.
const AT_ONCE: usize = 5;
/// Changes of state of each side.
const CHANGES: usize = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_synapse_500_messages_of_each_side_at_once_all_arrive_and_the_state_is_one() {
    let pair = Pair::start().await;
    let host = pair.hearth();
    let (alice, bob) = (
        Arc::new(host.register("alice").await),
        Arc::new(pair.synapse().register("bob").await),
    );
    let mut parameters = public_chat();
    parameters["power_level_content_override"] = json!({ "state_default": 0 });
    let room = shared_room(&alice, &bob, &host, parameters).await;
    let send = |client: &Arc<Client>| send_many(Arc::clone(client), room.clone(), MESSAGES, AT_ONCE);
    let (from_alice, from_bob, (), ()) = tokio::join!(
        send(&alice),
        send(&bob),
        change_state(&alice, &room, "alice"),
        change_state(&bob, &room, "bob"),
    );
    let all = [from_alice, from_bob].concat();
    assert_eq!(all.len(), 2 * MESSAGES);
    tokio::join!(has_all(&alice, &room, &all), has_all(&bob, &room, &all));
    same_state(&alice, &bob, &room).await;
}

/// State that both sides set: some keys of one's own, and one that they fight over.
async fn change_state(client: &Client, room: &str, name: &str) {
    for number in 0..CHANGES {
        let content: Value = json!({ "topic": format!("{name} {number}") });
        for (event_type, key) in [("org.example.own", name), ("m.room.topic", "")] {
            client
                .send_state(room, event_type, key, content.clone())
                .await
                .event_id();
        }
    }
}
