//! What clients of today ask for day by day, beside the conversation itself: contexts of events, push rules and unread
//! counts, tags.

use hearth_tests::{Client, Server, account_data, event_ids, public_chat, timeline_has};
use serde_json::{Value, json};

async fn a_room_of_two(server: &Server) -> (Client, Client, String) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    (alice, bob, room)
}

fn reversed(mut ids: Vec<String>) -> Vec<String> {
    ids.reverse();
    ids
}

#[tokio::test]
async fn the_context_of_an_event_is_what_stands_around_it() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let sent = alice.send_texts(&room, 20).await;
    let context = bob
        .get(&format!("/v3/rooms/{room}/context/{}?limit=6", sent[10]))
        .await
        .ok();
    assert_eq!(context["event"]["event_id"], sent[10]);
    let (before, after) = (
        event_ids(&context["events_before"]),
        event_ids(&context["events_after"]),
    );
    assert_eq!(before.len() + after.len(), 6);
    assert_eq!(reversed(before.clone()), sent[10 - before.len()..10]);
    assert_eq!(after, sent[11..11 + after.len()]);
    assert!(
        context["state"]
            .as_array()
            .is_some_and(|state| state.iter().any(|event| event["type"] == "m.room.create"))
    );

    let start = context["start"]
        .as_str()
        .expect("a context has a start")
        .to_owned();
    let earlier = event_ids(&bob.page_through(&room, "b", 5, Some(&start)).await.into());
    assert_eq!(
        reversed(earlier)[7..],
        sent[..10 - before.len()],
        "paging goes on from the start"
    );
    let end = context["end"].as_str().expect("a context has an end").to_owned();
    let later = event_ids(&bob.page_through(&room, "f", 5, Some(&end)).await.into());
    assert_eq!(later, sent[11 + after.len()..], "and from the end");

    let alone = bob
        .get(&format!("/v3/rooms/{room}/context/{}?limit=0", sent[10]))
        .await
        .ok();
    assert_eq!(alone["event"]["event_id"], sent[10]);
    assert!(event_ids(&alone["events_before"]).is_empty() && event_ids(&alone["events_after"]).is_empty());
    let carol = server.register("carol").await;
    let refused = carol.get(&format!("/v3/rooms/{room}/context/{}", sent[10])).await;
    assert!(
        refused.is_proper_refusal() && [403, 404].contains(&refused.status),
        "{} {}",
        refused.status,
        refused.body
    );
    let unknown = format!("/v3/rooms/{room}/context/${}", "A".repeat(43));
    bob.get(&unknown).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn push_rules_begin_with_the_specifications_and_can_be_one_s_own() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let rules = alice.get("/v3/pushrules/").await.ok();
    let ids = |kind: &str| {
        let rules = rules["global"][kind].as_array().cloned().unwrap_or_default();
        rules
            .iter()
            .map(|rule| rule["rule_id"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        ids("override").first().map(String::as_str),
        Some(".m.rule.master")
    );
    for kind in ["override", "content", "room", "sender", "underride"] {
        assert!(
            rules["global"][kind].is_array(),
            "{kind} is there, if empty: {rules}"
        );
    }
    assert!(ids("underride").contains(&".m.rule.message".to_owned()));

    alice.sync().await;
    let rule = json!({ "pattern": "hearth", "actions": ["notify"] });
    alice.put("/v3/pushrules/global/content/mine", rule).await.ok();
    let mine = alice.get("/v3/pushrules/global/content/mine").await.ok();
    assert_eq!(
        (&mine["rule_id"], &mine["pattern"], &mine["enabled"]),
        (&json!("mine"), &json!("hearth"), &json!(true))
    );
    let sync = alice
        .sync_until(|sync| !account_data(sync, "m.push_rules").is_empty())
        .await;
    let synced = account_data(&sync, "m.push_rules").pop().unwrap_or_default();
    let has_mine = |rules: &Value| {
        rules["global"]["content"]
            .as_array()
            .is_some_and(|rules| rules.iter().any(|rule| rule["rule_id"] == "mine"))
    };
    assert!(has_mine(&synced), "{synced}");
    alice
        .put(
            "/v3/pushrules/global/content/mine/enabled",
            json!({ "enabled": false }),
        )
        .await
        .ok();
    assert_eq!(
        alice.get("/v3/pushrules/global/content/mine/enabled").await.ok()["enabled"],
        false
    );
    alice
        .put(
            "/v3/pushrules/global/content/mine/actions",
            json!({ "actions": [] }),
        )
        .await
        .ok();
    assert_eq!(
        alice.get("/v3/pushrules/global/content/mine/actions").await.ok()["actions"],
        json!([])
    );
    alice.delete("/v3/pushrules/global/content/mine", None).await.ok();
    alice
        .get("/v3/pushrules/global/content/mine")
        .await
        .refused(404, "M_NOT_FOUND");
    let default = alice
        .delete("/v3/pushrules/global/override/.m.rule.master", None)
        .await;
    assert!(default.is_proper_refusal(), "{} {}", default.status, default.body);
}

#[tokio::test]
async fn a_first_sync_has_the_push_rules() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let rules = account_data(&alice.sync().await, "m.push_rules")
        .pop()
        .unwrap_or_default();
    assert!(
        rules["global"]["override"]
            .as_array()
            .is_some_and(|rules| !rules.is_empty()),
        "{rules}"
    );
}

#[tokio::test]
async fn unread_messages_are_counted_until_they_are_read() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    bob.sync().await;
    let count = |sync: &Value| {
        let counts = &sync["rooms"]["join"][&room]["unread_notifications"];
        (
            counts["notification_count"].as_u64(),
            counts["highlight_count"].as_u64(),
        )
    };
    let sent = alice.send_texts(&room, 3).await;
    let sync = bob.sync_until(timeline_has(&room, &sent[2])).await;
    assert_eq!(count(&sync), (Some(3), Some(0)));
    let mention = json!({ "msgtype": "m.text", "body": "bob?", "m.mentions": { "user_ids": [bob.user_id] } });
    let mention = alice.send(&room, "m.room.message", mention).await.event_id();
    let sync = bob.sync_until(timeline_has(&room, &mention)).await;
    assert_eq!(count(&sync), (Some(4), Some(1)));
    bob.send_receipt(&room, "m.read", &mention).await.ok();
    let sync = bob.sync_until(|sync| count(sync).0.is_some()).await;
    assert_eq!(count(&sync), (Some(0), Some(0)));
    let own = bob.send_text(&room, "I am here").await.event_id();
    let sync = bob.sync_until(timeline_has(&room, &own)).await;
    assert_eq!(count(&sync).0.unwrap_or_default(), 0, "one's own words are read");
    bob.set_since(None);
    assert_eq!(count(&bob.sync().await).0.unwrap_or_default(), 0);
}

#[tokio::test]
async fn tags_are_account_data_of_a_room() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    alice.sync().await;
    let path = format!("/v3/user/{}/rooms/{room}/tags", alice.user_id);
    assert_eq!(alice.get(&path).await.ok()["tags"], json!({}));
    alice
        .put(&format!("{path}/m.favourite"), json!({ "order": 0.25 }))
        .await
        .ok();
    alice.put(&format!("{path}/u.work"), json!({})).await.ok();
    let tags = json!({ "m.favourite": { "order": 0.25 }, "u.work": {} });
    assert_eq!(alice.get(&path).await.ok()["tags"], tags);
    let of_room = |sync: &Value| account_data(&sync["rooms"]["join"][&room], "m.tag").pop();
    let sync = alice.sync_until(|sync| of_room(sync).is_some()).await;
    assert_eq!(of_room(&sync).unwrap_or_default()["tags"], tags);
    alice.delete(&format!("{path}/m.favourite"), None).await.ok();
    assert_eq!(alice.get(&path).await.ok()["tags"], json!({ "u.work": {} }));
    bob.get(&path).await.refused(403, "M_FORBIDDEN");
}
