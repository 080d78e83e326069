//! What goes from one server to another, over real TLS: in order, over outages of either side, and to whom it should.

use hearth_engine::{
    federation::{TransactionError, send_transaction_message},
    outgoing,
};
use hearth_tests::{
    Authority, Server, Two, ephemeral, event_ids, has_left, public_chat, timeline, timeline_has, until,
};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName,
    api::federation::transactions::send_transaction_message::v1::Request, serde::Raw,
};
use serde_json::{Value, json, value::RawValue};

fn name_of(server: &Server) -> OwnedServerName {
    server.name().try_into().expect("a server name")
}

/// Waits until a server is owed nothing by another.
async fn is_served(by: &Server, server: &Server) {
    let server = name_of(server);
    until("the other server is owed nothing", || async {
        let (status, _) = outgoing::of_server(by.engine(), &server)
            .await
            .expect("it can be read");
        let is_served = status.is_none_or(|status| {
            status.waiting == 0 && status.behind_since.is_none() && status.failing_since.is_none()
        });
        is_served.then_some(())
    })
    .await;
}

/// Waits until a server is known to fail.
async fn fails(by: &Server, server: &Server) {
    let server = name_of(server);
    until("the other server fails", || async {
        let (status, _) = outgoing::of_server(by.engine(), &server)
            .await
            .expect("it can be read");
        status.and_then(|status| status.failing_since).map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn messages_arrive_in_the_order_in_which_they_were_sent() {
    let two = Two::start().await;
    let room = two.room().await;
    let sent = two.alice.send_texts(&room, 120).await;
    let seen = two.bob.timeline_up_to(&room, sent.last().expect("some")).await;
    let seen: Vec<String> = event_ids(&Value::from(seen))
        .into_iter()
        .filter(|id| sent.contains(id))
        .collect();
    assert_eq!(seen, sent);
    is_served(&two.a, &two.b).await;
}

#[tokio::test]
async fn typing_is_seen_on_the_other_server_and_ends_there() {
    let two = Two::start().await;
    let room = two.room().await;
    let typists = |sync: &Value| {
        ephemeral(sync, &room, "m.typing")
            .pop()
            .map(|content| content["user_ids"].clone())
    };
    two.alice.set_typing(&room, Some(30_000)).await.ok();
    two.bob
        .sync_until(|sync| typists(sync) == Some(json!([two.alice.user_id])))
        .await;
    two.alice.set_typing(&room, None).await.ok();
    two.bob.sync_until(|sync| typists(sync) == Some(json!([]))).await;
}

#[tokio::test]
async fn public_receipts_cross_servers_and_private_ones_do_not() {
    let two = Two::start().await;
    let room = two.room().await;
    let sent = two.alice.send_texts(&room, 2).await;
    two.bob.sync_until(timeline_has(&room, &sent[1])).await;
    two.bob.send_receipt(&room, "m.read.private", &sent[1]).await.ok();
    two.bob.send_receipt(&room, "m.read", &sent[0]).await.ok();
    let receipts = |sync: &Value| ephemeral(sync, &room, "m.receipt");
    let sync = two.alice.sync_until(|sync| !receipts(sync).is_empty()).await;
    let told = receipts(&sync);
    assert!(
        told[0][&sent[0]]["m.read"][&two.bob.user_id]["ts"].is_u64(),
        "{told:?}"
    );
    assert_eq!(told[0].as_object().map(serde_json::Map::len), Some(1), "{told:?}");

    let threaded = json!({ "thread_id": "main" });
    let path = format!("/v3/rooms/{room}/receipt/m.read/{}", sent[1]);
    two.bob.post(&path, threaded).await.ok();
    let sync = two.alice.sync_until(|sync| !receipts(sync).is_empty()).await;
    assert_eq!(
        receipts(&sync)[0][&sent[1]]["m.read"][&two.bob.user_id]["thread_id"],
        "main"
    );
}

#[tokio::test]
async fn what_was_said_during_an_outage_arrives_after_it() {
    let mut two = Two::start().await;
    let (one, other) = (two.room().await, two.room().await);
    is_served(&two.a, &two.b).await;
    two.b.stop().await;
    let mut sent = two.alice.send_texts(&one, 10).await;
    fails(&two.a, &two.b).await;
    sent.extend(two.alice.send_texts(&one, 5).await);
    let elsewhere = two.alice.send_texts(&other, 3).await;
    two.b.restart().await;
    let seen = two.bob.timeline_up_to(&one, sent.last().expect("some")).await;
    let seen: Vec<String> = event_ids(&Value::from(seen))
        .into_iter()
        .filter(|id| sent.contains(id))
        .collect();
    assert_eq!(seen, sent);
    two.bob.set_since(None);
    two.bob.sync_until(timeline_has(&other, &elsewhere[2])).await;
    is_served(&two.a, &two.b).await;
}

#[tokio::test]
async fn what_another_server_is_owed_outlives_a_restart() {
    let mut two = Two::start().await;
    let room = two.room().await;
    is_served(&two.a, &two.b).await;
    two.b.stop().await;
    let before = two.alice.send_text(&room, "before").await.event_id();
    fails(&two.a, &two.b).await;
    two.a.restart().await;
    // Of what fails, how long it has failed is remembered too.
    fails(&two.a, &two.b).await;
    let after = two.alice.send_text(&room, "after").await.event_id();
    two.b.restart().await;
    let seen = two.bob.timeline_up_to(&room, &after).await;
    assert!(event_ids(&Value::from(seen)).contains(&before));
    is_served(&two.a, &two.b).await;
}

#[tokio::test]
async fn a_server_that_is_heard_from_is_not_left_alone_any_longer() {
    let mut two = Two::start().await;
    let room = two.room().await;
    is_served(&two.a, &two.b).await;
    two.b.stop().await;
    let hello = two.alice.send_text(&room, "hello").await.event_id();
    fails(&two.a, &two.b).await;
    two.b.restart().await;
    let answer = two.bob.send_text(&room, "back again").await.event_id();
    two.alice.sync_until(timeline_has(&room, &answer)).await;
    two.bob.set_since(None);
    two.bob.sync_until(timeline_has(&room, &hello)).await;
    is_served(&two.a, &two.b).await;
}

#[tokio::test]
async fn after_much_was_missed_a_room_is_brought_up_to_date() {
    let mut two = Two::start().await;
    let room = two.room().await;
    is_served(&two.a, &two.b).await;
    two.b.stop().await;
    let sent = two.alice.send_texts(&room, 600).await;
    fails(&two.a, &two.b).await;
    two.b.restart().await;
    let last = sent.last().expect("some");
    two.bob
        .sync_until(|sync| {
            timeline(sync, &room)
                .iter()
                .any(|event| event["event_id"] == *last)
        })
        .await;
    is_served(&two.a, &two.b).await;
    let next = two.alice.send_text(&room, "and on").await.event_id();
    two.bob.sync_until(timeline_has(&room, &next)).await;
}

#[tokio::test]
async fn who_is_kicked_learns_it_on_a_server_that_is_in_the_room_no_more() {
    let two = Two::start().await;
    let room = two.room().await;
    two.alice.kick(&room, &two.bob, Some("off you go")).await.ok();
    two.bob.sync_until(has_left(&room)).await;
    let unseen = two.alice.send_text(&room, "they are gone").await.event_id();
    is_served(&two.a, &two.b).await;
    two.bob.event(&room, &unseen).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_join_through_one_server_is_told_to_the_others() {
    let authority = Authority::new();
    let (a, b, c) = (
        Server::start_federated(&authority).await,
        Server::start_federated(&authority).await,
        Server::start_federated(&authority).await,
    );
    let (alice, bob, carol) = (
        a.register("alice").await,
        b.register("bob").await,
        c.register("carol").await,
    );
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join_via(&room, a.name()).await;
    alice.sees_membership(&room, &bob, "join").await;
    carol.join_via(&room, a.name()).await;
    alice.sees_membership(&room, &carol, "join").await;
    // Told by the server that let her in; hers knows of nobody else to be told by.
    bob.sees_membership(&room, &carol, "join").await;
    let from_bob = bob.send_text(&room, "hello all").await.event_id();
    carol.sync_until(timeline_has(&room, &from_bob)).await;
    alice.sync_until(timeline_has(&room, &from_bob)).await;
    let from_carol = carol.send_text(&room, "hello both").await.event_id();
    bob.sync_until(timeline_has(&room, &from_carol)).await;
}

#[tokio::test]
async fn a_transaction_that_is_too_long_or_of_another_server_is_refused_whole() {
    let two = Two::start().await;
    let (a, engine) = (name_of(&two.a), two.b.engine());
    let request = |origin: &OwnedServerName| {
        Request::new("1".into(), origin.clone(), MilliSecondsSinceUnixEpoch::now())
    };
    let raw = |json: Value| -> Box<RawValue> { serde_json::value::to_raw_value(&json).expect("JSON") };

    let mut long = request(&a);
    long.pdus = (0..51).map(|_| raw(json!({}))).collect();
    let refused = send_transaction_message(engine, &a, long).await;
    assert!(
        matches!(refused, Err(TransactionError::TooManyPdus)),
        "{refused:?}"
    );
    let mut long = request(&a);
    long.edus = (0..101).map(|_| Raw::from_json(raw(json!({})))).collect();
    let refused = send_transaction_message(engine, &a, long).await;
    assert!(
        matches!(refused, Err(TransactionError::TooManyEdus)),
        "{refused:?}"
    );
    let refused = send_transaction_message(engine, &a, request(&name_of(&two.b))).await;
    assert!(
        matches!(refused, Err(TransactionError::OtherOrigin)),
        "{refused:?}"
    );

    // What is not to be understood harms nothing.
    let mut strange = request(&a);
    strange.pdus = vec![
        raw(json!([])),
        raw(json!({ "room_id": 1 })),
        raw(json!({ "room_id": "!unknown:x" })),
    ];
    strange.edus = [
        json!(1),
        json!({}),
        json!({ "edu_type": "m.typing", "content": [] }),
        json!({ "edu_type": "x" }),
    ]
    .map(|edu| Raw::from_json(raw(edu)))
    .into();
    let taken = send_transaction_message(engine, &a, strange)
        .await
        .expect("it is taken");
    assert!(taken.pdus.is_empty(), "none of them has an ID: {:?}", taken.pdus);
}

#[tokio::test]
async fn a_server_speaks_for_its_own_users_only_and_where_they_are() {
    let two = Two::start().await;
    let room = two.room().await;
    let elsewhere = two.bob.create_room(public_chat()).await.room_id();
    let (a, engine) = (name_of(&two.a), two.b.engine());
    let hello = two.bob.send_text(&room, "hello").await.event_id();
    two.bob.sync_until(timeline_has(&room, &hello)).await;
    let typing = |room: &str, user: &str| {
        let content = json!({ "room_id": room, "user_id": user, "typing": true });
        json!({ "edu_type": "m.typing", "content": content })
    };
    let receipt = |user: &str, event: &str, ts: u64| {
        let read = json!({ user: { "data": { "ts": ts }, "event_ids": [event] } });
        json!({ "edu_type": "m.receipt", "content": { room.as_str(): { "m.read": read } } })
    };
    let edus = [
        typing(&room, &two.bob.user_id),
        typing(&elsewhere, &two.alice.user_id),
        receipt(&two.bob.user_id, &hello, 1),
        receipt(&two.alice.user_id, &hello, 2),
        // Of an event that is not known here, and older than the one before.
        receipt(&two.alice.user_id, "$unknown", 1),
        typing(&room, &two.alice.user_id),
    ];
    let mut request = Request::new("forged".into(), a.clone(), MilliSecondsSinceUnixEpoch::now());
    request.edus = edus
        .iter()
        .map(|edu| Raw::from_json(serde_json::value::to_raw_value(edu).expect("JSON")))
        .collect();
    send_transaction_message(engine, &a, request)
        .await
        .expect("it is taken");
    let sync = two.bob.sync().await;
    assert_eq!(
        ephemeral(&sync, &room, "m.typing"),
        [json!({ "user_ids": [two.alice.user_id] })]
    );
    assert!(ephemeral(&sync, &elsewhere, "m.typing").is_empty(), "{sync}");
    let told = ephemeral(&sync, &room, "m.receipt");
    assert_eq!(
        told,
        [json!({ hello: { "m.read": { two.alice.user_id.as_str(): { "ts": 2 } } } })]
    );
}
