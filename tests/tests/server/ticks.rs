//! Ticks on one server: what counts as delivered, who is told, and what becomes of it. Across servers: `ticks_federated.rs`.

use hearth_tests::{
    Answer, Client, Server, Socket, encoded, ephemeral, event_ids, public_chat, timeline, timeline_has,
};
use serde_json::{Value, json};

const DELIVERED: &str = "chat.hearth.delivered";

/// A server with a room of its users.
struct Ground {
    server: Server,
    alice: Client,
    bob: Client,
    carol: Client,
    room: String,
}

impl Ground {
    async fn new() -> Self {
        Self::on(Server::start().await).await
    }

    async fn on(server: Server) -> Self {
        let (alice, bob, carol) = (
            server.register("alice").await,
            server.register("bob").await,
            server.register("carol").await,
        );
        let room = alice.create_room(public_chat()).await.room_id();
        for user in [&bob, &carol] {
            user.join(&room).await.ok();
        }
        for user in [&alice, &bob, &carol] {
            user.sync().await;
        }
        Self {
            server,
            alice,
            bob,
            carol,
            room,
        }
    }

    async fn say(&self, body: &str) -> String {
        self.alice.send_text(&self.room, body).await.event_id()
    }

    /// `user` syncs, and confirms it by syncing again.
    async fn takes(&self, user: &Client) {
        user.sync().await;
        user.sync().await;
    }

    /// Everybody whose mark stands for the message, as its sender is told.
    async fn delivered(&self, event_id: &str) -> Vec<String> {
        let status = status(&self.alice, &self.room, event_id).await.ok();
        names(&status["delivered"])
    }

    /// Syncs until alice is told that `user` has everything up to a message.
    async fn alice_sees(&self, user: &Client, event_id: &str) -> Mark {
        let sync = self
            .alice
            .sync_until(|sync| marks(sync, &self.room).iter().any(|mark| mark.is(user, event_id)))
            .await;
        let mut marks = marks(&sync, &self.room);
        marks.retain(|mark| mark.is(user, event_id));
        marks.remove(0)
    }

    /// Has carol take everything, and waits until alice is told so. What was confirmed before is told by then.
    async fn carol_follows(&self, event_id: &str) {
        self.takes(&self.carol).await;
        self.alice_sees(&self.carol, event_id).await;
    }
}

/// What a sync tells of deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    user_id: String,
    from: String,
    event_id: String,
}

impl Mark {
    fn is(&self, user: &Client, event_id: &str) -> bool {
        self.user_id == user.user_id && self.event_id == event_id
    }
}

fn marks(sync: &Value, room: &str) -> Vec<Mark> {
    let mut marks = Vec::new();
    for content in ephemeral(sync, room, "m.receipt") {
        for (event_id, by_type) in content.as_object().into_iter().flatten() {
            for (user_id, data) in by_type[DELIVERED].as_object().into_iter().flatten() {
                assert!(data["ts"].as_u64() > Some(1_600_000_000_000), "{data}");
                marks.push(Mark {
                    user_id: user_id.clone(),
                    from: data["chat.hearth.from"]
                        .as_str()
                        .expect("where it begins")
                        .to_owned(),
                    event_id: event_id.clone(),
                });
            }
        }
    }
    marks
}

fn names(by_name: &Value) -> Vec<String> {
    by_name
        .as_object()
        .expect("an object")
        .keys()
        .map(|name| {
            name.trim_start_matches('@')
                .split(':')
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}

async fn status(client: &Client, room: &str, event_id: &str) -> Answer {
    let path = format!(
        "/unstable/chat.hearth/rooms/{}/status/{}",
        encoded(room),
        encoded(event_id)
    );
    client.get(&path).await
}

/// All that a first sync of another device tells of deliveries.
async fn all_marks(client: &Client, room: &str) -> Vec<Mark> {
    let device = client.another_device().await;
    let mut all = marks(&device.sync().await, room);
    all.sort_by(|a, b| a.user_id.cmp(&b.user_id));
    all
}

/// A connection that is pushed what comes after `pos`, if any.
async fn pushed_since(client: &Client, pos: Option<&str>) -> Socket {
    let mut socket = Socket::connect(client).await;
    socket.say(json!({ "op": "sync", "since": pos })).await;
    socket
}

/// The token of the push that has an event.
async fn pushed(socket: &mut Socket, room: &str, event_id: &str) -> Value {
    let has = timeline_has(room, event_id);
    let push = socket
        .hear_until(|frame| frame["op"] == "sync" && has(&frame["data"]))
        .await;
    push["pos"].clone()
}

async fn switch(client: &Client, is_on: bool) {
    client
        .set_account_data("chat.hearth.delivery_receipts", json!({ "enabled": is_on }))
        .await
        .ok();
}

#[tokio::test]
async fn a_message_is_delivered_when_a_sync_goes_on_from_the_one_that_had_it() {
    let ground = Ground::new().await;
    let Ground { alice, bob, room, .. } = &ground;
    let event = ground.say("hello").await;
    bob.sync_until(timeline_has(room, &event)).await;
    ground.carol_follows(&event).await;
    assert_eq!(
        ground.delivered(&event).await,
        ["carol"],
        "bob may have lost the answer"
    );
    bob.sync().await;
    let mark = ground.alice_sees(bob, &event).await;
    assert_eq!(mark.from, event, "it stands for nothing from before");

    let told = all_marks(alice, room).await;
    let users: Vec<&str> = told.iter().map(|mark| mark.user_id.as_str()).collect();
    assert_eq!(users, [bob.user_id.as_str(), ground.carol.user_id.as_str()]);
    assert_eq!(
        all_marks(bob, room).await.len(),
        1,
        "nobody is told of themselves"
    );
    assert!(
        marks(&bob.sync().await, room)
            .iter()
            .all(|mark| mark.user_id != bob.user_id)
    );
}

#[tokio::test]
async fn a_mark_moves_on_and_stands_for_all_that_is_before_it() {
    let mut ground = Ground::new().await;
    let mut sent = Vec::new();
    for body in ["one", "two", "three"] {
        sent.push(ground.say(body).await);
        ground.takes(&ground.bob).await;
        ground.alice_sees(&ground.bob, sent.last().unwrap()).await;
    }
    // What oneself says, and what is only done to the room, is no hole.
    ground.bob.send_text(&ground.room, "and I").await.ok();
    let topic = json!({ "topic": "ticks" });
    ground
        .alice
        .send_state(&ground.room, "m.room.topic", "", topic)
        .await
        .ok();
    sent.push(ground.say("four").await);
    ground.takes(&ground.bob).await;
    let mark = ground.alice_sees(&ground.bob, &sent[3]).await;
    assert_eq!(mark.from, sent[0]);
    for event in &sent {
        assert_eq!(ground.delivered(event).await, ["bob"]);
    }
    assert_eq!(all_marks(&ground.alice, &ground.room).await.len(), 1);

    ground.server.restart().await;
    assert_eq!(ground.delivered(&sent[0]).await, ["bob"]);
    let last = ground.say("five").await;
    ground.takes(&ground.bob).await;
    assert_eq!(
        ground.alice_sees(&ground.bob, &last).await.from,
        sent[0],
        "it goes on where it was"
    );
}

#[tokio::test]
async fn an_ack_on_the_socket_delivers_and_a_push_does_not() {
    let ground = Ground::new().await;
    let Ground { bob, room, .. } = &ground;
    let mut socket = pushed_since(bob, None).await;
    socket.push().await;
    let event = ground.say("hello").await;
    let pos = pushed(&mut socket, room, &event).await;
    ground.carol_follows(&event).await;
    assert_eq!(ground.delivered(&event).await, ["carol"]);
    socket.say(json!({ "op": "ack", "pos": pos })).await;
    ground.alice_sees(bob, &event).await;
}

#[tokio::test]
async fn an_ack_confirms_the_pushes_before_it_too() {
    let ground = Ground::new().await;
    let mut socket = pushed_since(&ground.bob, None).await;
    socket.push().await;
    let mut sent = Vec::new();
    let mut pos = Value::Null;
    for body in ["one", "two", "three"] {
        sent.push(ground.say(body).await);
        pos = pushed(&mut socket, &ground.room, sent.last().unwrap()).await;
    }
    socket.say(json!({ "op": "ack", "pos": pos })).await;
    let mark = ground.alice_sees(&ground.bob, &sent[2]).await;
    assert_eq!(mark.from, sent[0]);
}

#[tokio::test]
async fn to_connect_again_with_what_was_received_delivers_it() {
    let ground = Ground::new().await;
    let mut socket = pushed_since(&ground.bob, None).await;
    socket.push().await;
    let events = [ground.say("one").await, ground.say("two").await];
    pushed(&mut socket, &ground.room, &events[1]).await;
    let pos = socket.pos.clone().expect("a push came");
    drop(socket);
    let _again = pushed_since(&ground.bob, Some(&pos)).await;
    let mark = ground.alice_sees(&ground.bob, &events[1]).await;
    assert_eq!(mark.from, events[0]);
}

#[tokio::test]
async fn a_gap_is_not_delivered() {
    let ground = Ground::new().await;
    let sent = ground.alice.send_texts(&ground.room, 30).await;
    ground.takes(&ground.bob).await;
    let mark = ground.alice_sees(&ground.bob, &sent[29]).await;
    assert_eq!(mark.from, sent[20], "ten are told");
    assert!(ground.delivered(&sent[19]).await.is_empty());
    assert_eq!(ground.delivered(&sent[20]).await, ["bob"]);

    // Paging through the gap says nothing: nobody confirms a page.
    ground.bob.messages(&ground.room, "dir=b&limit=100").await.ok();
    let last = ground.say("one more").await;
    ground.takes(&ground.bob).await;
    assert_eq!(ground.alice_sees(&ground.bob, &last).await.from, sent[20]);
    assert!(ground.delivered(&sent[0]).await.is_empty());
}

#[tokio::test]
async fn what_was_delivered_before_a_gap_stays_so() {
    let ground = Ground::new().await;
    let before = ground.say("before").await;
    ground.takes(&ground.bob).await;
    ground.alice_sees(&ground.bob, &before).await;
    let sent = ground.alice.send_texts(&ground.room, 20).await;
    ground.takes(&ground.bob).await;
    ground.alice_sees(&ground.bob, &sent[19]).await;
    assert_eq!(ground.delivered(&before).await, ["bob"]);
    assert!(ground.delivered(&sent[0]).await.is_empty());
    let told = all_marks(&ground.alice, &ground.room).await;
    let parts: Vec<(&str, &str)> = told
        .iter()
        .map(|mark| (mark.from.as_str(), mark.event_id.as_str()))
        .collect();
    assert!(
        parts.contains(&(&before, &before)) && parts.contains(&(&sent[10], &sent[19])),
        "{parts:?}"
    );
}

#[tokio::test]
async fn what_one_device_has_another_need_not_get() {
    let ground = Ground::new().await;
    let (laptop, phone) = (&ground.bob, ground.bob.another_device().await);
    phone.sync().await;
    let mut sent = ground.alice.send_texts(&ground.room, 5).await;
    ground.takes(laptop).await;
    sent.extend(ground.alice.send_texts(&ground.room, 20).await);
    // The phone was told of the last ten only,
    ground.takes(&phone).await;
    ground.alice_sees(laptop, &sent[24]).await;
    assert!(ground.delivered(&sent[10]).await.is_empty());
    // and the laptop of what came between.
    let all = json!({ "room": { "timeline": { "limit": 100 } } });
    laptop.sync_filtered(&all).await;
    laptop.sync_filtered(&all).await;
    ground.alice_sees(laptop, &sent[24]).await;
    for event in &sent {
        assert_eq!(ground.delivered(event).await, ["bob"], "whichever device it was");
    }
    let told = all_marks(&ground.alice, &ground.room).await;
    let [mark] = &told[..] else {
        panic!("nothing tells how many devices there are: {told:?}")
    };
    assert_eq!((&mark.from, &mark.event_id), (&sent[0], &sent[24]));
}

#[tokio::test]
async fn what_a_filter_keeps_back_is_not_delivered() {
    let ground = Ground::new().await;
    let Ground { alice, bob, room, .. } = &ground;
    let elsewhere = json!({ "room": { "not_rooms": [room] } });
    let event = ground.say("filtered").await;
    bob.sync_filtered(&elsewhere).await;
    bob.sync_filtered(&elsewhere).await;
    ground.carol_follows(&event).await;
    assert_eq!(ground.delivered(&event).await, ["carol"]);

    let texts = json!({ "room": { "timeline": { "types": ["m.room.message"] } } });
    let one = ground.say("one").await;
    let other = alice.send(room, "org.example.poll", json!({})).await.event_id();
    let two = ground.say("two").await;
    bob.sync_filtered(&texts).await;
    bob.sync_filtered(&texts).await;
    let mark = ground.alice_sees(bob, &two).await;
    assert_eq!(mark.from, two, "there is a hole before it");
    ground.carol_follows(&two).await;
    assert_eq!(ground.delivered(&one).await, ["bob", "carol"]);
    assert_eq!(ground.delivered(&other).await, ["carol"]);
    assert_eq!(ground.delivered(&event).await, ["carol"]);
}

#[tokio::test]
async fn who_comes_later_never_counts_for_what_was_before() {
    let ground = Ground::new().await;
    let before = ground.say("before").await;
    let dave = ground.server.register("dave").await;
    dave.join(&ground.room).await.ok();
    let seen = dave.sync().await;
    assert!(
        timeline_has(&ground.room, &before)(&seen),
        "history is shared here"
    );
    dave.sync().await;
    let after = ground.say("after").await;
    ground.takes(&dave).await;
    let mark = ground.alice_sees(&dave, &after).await;
    assert_eq!(mark.from, after);
    dave.send_receipt(&ground.room, "m.read", &after).await.ok();
    let told = status(&ground.alice, &ground.room, &before).await.ok();
    assert_eq!((&told["delivered"], &told["read"]), (&json!({}), &json!({})));
    let told = status(&ground.alice, &ground.room, &after).await.ok();
    assert_eq!(
        (names(&told["delivered"]), names(&told["read"])),
        (vec!["dave".to_owned()], vec!["dave".to_owned()])
    );

    // Who comes back has what they had, and not what was said meanwhile.
    dave.leave(&ground.room).await.ok();
    let meanwhile = ground.say("meanwhile").await;
    dave.join(&ground.room).await.ok();
    ground.takes(&dave).await;
    let last = ground.say("last").await;
    ground.takes(&dave).await;
    assert_eq!(ground.alice_sees(&dave, &last).await.from, last);
    assert!(ground.delivered(&meanwhile).await.is_empty());
}

#[tokio::test]
async fn who_is_kicked_before_they_confirm_never_had_it() {
    let ground = Ground::new().await;
    let event = ground.say("hello").await;
    ground.bob.sync_until(timeline_has(&ground.room, &event)).await;
    ground.alice.kick(&ground.room, &ground.bob, None).await.ok();
    ground.takes(&ground.bob).await;
    ground.carol_follows(&event).await;
    assert_eq!(ground.delivered(&event).await, ["carol"]);
    let told = all_marks(&ground.alice, &ground.room).await;
    assert!(
        told.iter().all(|mark| mark.user_id == ground.carol.user_id),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_thousand_messages_are_one_update() {
    let ground = Ground::new().await;
    let Ground {
        server,
        alice,
        bob,
        room,
        ..
    } = &ground;
    let sent = alice.send_texts(room, 1_000).await;
    let all = json!({ "room": { "timeline": { "limit": 1_000 } } });
    let sync = bob.sync_filtered(&all).await;
    assert_eq!(event_ids(&timeline(&sync, room).into()).len(), 1_000);
    alice.sync().await;
    let before = server.engine().log.head().position;
    bob.sync_filtered(&all).await;
    let mark = ground.alice_sees(bob, &sent[999]).await;
    assert_eq!(mark.from, sent[0]);
    assert_eq!(server.engine().log.head().position.0 - before.0, 1);
}

#[tokio::test]
async fn a_thousand_pushes_within_a_moment_are_few_updates() {
    let ground = Ground::new().await;
    let Ground {
        server,
        alice,
        bob,
        room,
        ..
    } = &ground;
    let mut socket = pushed_since(bob, None).await;
    socket.push().await;
    let before = server.engine().log.head().position;
    let began = std::time::Instant::now();
    let sent = alice.send_texts(room, 200).await;
    let last = sent.last().unwrap();
    while !timeline_has(room, last)(&socket.push().await) {}
    ground.alice_sees(bob, last).await;
    let windows = began.elapsed().as_millis() / 500 + 1;
    let updates = server.engine().log.head().position.0 - before.0 - 200;
    assert!(
        u128::try_from(updates).unwrap() <= windows,
        "{updates} in {windows}"
    );
}

#[tokio::test]
async fn who_switches_it_off_neither_gives_nor_gets() {
    let ground = Ground::new().await;
    let Ground {
        alice,
        bob,
        carol,
        room,
        ..
    } = &ground;
    let first = ground.say("first").await;
    ground.takes(bob).await;
    ground.alice_sees(bob, &first).await;
    switch(bob, false).await;
    let second = ground.say("second").await;
    ground.takes(bob).await;
    ground.carol_follows(&second).await;
    assert_eq!(ground.delivered(&second).await, ["carol"]);
    assert_eq!(
        ground.delivered(&first).await,
        ["carol"],
        "nothing is told any more"
    );
    let told = all_marks(alice, room).await;
    assert!(told.iter().all(|mark| mark.user_id == carol.user_id), "{told:?}");
    assert!(all_marks(bob, room).await.is_empty());
    let own = bob.send_text(room, "to all").await.event_id();
    ground.takes(carol).await;
    ground.takes(alice).await;
    carol
        .sync_until(|sync| marks(sync, room).iter().any(|mark| mark.is(alice, &own)))
        .await;
    let told = status(bob, room, &own).await.ok();
    assert_eq!(told["delivered"], json!({}));
    assert!(marks(&bob.sync().await, room).is_empty());

    switch(bob, true).await;
    let third = ground.say("third").await;
    ground.takes(bob).await;
    let mark = ground.alice_sees(bob, &third).await;
    assert_eq!(mark.from, third, "what was not counted is a hole");
    assert_eq!(
        names(&status(bob, room, &own).await.ok()["delivered"]),
        ["alice", "carol"]
    );
}

#[tokio::test]
async fn who_hides_their_presence_gets_and_does_not_give() {
    let ground = Ground::new().await;
    let Ground { bob, carol, room, .. } = &ground;
    bob.set_account_data("chat.hearth.presence", json!({ "hidden": true }))
        .await
        .ok();
    let event = ground.say("hello").await;
    ground.takes(bob).await;
    ground.carol_follows(&event).await;
    assert_eq!(ground.delivered(&event).await, ["carol"]);
    let told = all_marks(bob, room).await;
    assert!(told.iter().any(|mark| mark.is(carol, &event)), "{told:?}");
}

#[tokio::test]
async fn who_ignores_another_neither_tells_them_nor_is_told() {
    let ground = Ground::new().await;
    let Ground {
        alice,
        bob,
        carol,
        room,
        ..
    } = &ground;
    let ignored = json!({ "ignored_users": { alice.user_id.as_str(): {} } });
    bob.set_account_data("m.ignored_user_list", ignored).await.ok();
    let of_alice = ground.say("is anybody there?").await;
    let of_carol = carol.send_text(room, "I am").await.event_id();
    ground.takes(bob).await;
    ground.takes(alice).await;
    let sees = |user: &Client, event: &str| {
        let (user, event) = (user.user_id.clone(), event.to_owned());
        move |sync: &Value| {
            marks(sync, room)
                .iter()
                .any(|mark| mark.user_id == user && mark.event_id == event)
        }
    };
    carol.sync_until(sees(bob, &of_carol)).await;
    assert_eq!(
        names(&status(carol, room, &of_carol).await.ok()["delivered"]),
        ["alice", "bob"]
    );
    ground.takes(carol).await;
    ground.alice_sees(carol, &of_alice).await;
    assert_eq!(ground.delivered(&of_alice).await, ["carol"]);
    let told = all_marks(alice, room).await;
    assert!(told.iter().all(|mark| mark.user_id != bob.user_id), "{told:?}");
    let told = all_marks(bob, room).await;
    assert!(told.iter().all(|mark| mark.user_id != alice.user_id), "{told:?}");

    // What was withheld is not made up for when they are friends again.
    bob.set_account_data("m.ignored_user_list", json!({ "ignored_users": {} }))
        .await
        .ok();
    let later = ground.say("friends again?").await;
    ground.takes(bob).await;
    ground.alice_sees(bob, &later).await;
    assert_eq!(ground.delivered(&of_alice).await, ["carol"]);
}

#[tokio::test]
async fn in_large_rooms_nobody_is_told() {
    let server = Server::start_with(|settings| settings.ticks.max_room_members = 3).await;
    let ground = Ground::on(server).await;
    let first = ground.say("we are three").await;
    ground.takes(&ground.bob).await;
    ground.alice_sees(&ground.bob, &first).await;
    let dave = ground.server.register("dave").await;
    dave.join(&ground.room).await.ok();
    let second = ground.say("we are four").await;
    ground.takes(&ground.bob).await;
    dave.leave(&ground.room).await.ok();
    let third = ground.say("and three again").await;
    ground.takes(&ground.bob).await;
    let mark = ground.alice_sees(&ground.bob, &third).await;
    assert_eq!(mark.from, third);
    assert!(ground.delivered(&second).await.is_empty());
}

#[tokio::test]
async fn what_was_told_before_a_restart_and_not_confirmed_counts_for_nothing() {
    let mut ground = Ground::new().await;
    let confirmed = ground.say("confirmed").await;
    ground.takes(&ground.bob).await;
    ground.alice_sees(&ground.bob, &confirmed).await;
    let told = ground.say("told").await;
    ground.bob.sync_until(timeline_has(&ground.room, &told)).await;
    ground.server.restart().await;
    let last = ground.say("after").await;
    ground.takes(&ground.bob).await;
    let mark = ground.alice_sees(&ground.bob, &last).await;
    assert_eq!(mark.from, last);
    assert_eq!(ground.delivered(&confirmed).await, ["bob"]);
    assert!(ground.delivered(&told).await.is_empty(), "nobody knows any more");
}

#[tokio::test]
async fn what_is_confirmed_as_the_server_stops_is_kept() {
    let mut ground = Ground::new().await;
    let event = ground.say("quick").await;
    ground.takes(&ground.bob).await;
    ground.server.restart().await;
    assert_eq!(ground.delivered(&event).await, ["bob"]);
}

#[tokio::test]
async fn a_redaction_changes_nothing_of_what_was_delivered() {
    let ground = Ground::new().await;
    let event = ground.say("oops").await;
    ground.takes(&ground.bob).await;
    ground.alice_sees(&ground.bob, &event).await;
    ground.alice.redact(&ground.room, &event, "a slip").await.ok();
    assert_eq!(ground.delivered(&event).await, ["bob"]);
    let next = ground.say("better").await;
    ground.takes(&ground.bob).await;
    assert_eq!(ground.alice_sees(&ground.bob, &next).await.from, event);
}

#[tokio::test]
async fn what_is_unread_and_read_goes_on_as_without_ticks() {
    let ground = Ground::new().await;
    let Ground { alice, bob, room, .. } = &ground;
    let sent = alice.send_texts(room, 3).await;
    ground.takes(bob).await;
    ground.alice_sees(bob, &sent[2]).await;
    let first = bob.another_device().await.sync().await;
    assert_eq!(
        first["rooms"]["join"][room]["unread_notifications"]["notification_count"],
        3
    );
    bob.send_receipt(room, "m.read", &sent[0]).await.ok();
    let read = |sync: &Value| {
        ephemeral(sync, room, "m.receipt")
            .iter()
            .any(|content| content[&sent[0]]["m.read"][&bob.user_id].is_object())
    };
    alice.sync_until(read).await;
    let told = status(alice, room, &sent[0]).await.ok();
    assert_eq!(
        (names(&told["delivered"]), names(&told["read"])),
        (vec!["bob".to_owned()], vec!["bob".to_owned()])
    );
    let told = status(alice, room, &sent[1]).await.ok();
    assert_eq!(
        (names(&told["delivered"]), names(&told["read"])),
        (vec!["bob".to_owned()], vec![])
    );
    let first = bob.another_device().await.sync().await;
    assert_eq!(
        first["rooms"]["join"][room]["unread_notifications"]["notification_count"],
        2
    );
    // Clients can't set it themselves.
    bob.send_receipt(room, DELIVERED, &sent[2])
        .await
        .refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn the_status_of_a_message_is_for_its_sender() {
    let ground = Ground::new().await;
    let Ground {
        server,
        alice,
        bob,
        room,
        ..
    } = &ground;
    let event = ground.say("mine").await;
    let told = status(alice, room, &event).await.ok();
    let made = alice.event(room, &event).await.ok()["origin_server_ts"].clone();
    let received = json!({ server.name(): { "ts": made } });
    assert_eq!(told, json!({ "received": received, "delivered": {}, "read": {} }));
    bob.send_receipt(room, "m.read", &event).await.ok();
    let told = status(alice, room, &event).await.ok();
    assert!(
        told["read"][&bob.user_id]["ts"].as_u64() > Some(1_600_000_000_000),
        "{told}"
    );

    status(bob, room, &event).await.refused(403, "M_FORBIDDEN");
    status(alice, room, "$nothing").await.refused(404, "M_NOT_FOUND");
    status(alice, "!nowhere:example.org", &event)
        .await
        .refused(403, "M_FORBIDDEN");
    status(alice, "nowhere", &event)
        .await
        .refused(400, "M_INVALID_PARAM");
    let other = alice.create_room(public_chat()).await.room_id();
    status(alice, &other, &event).await.refused(404, "M_NOT_FOUND");
    alice.leave(room).await.ok();
    status(alice, room, &event).await.refused(403, "M_FORBIDDEN");
    let versions = server.anonymous().get("/versions").await.ok();
    assert_eq!(versions["unstable_features"]["chat.hearth.ticks"], true);
}

#[tokio::test]
async fn receipts_of_threads_read_what_is_in_them() {
    let ground = Ground::new().await;
    let Ground { alice, bob, room, .. } = &ground;
    let root = ground.say("root").await;
    let relates = json!({ "rel_type": "m.thread", "event_id": root });
    let reply = json!({ "msgtype": "m.text", "body": "in thread", "m.relates_to": relates });
    let reply = alice.send(room, "m.room.message", reply).await.event_id();
    let main = ground.say("main").await;
    let read = |event: String, thread: &str| {
        let (path, body) = (
            format!("/v3/rooms/{room}/receipt/m.read/{event}"),
            json!({ "thread_id": thread }),
        );
        async move { bob.post(&path, body).await.ok() }
    };
    let readers = |event: String| async move { names(&status(alice, room, &event).await.ok()["read"]) };
    read(main.clone(), "main").await;
    assert_eq!(readers(root.clone()).await, ["bob"]);
    assert_eq!(readers(main).await, ["bob"]);
    assert!(readers(reply.clone()).await.is_empty());
    read(reply.clone(), &root).await;
    assert_eq!(readers(reply).await, ["bob"]);
}

#[tokio::test]
async fn two_clients_on_the_socket_see_three_ticks() {
    let ground = Ground::new().await;
    let Ground { alice, bob, room, .. } = &ground;
    let mut of_alice = pushed_since(alice, alice.since().as_deref()).await;
    let mut of_bob = pushed_since(bob, bob.since().as_deref()).await;
    of_alice.push().await;
    of_bob.push().await;
    let path = format!("/v3/rooms/{room}/send/m.room.message/1");
    let answer = of_alice
        .request(
            "PUT",
            &path,
            Some(json!({ "msgtype": "m.text", "body": "hello" })),
        )
        .await;
    let event = answer["body"]["event_id"]
        .as_str()
        .expect("it is sent")
        .to_owned();

    let has = timeline_has(room, &event);
    while !has(&of_bob.push().await) {}
    let mark = loop {
        let push = of_alice.push().await;
        if let Some(mark) = marks(&push, room).pop() {
            break mark;
        }
    };
    assert!(mark.is(bob, &event) && mark.from == event, "{mark:?}");

    let path = format!("/v3/rooms/{room}/receipt/m.read/{event}");
    of_bob.request("POST", &path, Some(json!({}))).await;
    let is_read = |push: &Value| {
        let contents = ephemeral(push, room, "m.receipt");
        contents
            .iter()
            .any(|content| content[&event]["m.read"][&bob.user_id]["ts"].is_u64())
    };
    while !is_read(&of_alice.push().await) {}
    of_bob.settle().await;
    while of_bob.has_push() {
        assert!(
            marks(&of_bob.push().await, room).is_empty(),
            "nobody is told of themselves"
        );
    }
}
