//! A user of plain libraries in a room with somebody whose client knows Hearth's WebSocket, ticks and presence: the
//! libraries see what they would see of anybody.

use hearth_tests::{PASSWORD, Server, Socket, ephemeral, text, timeline, timeline_has};
use serde_json::{Value, json};

use crate::{
    device::{Device, Receipt},
    person::Person,
};

/// Takes pushes, and confirms them, until one has the event.
async fn take(socket: &mut Socket, room: &str, event_id: &str) {
    while !timeline_has(room, event_id)(&socket.push().await) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_libraries_see_nothing_odd_of_who_is_on_the_websocket() {
    let server = Server::start().await;
    let alice = Person::register(&server, "alice").await;
    let bob = server.register("bob").await;
    let mut socket = Socket::connect(&bob).await;
    socket
        .say(json!({ "op": "sync", "set_presence": "online" }))
        .await;
    let room = alice.sdk.create_direct_room(&bob.user_id).await;
    let request = async |socket: &mut Socket, method: &str, path: &str, body: Value| {
        let answer = socket.request(method, path, Some(body)).await;
        assert_eq!(answer["status"], 200, "{answer}");
        answer["body"].clone()
    };
    request(&mut socket, "POST", &format!("/v3/join/{room}"), json!({})).await;

    let asked = alice.sdk.say(&room, "are you there?").await;
    take(&mut socket, &room, &asked).await;
    let say = |number: usize| format!("/v3/rooms/{room}/send/m.room.message/{number}");
    let answered = request(&mut socket, "PUT", &say(1), text("yes")).await;
    let answered = answered["event_id"].as_str().expect("an event").to_owned();
    alice.sdk.meet(&room, &answered).await;

    // The tick is there for whoever looks for it, and nothing else is.
    let raw = server.anonymous();
    let raw = raw.session_of(&raw.login("alice", PASSWORD).await.ok());
    let is_delivered = |sync: &Value| {
        let receipts = ephemeral(sync, &room, "m.receipt");
        receipts
            .iter()
            .any(|receipt| receipt[&asked]["chat.hearth.delivered"][&bob.user_id].is_object())
    };
    let first = raw.sync_until(|sync| !timeline(sync, &room).is_empty()).await;
    if !is_delivered(&first) {
        raw.sync_until(is_delivered).await;
    }
    let told = json!(timeline(&first, &room)).to_string();
    assert!(!told.contains("chat.hearth"), "{told}");

    let view = alice.view(&room).await;
    assert_eq!((view.notifications, view.highlights), (1, 0));
    assert_eq!(
        view.receipt(&bob.user_id, Receipt::Public, "everywhere"),
        None,
        "what was delivered is not read"
    );
    request(
        &mut socket,
        "POST",
        &format!("/v3/rooms/{room}/receipt/m.read/{asked}"),
        json!({}),
    )
    .await;
    alice.sdk.mark(&room, &answered, Receipt::Public).await;
    let typing = format!("/v3/rooms/{room}/typing/{}", bob.user_id);
    request(
        &mut socket,
        "PUT",
        &typing,
        json!({ "typing": true, "timeout": 30_000 }),
    )
    .await;
    alice.sdk.await_typing(&room, &bob.user_id, true).await;

    let view = alice.view(&room).await;
    assert_eq!((view.notifications, view.highlights), (0, 0));
    assert_eq!(
        view.receipt(&bob.user_id, Receipt::Public, "everywhere"),
        Some(asked.as_str())
    );
    assert_eq!(view.members.len(), 2);
    let ids: Vec<&str> = view
        .history
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(view.heard, ids, "each event once, in the order of history");
    request(&mut socket, "PUT", &typing, json!({ "typing": false })).await;
    alice.sdk.await_typing(&room, &bob.user_id, false).await;
    let view = alice.view(&room).await;
    let later = alice.with_new_devices(&server).await.view(&room).await;
    view.assert_same_to_a_new_device(&later, alice.id());
}
