use hearth_engine::{
    push_rules,
    receipts::{self, Marker, Thread},
    rooms::send::redact,
    sync::{SyncRequest, sync},
};
use ruma::{
    EventId,
    api::client::sync::sync_events::v3::Filter,
    push::{NewPatternedPushRule, NewPushRule, NewSimplePushRule, RuleKind},
};

use super::*;

const READ: Marker = Marker::Read(Thread::Unthreaded);

/// A client that keeps looking at a room, and what it was told last.
struct Looking {
    user: Requester,
    room_id: OwnedRoomId,
    threads: bool,
    token: Option<String>,
    told: Value,
}

impl Looking {
    fn new(user: &Requester, room_id: &RoomId, threads: bool) -> Self {
        Self {
            user: user.clone(),
            room_id: room_id.to_owned(),
            threads,
            token: None,
            told: json!(null),
        }
    }

    async fn look(&mut self, server: &Server) -> &Value {
        let filter = json!({ "room": { "timeline": { "unread_thread_notifications": self.threads } } });
        let request = SyncRequest {
            since: self.token.take(),
            filter: Some(Filter::FilterDefinition(serde_json::from_value(filter).unwrap())),
            ..SyncRequest::default()
        };
        let response = sync(&server.engine, &self.user, request).await.unwrap();
        self.token = Some(response.next_batch.clone());
        if let Some(room) = response.rooms.join.get(&self.room_id) {
            self.told = json!({
                "all": [room.unread_notifications.notification_count, room.unread_notifications.highlight_count],
                "threads": room.unread_thread_notifications.iter()
                    .map(|(root, count)| (root.to_string(), json!([count.notification_count, count.highlight_count])))
                    .collect::<serde_json::Map<_, _>>(),
            });
        }
        &self.told
    }

    /// What this client comes to know is what one that comes new is told, whatever the server has in memory.
    async fn expect(
        &mut self,
        server: &Server,
        all: (u64, u64),
        threads: Value,
        forgetful: bool,
        step: &str,
    ) {
        let expected = json!({ "all": [all.0, all.1], "threads": threads });
        if forgetful {
            server.engine.drop_idle();
        }
        assert_eq!(
            *self.look(server).await,
            expected,
            "{step}, for one who keeps looking"
        );
        let mut new = Self::new(&self.user, &self.room_id, self.threads);
        assert_eq!(*new.look(server).await, expected, "{step}, for one who comes new");
    }
}

async fn read(server: &Server, user: &Requester, room_id: &RoomId, marker: Marker, event_id: &EventId) {
    receipts::set(&server.engine, user, room_id, &[(marker, event_id)])
        .await
        .unwrap();
}

async fn send_type(
    server: &Server,
    user: &Requester,
    room_id: &RoomId,
    event_type: &str,
    content: Value,
) -> OwnedEventId {
    let txn_id = server.engine.entropy.alphanumeric(12);
    send_message(
        &server.engine,
        user,
        room_id,
        event_type.into(),
        &txn_id,
        &content.to_string(),
    )
    .await
    .unwrap()
}

fn text(body: &str, rest: Value) -> Value {
    let mut content = json!({ "msgtype": "m.text", "body": body });
    content
        .as_object_mut()
        .unwrap()
        .extend(rest.as_object().unwrap().clone());
    content
}

async fn what_others_say_counts_until_it_is_read(forgetful: bool) {
    let server = Server::start().await;
    let (alice, bob, carol) = (
        server.user("alice").await,
        server.user("bob").await,
        server.user("carol").await,
    );
    let room = server.room_of(&alice, &bob).await;
    server.join(&carol, &room).await;
    let mut looking = Looking::new(&bob, &room, false);
    let mut expect = async |all, step: &str| looking.expect(&server, all, json!({}), forgetful, step).await;
    expect((0, 0), "nothing said").await;

    let first = server.say(&alice, &room, "one").await;
    server.say(&alice, &room, "two").await;
    expect((2, 0), "two messages").await;
    let mention = text(
        "bob",
        json!({ "m.mentions": { "user_ids": ["@carol:example.org", "@bob:example.org"] } }),
    );
    let mention = server.send(&alice, &room, mention).await;
    expect((3, 1), "a mention").await;
    let everyone = || text("@room", json!({ "m.mentions": { "room": true } }));
    server.send(&alice, &room, everyone()).await;
    expect((4, 2), "a mention of the room").await;
    let powerless = server.send(&carol, &room, everyone()).await;
    expect((5, 2), "a mention of the room by one without power").await;
    server
        .send(&alice, &room, json!({ "msgtype": "m.notice", "body": "bot" }))
        .await;
    server
        .set_state(&alice, &room, "m.room.name", json!({ "name": "Room" }))
        .await;
    let annotation = json!({ "rel_type": "m.annotation", "event_id": first, "key": "+" });
    send_type(
        &server,
        &alice,
        &room,
        "m.reaction",
        json!({ "m.relates_to": annotation }),
    )
    .await;
    let edit = json!({ "m.relates_to": { "rel_type": "m.replace", "event_id": first } });
    server.send(&alice, &room, text("* one!", edit)).await;
    expect((5, 2), "what notifies nobody").await;
    let txn_id = server.engine.entropy.alphanumeric(12);
    redact(&server.engine, &alice, &room, &first, &txn_id, None)
        .await
        .unwrap();
    expect((4, 2), "a redaction").await;

    read(&server, &bob, &room, READ, &mention).await;
    expect((2, 1), "a receipt").await;
    read(
        &server,
        &bob,
        &room,
        Marker::ReadPrivate(Thread::Unthreaded),
        &powerless,
    )
    .await;
    expect((0, 0), "a private receipt").await;
    send_type(
        &server,
        &carol,
        &room,
        "m.room.encrypted",
        json!({ "algorithm": "x" }),
    )
    .await;
    expect((1, 0), "something encrypted").await;
    let reaction = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": mention, "key": "+" } });
    send_type(&server, &bob, &room, "m.reaction", reaction).await;
    expect((1, 0), "an own reaction").await;
    server.say(&bob, &room, "I'm here").await;
    expect((0, 0), "an own message").await;
    server.say(&alice, &room, "three").await;
    expect((1, 0), "a message after it").await;
}

#[tokio::test]
async fn what_others_say_counts_until_it_is_read_for_who_keeps_looking() {
    what_others_say_counts_until_it_is_read(false).await;
}

#[tokio::test]
async fn what_others_say_counts_until_it_is_read_for_who_looks_from_time_to_time() {
    what_others_say_counts_until_it_is_read(true).await;
}

async fn threads_count_for_themselves(forgetful: bool) {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = server.room_of(&alice, &bob).await;
    let (mut by_thread, mut whole) = (Looking::new(&bob, &room, true), Looking::new(&bob, &room, false));
    let first = server.say(&alice, &room, "first root").await;
    let second = server.say(&alice, &room, "second root").await;
    let (a, b) = (first.as_str(), second.as_str());
    let in_thread = |root: &EventId, rest: Value| {
        let mut content = text("reply", rest);
        content["m.relates_to"] = json!({ "rel_type": "m.thread", "event_id": root });
        content
    };
    let mut expect = async |main: (u64, u64), threads: Value, total: (u64, u64), step: &str| {
        by_thread.expect(&server, main, threads, forgetful, step).await;
        whole.expect(&server, total, json!({}), forgetful, step).await;
    };
    let in_first = server.send(&alice, &room, in_thread(&first, json!({}))).await;
    server
        .send(
            &alice,
            &room,
            in_thread(&first, json!({ "m.mentions": { "user_ids": [bob.user_id] } })),
        )
        .await;
    let in_second = server.send(&alice, &room, in_thread(&second, json!({}))).await;
    expect((2, 0), json!({ a: [2, 1], b: [1, 0] }), (5, 1), "two threads").await;
    let reference = json!({ "m.relates_to": { "rel_type": "m.reference", "event_id": in_second } });
    server.send(&alice, &room, text("refers", reference)).await;
    expect(
        (2, 0),
        json!({ a: [2, 1], b: [2, 0] }),
        (6, 1),
        "what refers to something in a thread",
    )
    .await;
    read(&server, &bob, &room, Marker::Read(Thread::Main), &second).await;
    expect(
        (0, 0),
        json!({ a: [2, 1], b: [2, 0] }),
        (4, 1),
        "a receipt for what is in no thread",
    )
    .await;
    read(
        &server,
        &bob,
        &room,
        Marker::ReadPrivate(Thread::Root(first.clone())),
        &in_first,
    )
    .await;
    expect(
        (0, 0),
        json!({ a: [1, 1], b: [2, 0] }),
        (3, 1),
        "a receipt of a thread",
    )
    .await;
    server.send(&bob, &room, in_thread(&second, json!({}))).await;
    expect((0, 0), json!({ a: [1, 1] }), (1, 1), "an own message in a thread").await;
    server.say(&bob, &room, "in none").await;
    expect((0, 0), json!({ a: [1, 1] }), (1, 1), "an own message in none").await;
    let last = server.send(&alice, &room, in_thread(&second, json!({}))).await;
    expect(
        (0, 0),
        json!({ a: [1, 1], b: [1, 0] }),
        (2, 1),
        "the thread goes on",
    )
    .await;
    read(&server, &bob, &room, READ, &last).await;
    expect((0, 0), json!({}), (0, 0), "a receipt of the whole room").await;
}

#[tokio::test]
async fn threads_count_for_themselves_for_who_keeps_looking() {
    threads_count_for_themselves(false).await;
}

#[tokio::test]
async fn threads_count_for_themselves_for_who_looks_from_time_to_time() {
    threads_count_for_themselves(true).await;
}

async fn rules_of_ones_own_decide(forgetful: bool) {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = server.room_of(&alice, &bob).await;
    let engine = &server.engine;
    let mut looking = Looking::new(&bob, &room, false);
    let actions = |actions: Value| serde_json::from_value(actions).unwrap();
    // What rules make of a message, a mention, a notice and a message with a keyword: looked at anew each time, since a
    // change of rules is no news of a room.
    server.say(&alice, &room, "hello").await;
    server
        .send(
            &alice,
            &room,
            text("bob", json!({ "m.mentions": { "user_ids": [bob.user_id] } })),
        )
        .await;
    server
        .send(
            &alice,
            &room,
            json!({ "msgtype": "m.notice", "body": "a bot speaks of tea" }),
        )
        .await;
    server.say(&alice, &room, "Cake, anyone?").await;
    looking
        .expect(&server, (3, 1), json!({}), forgetful, "the server's rules")
        .await;
    let expect = async |all: [u64; 2], step: &str| {
        if forgetful {
            engine.drop_idle();
        }
        let mut new = Looking::new(&bob, &room, false);
        assert_eq!(new.look(&server).await["all"], json!(all), "{step}");
    };
    let keyword = |word: &str| {
        NewPushRule::Content(NewPatternedPushRule::new(
            word.into(),
            word.into(),
            actions(json!(["notify", { "set_tweak": "highlight" }])),
        ))
    };
    push_rules::set(engine, &bob, keyword("cake"), None, None)
        .await
        .unwrap();
    expect([3, 2], "a keyword").await;
    let mute = NewPushRule::Room(NewSimplePushRule::new(room.clone(), Vec::new()));
    push_rules::set(engine, &bob, mute, None, None).await.unwrap();
    expect([2, 2], "mentions and keywords only").await;
    push_rules::delete(engine, &bob, RuleKind::Content, "cake")
        .await
        .unwrap();
    expect([1, 1], "mentions only").await;
    push_rules::set_enabled(engine, &bob, RuleKind::Override, ".m.rule.is_user_mention", false)
        .await
        .unwrap();
    expect([0, 0], "muted").await;
    push_rules::delete(engine, &bob, RuleKind::Room, room.as_str())
        .await
        .unwrap();
    expect([3, 0], "no more").await;
    push_rules::set_enabled(
        engine,
        &bob,
        RuleKind::Override,
        ".m.rule.suppress_notices",
        false,
    )
    .await
    .unwrap();
    expect([4, 0], "notices too").await;
    let quiet = NewPushRule::Sender(NewSimplePushRule::new(alice.user_id.clone(), Vec::new()));
    push_rules::set(engine, &bob, quiet, None, None).await.unwrap();
    expect([0, 0], "nothing of a sender's").await;
    push_rules::delete(engine, &bob, RuleKind::Sender, alice.user_id.as_str())
        .await
        .unwrap();
    push_rules::set_enabled(engine, &bob, RuleKind::Override, ".m.rule.master", true)
        .await
        .unwrap();
    expect([0, 0], "nothing at all").await;
    push_rules::set_enabled(engine, &bob, RuleKind::Override, ".m.rule.master", false)
        .await
        .unwrap();
    // And one who keeps looking is told by the new rules with the next news.
    push_rules::set(engine, &bob, keyword("tea"), None, None)
        .await
        .unwrap();
    server
        .send(
            &alice,
            &room,
            text("@room", json!({ "m.mentions": { "room": true } })),
        )
        .await;
    looking
        .expect(&server, (5, 2), json!({}), forgetful, "by the rules of today")
        .await;
    let last = server.say(&alice, &room, "TEA!").await;
    looking
        .expect(&server, (6, 3), json!({}), forgetful, "a keyword comes")
        .await;
    read(&server, &bob, &room, READ, &last).await;
    looking
        .expect(&server, (0, 0), json!({}), forgetful, "all read")
        .await;
}

#[tokio::test]
async fn rules_of_ones_own_decide_for_who_keeps_looking() {
    rules_of_ones_own_decide(false).await;
}

#[tokio::test]
async fn rules_of_ones_own_decide_for_who_looks_from_time_to_time() {
    rules_of_ones_own_decide(true).await;
}

#[tokio::test]
async fn what_was_said_before_one_came_is_not_unread() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = server.room(&alice).await;
    for forgetful in [false, true] {
        server.say(&alice, &room, "before").await;
        server.join(&bob, &room).await;
        let mut looking = Looking::new(&bob, &room, false);
        looking
            .expect(&server, (0, 0), json!({}), forgetful, "just joined")
            .await;
        server.say(&alice, &room, "after").await;
        looking
            .expect(&server, (1, 0), json!({}), forgetful, "joined")
            .await;
        server.leave(&bob, &room).await;
    }
}

#[tokio::test]
async fn more_unread_than_memory_holds_is_counted_all_the_same() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = server.room_of(&alice, &bob).await;
    let mut looking = Looking::new(&bob, &room, false);
    looking
        .expect(&server, (0, 0), json!({}), false, "at first")
        .await;
    for round in 0..10 {
        for _ in 0..30 {
            server.say(&alice, &room, "again").await;
        }
        if round == 8 {
            looking
                .expect(&server, (270, 0), json!({}), false, "a few hundred")
                .await;
        }
    }
    looking
        .expect(&server, (300, 0), json!({}), true, "some more")
        .await;
    let last = server.say(&alice, &room, "last").await;
    read(&server, &bob, &room, READ, &last).await;
    looking
        .expect(&server, (0, 0), json!({}), false, "all read")
        .await;
}

#[tokio::test]
async fn whoever_reads_hears_of_the_new_count_though_they_want_no_receipts() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = server.room_of(&alice, &bob).await;
    let said = server.say(&alice, &room, "hello").await;
    let filter = json!({ "room": { "ephemeral": { "not_types": ["m.receipt"] } } });
    let mut request = SyncRequest {
        filter: Some(Filter::FilterDefinition(
            serde_json::from_value(filter.clone()).unwrap(),
        )),
        ..SyncRequest::default()
    };
    let first = sync(&server.engine, &bob, request).await.unwrap();
    assert_eq!(first.rooms.join[&room].unread_notifications.notification_count, 1);
    read(&server, &bob, &room, READ, &said).await;
    request = SyncRequest {
        since: Some(first.next_batch),
        filter: Some(Filter::FilterDefinition(serde_json::from_value(filter).unwrap())),
        ..SyncRequest::default()
    };
    let next = sync(&server.engine, &bob, request).await.unwrap();
    assert_eq!(next.rooms.join[&room].unread_notifications.notification_count, 0);
    assert!(next.rooms.join[&room].ephemeral.events.is_empty());
}
