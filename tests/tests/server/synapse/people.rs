//! What the two tell each other of people: who types, what they have read, and what they are called.

use hearth_tests::{Client, encoded, ephemeral, public_chat, timeline_has};
use serde_json::{Value, json};

use super::{Pair, Scenarios, Side, shared_room};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_synapse_people_are_seen_typing_reading_and_by_their_names() {
    let pair = Pair::start().await;
    let mut scenarios = Scenarios::default();
    scenarios.both_ways(&pair, "typing", typing);
    scenarios.both_ways(&pair, "receipts", receipts);
    scenarios.both_ways(&pair, "profiles", profiles);
    scenarios.play().await;
}

async fn typing(host: Side, guest: Side) {
    let (alice, bob) = (
        host.register("alice.types").await,
        guest.register("bob.types").await,
    );
    let room = shared_room(&alice, &bob, &host, public_chat()).await;
    let typists = |sync: &Value| {
        ephemeral(sync, &room, "m.typing")
            .pop()
            .map(|content| content["user_ids"].clone())
    };
    for (typist, observer) in [(&alice, &bob), (&bob, &alice)] {
        typist.set_typing(&room, Some(30_000)).await.ok();
        observer
            .sync_until(|sync| typists(sync) == Some(json!([typist.user_id])))
            .await;
        typist.set_typing(&room, None).await.ok();
        observer.sync_until(|sync| typists(sync) == Some(json!([]))).await;
    }
}

async fn receipts(host: Side, guest: Side) {
    let (alice, bob) = (
        host.register("alice.reads").await,
        guest.register("bob.reads").await,
    );
    let room = shared_room(&alice, &bob, &host, public_chat()).await;
    for (sender, reader) in [(&alice, &bob), (&bob, &alice)] {
        let sent = sender.send_text(&room, "read this").await.event_id();
        reader.sync_until(timeline_has(&room, &sent)).await;
        receipt(reader, &room, &sent, json!({})).await;
        let read_by = |sync: &Value, thread: &Value| {
            ephemeral(sync, &room, "m.receipt").into_iter().any(|content| {
                let receipt = &content[&sent]["m.read"][&reader.user_id];
                receipt["ts"].is_u64() && receipt["thread_id"] == *thread
            })
        };
        sender.sync_until(|sync| read_by(sync, &Value::Null)).await;
        receipt(reader, &room, &sent, json!({ "thread_id": "main" })).await;
        sender.sync_until(|sync| read_by(sync, &json!("main"))).await;
    }
}

async fn receipt(reader: &Client, room: &str, event_id: &str, body: Value) {
    let path = format!("/v3/rooms/{room}/receipt/m.read/{}", encoded(event_id));
    reader.post(&path, body).await.ok();
}

async fn profiles(host: Side, guest: Side) {
    let (alice, bob) = (
        host.register("alice.named").await,
        guest.register("bob.named").await,
    );
    alice.set_displayname("Alice of the house").await.ok();
    let path = format!("/v3/profile/{}", encoded(&alice.user_id));
    let profile = bob.get(&path).await.ok();
    assert_eq!(profile["displayname"], "Alice of the house");
    let name = bob.get(&format!("{path}/displayname")).await.ok();
    assert_eq!(name["displayname"], "Alice of the house");
    let nobody = bob
        .get(&format!(
            "/v3/profile/{}",
            encoded(&format!("@nobody:{}", host.name))
        ))
        .await;
    assert_eq!((nobody.status, nobody.errcode()), (404, "M_NOT_FOUND"));

    // In a room of both, the name is that of the member event.
    let room = shared_room(&alice, &bob, &host, public_chat()).await;
    alice.set_displayname("Alice, renamed").await.ok();
    let renamed = |sync: &Value| {
        hearth_tests::timeline(sync, &room).iter().any(|event| {
            event["state_key"] == alice.user_id && event["content"]["displayname"] == "Alice, renamed"
        })
    };
    bob.sync_until(renamed).await;
}
