//! `GET …/context/{eventId}`.

use serde_json::{Value, json};

use crate::client::{Client, ids, query, server};

/// Five messages in a room of Alice's, and the room.
async fn five_messages(alice: &Client) -> (String, Vec<String>) {
    let room_id = alice.room().await;
    let mut messages = Vec::new();
    for number in 1..=5 {
        messages.push(alice.say_text(&room_id, &number.to_string()).await);
    }
    (room_id, messages)
}

fn path(room_id: &str, event_id: &str, rest: &str) -> String {
    format!("/rooms/{room_id}/context/{event_id}?{rest}")
}

/// The pair of type and state key of each state event, sorted.
fn state_keys(state: &Value) -> Vec<(&str, &str)> {
    let events = state.as_array().unwrap().iter();
    let mut keys: Vec<_> = events
        .map(|event| {
            (
                event["type"].as_str().unwrap(),
                event["state_key"].as_str().unwrap(),
            )
        })
        .collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn the_limit_is_shared_by_both_sides() {
    let (alice, _) = server().await;
    let (room_id, messages) = five_messages(&alice).await;
    let around = alice.get(&path(&room_id, &messages[2], "limit=2")).await.ok();
    assert_eq!(around["event"]["event_id"], messages[2]);
    assert_eq!(around["event"]["room_id"], room_id);
    assert_eq!(ids(&around["events_before"]), [&messages[1]]);
    assert_eq!(ids(&around["events_after"]), [&messages[3]]);
    let around = alice.get(&path(&room_id, &messages[2], "limit=3")).await.ok();
    assert_eq!(ids(&around["events_before"]), [&messages[1]]);
    assert_eq!(ids(&around["events_after"]), [&messages[3], &messages[4]]);
    let alone = alice.get(&path(&room_id, &messages[2], "limit=0")).await.ok();
    assert_eq!(alone["event"]["event_id"], messages[2]);
    assert_eq!(
        (&alone["events_before"], &alone["events_after"]),
        (&json!([]), &json!([]))
    );
    let whole = alice.get(&path(&room_id, &messages[2], "")).await.ok();
    assert_eq!(whole["events_before"].as_array().unwrap().len(), 5);
    assert_eq!(ids(&whole["events_after"]), [&messages[3], &messages[4]]);
}

#[tokio::test]
async fn its_tokens_page_on_without_gap_or_repetition() {
    let (alice, _) = server().await;
    let (room_id, messages) = five_messages(&alice).await;
    for limit in [0, 2] {
        let around = alice
            .get(&path(&room_id, &messages[2], &format!("limit={limit}")))
            .await
            .ok();
        let page = async |dir: &str, from: &Value| {
            let path = format!(
                "/rooms/{room_id}/messages?dir={dir}&limit=2&from={}",
                from.as_str().unwrap()
            );
            alice.get(&path).await.ok()
        };
        let side = limit / 2;
        let older: Vec<&String> = messages[..2 - side].iter().rev().take(2).collect();
        assert_eq!(
            ids(&page("b", &around["start"]).await["chunk"])[..older.len()],
            older[..]
        );
        let newer: Vec<&String> = messages[3 + side..].iter().take(2).collect();
        assert_eq!(ids(&page("f", &around["end"]).await["chunk"]), newer);
    }
    // At the end of the room the token waits for what comes.
    let around = alice.get(&path(&room_id, &messages[4], "limit=10")).await.ok();
    let newest = alice.say_text(&room_id, "6").await;
    let later = format!(
        "/rooms/{room_id}/messages?dir=f&from={}",
        around["end"].as_str().unwrap()
    );
    assert_eq!(ids(&alice.get(&later).await.ok()["chunk"]), [&newest]);
    // And at its start there is nothing more.
    let all = alice.get(&path(&room_id, &messages[0], "limit=100")).await.ok();
    let earlier = format!(
        "/rooms/{room_id}/messages?dir=b&from={}",
        all["start"].as_str().unwrap()
    );
    let earlier = alice.get(&earlier).await.ok();
    assert_eq!((&earlier["chunk"], earlier.get("end")), (&json!([]), None));
}

#[tokio::test]
async fn a_filter_is_for_what_surrounds_the_event() {
    let (alice, nobody) = server().await;
    let bob = nobody.register("bob").await;
    let (room_id, messages) = five_messages(&alice).await;
    bob.join(&room_id).await;
    let of_bob = bob.say_text(&room_id, "6").await;
    let last = alice.say_text(&room_id, "7").await;
    let filter = query(&json!({ "senders": [bob.user_id], "types": ["m.room.message", "m.room.member"] }));
    let around = alice
        .get(&path(&room_id, &messages[4], &format!("limit=2&filter={filter}")))
        .await
        .ok();
    assert_eq!(around["event"]["event_id"], messages[4]);
    assert_eq!(around["events_before"], json!([]));
    assert_eq!(around["events_after"][0]["type"], "m.room.member");
    assert_eq!(
        state_keys(&around["state"]),
        [("m.room.member", bob.user_id.as_str())]
    );
    let rest = format!(
        "/rooms/{room_id}/messages?dir=f&from={}",
        around["end"].as_str().unwrap()
    );
    assert_eq!(ids(&alice.get(&rest).await.ok()["chunk"]), [&of_bob, &last]);
    let elsewhere = query(&json!({ "not_rooms": [room_id] }));
    let around = alice
        .get(&path(&room_id, &messages[2], &format!("filter={elsewhere}")))
        .await
        .ok();
    assert_eq!(around["event"]["event_id"], messages[2]);
    assert_eq!(
        [
            &around["events_before"],
            &around["events_after"],
            &around["state"]
        ],
        [&json!([]); 3]
    );
}

#[tokio::test]
async fn the_state_is_that_of_the_last_event_returned() {
    let (alice, nobody) = server().await;
    let room_id = alice.room().await;
    alice
        .set_state(&room_id, "m.room.topic", json!({ "topic": "old" }))
        .await;
    let early = alice.say_text(&room_id, "1").await;
    let topic = alice
        .set_state(&room_id, "m.room.topic", json!({ "topic": "new" }))
        .await;
    let bob = nobody.register("bob").await;
    bob.join(&room_id).await;
    let of_bob = bob.say_text(&room_id, "2").await;
    let topic_of = |around: &Value| {
        let state = around["state"].as_array().unwrap().iter();
        let mut topics = state.filter(|event| event["type"] == "m.room.topic");
        topics.next().unwrap()["content"]["topic"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let members_of = |around: &Value| {
        let members = state_keys(&around["state"])
            .into_iter()
            .filter(|(event_type, _)| *event_type == "m.room.member");
        members.map(|(_, user_id)| user_id.to_owned()).collect::<Vec<_>>()
    };
    let around = alice.get(&path(&room_id, &early, "limit=0")).await.ok();
    assert_eq!(
        (topic_of(&around), members_of(&around)),
        ("old".to_owned(), vec![alice.user_id.clone()])
    );
    let around = alice.get(&path(&room_id, &early, "limit=1")).await.ok();
    assert_eq!(ids(&around["events_after"]), [&topic]);
    assert_eq!(topic_of(&around), "new");
    let whole = alice.get(&path(&room_id, &of_bob, "limit=0")).await.ok();
    assert_eq!(members_of(&whole), [alice.user_id.clone(), bob.user_id.clone()]);
    let lazy = query(&json!({ "lazy_load_members": true }));
    let around = alice
        .get(&path(&room_id, &of_bob, &format!("limit=0&filter={lazy}")))
        .await
        .ok();
    assert_eq!(
        (topic_of(&around), members_of(&around)),
        ("new".to_owned(), vec![bob.user_id.clone()])
    );
}

#[tokio::test]
async fn it_shows_what_history_visibility_lets_be_seen() {
    let (alice, nobody) = server().await;
    let bob = nobody.register("bob").await;
    let room_id = alice.room().await;
    alice
        .set_state(
            &room_id,
            "m.room.history_visibility",
            json!({ "history_visibility": "joined" }),
        )
        .await;
    let before = alice.say_text(&room_id, "before").await;
    bob.get(&path(&room_id, &before, ""))
        .await
        .refused(404, "M_NOT_FOUND");
    bob.join(&room_id).await;
    let within = alice.say_text(&room_id, "within").await;
    bob.leave(&room_id).await;
    let after = alice.say_text(&room_id, "after").await;
    bob.get(&path(&room_id, &before, ""))
        .await
        .refused(404, "M_NOT_FOUND");
    bob.get(&path(&room_id, &after, ""))
        .await
        .refused(404, "M_NOT_FOUND");
    let around = bob.get(&path(&room_id, &within, "limit=50")).await.ok();
    assert!(
        !ids(&around["events_before"]).contains(&before.as_str()),
        "{around}"
    );
    assert_eq!(around["event"]["unsigned"]["membership"], "join");
    let [left] = &around["events_after"].as_array().unwrap()[..] else {
        panic!("{around}")
    };
    assert_eq!(
        (&left["type"], &left["content"]["membership"]),
        (&json!("m.room.member"), &json!("leave"))
    );
    alice
        .set_state(
            &room_id,
            "m.room.history_visibility",
            json!({ "history_visibility": "world_readable" }),
        )
        .await;
    let open = alice.say_text(&room_id, "open").await;
    let carol = nobody.register("carol").await;
    let around = carol.get(&path(&room_id, &open, "limit=50")).await.ok();
    assert_eq!(around["event"]["event_id"], open);
    assert!(
        !ids(&around["events_before"]).contains(&after.as_str()),
        "{around}"
    );
}

#[tokio::test]
async fn what_is_not_in_the_room_is_not_found() {
    let (alice, nobody) = server().await;
    let (room_id, messages) = five_messages(&alice).await;
    let other = alice.room().await;
    alice
        .get(&path(&other, &messages[0], ""))
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .get(&path(&room_id, "$nothing", ""))
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .get(&path("!nowhere:example.org", &messages[0], ""))
        .await
        .refused(404, "M_NOT_FOUND");
    alice
        .get(&path(&room_id, &messages[0], "limit=-1"))
        .await
        .refused(400, "M_INVALID_PARAM");
    nobody
        .get(&path(&room_id, &messages[0], ""))
        .await
        .refused(401, "M_MISSING_TOKEN");
}
