//! Who sees what of a room: members, those who were members, the invited and strangers, in all four settings, with a
//! change of the setting in the middle.

use std::collections::BTreeSet;

use hearth_engine::rooms::{
    messages::event,
    read::{MembersRequest, members, state_event},
};

use super::*;

const SETTINGS: [&str; 4] = ["world_readable", "shared", "invited", "joined"];

struct People {
    alice: Requester,
    /// Comes and stays.
    bob: Requester,
    /// Comes and goes, and is banned later.
    carol: Requester,
    /// Is invited, and waits.
    dave: Requester,
    /// Is a stranger.
    erin: Requester,
    /// Refuses an invite.
    frank: Requester,
    /// Comes and goes, is invited again, and refuses.
    grace: Requester,
}

impl People {
    async fn new(server: &Server) -> Self {
        Self {
            alice: server.user("alice").await,
            bob: server.user("bob").await,
            carol: server.user("carol").await,
            dave: server.user("dave").await,
            erin: server.user("erin").await,
            frank: server.user("frank").await,
            grace: server.user("grace").await,
        }
    }

    fn all(&self) -> [&Requester; 7] {
        [
            &self.alice,
            &self.bob,
            &self.carol,
            &self.dave,
            &self.erin,
            &self.frank,
            &self.grace,
        ]
    }

    /// A room of setting `first`, then of `second`. Messages are named after what happened before them.
    async fn play(&self, server: &Server, first: &str, second: &str) -> OwnedRoomId {
        let Self {
            alice,
            bob,
            carol,
            dave,
            frank,
            grace,
            ..
        } = self;
        let visibility = |setting: &str| json!({ "history_visibility": setting });
        let room_id = server
            .create(
                alice,
                json!({
                    "preset": "public_chat",
                    "initial_state": [{
                        "type": "m.room.history_visibility", "state_key": "", "content": visibility(first),
                    }],
                }),
            )
            .await;
        let say = async |text: &str| drop(server.say(alice, &room_id, text).await);
        say("created").await;
        for user in [bob, carol, dave, frank] {
            server.invite(alice, &room_id, user).await;
        }
        say("invited").await;
        for user in [bob, carol, grace] {
            server.join(user, &room_id).await;
        }
        say("joined").await;
        for user in [carol, frank, grace] {
            server.leave(user, &room_id).await;
        }
        server
            .set_state(
                alice,
                &room_id,
                "m.room.topic",
                "",
                json!({ "topic": "after they left" }),
            )
            .await;
        say("left").await;
        if first != second {
            server
                .set_state(
                    alice,
                    &room_id,
                    "m.room.history_visibility",
                    "",
                    visibility(second),
                )
                .await;
        }
        say("changed").await;
        server.invite(alice, &room_id, grace).await;
        say("invited again").await;
        server.leave(grace, &room_id).await;
        membership::ban(&server.engine, alice, &room_id, &carol.user_id, None)
            .await
            .unwrap();
        say("banned").await;
        room_id
    }
}

fn bodies(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| event["content"]["body"].as_str())
        .collect()
}

/// Whether a user was ever in the room, and the index of the event by which they last left it.
fn departure(room: &truth::TrueRoom, user: &Requester) -> Option<usize> {
    let was_in = |index: usize| {
        room.membership_in(&room.state_before(index), &user.user_id)
            .as_deref()
            == Some("join")
    };
    let is_in = |index: usize| {
        room.membership_in(room.state_after(index), &user.user_id)
            .as_deref()
            == Some("join")
    };
    (0..room.events.len())
        .rev()
        .find(|index| was_in(*index) && !is_in(*index))
}

#[tokio::test]
async fn everyone_sees_what_the_settings_let_them_see_and_no_more() {
    let server = Server::start().await;
    let people = People::new(&server).await;
    for (index, first) in SETTINGS.into_iter().enumerate() {
        // To itself, and to each other setting once.
        for second in [first, SETTINGS[(index + 1) % 4], SETTINGS[(index + 2) % 4]] {
            let room_id = people.play(&server, first, second).await;
            if second == "joined" {
                server.engine.drop_idle();
            }
            let truth = server.truth().await;
            let room = &truth.rooms[&room_id];
            for user in people.all() {
                check(
                    &server,
                    user,
                    room,
                    &format!("{first}, {second}: {}", user.user_id),
                )
                .await;
            }
        }
    }
    server.end().await;
}

async fn check(server: &Server, user: &Requester, room: &truth::TrueRoom, who: &str) {
    let engine = &server.engine;
    let is_in = room.membership(&user.user_id).as_deref() == Some("join");
    let is_world_readable = room
        .events
        .iter()
        .rev()
        .find(|event| event.pdu["type"] == "m.room.history_visibility");
    let is_world_readable =
        is_world_readable.unwrap().pdu["content"]["history_visibility"] == "world_readable";
    let departure =
        departure(room, user).filter(|_| room.membership(&user.user_id).as_deref() != Some("invite"));

    // The state that they may read, if any.
    let state = match departure {
        _ if is_in || is_world_readable => Some(room.current().clone()),
        Some(index) => Some(room.state_after(index).clone()),
        None => None,
    };
    let may_read = state.is_some();
    assert_eq!(state_ids(engine, user, &room.id).await.ok(), state, "{who}");
    let topic = state_event(engine, user, &room.id, "m.room.topic", "").await;
    let sees_topic = state
        .as_ref()
        .is_some_and(|state| state.contains_key(&("m.room.topic".to_owned(), String::new())));
    assert_eq!(topic.is_ok(), sees_topic, "{who}");
    let shown = members(engine, user, &room.id, MembersRequest::default()).await;
    let shown: Option<BTreeSet<String>> = shown.ok().map(|events| {
        let parse = |event: &serde_json::value::RawValue| serde_json::from_str::<Value>(event.get()).unwrap();
        events.iter().map(|event| id_of(&parse(event))).collect()
    });
    let expected: Option<BTreeSet<String>> = state.as_ref().map(|state| {
        let members = state
            .iter()
            .filter(|((event_type, _), _)| event_type == "m.room.member");
        members.map(|(_, event_id)| event_id.clone()).collect()
    });
    assert_eq!(shown, expected, "{who}");

    // The history that they may read: nothing without the state, and nothing after they left.
    let until = match departure {
        Some(index) if !is_in && !is_world_readable => index,
        _ => room.events.len() - 1,
    };
    let visible: Vec<String> = (0..=until)
        .filter(|index| may_read && room.sees(&user.user_id, *index))
        .map(|index| room.events[index].event_id.clone())
        .collect();
    match history(engine, user, &room.id, 5).await {
        Ok(events) => {
            assert!(may_read, "{who}");
            assert_eq!(ids_of(&events), visible, "{who}: {:?}", bodies(&events));
        }
        Err(error) => assert!(!may_read && error.contains("NotMember"), "{who}: {error}"),
    }
    // The same, backwards.
    if may_read {
        let (mut events, mut from) = (Vec::new(), None);
        loop {
            let range = (from.as_deref(), None);
            let (older, end) = page(engine, user, &room.id, range, Direction::Backward, 3)
                .await
                .unwrap();
            events.extend(older);
            match end {
                Some(end) => from = Some(end),
                None => break,
            }
        }
        events.reverse();
        assert_eq!(ids_of(&events), visible, "{who}, backwards");
    }
    // One by one.
    let messages = room
        .events
        .iter()
        .enumerate()
        .filter(|(_, event)| event.pdu["type"] == "m.room.message");
    for (index, event_of_room) in messages {
        let event_id = EventId::parse(&event_of_room.event_id).unwrap();
        let got = event(engine, user, &room.id, &event_id).await;
        let expected = may_read && room.sees(&user.user_id, index);
        assert_eq!(got.is_ok(), expected, "{who}: {}", event_of_room.pdu);
    }
}

#[tokio::test]
async fn a_room_shows_its_past_as_its_settings_say() {
    let server = Server::start().await;
    let people = People::new(&server).await;
    // By hand, lest the rules that the other tests share be wrong.
    let expected: [(&str, [Option<&[&str]>; 7]); 4] = [
        (
            "world_readable",
            [Some(&[
                "created",
                "invited",
                "joined",
                "left",
                "changed",
                "invited again",
                "banned",
            ]); 7],
        ),
        (
            "shared",
            [
                Some(&[
                    "created",
                    "invited",
                    "joined",
                    "left",
                    "changed",
                    "invited again",
                    "banned",
                ]),
                Some(&[
                    "created",
                    "invited",
                    "joined",
                    "left",
                    "changed",
                    "invited again",
                    "banned",
                ]),
                Some(&["created", "invited", "joined"]),
                None,
                None,
                None,
                Some(&["created", "invited", "joined"]),
            ],
        ),
        (
            "invited",
            [
                Some(&[
                    "created",
                    "invited",
                    "joined",
                    "left",
                    "changed",
                    "invited again",
                    "banned",
                ]),
                Some(&["invited", "joined", "left", "changed", "invited again", "banned"]),
                Some(&["invited", "joined"]),
                None,
                None,
                None,
                Some(&["joined"]),
            ],
        ),
        (
            "joined",
            [
                Some(&[
                    "created",
                    "invited",
                    "joined",
                    "left",
                    "changed",
                    "invited again",
                    "banned",
                ]),
                Some(&["joined", "left", "changed", "invited again", "banned"]),
                Some(&["joined"]),
                None,
                None,
                None,
                Some(&["joined"]),
            ],
        ),
    ];
    for (setting, seen) in expected {
        let room_id = people.play(&server, setting, setting).await;
        for (user, seen) in people.all().into_iter().zip(seen) {
            let shown = history(&server.engine, user, &room_id, 100).await.ok();
            assert_eq!(
                shown.as_deref().map(bodies).as_deref(),
                seen,
                "{setting}: {}",
                user.user_id
            );
        }
    }
    server.end().await;
}

#[tokio::test]
async fn syncs_tell_those_who_are_out_nothing_of_what_came_after() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room_id = server.room(&alice).await;
    let filter = || json!({ "room": { "timeline": { "limit": 20 }, "include_leave": true } });
    let section = async |user: &Requester, since: Option<&str>, full_state: bool| {
        let synced = sync_json(&server.engine, user, since, filter(), |request| {
            request.full_state = full_state
        })
        .await;
        let synced = synced.unwrap();
        (
            synced["rooms"]["leave"][room_id.as_str()].clone(),
            synced["next_batch"].as_str().unwrap().to_owned(),
        )
    };
    let (_, start) = section(&bob, None, false).await;
    server
        .set_state(&alice, &room_id, "m.room.topic", "", json!({ "topic": "secret" }))
        .await;
    server.say(&alice, &room_id, "secret").await;
    server.invite(&alice, &room_id, &bob).await;
    server.leave(&bob, &room_id).await;
    // Refused: that is told, and nothing else.
    for (since, full_state) in [
        (Some(&*start), false),
        (Some(&*start), true),
        (None, false),
        (None, true),
    ] {
        let (left, _) = section(&bob, since, full_state).await;
        assert!(!left.to_string().contains("secret"), "{left:#}");
        assert_eq!(left["state"]["events"], json!([]), "{left:#}");
        let timeline = left["timeline"]["events"].as_array().unwrap();
        assert_eq!(timeline.len(), 1, "{left:#}");
        assert_eq!(timeline[0]["content"]["membership"], "leave");
    }

    // Was in it, and is banned later.
    server.join(&bob, &room_id).await;
    server.leave(&bob, &room_id).await;
    let (left, since) = section(&bob, Some(&start), false).await;
    assert!(
        left.to_string().contains("secret"),
        "what was there while they were in it is theirs: {left:#}"
    );
    server
        .set_state(&alice, &room_id, "m.room.topic", "", json!({ "topic": "hidden" }))
        .await;
    membership::ban(&server.engine, &alice, &room_id, &bob.user_id, None)
        .await
        .unwrap();
    for since in [Some(&*since), Some(&*start), None] {
        let (banned, _) = section(&bob, since, false).await;
        assert!(!banned.to_string().contains("hidden"), "{banned:#}");
        assert_eq!(
            banned["timeline"]["events"].as_array().unwrap().last().unwrap()["content"]["membership"],
            "ban"
        );
    }
    server.end().await;
}

#[tokio::test]
async fn a_leave_is_told_to_the_other_device_though_the_room_was_forgotten() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let other = server.another_device("alice").await;
    let bob = server.user("bob").await;
    let room_id = server.room(&alice).await;
    server.join(&bob, &room_id).await;
    let sync_of = async |device: &Requester, since: Option<&str>| {
        let synced = sync_json(&server.engine, device, since, json!({}), |_| ())
            .await
            .unwrap();
        (synced.clone(), synced["next_batch"].as_str().unwrap().to_owned())
    };
    let ((_, one), (_, two)) = (sync_of(&alice, None).await, sync_of(&other, None).await);
    server.leave(&alice, &room_id).await;
    let (told, one) = sync_of(&alice, Some(&one)).await;
    assert!(told["rooms"]["leave"][room_id.as_str()].is_object(), "{told:#}");
    membership::forget(&server.engine, &alice, &room_id)
        .await
        .unwrap();
    let (told, _) = sync_of(&alice, Some(&one)).await;
    assert!(
        told["rooms"]["leave"].is_null(),
        "it is no news that a room was forgotten: {told:#}"
    );
    let (told, two) = sync_of(&other, Some(&two)).await;
    assert!(
        told["rooms"]["leave"][room_id.as_str()].is_object(),
        "the other device learns that it was left: {told:#}"
    );
    let (told, _) = sync_of(&other, Some(&two)).await;
    assert!(told["rooms"].is_null(), "{told:#}");
    server.end().await;
}
