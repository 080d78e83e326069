//! Events with unusual contents, types and keys: what one side lets its users send, the other takes as it is.

use hearth_tests::{Client, encoded, public_chat, until};
use serde_json::{Value, json};

use super::{Pair, Scenarios, Side, same_state, shared_room};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_synapse_unusual_contents_arrive_as_they_are() {
    let pair = Pair::start().await;
    let mut scenarios = Scenarios::default();
    for version in ["1", "6", "10", "12"] {
        scenarios.both_ways(
            &pair,
            &format!("contents in version {version}"),
            move |host, guest| contents(host, guest, version),
        );
    }
    scenarios.add(
        "numbers of old rooms",
        loose_numbers(pair.synapse(), pair.hearth()),
    );
    scenarios.play().await;
}

fn unusual() -> Vec<Value> {
    let mut deep = json!("the ground");
    for _ in 0..40 {
        deep = json!({ "down": [deep] });
    }
    vec![
        json!({}),
        json!({ "least": -9_007_199_254_740_991_i64, "most": 9_007_199_254_740_991_i64, "zero": 0 }),
        json!({ "": "no name", "é": "ü", "e\u{301}": "another", "\u{1F600}": "\u{10FFFF}", "\u{FFFD}": "\u{E000}" }),
        json!({ "control": "\u{1}\u{8}\t\n\u{b}\u{c}\r\u{1f}\u{7f}\u{85}\u{2028}\u{2029}", "quote": "\"\\/" }),
        json!({ "nothing": null, "empty": [{}, []], "said": [true, false] }),
        json!({ "long": "x".repeat(40_000) }),
        json!({ "Zebra": 1, "aardvark": 2, "_": 3, "A": 4, "\u{FB01}": 5, "\u{1F4A9}": 6 }),
        deep,
    ]
}

async fn contents(host: Side, guest: Side, version: &str) {
    let alice = host.register(&format!("alice.odd{version}")).await;
    let bob = guest.register(&format!("bob.odd{version}")).await;
    let mut parameters = public_chat();
    parameters["room_version"] = json!(version);
    parameters["power_level_content_override"] = json!({ "state_default": 0 });
    let room = shared_room(&alice, &bob, &host, parameters).await;
    for (sender, reader) in [(&alice, &bob), (&bob, &alice)] {
        let mut sent = Vec::new();
        for content in unusual() {
            let answer = sender.send(&room, "org.example.odd", content.clone()).await;
            sent.push((answer.event_id(), content));
        }
        let content = json!({ "zero": "a\u{0}b" });
        let answer = sender.send(&room, "org.example.odd", content.clone()).await;
        if answer.status == 200 {
            sent.push((answer.event_id(), content));
        }
        let long = "k".repeat(255);
        for key in [
            "",
            "with spaces and / and %2F",
            "ключ \u{1F511}",
            "no.one:at all",
            &long,
        ] {
            let content = json!({ "by": sender.user_id });
            let answer = sender
                .send_state(&room, "org.example.\u{fc}", key, content.clone())
                .await;
            sent.push((answer.event_id(), content));
        }
        for (event_id, content) in &sent {
            arrives(reader, &room, event_id, content).await;
        }
    }
    same_state(&alice, &bob, &room).await;
}

async fn arrives(reader: &Client, room: &str, event_id: &str, content: &Value) {
    let path = format!("/v3/rooms/{}/event/{}", encoded(room), encoded(event_id));
    let event = until("the event comes", || async {
        let answer = reader.get(&path).await;
        (answer.status == 200).then_some(answer.body)
    })
    .await;
    assert_eq!(event["content"], *content);
}

/// Rooms before version 6 have numbers that canonical JSON has not.
async fn loose_numbers(host: Side, guest: Side) {
    for version in ["1", "5"] {
        let alice = host.register(&format!("alice.loose{version}")).await;
        let bob = guest.register(&format!("bob.loose{version}")).await;
        let mut parameters = public_chat();
        parameters["room_version"] = json!(version);
        let room = shared_room(&alice, &bob, &host, parameters).await;
        let contents = [
            json!({ "half": 0.5, "tiny": 1e-7, "third": 0.1, "negative": -2.5 }),
            json!({ "round": 10.0, "huge": 1e20, "larger": 1.5e300 }),
            json!({ "past": 9_007_199_254_740_993_i64, "farther": i64::MIN }),
        ];
        for content in contents {
            let sent = alice.send(&room, "org.example.loose", content.clone()).await;
            arrives(&bob, &room, &sent.event_id(), &content).await;
        }
    }
}
