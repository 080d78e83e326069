//! The same thing asked by many at once, or two things that exclude each other: one outcome, and everyone sees it.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::{join, join_all};
use hearth_tests::{Answer, Client, Server, event_ids, public_chat, timeline_has};
use serde_json::{Value, json};

const MANY: usize = 20;

/// How many were answered well; the others by the book.
#[track_caller]
fn good(answers: &[Answer]) -> usize {
    for answer in answers {
        assert!(
            answer.status == 200 || answer.is_proper_refusal(),
            "{} {}",
            answer.status,
            answer.body
        );
    }
    answers.iter().filter(|answer| answer.status == 200).count()
}

async fn events_of(client: &Client, room: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    client
        .page_through(room, "f", 100, None)
        .await
        .into_iter()
        .filter(|event| wanted(event))
        .collect()
}

#[tokio::test]
async fn a_name_registered_by_many_at_once_goes_to_one() {
    let server = Server::start().await;
    let answers = join_all((0..MANY).map(|_| server.anonymous().register("alice"))).await;
    assert_eq!(good(&answers), 1);
    for refused in answers.into_iter().filter(|answer| answer.status != 200) {
        refused.refused(400, "M_USER_IN_USE");
    }
}

#[tokio::test]
async fn an_alias_asked_for_by_many_rooms_at_once_goes_to_one() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let answers = join_all((0..MANY).map(|_| alice.create_room(json!({ "room_alias_name": "den" })))).await;
    assert_eq!(good(&answers), 1);
    let rooms = alice.get("/v3/joined_rooms").await.ok();
    assert_eq!(
        rooms["joined_rooms"].as_array().map(Vec::len),
        Some(1),
        "the others left nothing behind"
    );
    let room = answers
        .into_iter()
        .find(|answer| answer.status == 200)
        .map(Answer::room_id);
    let found = alice
        .get(&format!("/v3/directory/room/%23den:{}", server.name()))
        .await
        .ok();
    assert_eq!(found["room_id"].as_str(), room.as_deref());
}

#[tokio::test]
async fn many_rooms_of_one_user_at_once_are_as_many_rooms() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    for version in ["11", "12"] {
        let answers =
            join_all((0..MANY).map(|_| alice.create_room(json!({ "room_version": version })))).await;
        let rooms: HashSet<_> = answers.into_iter().map(Answer::room_id).collect();
        assert_eq!(rooms.len(), MANY, "version {version}");
    }
    let joined = alice.get("/v3/joined_rooms").await.ok();
    assert_eq!(joined["joined_rooms"].as_array().map(Vec::len), Some(2 * MANY));
}

#[tokio::test]
async fn many_joins_of_one_user_at_once_are_one_event() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    let answers = join_all((0..MANY).map(|_| bob.join(&room))).await;
    assert_eq!(good(&answers), MANY, "joining again is no error");
    assert_eq!(
        events_of(&alice, &room, |event| event["state_key"] == bob.user_id)
            .await
            .len(),
        1
    );
}

#[tokio::test]
async fn many_users_join_and_leave_at_once() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(public_chat()).await.room_id();
    alice.sync().await;
    let names: Vec<_> = (0..MANY).map(|number| format!("guest{number}")).collect();
    let guests = join_all(names.iter().map(|name| server.register(name))).await;
    assert_eq!(
        good(&join_all(guests.iter().map(|guest| guest.join(&room))).await),
        MANY
    );
    assert_eq!(
        good(&join_all(guests[..MANY / 2].iter().map(|guest| guest.leave(&room))).await),
        MANY / 2
    );
    let joined = alice.get(&format!("/v3/rooms/{room}/joined_members")).await.ok();
    assert_eq!(
        joined["joined"].as_object().map(serde_json::Map::len),
        Some(1 + MANY / 2)
    );
    let last = alice.send_text(&room, "who is here?").await.event_id();
    let sync = alice.sync_until(timeline_has(&room, &last)).await;
    assert_eq!(
        sync["rooms"]["join"][&room]["summary"]["m.joined_member_count"],
        1 + MANY / 2
    );
}

#[tokio::test]
async fn nothing_a_user_says_comes_after_their_kick() {
    let server = Server::start().await;
    let (alice, bob) = (
        server.register("alice").await,
        Arc::new(server.register("bob").await),
    );
    for _ in 0..5 {
        let room = alice.create_room(public_chat()).await.room_id();
        bob.join(&room).await.ok();
        let silenced = AtomicBool::new(false);
        let talk = async {
            let mut heard = 0;
            while !silenced.load(Ordering::Relaxed) {
                let answers = join_all((0..4).map(|_| bob.send_text(&room, "and another thing"))).await;
                heard += good(&answers);
            }
            heard
        };
        let kick = async {
            alice
                .sync_until(|sync| {
                    hearth_tests::timeline(sync, &room)
                        .iter()
                        .any(|event| event["sender"] == bob.user_id)
                })
                .await;
            let answer = alice.kick(&room, &bob, None).await;
            bob.send_text(&room, "surely not?")
                .await
                .refused(403, "M_FORBIDDEN");
            silenced.store(true, Ordering::Relaxed);
            answer.ok();
        };
        let (heard, ()) = join(talk, kick).await;
        let events = events_of(&alice, &room, |event| {
            event["sender"] == bob.user_id || event["state_key"] == bob.user_id
        })
        .await;
        let kick = events
            .iter()
            .position(|event| event["content"]["membership"] == "leave")
            .expect("the kick is there");
        assert_eq!(kick, events.len() - 1, "the kick is the last of bob's doings");
        // His join, what he was told was sent, and the kick.
        assert_eq!(events.len(), heard + 2);
    }
}

#[tokio::test]
async fn state_set_by_many_at_once_is_what_the_last_of_them_says() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await.room_id();
    alice.sync().await;
    let topics: Vec<_> = (0..MANY)
        .map(|number| json!({ "topic": format!("topic {number}") }))
        .collect();
    let answers = join_all(
        topics
            .iter()
            .map(|topic| alice.send_state(&room, "m.room.topic", "", topic.clone())),
    )
    .await;
    assert_eq!(good(&answers), MANY);
    let set = events_of(&alice, &room, |event| event["type"] == "m.room.topic").await;
    assert_eq!(set.len(), MANY);
    assert_eq!(
        alice.state(&room, "m.room.topic", "").await.ok(),
        set[MANY - 1]["content"]
    );
    for (before, after) in set.iter().zip(&set[1..]) {
        assert_eq!(
            after["unsigned"]["prev_content"], before["content"],
            "each follows the one before"
        );
    }
    let synced = alice
        .timeline_up_to(&room, set[MANY - 1]["event_id"].as_str().unwrap_or_default())
        .await;
    assert_eq!(event_ids(&synced.into()), event_ids(&set.into()));
}

#[tokio::test]
async fn readers_who_sync_all_along_see_each_event_once() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let rooms = [
        alice.create_room(public_chat()).await.room_id(),
        alice.create_room(public_chat()).await.room_id(),
    ];
    let mut readers = Vec::new();
    for name in ["bob", "carol", "dave"] {
        let reader = server.register(name).await;
        for room in &rooms {
            reader.join(room).await.ok();
        }
        reader.sync().await;
        readers.push(reader);
    }
    let write = async {
        let sent = join_all(rooms.iter().map(|room| alice.send_texts(room, 60))).await;
        (sent, alice.send_text(&rooms[0], "the end").await.event_id())
    };
    // By messages of the first room's last event, everything of both was committed.
    let read = join_all(readers.iter().map(|reader| {
        let rooms = &rooms;
        async move {
            let mut seen = [Vec::new(), Vec::new()];
            loop {
                let sync = reader.sync_until(|_| true).await;
                let mut ended = false;
                for (room, seen) in rooms.iter().zip(&mut seen) {
                    assert_ne!(sync["rooms"]["join"][room]["timeline"]["limited"], true, "{sync}");
                    let mut events = hearth_tests::timeline(&sync, room);
                    events.retain(|event| event["type"] == "m.room.message");
                    ended |= events.iter().any(|event| event["content"]["body"] == "the end");
                    seen.extend(event_ids(&events.into()));
                }
                if ended {
                    return seen;
                }
            }
        }
    }));
    let ((mut sent, last), seen) = join(write, read).await;
    sent[0].push(last);
    for seen in seen {
        assert_eq!(seen[0], sent[0]);
        assert_eq!(seen[1], sent[1]);
    }
}
