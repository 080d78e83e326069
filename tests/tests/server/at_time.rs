//! Jumping to a date: the event nearest to a time.

use hearth_engine::remote::RemoteError;
use hearth_tests::{Answer, Authority, Client, Server, encoded, is_joined, public_chat};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomId, ServerName, UInt,
    api::{Direction, federation::event::get_event_by_timestamp::v1 as get_event_by_timestamp},
};
use serde_json::{Value, json};

async fn at(client: &Client, room: &str, ts: i64, dir: &str) -> Answer {
    let path = format!("/v1/rooms/{room}/timestamp_to_event?ts={ts}&dir={dir}");
    client.get(&path).await
}

/// ID and time of every event of a room, in order.
async fn history(client: &Client, room: &str) -> Vec<(String, i64)> {
    let events = client.page_through(room, "f", 100, None).await;
    let timed = |event: &Value| {
        let event_id = event["event_id"].as_str().expect("an ID").to_owned();
        (event_id, event["origin_server_ts"].as_i64().expect("a time"))
    };
    events.iter().map(timed).collect()
}

/// What is nearest by the whole history: the first at or after a time, or the last at or before it.
fn nearest(history: &[(String, i64)], ts: i64, dir: &str) -> Option<Value> {
    let found = match dir {
        "f" => history
            .iter()
            .filter(|(_, at)| *at >= ts)
            .min_by_key(|(_, at)| *at),
        _ => history
            .iter()
            .filter(|(_, at)| *at <= ts)
            .max_by_key(|(_, at)| *at),
    };
    found.map(|(event_id, at)| json!({ "event_id": event_id, "origin_server_ts": at }))
}

#[tokio::test]
async fn the_nearest_event_is_found_on_either_side_of_a_time() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(public_chat()).await.room_id();
    alice.send_texts(&room, 30).await;
    let history = history(&alice, &room).await;
    let times = history.iter().flat_map(|(_, at)| [at - 1, *at, at + 1]);
    for ts in times.chain([0, i64::from(u32::MAX) * 1000]) {
        for dir in ["f", "b"] {
            let answer = at(&alice, &room, ts, dir).await;
            match nearest(&history, ts, dir) {
                Some(expected) => assert_eq!(answer.ok(), expected, "{dir} {ts}"),
                None => drop(answer.refused(404, "M_NOT_FOUND")),
            }
        }
    }
    // The way that clients go on.
    let (middle, _) = &history[history.len() / 2];
    let context = alice
        .get(&format!("/v3/rooms/{room}/context/{}", encoded(middle)))
        .await
        .ok();
    assert_eq!(context["event"]["event_id"], *middle);
}

#[tokio::test]
async fn nobody_is_led_to_an_event_that_they_may_not_see() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut parameters = public_chat();
    parameters["initial_state"] = json!([
        { "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } },
    ]);
    let room = alice.create_room(parameters).await.room_id();
    alice.send_texts(&room, 5).await;
    at(&bob, &room, 0, "f").await.refused(403, "M_FORBIDDEN");
    bob.join(&room).await.ok();
    bob.send_text(&room, "me").await.event_id();
    let own = history(&bob, &room).await;
    // What was before the room had its visibility is everyone's to see.
    let first = at(&bob, &room, 0, "f").await.ok();
    assert_eq!(Some(first), nearest(&own, 0, "f"));
    let joined = own.iter().rev().nth(1).expect("the join is in the history");
    let before = at(&bob, &room, joined.1 - 1, "b").await.ok();
    assert_eq!(Some(before), nearest(&own, joined.1 - 1, "b"));
    bob.leave(&room).await.ok();
    let left = history(&bob, &room).await;
    alice.send_text(&room, "gone?").await.event_id();
    let last = at(&bob, &room, i64::from(u32::MAX) * 1000, "b").await.ok();
    assert_eq!(last["event_id"], left.last().expect("the leave").0);
}

#[tokio::test]
async fn a_time_that_is_none_is_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(public_chat()).await.room_id();
    for (query, errcode) in [
        ("", "M_MISSING_PARAM"),
        ("ts=1", "M_MISSING_PARAM"),
        ("dir=f", "M_MISSING_PARAM"),
        ("ts=1&dir=x", "M_INVALID_PARAM"),
        ("ts=-1&dir=f", "M_INVALID_PARAM"),
        ("ts=now&dir=f", "M_INVALID_PARAM"),
        ("ts=99999999999999999999&dir=f", "M_INVALID_PARAM"),
    ] {
        let path = format!("/v1/rooms/{room}/timestamp_to_event?{query}");
        alice.get(&path).await.refused(400, errcode);
    }
    at(&alice, "!nowhere:example.org", 1, "f")
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn history_that_is_missing_is_asked_for_up_to_the_event() {
    let authority = Authority::new();
    let (mut a, b) = (
        Server::start_federated(&authority).await,
        Server::start_federated(&authority).await,
    );
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    alice.send_texts(&room, 350).await;
    let history = history(&alice, &room).await;
    bob.post(&format!("/v3/join/{room}?via={}", a.name()), json!({}))
        .await
        .ok();
    bob.sync_until(is_joined(&room)).await;

    // A hundred events are fetched at once: these are in the third hundred.
    let (_, ts) = history[history.len() - 250];
    for (ts, dir) in [(ts, "b"), (ts, "f"), (ts + 1, "f"), (ts - 1, "b")] {
        let found = at(&bob, &room, ts, dir).await.ok();
        assert_eq!(Some(&found), nearest(&history, ts, dir).as_ref(), "{dir} {ts}");
        let event_id = encoded(found["event_id"].as_str().expect("an ID"));
        let context = bob
            .get(&format!("/v3/rooms/{room}/context/{event_id}"))
            .await
            .ok();
        assert_eq!(context["event"]["event_id"], found["event_id"]);
        assert!(!context["events_before"].as_array().expect("a list").is_empty());
    }
    let first = at(&bob, &room, 0, "f").await.ok();
    assert_eq!(first["event_id"], history[0].0);

    // The server that has the history is gone: what is here is told.
    let later = alice.create_room(public_chat()).await.room_id();
    bob.post(&format!("/v3/join/{later}?via={}", a.name()), json!({}))
        .await
        .ok();
    bob.sync_until(is_joined(&later)).await;
    a.stop().await;
    let join = at(&bob, &later, 0, "f").await.ok();
    let event = bob
        .event(&later, join["event_id"].as_str().expect("an ID"))
        .await
        .ok();
    assert_eq!(event["state_key"], bob.user_id);
    at(&bob, &later, 0, "b").await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_server_is_told_of_rooms_that_it_is_in() {
    let authority = Authority::new();
    let (a, b) = (
        Server::start_federated(&authority).await,
        Server::start_federated(&authority).await,
    );
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    let name = <&ServerName>::try_from(a.name()).expect("a server name");
    let asked = async |room: &str, ts: u32, dir| {
        let room = OwnedRoomId::try_from(room).expect("a room ID");
        let ts = MilliSecondsSinceUnixEpoch(UInt::from(ts));
        let request = get_event_by_timestamp::Request::new(room, ts, dir);
        match b.engine().remote.event_by_timestamp(name, request).await {
            Ok(told) => Ok(told.event_id.to_string()),
            Err(RemoteError::Refused { status, errcode, .. }) => Err((status, errcode)),
            Err(error) => panic!("{error}"),
        }
    };
    let refused = |status, errcode: &str| Err((status, errcode.to_owned()));
    assert_eq!(
        asked(&room, 0, Direction::Forward).await,
        refused(403, "M_FORBIDDEN")
    );
    bob.post(&format!("/v3/join/{room}?via={}", a.name()), json!({}))
        .await
        .ok();
    let (first, _) = history(&alice, &room).await.swap_remove(0);
    assert_eq!(asked(&room, 0, Direction::Forward).await, Ok(first));
    assert_eq!(
        asked(&room, 0, Direction::Backward).await,
        refused(404, "M_NOT_FOUND")
    );
    let nowhere = asked("!nowhere:example.org", 0, Direction::Forward).await;
    assert_eq!(nowhere, refused(404, "M_NOT_FOUND"));
}
