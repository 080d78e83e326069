use hearth_engine::{
    account_data,
    receipts::{self, Marker, ReceiptError, Thread},
    users::Preferences,
};
use hearth_storage::{Position, RoomNid, log::Receipt};
use ruma::{EventId, event_id, room_id};

use super::*;

const READ: Marker = Marker::Read(Thread::Unthreaded);
const READ_PRIVATE: Marker = Marker::ReadPrivate(Thread::Unthreaded);

struct Room {
    server: Server,
    alice: Requester,
    bob: Requester,
    room_id: OwnedRoomId,
    room_nid: RoomNid,
}

async fn room_of_two() -> Room {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room_id = server.room_of(&alice, &bob).await;
    let mut connection = server.db.acquire().await.unwrap();
    let stored = hearth_storage::rooms::by_id(&mut connection, room_id.as_str())
        .await
        .unwrap()
        .unwrap();
    Room {
        alice,
        bob,
        room_id,
        room_nid: stored.room_nid,
        server,
    }
}

impl Room {
    async fn set(&self, user: &Requester, markers: &[(Marker, &EventId)]) -> Result<(), ReceiptError> {
        receipts::set(&self.server.engine, user, &self.room_id, markers).await
    }

    async fn say(&self, text: &str) -> OwnedEventId {
        self.server.say(&self.alice, &self.room_id, text).await
    }

    async fn reply(&self, rel_type: &str, to: &EventId) -> OwnedEventId {
        let relation = json!({ "rel_type": rel_type, "event_id": to });
        let content = json!({ "msgtype": "m.text", "body": "re", "m.relates_to": relation });
        self.server.send(&self.alice, &self.room_id, content).await
    }

    /// Every receipt of the room.
    async fn receipts(&self) -> Vec<Receipt> {
        let mut connection = self.server.db.acquire().await.unwrap();
        let upto = self.server.engine.log.head().position;
        let stored = hearth_storage::receipts::of_rooms(&mut connection, &[self.room_nid], Position(0), upto)
            .await
            .unwrap();
        stored.into_iter().map(|(_, receipt)| receipt).collect()
    }

    /// Where the one receipt of the room stands.
    async fn at(&self) -> String {
        let [receipt] = &self.receipts().await[..] else {
            panic!("not one receipt")
        };
        receipt.event_id.to_string()
    }

    async fn fully_read(&self) -> Value {
        let (engine, bob) = (&self.server.engine, &self.bob);
        let content = account_data::get_room(engine, bob, &bob.user_id, &self.room_id, "m.fully_read")
            .await
            .unwrap();
        serde_json::from_str(&content).unwrap()
    }

    fn position(&self) -> i64 {
        self.server.engine.log.head().position.0
    }
}

#[tokio::test]
async fn receipts_move_forwards_only_and_are_committed_once() {
    let room = room_of_two().await;
    let (first, second) = (room.say("first").await, room.say("second").await);
    room.set(&room.bob, &[(READ, &second)]).await.unwrap();
    let before = room.position();
    room.set(&room.bob, &[(READ, &first)]).await.unwrap();
    room.set(&room.bob, &[(READ, &second)]).await.unwrap();
    assert_eq!((room.at().await, room.position()), (second.to_string(), before));
    let third = room.say("third").await;
    room.set(&room.bob, &[(READ, &third)]).await.unwrap();
    assert_eq!(room.at().await, third.as_str());
}

#[tokio::test]
async fn receipts_set_at_once_leave_the_latest() {
    let room = Arc::new(room_of_two().await);
    let mut events = Vec::new();
    for number in 0..20 {
        events.push(room.say(&number.to_string()).await);
    }
    let latest = events.last().unwrap().to_string();
    let setting: Vec<_> = events
        .into_iter()
        .rev()
        .map(|event_id| {
            let room = Arc::clone(&room);
            tokio::spawn(async move { room.set(&room.bob, &[(READ, &event_id)]).await.unwrap() })
        })
        .collect();
    for task in setting {
        task.await.unwrap();
    }
    assert_eq!(room.at().await, latest);
}

#[tokio::test]
async fn receipts_of_events_long_gone_from_memory_are_compared_too() {
    let mut room = room_of_two().await;
    let (first, second) = (room.say("first").await, room.say("second").await);
    room.set(&room.bob, &[(READ, &second), (Marker::FullyRead, &second)])
        .await
        .unwrap();
    room.server.engine.shutdown.cancel();
    room.server.engine = engine_on(&room.server.db).await;
    room.set(&room.bob, &[(READ, &first), (Marker::FullyRead, &first)])
        .await
        .unwrap();
    assert_eq!(room.at().await, second.as_str());
    assert_eq!(room.fully_read().await, json!({ "event_id": second }));
}

#[tokio::test]
async fn markers_of_one_request_are_set_together_or_not_at_all() {
    let room = room_of_two().await;
    let (first, second) = (room.say("first").await, room.say("second").await);
    let unknown = event_id!("$nowhere");
    let set = room
        .set(&room.bob, &[(Marker::FullyRead, &first), (READ, unknown)])
        .await;
    assert!(matches!(set, Err(ReceiptError::UnknownEvent)));
    assert!(room.receipts().await.is_empty());
    let markers = [
        (Marker::FullyRead, &*first),
        (READ, &*second),
        (READ_PRIVATE, &*second),
    ];
    room.set(&room.bob, &markers).await.unwrap();
    assert_eq!(room.receipts().await.len(), 2);
    assert_eq!(room.fully_read().await, json!({ "event_id": first }));
    room.set(&room.bob, &[(Marker::FullyRead, &second)])
        .await
        .unwrap();
    room.set(&room.bob, &[(Marker::FullyRead, &first)]).await.unwrap();
    assert_eq!(room.fully_read().await, json!({ "event_id": second }));
}

#[tokio::test]
async fn only_members_set_receipts_and_only_to_events_of_the_room() {
    let room = room_of_two().await;
    let event_id = room.say("hello").await;
    let carol = room.server.user("carol").await;
    assert!(matches!(
        room.set(&carol, &[(READ, &event_id)]).await,
        Err(ReceiptError::NotInRoom)
    ));
    let nowhere = room_id!("!nowhere:example.org");
    let set = receipts::set(&room.server.engine, &carol, nowhere, &[(READ, &event_id)]).await;
    assert!(matches!(set, Err(ReceiptError::NotInRoom)));
    let elsewhere = room.server.room(&carol).await;
    let elsewhere = room.server.say(&carol, &elsewhere, "hello").await;
    assert!(matches!(
        room.set(&room.bob, &[(READ, &elsewhere)]).await,
        Err(ReceiptError::UnknownEvent)
    ));
}

#[tokio::test]
async fn a_receipt_of_a_thread_is_for_what_is_in_it() {
    let room = room_of_two().await;
    let (root, other) = (room.say("root").await, room.say("another").await);
    let in_thread = room.reply("m.thread", &root).await;
    let reaction = room.reply("m.annotation", &in_thread).await;
    let reaction_to_root = room.reply("m.annotation", &root).await;
    let thread = |root: &OwnedEventId| Marker::Read(Thread::Root(root.clone()));
    let main = || Marker::Read(Thread::Main);
    for (marker, event_id) in [
        (main(), &root),
        (main(), &other),
        (main(), &reaction_to_root),
        (thread(&root), &root),
        (thread(&root), &in_thread),
        (thread(&root), &reaction),
        (READ, &in_thread),
    ] {
        room.set(&room.bob, &[(marker.clone(), event_id)])
            .await
            .unwrap_or_else(|error| panic!("{marker:?}: {error}"));
    }
    for (marker, event_id) in [
        (main(), &in_thread),
        (main(), &reaction),
        (thread(&root), &other),
        (thread(&root), &reaction_to_root),
        (thread(&other), &in_thread),
    ] {
        let set = room.set(&room.bob, &[(marker.clone(), event_id)]).await;
        assert!(
            matches!(set, Err(ReceiptError::NotInThread)),
            "{marker:?} of {event_id}"
        );
    }
    let mut threads: Vec<String> = room
        .receipts()
        .await
        .iter()
        .map(|receipt| receipt.thread.to_string())
        .collect();
    threads.sort();
    assert_eq!(threads, ["", root.as_str(), "main"]);
}

#[tokio::test]
async fn receipts_are_told_as_the_specification_has_them() {
    let room = room_of_two().await;
    let (engine, alice, bob) = (&room.server.engine, &room.alice, &room.bob);
    let (first, second) = (room.say("first").await, room.say("second").await);
    room.set(bob, &[(READ, &first), (READ_PRIVATE, &second)])
        .await
        .unwrap();
    room.set(bob, &[(Marker::Read(Thread::Main), &second)])
        .await
        .unwrap();
    let all = room.receipts().await;
    let ts = |receipt_type: &str| {
        let receipt = all
            .iter()
            .find(|receipt| &*receipt.receipt_type == receipt_type && !receipt.thread.contains('m'));
        receipt.unwrap().ts
    };
    let main_ts = all.iter().find(|receipt| &*receipt.thread == "main").unwrap().ts;
    let everybody = Preferences::default();
    let told = async |viewer: &Requester| {
        let event = receipts::to_event(engine, viewer.user_nid, &everybody, &all)
            .await
            .unwrap();
        event.map(|event| serde_json::from_str::<Value>(event.get()).unwrap())
    };
    let user = bob.user_id.as_str();
    let public = json!({ user: { "ts": ts("m.read") } });
    let main = json!({ user: { "ts": main_ts, "thread_id": "main" } });
    assert_eq!(
        told(alice).await.unwrap(),
        json!({
            "type": "m.receipt",
            "content": { first.as_str(): { "m.read": public }, second.as_str(): { "m.read": main } },
        })
    );
    let own = told(bob).await.unwrap();
    let private = json!({ user: { "ts": ts("m.read.private") } });
    assert_eq!(
        own["content"][second.as_str()],
        json!({ "m.read": main, "m.read.private": private })
    );

    let private_only: Vec<Receipt> = all
        .iter()
        .filter(|receipt| &*receipt.receipt_type == "m.read.private")
        .cloned()
        .collect();
    assert!(
        receipts::to_event(engine, alice.user_nid, &everybody, &private_only)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn of_receipts_in_one_place_that_of_the_whole_room_is_told() {
    let room = room_of_two().await;
    let event_id = room.say("hello").await;
    room.set(&room.bob, &[(READ, &event_id)]).await.unwrap();
    room.set(&room.bob, &[(Marker::Read(Thread::Main), &event_id)])
        .await
        .unwrap();
    let mut all = room.receipts().await;
    for _ in 0..2 {
        all.reverse();
        let event = receipts::to_event(
            &room.server.engine,
            room.alice.user_nid,
            &Preferences::default(),
            &all,
        )
        .await
        .unwrap()
        .unwrap();
        let event: Value = serde_json::from_str(event.get()).unwrap();
        let receipt = &event["content"][event_id.as_str()]["m.read"][room.bob.user_id.as_str()];
        assert!(
            receipt["ts"].is_i64() && receipt.get("thread_id").is_none(),
            "{event}"
        );
    }
}
