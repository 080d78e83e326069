//! Messages from device to device, on one server and across two.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hearth_engine::federation::send_transaction_message;
use hearth_storage::{
    log::{Change, Fact, ToDevice, ToDeviceMessage},
    to_device,
};
use hearth_tests::{
    Answer, Authority, Client, Server, Socket, Two, encoded, event_ids, public_chat, timeline, timeline_has,
    until,
};
use homeserver::config::Settings;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName,
    api::federation::transactions::send_transaction_message::v1::Request, serde::Raw,
};
use serde_json::{Value, json};

/// Sends, as a request of its own.
async fn send(from: &Client, messages: Value) -> Answer {
    send_as(from, &from.new_txn_id(), messages).await
}

async fn send_as(from: &Client, txn_id: &str, messages: Value) -> Answer {
    let path = format!("/v3/sendToDevice/org.example.key/{txn_id}");
    from.put(&path, json!({ "messages": messages })).await
}

/// A message to one device, that holds a number.
fn to(device: &Client, number: usize) -> Value {
    json!({ &device.user_id: { &device.device_id: { "number": number } } })
}

/// The messages in a sync.
fn messages(sync: &Value) -> Vec<Value> {
    sync["to_device"]["events"]
        .as_array()
        .cloned()
        .unwrap_or_default()
}

fn numbers(sync: &Value) -> Vec<u64> {
    let number = |message: &Value| message["content"]["number"].as_u64().expect("a number");
    messages(sync).iter().map(number).collect()
}

/// Syncs until as many messages as `count` have come: their numbers.
async fn all_numbers(device: &Client, count: usize) -> Vec<u64> {
    let mut told = Vec::new();
    while told.len() < count {
        let sync = device.sync_until(|sync| !messages(sync).is_empty()).await;
        told.extend(numbers(&sync));
    }
    told
}

/// Waits until nothing is kept for a device any more.
async fn nothing_waits(server: &Server, device: &Client) {
    until("the messages are let go", || async {
        (waiting(server, device).await == 0).then_some(())
    })
    .await;
}

async fn waiting(server: &Server, device: &Client) -> usize {
    let mut connection = server.engine().db.acquire().await.expect("a connection");
    let devices = to_device::recipients(&mut connection, &[&device.user_id])
        .await
        .expect("they can be read");
    let Some(found) = devices.iter().find(|found| found.device_id == device.device_id) else {
        return 0;
    };
    let (from, upto) = (hearth_storage::Position(0), hearth_storage::Position(i64::MAX));
    to_device::waiting(&mut connection, found.device_nid, from, upto, i64::MAX)
        .await
        .expect("they can be read")
        .len()
}

#[tokio::test]
async fn a_message_reaches_the_devices_that_it_is_for() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let tablet = bob.another_device().await;
    for device in [&alice, &bob, &tablet] {
        device.sync().await;
    }
    let one = json!({ &bob.user_id: { &bob.device_id: { "for": "the phone", "\u{0}": "\u{0}" } } });
    send(&alice, one).await.ok();
    let expected = json!({
        "type": "org.example.key", "sender": alice.user_id, "content": { "for": "the phone", "\u{0}": "\u{0}" },
    });
    assert_eq!(messages(&bob.sync().await), [expected]);
    assert_eq!(tablet.sync().await["to_device"], Value::Null);

    // To all devices, but for one that gets its own; to the sender's too.
    let many = json!({
        &bob.user_id: { "*": { "for": "all" }, &tablet.device_id: { "for": "the tablet" }, "NONE": {} },
        &alice.user_id: { "*": { "for": "all" } },
        "@nobody:".to_owned() + server.name(): { "*": {} },
    });
    send(&alice, many).await.ok();
    for (device, expected) in [(&alice, "all"), (&bob, "all"), (&tablet, "the tablet")] {
        let told = messages(&device.sync().await);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0]["content"]["for"], expected);
        assert_eq!(device.sync().await["to_device"], Value::Null, "told once");
    }
}

#[tokio::test]
async fn a_message_is_kept_until_the_device_shows_that_it_has_it() {
    let mut server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    bob.sync().await;
    let before = bob.since();
    send(&alice, to(&bob, 1)).await.ok();
    assert_eq!(numbers(&bob.sync().await), [1]);
    let after = bob.since();
    // The answer was lost; the server was restarted; and again.
    bob.set_since(before.as_deref());
    assert_eq!(numbers(&bob.sync().await), [1]);
    server.restart().await;
    bob.set_since(before.as_deref());
    assert_eq!(numbers(&bob.sync().await), [1]);
    bob.set_since(None);
    assert_eq!(
        numbers(&bob.sync().await),
        [1],
        "whoever begins anew hears of what waits"
    );
    assert_eq!(waiting(&server, &bob).await, 1);

    bob.set_since(after.as_deref());
    assert_eq!(bob.sync().await["to_device"], Value::Null);
    nothing_waits(&server, &bob).await;
    bob.set_since(None);
    assert_eq!(bob.sync().await["to_device"], Value::Null);
}

#[tokio::test]
async fn a_waiting_sync_is_answered_by_a_message() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let tablet = bob.another_device().await;
    bob.sync().await;
    tablet.sync().await;
    let waiting = bob.sync_until(|sync| !messages(sync).is_empty());
    let sending = async {
        send(&alice, to(&tablet, 0)).await.ok();
        send(&alice, to(&bob, 1)).await.ok();
    };
    let (answer, ()) = tokio::join!(waiting, sending);
    assert_eq!(numbers(&answer), [1]);
}

#[tokio::test]
async fn a_request_that_is_sent_again_sends_nothing_again() {
    let mut server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    bob.sync().await;
    for _ in 0..2 {
        send_as(&alice, "same", to(&bob, 1)).await.ok();
    }
    server.restart().await;
    send_as(&alice, "same", to(&bob, 1)).await.ok();
    // At the same time, too.
    let again = (0..10).map(|_| send_as(&alice, "another", to(&bob, 2)));
    for answer in futures_util::future::join_all(again).await {
        answer.ok();
    }
    // Another device has transaction IDs of its own, and so has another type.
    send_as(&alice.another_device().await, "same", to(&bob, 3))
        .await
        .ok();
    let body = json!({ "messages": to(&bob, 4) });
    alice
        .put("/v3/sendToDevice/org.example.other/same", body)
        .await
        .ok();
    assert_eq!(numbers(&bob.sync().await), [1, 2, 3, 4]);
}

#[tokio::test]
async fn many_messages_come_in_order_a_hundred_at_a_time_and_before_what_was_said_after_them() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let tablet = bob.another_device().await;
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    bob.sync().await;
    for number in 0..250 {
        let to_both = json!({ &bob.user_id: { "*": { "number": number } } });
        send(&alice, to_both).await.ok();
    }
    let said = alice.send_text(&room, "after them").await.event_id();
    // The phone goes on from a token, the tablet begins.
    for device in [&bob, &tablet] {
        let mut told = Vec::new();
        for count in [100, 100, 50] {
            let sync = device.sync_with("timeout=40000").await.ok();
            assert_eq!(messages(&sync).len(), count);
            told.extend(numbers(&sync));
            let has_event = event_ids(&timeline(&sync, &room).into()).contains(&said);
            assert_eq!(
                has_event,
                count == 50,
                "the event comes with the last of them: {sync}"
            );
        }
        assert_eq!(told, (0..250).collect::<Vec<u64>>());
        // Nothing shows yet that the last of them have arrived.
        nothing_but(&server, device, 50).await;
        assert_eq!(device.sync().await["to_device"], Value::Null);
        nothing_waits(&server, device).await;
    }
}

/// Waits until only the last `count` messages are kept.
async fn nothing_but(server: &Server, device: &Client, count: usize) {
    until("what was confirmed is let go", || async {
        (waiting(server, device).await == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn no_event_is_told_before_the_message_that_was_sent_before_it() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    bob.sync().await;
    let sending = async {
        for number in 0..150 {
            send(&alice, to(&bob, number)).await.ok();
            alice.send_text(&room, &number.to_string()).await.ok();
        }
    };
    let receiving = hears_in_order(&bob, &room, 150);
    tokio::join!(sending, receiving);
}

/// Syncs until `count` messages and texts with their numbers have come: none before its message.
async fn hears_in_order(device: &Client, room: &str, count: u64) {
    let mut heard = BTreeSet::new();
    let mut in_order = Vec::new();
    let mut last = None;
    while last != Some(count - 1) {
        let sync = device
            .sync_until(|sync| !messages(sync).is_empty() || !timeline(sync, room).is_empty())
            .await;
        heard.extend(numbers(&sync));
        in_order.extend(numbers(&sync));
        let bodies = timeline(&sync, room);
        let bodies = bodies
            .iter()
            .filter_map(|event| event["content"]["body"].as_str());
        for number in bodies.filter_map(|body| body.parse().ok()) {
            assert!(
                heard.contains(&number),
                "{number} was said after its message: {sync}"
            );
            last = last.max(Some(number));
        }
    }
    assert_eq!(in_order, (0..count).collect::<Vec<u64>>(), "each once, in order");
}

#[tokio::test]
async fn what_waits_for_a_device_goes_with_it() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let tablet = bob.another_device().await;
    send(&alice, json!({ &bob.user_id: { "*": { "number": 1 } } }))
        .await
        .ok();
    assert_eq!(waiting(&server, &tablet).await, 1);
    let device_nid = {
        let mut connection = server.engine().db.acquire().await.expect("a connection");
        let devices = to_device::recipients(&mut connection, &[&bob.user_id])
            .await
            .expect("devices");
        devices
            .iter()
            .find(|device| device.device_id == tablet.device_id)
            .expect("the tablet")
            .device_nid
    };
    tablet.post("/v3/logout", json!({})).await.ok();
    let mut connection = server.engine().db.acquire().await.expect("a connection");
    let left = to_device::range_waiting(&mut connection, device_nid).await;
    assert_eq!(left.expect("it can be read"), None);
    drop(connection);
    assert_eq!(numbers(&bob.sync().await), [1]);
}

#[tokio::test]
async fn a_hundred_thousand_messages_to_one_device_are_its_own_affair() {
    const COUNT: usize = 100_000;
    let server = Server::start().await;
    let (alice, bob, carol) = (
        server.register("alice").await,
        server.register("bob").await,
        server.register("carol").await,
    );
    let tablet = bob.another_device().await;
    for device in [&bob, &tablet, &carol] {
        device.sync().await;
    }
    let recipient = {
        let mut connection = server.engine().db.acquire().await.expect("a connection");
        let devices = to_device::recipients(&mut connection, &[&bob.user_id])
            .await
            .expect("devices");
        let device = devices
            .into_iter()
            .find(|device| device.device_id == bob.device_id);
        device.expect("the phone")
    };
    let message = |number: usize| {
        let message = ToDeviceMessage {
            user_nid: recipient.user_nid,
            device_nid: recipient.device_nid,
            sender: alice.user_id.as_str().into(),
            event_type: "org.example.key".into(),
            content: json!({ "number": number }).to_string().into(),
        };
        Fact::ToDevice(Arc::new(ToDevice {
            messages: vec![message],
            outgoing: Vec::new(),
        }))
    };
    for first in (0..COUNT).step_by(1_000) {
        let change = Change {
            facts: (first..first + 1_000).map(message).collect(),
            ..Change::default()
        };
        server.engine().log.commit(change).await.expect("it is committed");
    }
    // Others are told what is theirs at once, the other device of the same user too.
    send(&alice, json!({ &carol.user_id: { "*": { "number": 1 } }, &tablet.user_id: { &tablet.device_id: { "number": 2 } } }))
        .await
        .ok();
    assert_eq!(numbers(&carol.sync().await), [1]);
    assert_eq!(numbers(&tablet.sync().await), [2]);

    let mut told = 0;
    while told < COUNT {
        let sync = bob.sync().await;
        let numbers = numbers(&sync);
        assert_eq!(numbers.len(), 100);
        let expected = u64::try_from(told).expect("it fits");
        assert_eq!(numbers, (expected..expected + 100).collect::<Vec<u64>>());
        told += numbers.len();
    }
    assert_eq!(bob.sync().await["to_device"], Value::Null);
    nothing_waits(&server, &bob).await;
}

#[tokio::test]
async fn a_socket_is_pushed_messages_and_lets_them_go_by_its_ack() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    bob.sync().await;
    let since = bob.since();
    for number in 0..120 {
        send(&alice, to(&bob, number)).await.ok();
    }
    let mut socket = Socket::connect(&bob).await;
    socket.say(json!({ "op": "sync", "since": since })).await;
    let first = socket.hear_op("sync").await;
    assert_eq!(numbers(&first["data"]), (0..100).collect::<Vec<u64>>());
    let second = socket.hear_op("sync").await;
    assert_eq!(numbers(&second["data"]), (100..120).collect::<Vec<u64>>());
    assert_eq!(
        waiting(&server, &bob).await,
        120,
        "nothing shows that they arrived"
    );
    // The connection breaks: another goes on from what it had of the first.
    drop(socket);
    let mut socket = Socket::connect(&bob).await;
    socket.say(json!({ "op": "sync", "since": first["pos"] })).await;
    let again = socket.hear_op("sync").await;
    assert_eq!(numbers(&again["data"]), (100..120).collect::<Vec<u64>>());
    nothing_but(&server, &bob, 20).await;
    socket.say(json!({ "op": "ack", "pos": again["pos"] })).await;
    nothing_waits(&server, &bob).await;
    send(&alice, to(&bob, 7)).await.ok();
    assert_eq!(numbers(&socket.push().await), [7]);
}

#[tokio::test]
async fn what_is_no_message_is_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let me = &alice.user_id;
    for body in [
        json!({}),
        json!({ "messages": [] }),
        json!({ "messages": { me: [] } }),
        json!({ "messages": { me: { "*": "text" } } }),
        json!({ "messages": { me: { "*": null } } }),
        json!({ "messages": { "alice": { "*": {} } } }),
        json!({ "messages": { me: { "": {} } } }),
    ] {
        let answer = alice
            .put("/v3/sendToDevice/org.example.key/1", body.clone())
            .await;
        assert!(
            answer.is_proper_refusal(),
            "{body}: {} {}",
            answer.status,
            answer.body
        );
    }
    let long = json!({ me: { "*": { "x": "x".repeat(1 << 16) } } });
    send(&alice, long).await.refused(413, "M_TOO_LARGE");
    let path = format!("/v3/sendToDevice/{}/1", "x".repeat(256));
    alice
        .put(&path, json!({ "messages": {} }))
        .await
        .refused(400, "M_INVALID_PARAM");
    server
        .anonymous()
        .put("/v3/sendToDevice/org.example.key/1", json!({ "messages": {} }))
        .await
        .refused(401, "M_MISSING_TOKEN");
    // Nobody to send to is no error.
    send(&alice, json!({})).await.ok();
    send(&alice, json!({ me: { "NONE\u{0}": {} } })).await.ok();
    alice
        .put(
            &format!("/v3/sendToDevice/{}/1", encoded("a\u{0}")),
            json!({ "messages": { me: { "*": { "number": 1 } } } }),
        )
        .await
        .ok();
    let told = messages(&alice.sync().await);
    assert_eq!((told.len(), &told[0]["type"]), (1, &json!("a\u{0}")));
}

#[tokio::test]
async fn messages_reach_devices_of_another_server_in_order_and_once() {
    let two = Two::start().await;
    let tablet = two.bob.another_device().await;
    two.bob.sync().await;
    tablet.sync().await;
    for number in 0..60 {
        send(&two.alice, to(&two.bob, number)).await.ok();
    }
    send(&two.alice, json!({ &two.bob.user_id: { "*": { "number": 60 } } }))
        .await
        .ok();
    assert_eq!(all_numbers(&two.bob, 61).await, (0..=60).collect::<Vec<u64>>());
    let told = tablet.sync_until(|sync| !messages(sync).is_empty()).await;
    assert_eq!(numbers(&told), [60]);
    assert_eq!(messages(&told)[0]["sender"], two.alice.user_id);
    assert_eq!(two.bob.sync().await["to_device"], Value::Null);
    is_owed_nothing(&two.a).await;
}

/// Waits until nothing is kept for other servers.
async fn is_owed_nothing(server: &Server) {
    until("other servers have their messages", || async {
        let mut connection = server.engine().db.acquire().await.ok()?;
        let waiting = to_device::destinations(&mut connection).await.ok()?;
        waiting.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn no_event_of_another_server_is_told_before_the_message_that_was_sent_before_it() {
    let two = Two::start().await;
    let room = two.room().await;
    two.bob.sync().await;
    let sending = async {
        for number in 0..100 {
            send(&two.alice, to(&two.bob, number)).await.ok();
            two.alice.send_text(&room, &number.to_string()).await.ok();
        }
    };
    tokio::join!(sending, hears_in_order(&two.bob, &room, 100));
}

#[tokio::test]
async fn messages_are_kept_through_outages_of_either_server() {
    let mut two = Two::start().await;
    let room = two.room().await;
    two.bob.sync().await;
    two.b.stop().await;
    for number in 0..70 {
        send(&two.alice, to(&two.bob, number)).await.ok();
    }
    let said = two.alice.send_text(&room, "after them").await.event_id();
    two.a.restart().await;
    for number in 70..90 {
        send(&two.alice, to(&two.bob, number)).await.ok();
    }
    two.b.restart().await;
    let mut told = Vec::new();
    let mut has_event = false;
    while told.len() < 90 || !has_event {
        let sync = two
            .bob
            .sync_until(|sync| !messages(sync).is_empty() || timeline_has(&room, &said)(sync))
            .await;
        told.extend(numbers(&sync));
        has_event |= timeline_has(&room, &said)(&sync);
        assert!(
            !has_event || told.len() >= 70,
            "the event was told after {} messages",
            told.len()
        );
    }
    assert_eq!(told, (0..90).collect::<Vec<u64>>());
    is_owed_nothing(&two.a).await;
}

#[tokio::test]
async fn nothing_is_kept_for_servers_that_are_sent_nothing() {
    let authority = Authority::new();
    let denying = |settings: &mut Settings| {
        settings.federation.deny = serde_json::from_value(json!(["*.example"])).expect("a pattern");
    };
    for server in [
        Server::start().await,
        Server::start_federated_with(&authority, denying).await,
    ] {
        let alice = server.register("alice").await;
        let elsewhere = json!({ "@bob:elsewhere.example": { "*": {} } });
        send(&alice, elsewhere).await.ok();
        let mut connection = server.engine().db.acquire().await.expect("a connection");
        let waiting = to_device::destinations(&mut connection).await;
        assert!(waiting.expect("they can be read").is_empty());
    }
}

/// Has a server believe that another sent it EDUs in a transaction.
async fn receive(server: &Server, origin: &Server, edus: &[Value]) {
    let origin: OwnedServerName = origin.name().try_into().expect("a server name");
    let txn_id = format!("{}", edus.len()).into();
    let mut request = Request::new(txn_id, origin.clone(), MilliSecondsSinceUnixEpoch::now());
    request.edus = edus
        .iter()
        .map(|edu| Raw::from_json(serde_json::value::to_raw_value(edu).expect("JSON")))
        .collect();
    send_transaction_message(server.engine(), &origin, request)
        .await
        .expect("it is taken");
}

#[tokio::test]
async fn what_another_server_sends_twice_is_taken_once_and_what_it_may_not_say_never() {
    let authority = Authority::new();
    let mut a = Server::start_federated(&authority).await;
    let b = Server::start_federated(&authority).await;
    let alice = a.register("alice").await;
    alice.sync().await;
    let edu = |message_id: &str, sender: &str, number: u64| {
        json!({ "edu_type": "m.direct_to_device", "content": {
            "message_id": message_id, "sender": sender, "type": "org.example.key",
            "messages": { &alice.user_id: { "*": { "number": number } }, "@c:c.example": { "*": {} } },
        } })
    };
    let bob = format!("@bob:{}", b.name());
    let good = [edu("1", &bob, 1), edu("2", &bob, 2), edu("1", &bob, 3)];
    receive(&a, &b, &good).await;
    receive(&a, &b, &good).await;
    a.restart().await;
    receive(&a, &b, &good[1..]).await;
    let bad = [
        edu("4", "@bob:c.example", 4),
        edu("5", &alice.user_id, 5),
        edu(&"x".repeat(33), &bob, 6),
        json!({ "edu_type": "m.direct_to_device", "content": { "sender": bob } }),
        json!({ "edu_type": "m.direct_to_device" }),
        json!({ "edu_type": "m.direct_to_device", "content": {
            "message_id": "7", "sender": bob, "type": "t", "messages": { &alice.user_id: { "*": "text" } },
        } }),
        edu("8", &bob, 8),
    ];
    receive(&a, &b, &bad).await;
    assert_eq!(numbers(&alice.sync().await), [1, 2, 8]);
    tokio::time::timeout(Duration::from_secs(30), nothing_follows(&a, &alice))
        .await
        .expect("they are let go");
}

async fn nothing_follows(server: &Server, device: &Client) {
    assert_eq!(device.sync().await["to_device"], Value::Null);
    nothing_waits(server, device).await;
}
