//! What is synced beside events: account data, typing, receipts, read markers.

use hearth_tests::{Client, Server, account_data, ephemeral, public_chat};
use serde_json::{Value, json};

async fn a_room_of_two(server: &Server) -> (Client, Client, String) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    (alice, bob, room)
}

/// The users that a sync says are typing in the room; nothing where it says nothing.
fn typing(sync: &Value, room: &str) -> Option<Value> {
    ephemeral(sync, room, "m.typing")
        .pop()
        .map(|content| content["user_ids"].clone())
}

#[tokio::test]
async fn account_data_is_kept_and_synced_to_ones_own_devices() {
    let mut server = Server::start().await;
    let (alice, bob, _) = a_room_of_two(&server).await;
    let laptop = alice.another_device().await;
    laptop.sync().await;
    bob.sync().await;
    let path = format!("/v3/user/{}/account_data/org.example.theme", alice.user_id);
    alice.get(&path).await.refused(404, "M_NOT_FOUND");
    alice
        .set_account_data(
            "org.example.theme",
            json!({ "is": "dark", "n": [1, { "a": "\u{0}" }] }),
        )
        .await
        .ok();
    let sync = laptop
        .sync_until(|sync| !account_data(sync, "org.example.theme").is_empty())
        .await;
    assert_eq!(
        account_data(&sync, "org.example.theme"),
        [json!({ "is": "dark", "n": [1, { "a": "\u{0}" }] })]
    );
    assert!(
        account_data(&laptop.sync().await, "org.example.theme").is_empty(),
        "once is enough"
    );
    assert!(account_data(&bob.sync().await, "org.example.theme").is_empty());
    bob.get(&path).await.refused(403, "M_FORBIDDEN");
    bob.put(&path, json!({})).await.refused(403, "M_FORBIDDEN");

    alice
        .set_account_data("org.example.theme", json!({ "is": "light" }))
        .await
        .ok();
    server.restart().await;
    assert_eq!(alice.get(&path).await.ok(), json!({ "is": "light" }));
    laptop.set_since(None);
    assert_eq!(
        account_data(&laptop.sync().await, "org.example.theme"),
        [json!({ "is": "light" })]
    );
}

#[tokio::test]
async fn account_data_of_a_room_is_synced_within_it() {
    let server = Server::start().await;
    let (alice, _, room) = a_room_of_two(&server).await;
    let laptop = alice.another_device().await;
    laptop.sync().await;
    alice
        .set_room_account_data(&room, "org.example.note", json!({ "text": "nice" }))
        .await
        .ok();
    let of_room = |sync: &Value| account_data(&sync["rooms"]["join"][&room], "org.example.note");
    let sync = laptop.sync_until(|sync| !of_room(sync).is_empty()).await;
    assert_eq!(of_room(&sync), [json!({ "text": "nice" })]);
    assert!(
        account_data(&sync, "org.example.note").is_empty(),
        "it is no global account data"
    );
    let path = format!(
        "/v3/user/{}/rooms/{room}/account_data/org.example.note",
        alice.user_id
    );
    assert_eq!(alice.get(&path).await.ok(), json!({ "text": "nice" }));
    laptop.set_since(None);
    assert_eq!(of_room(&laptop.sync().await), [json!({ "text": "nice" })]);
    let invalid = format!(
        "/v3/user/{}/rooms/not-a-room/account_data/org.example.note",
        alice.user_id
    );
    alice
        .put(&invalid, json!({}))
        .await
        .refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn account_data_that_the_server_controls_is_not_set_by_clients() {
    let server = Server::start().await;
    let (alice, _, room) = a_room_of_two(&server).await;
    alice
        .set_room_account_data(&room, "m.fully_read", json!({ "event_id": "$x" }))
        .await
        .refused(405, "M_BAD_JSON");
    alice
        .set_account_data("m.push_rules", json!({ "global": {} }))
        .await
        .refused(405, "M_BAD_JSON");
}

#[tokio::test]
async fn a_filter_chooses_account_data() {
    let server = Server::start().await;
    let (alice, _, _) = a_room_of_two(&server).await;
    alice
        .set_account_data("org.example.one", json!({ "n": 1 }))
        .await
        .ok();
    alice
        .set_account_data("org.example.two", json!({ "n": 2 }))
        .await
        .ok();
    let sync = alice
        .first_sync(&json!({ "account_data": { "types": ["org.example.o*"] } }))
        .await;
    assert_eq!(account_data(&sync, "org.example.one"), [json!({ "n": 1 })]);
    assert!(account_data(&sync, "org.example.two").is_empty());
}

#[tokio::test]
async fn typing_is_shown_and_taken_back() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    bob.sync().await;
    alice.set_typing(&room, Some(30_000)).await.ok();
    let sync = bob.sync_until(|sync| typing(sync, &room).is_some()).await;
    assert_eq!(typing(&sync, &room), Some(json!([alice.user_id])));
    alice.set_typing(&room, None).await.ok();
    let sync = bob.sync_until(|sync| typing(sync, &room).is_some()).await;
    assert_eq!(typing(&sync, &room), Some(json!([])));
}

#[tokio::test]
async fn typing_ends_by_itself() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    bob.sync().await;
    alice.set_typing(&room, Some(1_000)).await.ok();
    bob.sync_until(|sync| typing(sync, &room) == Some(json!([alice.user_id])))
        .await;
    bob.sync_until(|sync| typing(sync, &room) == Some(json!([])))
        .await;
}

#[tokio::test]
async fn typing_is_for_members_and_for_oneself_alone() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let carol = server.register("carol").await;
    carol
        .set_typing(&room, Some(1_000))
        .await
        .refused(403, "M_FORBIDDEN");
    let path = format!("/v3/rooms/{room}/typing/{}", alice.user_id);
    bob.put(&path, json!({ "typing": true, "timeout": 1000 }))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_read_receipt_is_shown_to_the_room() {
    let mut server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let event = alice.send_text(&room, "read me").await.event_id();
    alice.sync().await;
    bob.send_receipt(&room, "m.read", &event).await.ok();
    let read = |sync: &Value| {
        ephemeral(sync, &room, "m.receipt")
            .into_iter()
            .find(|content| content[&event].is_object())
    };
    let sync = alice.sync_until(|sync| read(sync).is_some()).await;
    let receipt = read(&sync).unwrap_or_default()[&event]["m.read"][&bob.user_id].clone();
    assert!(receipt["ts"].as_u64() > Some(1_600_000_000_000), "{receipt}");
    assert!(read(&alice.sync().await).is_none(), "once is enough");
    server.restart().await;
    alice.set_since(None);
    assert!(
        read(&alice.sync().await).is_some(),
        "a first sync has it, after a restart too"
    );
}

#[tokio::test]
async fn a_later_receipt_replaces_an_earlier_one() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let sent = alice.send_texts(&room, 2).await;
    bob.send_receipt(&room, "m.read", &sent[0]).await.ok();
    bob.send_receipt(&room, "m.read", &sent[1]).await.ok();
    let receipts = ephemeral(&alice.sync().await, &room, "m.receipt");
    let of = |event: &str| {
        receipts
            .iter()
            .any(|content| content[event]["m.read"][&bob.user_id].is_object())
    };
    assert!(of(&sent[1]) && !of(&sent[0]), "{receipts:?}");
}

#[tokio::test]
async fn a_private_receipt_is_seen_by_its_user_alone() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let event = alice.send_text(&room, "read me").await.event_id();
    bob.sync().await;
    alice.sync().await;
    bob.send_receipt(&room, "m.read.private", &event).await.ok();
    let has = |sync: &Value| {
        let receipts = ephemeral(sync, &room, "m.receipt");
        receipts
            .iter()
            .any(|content| content[&event]["m.read.private"][&bob.user_id].is_object())
    };
    bob.sync_until(has).await;
    let last = bob.send_text(&room, "seen").await.event_id();
    let sync = alice.sync_until(hearth_tests::timeline_has(&room, &last)).await;
    assert!(ephemeral(&sync, &room, "m.receipt").is_empty(), "{sync}");
}

#[tokio::test]
async fn receipts_of_threads_stand_beside_each_other() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let root = alice.send_text(&room, "root").await.event_id();
    let relates = json!({ "rel_type": "m.thread", "event_id": root });
    let reply = json!({ "msgtype": "m.text", "body": "in thread", "m.relates_to": relates });
    let reply = alice.send(&room, "m.room.message", reply).await.event_id();
    let path = |event: &str| format!("/v3/rooms/{room}/receipt/m.read/{event}");
    bob.post(&path(&root), json!({ "thread_id": "main" })).await.ok();
    bob.post(&path(&reply), json!({ "thread_id": root })).await.ok();
    let receipts = ephemeral(&alice.sync().await, &room, "m.receipt");
    let thread = |event: &str| {
        let receipt = receipts
            .iter()
            .find_map(|content| content[event]["m.read"].get(&bob.user_id));
        receipt
            .map(|receipt| receipt["thread_id"].clone())
            .unwrap_or_default()
    };
    assert_eq!((thread(&root), thread(&reply)), (json!("main"), json!(root)));
    for thread_id in [json!(""), json!(3), json!(["main"])] {
        let answer = bob.post(&path(&reply), json!({ "thread_id": thread_id })).await;
        assert_eq!(answer.status, 400, "{thread_id}: {}", answer.body);
        assert!(answer.is_proper_refusal());
    }
    bob.post(&format!("/v3/rooms/{room}/receipt/m.dance/{reply}"), json!({}))
        .await
        .refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn receipts_are_for_members() {
    let server = Server::start().await;
    let (alice, _, room) = a_room_of_two(&server).await;
    let event = alice.send_text(&room, "read me").await.event_id();
    let carol = server.register("carol").await;
    let answer = carol.send_receipt(&room, "m.read", &event).await;
    assert!(answer.is_proper_refusal(), "{} {}", answer.status, answer.body);
}

#[tokio::test]
async fn read_markers_move_the_marker_and_the_receipts() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let sent = alice.send_texts(&room, 2).await;
    let laptop = bob.another_device().await;
    laptop.sync().await;
    alice.sync().await;
    let markers = json!({ "m.fully_read": sent[0], "m.read": sent[1] });
    bob.post(&format!("/v3/rooms/{room}/read_markers"), markers)
        .await
        .ok();
    let marker = |sync: &Value| account_data(&sync["rooms"]["join"][&room], "m.fully_read");
    let sync = laptop.sync_until(|sync| !marker(sync).is_empty()).await;
    assert_eq!(marker(&sync), [json!({ "event_id": sent[0] })]);
    let receipts = ephemeral(&alice.sync().await, &room, "m.receipt");
    assert!(
        receipts
            .iter()
            .any(|content| content[&sent[1]]["m.read"][&bob.user_id].is_object()),
        "{receipts:?}"
    );
    bob.send_receipt(&room, "m.fully_read", &sent[1]).await.ok();
    laptop
        .sync_until(|sync| marker(sync) == [json!({ "event_id": sent[1] })])
        .await;
}
