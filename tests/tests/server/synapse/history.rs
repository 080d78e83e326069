//! History from before the guest came: paged to the first event, and read only as far as the room lets.

use hearth_tests::{encoded, event_ids, public_chat, until};
use serde_json::{Value, json};

use super::{Pair, Scenarios, Side, has_all, is_seen_as, join_via, shared_room};

/// More than two requests for history give.
const BEFORE: usize = 250;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_synapse_history_is_paged_to_the_first_event() {
    let pair = Pair::start().await;
    let mut scenarios = Scenarios::default();
    scenarios.both_ways(&pair, "history from before a join", history_before_a_join);
    scenarios.both_ways(&pair, "history that only members see", history_of_members);
    scenarios.both_ways(&pair, "an event at a time", event_at_a_time);
    scenarios.play().await;
}

async fn history_before_a_join(host: Side, guest: Side) {
    let (alice, bob) = (host.register("alice").await, guest.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    let mut before = Vec::new();
    for number in 0..BEFORE {
        if number % 50 == 25 {
            let content = json!({ "topic": format!("topic {number}") });
            before.push(
                alice
                    .send_state(&room, "m.room.topic", "", content)
                    .await
                    .event_id(),
            );
        }
        before.push(
            alice
                .send_text(&room, &format!("message {number}"))
                .await
                .event_id(),
        );
    }
    join_via(&bob, &room, &host).await;
    let mut shown = has_all(&bob, &room, &before).await;
    let of_host = event_ids(&Value::from(alice.page_through(&room, "b", 100, None).await));
    let of_host: Vec<String> = of_host.into_iter().filter(|id| shown.contains(id)).collect();
    assert_eq!(shown, of_host, "in the order of the host");
    shown.reverse();
    let create = alice.get(&format!("/v3/rooms/{room}/state")).await.ok();
    let create = create
        .as_array()
        .into_iter()
        .flatten()
        .find(|event| event["type"] == "m.room.create")
        .map(|event| event["event_id"].clone());
    assert_eq!(create, Some(json!(shown[0])), "from the first event on");
    let told: Vec<&String> = shown.iter().filter(|id| before.contains(id)).collect();
    assert!(
        told.into_iter().eq(&before),
        "in the order in which they were sent"
    );
}

async fn history_of_members(host: Side, guest: Side) {
    let (alice, bob) = (
        host.register("alice.joined").await,
        guest.register("bob.joined").await,
    );
    let visibility = json!({
        "type": "m.room.history_visibility", "state_key": "", "content": { "history_visibility": "joined" },
    });
    let mut parameters = public_chat();
    parameters["initial_state"] = json!([visibility]);
    let room = alice.create_room(parameters).await.room_id();
    let secret = alice.send_text(&room, "before you came").await.event_id();
    join_via(&bob, &room, &host).await;
    is_seen_as(&alice, &room, &bob, "join").await;
    let open = alice.send_text(&room, "now that you are here").await.event_id();
    let shown = has_all(&bob, &room, &[open]).await;
    assert!(!shown.contains(&secret));
    assert_ne!(bob.event(&room, &secret).await.status, 200);
}

async fn event_at_a_time(host: Side, guest: Side) {
    let (alice, bob) = (
        host.register("alice.time").await,
        guest.register("bob.time").await,
    );
    let room = alice.create_room(public_chat()).await.room_id();
    let old = alice.send_texts(&room, 30).await;
    let wanted = alice.event(&room, &old[10]).await.ok();
    let at = wanted["origin_server_ts"].as_u64().expect("a time");
    join_via(&bob, &room, &host).await;
    let path = format!("/v1/rooms/{}/timestamp_to_event?ts={at}&dir=f", encoded(&room));
    until("the event of that time is found", || async {
        let answer = bob.get(&path).await;
        (answer.status == 200 && answer.body["origin_server_ts"] == at).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_synapse_what_two_guests_said_before_is_history_to_a_third() {
    let pair = Pair::start().await;
    let (host, guest) = (pair.hearth(), pair.synapse());
    let (alice, bob) = (host.register("alice").await, guest.register("bob").await);
    let room = shared_room(&alice, &bob, &host, public_chat()).await;
    let mut said = Vec::new();
    for number in 0..60 {
        let text = format!("message {number}");
        let (one, other) = tokio::join!(alice.send_text(&room, &text), bob.send_text(&room, &text));
        said.extend([one.event_id(), other.event_id()]);
    }
    // Another server of Hearth, which hears of both by one of them.
    for via in [&host, &guest] {
        let third = hearth_tests::Server::start_federated(&pair.authority).await;
        let carol = third.register("carol").await;
        join_via(&carol, &room, via).await;
        has_all(&carol, &room, &said).await;
        let late = carol.send_text(&room, "what did I miss?").await.event_id();
        has_all(&alice, &room, std::slice::from_ref(&late)).await;
        has_all(&bob, &room, std::slice::from_ref(&late)).await;
    }
}
