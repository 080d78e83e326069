//! Ticks across servers: which of them have a message, and what they tell each other of deliveries.

use std::process::Stdio;

use hearth_engine::{federation::send_transaction_message, outgoing};
use hearth_tests::{
    Authority, Client, PATIENCE, Server, Two, encoded, ephemeral, python_script, timeline_has, until, within,
};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName,
    api::federation::transactions::send_transaction_message::v1::Request, serde::Raw,
};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
};

const DELIVERED: &str = "chat.hearth.delivered";

/// Where a mark of a user stands by a sync: the first event and the last.
fn mark(sync: &Value, room: &str, user: &Client) -> Option<(String, String)> {
    let mut found = None;
    for content in ephemeral(sync, room, "m.receipt") {
        for (event_id, by_type) in content.as_object().into_iter().flatten() {
            if let Some(from) = by_type[DELIVERED][&user.user_id]["chat.hearth.from"].as_str() {
                found = Some((from.to_owned(), event_id.clone()));
            }
        }
    }
    found
}

async fn sees(viewer: &Client, room: &str, user: &Client, event_id: &str) -> String {
    let is_there = |sync: &Value| mark(sync, room, user).is_some_and(|(_, last)| last == event_id);
    let sync = viewer.sync_until(is_there).await;
    mark(&sync, room, user).expect("it is there").0
}

async fn takes(user: &Client, room: &str, event_id: &str) {
    user.sync_until(timeline_has(room, event_id)).await;
    user.sync().await;
}

async fn status(client: &Client, room: &str, event_id: &str) -> Value {
    let path = format!(
        "/unstable/chat.hearth/rooms/{}/status/{}",
        encoded(room),
        encoded(event_id)
    );
    client.get(&path).await.ok()
}

fn name_of(server: &Server) -> OwnedServerName {
    server.name().try_into().expect("a server name")
}

/// Waits until a server has been given everything by another.
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

#[tokio::test]
async fn all_three_ticks_cross_servers() {
    let two = Two::start().await;
    let (room, alice, bob) = (two.room().await, &two.alice, &two.bob);
    alice.sync().await;
    let event = alice.send_text(&room, "hello").await.event_id();
    let told = until("the other server has it", || async {
        let told = status(alice, &room, &event).await;
        told["received"][two.b.name()].is_object().then_some(told)
    })
    .await;
    assert!(
        told["received"][two.b.name()]["ts"].as_u64() >= told["received"][two.a.name()]["ts"].as_u64(),
        "{told}"
    );
    assert_eq!((&told["delivered"], &told["read"]), (&json!({}), &json!({})));

    takes(bob, &room, &event).await;
    assert_eq!(sees(alice, &room, bob, &event).await, event);
    let told = status(alice, &room, &event).await;
    assert!(told["delivered"][&bob.user_id]["ts"].is_u64(), "{told}");
    assert_eq!(told["read"], json!({}));

    bob.send_receipt(&room, "m.read", &event).await.ok();
    until("it is read", || async {
        let told = status(alice, &room, &event).await;
        told["read"][&bob.user_id]["ts"].is_u64().then_some(())
    })
    .await;

    let answer = bob.send_text(&room, "hello yourself").await.event_id();
    takes(alice, &room, &answer).await;
    assert_eq!(sees(bob, &room, alice, &answer).await, answer);
    let more = alice.send_text(&room, "how are you?").await.event_id();
    takes(bob, &room, &more).await;
    assert_eq!(sees(alice, &room, bob, &more).await, event, "it goes on");
}

#[tokio::test]
async fn who_comes_from_another_server_never_counts_for_what_was_before() {
    let two = Two::start().await;
    let (room, alice, bob) = (two.room().await, &two.alice, &two.bob);
    let before = alice.send_text(&room, "before").await.event_id();
    takes(bob, &room, &before).await;
    alice.sync().await;
    let dave = two.b.register("dave").await;
    dave.join_via(&room, two.a.name()).await;
    alice.sees_membership(&room, &dave, "join").await;
    let after = alice.send_text(&room, "after").await.event_id();
    takes(&dave, &room, &after).await;
    assert_eq!(sees(alice, &room, &dave, &after).await, after);
    let told = status(alice, &room, &before).await;
    assert!(told["delivered"][&dave.user_id].is_null(), "{told}");
}

#[tokio::test]
async fn marks_are_owed_to_a_server_that_is_away() {
    let mut two = Two::start().await;
    let (room, bob) = (two.room().await, &two.bob);
    let first = two.alice.send_text(&room, "first").await.event_id();
    takes(bob, &room, &first).await;
    sees(&two.alice, &room, bob, &first).await;
    let second = two.alice.send_text(&room, "second").await.event_id();
    bob.sync_until(timeline_has(&room, &second)).await;
    is_served(&two.a, &two.b).await;
    two.a.stop().await;
    bob.sync().await;
    until("it is delivered, as far as this server knows", || async {
        let waits = outgoing::of_server(two.b.engine(), &name_of(&two.a))
            .await
            .expect("it can be read")
            .0;
        waits.and_then(|waits| waits.failing_since).map(|_| ())
    })
    .await;
    two.a.restart().await;
    assert_eq!(sees(&two.alice, &room, bob, &second).await, first);
}

#[tokio::test]
async fn what_was_passed_over_after_an_outage_is_not_said_to_be_received() {
    let mut two = Two::start().await;
    let room = two.room().await;
    let (alice, other) = (&two.alice, two.b.name().to_owned());
    let before = alice.send_text(&room, "before").await.event_id();
    is_served(&two.a, &two.b).await;
    two.b.stop().await;
    let sent = alice.send_texts(&room, 60).await;
    assert!(status(alice, &room, &before).await["received"][&other].is_object());
    assert!(status(alice, &room, &sent[0]).await["received"][&other].is_null());
    // What waits for it is in the log alone.
    two.a.restart().await;
    two.b.restart().await;
    is_served(&two.a, &two.b).await;
    for (event, has) in [
        (&before, true),
        (&sent[0], false),
        (&sent[58], false),
        (&sent[59], true),
    ] {
        let told = status(alice, &room, event).await;
        assert_eq!(told["received"][&other].is_object(), has, "{told}");
    }
    two.a.restart().await;
    let alice = &two.alice;
    // How far it got is written down now and then: what came after is sent again.
    for event in [&before, &sent[59]] {
        until("it is known again", || async {
            let told = status(alice, &room, event).await;
            told["received"][&other].is_object().then_some(())
        })
        .await;
    }
    for (event, has) in [(&before, true), (&sent[0], false), (&sent[59], true)] {
        let told = status(alice, &room, event).await;
        assert_eq!(told["received"][&other].is_object(), has, "{told}");
    }
}

#[tokio::test]
async fn a_server_tells_of_its_own_users_only_and_no_mark_moves_back() {
    let two = Two::start().await;
    let room = two.room().await;
    let (a, engine) = (name_of(&two.a), two.b.engine());
    let events = two.bob.send_texts(&room, 3).await;
    let elsewhere = two.bob.create_room(hearth_tests::public_chat()).await.room_id();
    two.bob.sync().await;
    let edu = |room: &str, user: &Client, from: &str, last: &str, ts: u64| {
        let mark = json!({ "event_id": last, "from": from, "ts": ts });
        json!({ "edu_type": "chat.hearth.delivery", "content": { room: { user.user_id.as_str(): mark } } })
    };
    let send = |txn_id: &str, edus: Vec<Value>| {
        let mut request = Request::new(txn_id.into(), a.clone(), MilliSecondsSinceUnixEpoch::now());
        request.edus = edus
            .iter()
            .map(|edu| Raw::from_json(serde_json::value::to_raw_value(edu).expect("JSON")))
            .collect();
        send_transaction_message(engine, &a, request)
    };
    let forged = vec![
        edu(&room, &two.bob, &events[0], &events[0], 1),
        edu(&elsewhere, &two.alice, &events[0], &events[0], 1),
        json!({ "edu_type": "chat.hearth.delivery", "content": [] }),
        json!({ "edu_type": "chat.hearth.delivery", "content": { room.as_str(): { two.alice.user_id.as_str(): 3 } } }),
        json!({ "edu_type": "chat.hearth.delivery", "content": { "!unknown:x": {} } }),
    ];
    send("forged", forged).await.expect("it is taken");
    let good = vec![
        edu(&room, &two.alice, &events[0], &events[1], 7),
        edu(&room, &two.alice, &events[0], &events[0], 9),
    ];
    send("good", good).await.expect("it is taken");
    let sync = two
        .bob
        .sync_until(|sync| mark(sync, &room, &two.alice).is_some())
        .await;
    let wanted = (events[0].clone(), events[1].clone());
    assert_eq!(mark(&sync, &room, &two.alice), Some(wanted));
    assert_eq!(mark(&sync, &room, &two.bob), None, "{sync}");
    let told = status(&two.bob, &room, &events[1]).await;
    assert_eq!(
        told["delivered"],
        json!({ two.alice.user_id.as_str(): { "ts": 7 } })
    );
    assert_eq!(status(&two.bob, &room, &events[2]).await["delivered"], json!({}));

    // However many parts it claims, a few are kept.
    let many = (0..60).map(|number| edu(&room, &two.alice, &format!("$unknown{number}"), &events[2], 10));
    send("many", many.collect()).await.expect("it is taken");
    let parts = two.bob.another_device().await.sync().await;
    let receipts = ephemeral(&parts, &room, "m.receipt");
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    let mut connection = PgConnection::connect(two.b.database_url())
        .await
        .expect("it can be reached");
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM receipts WHERE receipt_type = $1")
        .bind(DELIVERED)
        .fetch_one(&mut connection)
        .await
        .expect("it can be read");
    assert!(count <= 17, "{count} are kept");
}

/// Another server's place, taken by a program that answers as `name`.
struct Other {
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
    _directory: TempDir,
    asked: usize,
    edus: Vec<Value>,
}

impl Other {
    async fn at(server: &str, authority: &Authority, name: &str) -> Self {
        let directory = TempDir::new().expect("a directory can be made");
        let (certificate, key) = authority.issue(&["localhost", "127.0.0.1"], directory.path());
        let port = server.rsplit(':').next().expect("a port");
        let mut process = python_script("other_server.py")
            .arg(port)
            .args([certificate, key])
            .arg(name)
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let stdout = process.stdout.take().expect("it is piped");
        let mut other = Self {
            lines: BufReader::new(stdout).lines(),
            _process: process,
            _directory: directory,
            asked: 0,
            edus: Vec::new(),
        };
        assert!(other.hear().await["listens"].is_string());
        other
    }

    async fn hear(&mut self) -> Value {
        let line = within(
            PATIENCE,
            "the other server is asked something",
            self.lines.next_line(),
        )
        .await;
        let heard: Value = serde_json::from_str(&line.expect("a line").expect("it runs")).expect("JSON");
        self.asked += usize::from(heard["asked"] == "version");
        self.edus
            .extend(heard["edus"].as_array().cloned().unwrap_or_default());
        heard
    }

    /// Until an event with this body comes.
    async fn hear_of(&mut self, body: &str) {
        loop {
            let heard = self.hear().await;
            let mut pdus = heard["pdus"].as_array().into_iter().flatten();
            if pdus.any(|pdu| pdu["content"]["body"] == body) {
                return;
            }
        }
    }

    fn of_type(&self, edu_type: &str) -> Vec<&Value> {
        self.edus
            .iter()
            .filter(|edu| edu["edu_type"] == edu_type)
            .collect()
    }
}

/// A room of alice, of a friend of hers on the same server, and of bob, on a server that `name` takes the place of.
async fn with_another(name: &str) -> (Two, Client, String, Other) {
    let mut two = Two::start().await;
    let room = two.room().await;
    let carol = two.a.register("carol").await;
    carol.join(&room).await.ok();
    two.bob.sees_membership(&room, &carol, "join").await;
    is_served(&two.a, &two.b).await;
    carol.sync().await;
    two.b.stop().await;
    let other = Other::at(two.b.name(), &two.authority, name).await;
    (two, carol, room, other)
}

#[tokio::test]
async fn a_server_of_another_kind_is_asked_once_and_told_nothing() {
    let (two, carol, room, mut other) = with_another("Synapse").await;
    for number in 0..3 {
        let event = two.alice.send_text(&room, &format!("{number}")).await.event_id();
        takes(&carol, &room, &event).await;
        sees(&two.alice, &room, &carol, &event).await;
        carol.send_receipt(&room, "m.read", &event).await.ok();
    }
    while other.asked == 0 || other.of_type("m.receipt").is_empty() {
        other.hear().await;
    }
    let event = two.alice.send_text(&room, "again").await.event_id();
    takes(&carol, &room, &event).await;
    sees(&two.alice, &room, &carol, &event).await;
    two.alice.send_text(&room, "the end").await.ok();
    other.hear_of("the end").await;
    assert_eq!(other.asked, 1);
    assert!(
        other.of_type("chat.hearth.delivery").is_empty(),
        "{:?}",
        other.edus
    );
    assert!(!other.of_type("m.receipt").is_empty());
    let told = status(&two.alice, &room, &event).await;
    assert!(told["received"][two.b.name()].is_object(), "{told}");
}

#[tokio::test]
async fn a_server_of_this_kind_is_asked_once_and_told() {
    let (two, carol, room, mut other) = with_another("Hearth").await;
    let mut sent = Vec::new();
    for number in 0..3 {
        sent.push(two.alice.send_text(&room, &format!("{number}")).await.event_id());
        takes(&carol, &room, &sent[number]).await;
        sees(&two.alice, &room, &carol, &sent[number]).await;
    }
    let is_last = |edu: &&Value| edu["content"][&room][&carol.user_id]["event_id"] == sent[2].as_str();
    let last = loop {
        let last = other
            .of_type("chat.hearth.delivery")
            .into_iter()
            .find(is_last)
            .cloned();
        match last {
            Some(last) => break last,
            None => drop(other.hear().await),
        }
    };
    let mark = &last["content"][&room][&carol.user_id];
    assert_eq!(mark["from"], sent[0].as_str());
    assert!(mark["ts"].is_u64(), "{last}");
    assert_eq!(other.asked, 1);
}
