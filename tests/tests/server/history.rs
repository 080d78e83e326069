//! Paging through history, both ways.

use hearth_tests::{Client, Server, encoded, event_ids, public_chat, timeline};
use serde_json::{Value, json};

/// A room with a conversation in it, its members, and its event IDs in order.
async fn a_room_with_a_past(server: &Server, messages: usize) -> (Client, Client, String, Vec<String>) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    for number in 0..messages {
        let who = if number % 3 == 0 { &bob } else { &alice };
        who.send_text(&room, &format!("message {number}"))
            .await
            .event_id();
    }
    let all = ids(alice.page_through(&room, "f", 1000, None).await);
    (alice, bob, room, all)
}

fn ids(events: Vec<Value>) -> Vec<String> {
    event_ids(&events.into())
}

fn reversed(mut ids: Vec<String>) -> Vec<String> {
    ids.reverse();
    ids
}

#[tokio::test]
async fn paging_to_the_end_misses_nothing_and_repeats_nothing() {
    let server = Server::start().await;
    let (alice, bob, room, all) = a_room_with_a_past(&server, 40).await;
    // create, join, power levels, three of the preset, bob's join
    assert_eq!(all.len(), 40 + 7);
    for limit in [1, 3, 7, 10, 46, 47, 48, 500] {
        assert_eq!(
            ids(bob.page_through(&room, "f", limit, None).await),
            all,
            "forwards by {limit}"
        );
        assert_eq!(
            reversed(ids(bob.page_through(&room, "b", limit, None).await)),
            all,
            "backwards by {limit}"
        );
    }
    assert_eq!(
        reversed(ids(alice.page_through(&room, "b", 5, None).await)),
        all,
        "both agree"
    );
}

#[tokio::test]
async fn a_page_tells_where_it_began_and_where_to_go_on() {
    let server = Server::start().await;
    let (alice, _, room, all) = a_room_with_a_past(&server, 12).await;
    let page = alice.messages(&room, "dir=b&limit=5").await.ok();
    let start = encoded(page["start"].as_str().expect("every page has a start"));
    let end = encoded(page["end"].as_str().expect("there is more"));
    assert_eq!(event_ids(&page["chunk"]), reversed(all[all.len() - 5..].to_vec()));

    let again = alice
        .messages(&room, &format!("dir=b&limit=5&from={start}"))
        .await
        .ok();
    assert_eq!(
        event_ids(&again["chunk"]),
        event_ids(&page["chunk"]),
        "from the start comes the same page"
    );
    let back = alice
        .messages(&room, &format!("dir=f&limit=5&from={end}"))
        .await
        .ok();
    assert_eq!(
        reversed(event_ids(&back["chunk"])),
        event_ids(&page["chunk"]),
        "turned around, it is the same page"
    );
    let bounded = alice
        .messages(&room, &format!("dir=b&limit=100&to={end}"))
        .await
        .ok();
    assert_eq!(
        event_ids(&bounded["chunk"]),
        event_ids(&page["chunk"]),
        "`to` ends it"
    );
    assert!(
        bounded.get("end").is_none() || bounded["end"] == page["end"],
        "{}",
        bounded["end"]
    );
}

#[tokio::test]
async fn the_default_page_has_ten_events() {
    let server = Server::start().await;
    let (alice, _, room, _) = a_room_with_a_past(&server, 12).await;
    let page = alice.messages(&room, "dir=b").await.ok();
    assert_eq!(event_ids(&page["chunk"]).len(), 10);
}

#[tokio::test]
async fn a_sync_token_begins_a_page() {
    let server = Server::start().await;
    let (alice, bob, room, all) = a_room_with_a_past(&server, 12).await;
    bob.sync().await;
    let since = bob.since().expect("a sync gives a token");
    let later = alice.send_texts(&room, 3).await;
    let before = ids(bob.page_through(&room, "b", 100, Some(&since)).await);
    assert_eq!(reversed(before), all);
    let after = ids(bob.page_through(&room, "f", 2, Some(&since)).await);
    assert_eq!(after, later);
}

#[tokio::test]
async fn pages_stay_as_they_are_while_others_write() {
    let server = Server::start().await;
    let (alice, bob, room, all) = a_room_with_a_past(&server, 30).await;
    let write = async {
        alice.send_texts(&room, 30).await;
    };
    let read = async {
        let first = bob.messages(&room, "dir=b&limit=4").await.ok();
        let from = first["end"].as_str().map(ToOwned::to_owned);
        let mut events = first["chunk"].as_array().cloned().unwrap_or_default();
        events.extend(bob.page_through(&room, "b", 4, from.as_deref()).await);
        reversed(ids(events))
    };
    let (read, ()) = tokio::join!(read, write);
    let now = ids(bob.page_through(&room, "f", 100, None).await);
    assert_eq!(
        read,
        now[..read.len()],
        "a reader sees a whole beginning of the room"
    );
    assert_eq!(all, now[..all.len()]);
}

#[tokio::test]
async fn a_filter_chooses_among_events() {
    let server = Server::start().await;
    let (alice, bob, room, all) = a_room_with_a_past(&server, 12).await;
    let filtered = async |filter: Value| {
        let filter = encoded(&filter.to_string());
        alice
            .messages(&room, &format!("dir=f&limit=100&filter={filter}"))
            .await
            .ok()["chunk"]
            .clone()
    };
    let messages = filtered(json!({ "types": ["m.room.message"] })).await;
    assert_eq!(event_ids(&messages), all[7..]);
    let others = filtered(json!({ "not_types": ["m.room.message"] })).await;
    assert_eq!(event_ids(&others), all[..7]);
    let wild = filtered(json!({ "types": ["m.room.mess*"], "senders": [bob.user_id] })).await;
    let wild = wild.as_array().cloned().unwrap_or_default();
    assert_eq!(wild.len(), 4);
    assert!(
        wild.iter()
            .all(|event| event["sender"] == bob.user_id && event["type"] == "m.room.message")
    );
    let not_bob = filtered(json!({ "not_senders": [bob.user_id], "types": ["m.room.message"] })).await;
    assert_eq!(event_ids(&not_bob).len(), 8);
    assert_eq!(filtered(json!({ "types": [] })).await, json!([]));
    assert_eq!(filtered(json!({ "not_rooms": [room] })).await, json!([]));
    alice
        .send(
            &room,
            "m.room.message",
            json!({ "msgtype": "m.image", "body": "x", "url": "mxc://example.org/x" }),
        )
        .await
        .ok();
    assert_eq!(
        filtered(json!({ "contains_url": true }))
            .await
            .as_array()
            .map(Vec::len),
        Some(1)
    );
}

#[tokio::test]
async fn a_filtered_walk_reaches_all_that_matches() {
    let server = Server::start().await;
    let (alice, bob, room, _) = a_room_with_a_past(&server, 30).await;
    let filter = encoded(&json!({ "types": ["m.room.message"], "senders": [bob.user_id] }).to_string());
    let (mut found, mut from) = (Vec::new(), String::new());
    for _ in 0..100 {
        let page = alice
            .messages(&room, &format!("dir=b&limit=2&filter={filter}{from}"))
            .await
            .ok();
        found.extend(event_ids(&page["chunk"]));
        match page["end"].as_str() {
            Some(end) => from = format!("&from={}", encoded(end)),
            None => break,
        }
    }
    found.dedup();
    assert_eq!(found.len(), 10);
}

#[tokio::test]
async fn a_lazy_page_brings_the_members_who_speak_in_it() {
    let server = Server::start().await;
    let (alice, bob, room, _) = a_room_with_a_past(&server, 2).await;
    let carol = server.register("carol").await;
    carol.join(&room).await.ok();
    let filter = encoded(&json!({ "lazy_load_members": true, "types": ["m.room.message"] }).to_string());
    let page = alice
        .messages(&room, &format!("dir=b&limit=10&filter={filter}"))
        .await
        .ok();
    let state = page["state"].as_array().cloned().unwrap_or_default();
    let mut members: Vec<_> = state.iter().map(|event| event["state_key"].clone()).collect();
    members.sort_by_key(ToString::to_string);
    assert_eq!(members, [json!(alice.user_id), json!(bob.user_id)]);
    assert!(state.iter().all(|event| event["type"] == "m.room.member"));
}

#[tokio::test]
async fn tokens_of_pages_outlive_a_restart() {
    let mut server = Server::start().await;
    let (alice, bob, room, all) = a_room_with_a_past(&server, 12).await;
    let page = alice.messages(&room, "dir=b&limit=5").await.ok();
    let end = page["end"].as_str().expect("there is more").to_owned();
    server.restart().await;
    bob.send_text(&room, "later").await.event_id();
    let rest = ids(alice.page_through(&room, "b", 4, Some(&end)).await);
    assert_eq!(reversed(rest), all[..all.len() - 5]);
}

#[tokio::test]
async fn what_a_limited_timeline_leaves_out_is_paged_exactly() {
    let server = Server::start().await;
    let (alice, bob, room, all) = a_room_with_a_past(&server, 10).await;
    bob.sync().await;
    let since = bob.since().expect("a sync gives a token");
    let missed = alice.send_texts(&room, 25).await;
    let sync = bob
        .sync_filtered(&json!({ "room": { "timeline": { "limit": 4 } } }))
        .await;
    let room_sync = &sync["rooms"]["join"][&room]["timeline"];
    assert_eq!(room_sync["limited"], true);
    assert_eq!(ids(timeline(&sync, &room)), missed[21..]);
    let prev_batch = room_sync["prev_batch"]
        .as_str()
        .expect("a limited timeline has a prev_batch");

    let (mut gap, mut from) = (Vec::new(), prev_batch.to_owned());
    loop {
        let query = format!("dir=b&limit=6&from={}&to={}", encoded(&from), encoded(&since));
        let page = bob.messages(&room, &query).await.ok();
        gap.extend(event_ids(&page["chunk"]));
        match page["end"].as_str() {
            Some(end) => from = end.to_owned(),
            None => break,
        }
    }
    assert_eq!(reversed(gap), missed[..21], "the gap and nothing else");
    let older = ids(bob.page_through(&room, "b", 50, Some(prev_batch)).await);
    assert_eq!(reversed(older), [all, missed[..21].to_vec()].concat());
}
