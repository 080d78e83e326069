//! `unsigned.m.relations` of events, at every door that shows them.

use serde_json::{Value, json};

use crate::client::{Client, server, v1};

/// The relations bundled with an event.
async fn relations(of: &Client, room_id: &str, event_id: &str) -> Value {
    let event = of.get(&format!("/rooms/{room_id}/event/{event_id}")).await.ok();
    event["unsigned"]["m.relations"].clone()
}

#[tokio::test]
async fn the_latest_valid_edit_is_bundled() {
    let (alice, nobody) = server().await;
    let bob = nobody.register("bob").await;
    let room_id = alice.room().await;
    bob.join(&room_id).await;
    let original = alice.say_text(&room_id, "helo").await;
    assert_eq!(relations(&bob, &room_id, &original).await, Value::Null);
    let first = alice.relate(&room_id, "m.replace", &original, "hello").await;
    let told = relations(&bob, &room_id, &original).await;
    let edit = &told["m.replace"];
    assert_eq!(edit["event_id"], first);
    assert_eq!(edit["content"]["m.new_content"]["body"], "hello");
    assert_eq!(
        [&edit["sender"], &edit["type"], &edit["room_id"]],
        [&json!(alice.user_id), &json!("m.room.message"), &json!(room_id)]
    );
    // The content is left as it was, and nothing else is bundled.
    let event = bob.get(&format!("/rooms/{room_id}/event/{original}")).await.ok();
    assert_eq!(event["content"]["body"], "helo");
    assert_eq!(told.as_object().unwrap().len(), 1);

    let second = alice.relate(&room_id, "m.replace", &original, "hello!").await;
    // Another's, one of another type, one without a new content, one of an edit, and one of state.
    bob.relate(&room_id, "m.replace", &original, "bye").await;
    let relates_to = json!({ "rel_type": "m.replace", "event_id": original });
    let other_type = json!({ "m.new_content": {}, "m.relates_to": relates_to });
    alice.try_send(&room_id, "org.example", other_type).await.ok();
    alice
        .say(
            &room_id,
            json!({ "msgtype": "m.text", "body": "*", "m.relates_to": relates_to }),
        )
        .await;
    alice.relate(&room_id, "m.replace", &second, "hello?").await;
    assert_eq!(
        relations(&bob, &room_id, &original).await["m.replace"]["event_id"],
        second
    );
    assert_eq!(relations(&bob, &room_id, &second).await, Value::Null);
    let topic = alice
        .set_state(&room_id, "m.room.topic", json!({ "topic": "a" }))
        .await;
    let of_state = json!({ "topic": "b", "m.new_content": {}, "m.relates_to": { "rel_type": "m.replace", "event_id": topic } });
    alice.try_send(&room_id, "m.room.topic", of_state).await.ok();
    assert_eq!(relations(&bob, &room_id, &topic).await, Value::Null);

    alice.redact(&room_id, &second).await;
    assert_eq!(
        relations(&bob, &room_id, &original).await["m.replace"]["event_id"],
        first
    );
    alice.redact(&room_id, &original).await;
    assert_eq!(relations(&bob, &room_id, &original).await, Value::Null);
}

#[tokio::test]
async fn an_encrypted_edit_needs_no_new_content_that_could_be_read() {
    let (alice, _) = server().await;
    let room_id = alice.room().await;
    let send = async |content: Value| {
        let sent = alice.try_send(&room_id, "m.room.encrypted", content).await.ok();
        sent["event_id"].as_str().unwrap().to_owned()
    };
    let original = send(json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "a" })).await;
    let relates_to = json!({ "rel_type": "m.replace", "event_id": original });
    let edit =
        send(json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "b", "m.relates_to": relates_to }))
            .await;
    assert_eq!(
        relations(&alice, &room_id, &original).await["m.replace"]["event_id"],
        edit
    );
}

#[tokio::test]
async fn a_thread_is_counted_with_its_last_event() {
    let (alice, nobody) = server().await;
    let (bob, carol) = (nobody.register("bob").await, nobody.register("carol").await);
    let room_id = alice.room().await;
    bob.join(&room_id).await;
    carol.join(&room_id).await;
    let root = alice.say_text(&room_id, "root").await;
    alice.relate(&room_id, "m.thread", &root, "1").await;
    let last = bob.relate(&room_id, "m.thread", &root, "2").await;
    let edit = bob.relate(&room_id, "m.replace", &last, "2!").await;
    for (client, participated) in [(&alice, true), (&bob, true), (&carol, false)] {
        let thread = relations(client, &room_id, &root).await["m.thread"].clone();
        assert_eq!(
            (&thread["count"], &thread["current_user_participated"]),
            (&json!(2), &json!(participated))
        );
        let latest = &thread["latest_event"];
        assert_eq!(
            (&latest["event_id"], &latest["content"]["body"]),
            (&json!(last), &json!("2"))
        );
        assert_eq!(latest["unsigned"]["m.relations"]["m.replace"]["event_id"], edit);
    }
    // No thread begins in the middle of a relation.
    alice.relate(&room_id, "m.thread", &last, "3").await;
    assert_eq!(relations(&alice, &room_id, &last).await.get("m.thread"), None);
    bob.redact(&room_id, &last).await;
    let thread = relations(&bob, &room_id, &root).await["m.thread"].clone();
    assert_eq!(
        (&thread["count"], &thread["current_user_participated"]),
        (&json!(1), &json!(false))
    );
    assert_eq!(thread["latest_event"]["content"]["body"], "1");
    // The thread outlives its root's content.
    alice.redact(&room_id, &root).await;
    assert_eq!(relations(&bob, &room_id, &root).await["m.thread"]["count"], 1);
}

#[tokio::test]
async fn references_are_listed_and_annotations_are_not() {
    let (alice, _) = server().await;
    let room_id = alice.room().await;
    let parent = alice.say_text(&room_id, "question").await;
    let one = alice.relate(&room_id, "m.reference", &parent, "1").await;
    let two = alice.relate(&room_id, "m.reference", &parent, "2").await;
    let reaction = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": parent, "key": "👍" } });
    alice.try_send(&room_id, "m.reaction", reaction).await.ok();
    let expected = json!({ "m.reference": { "chunk": [{ "event_id": one }, { "event_id": two }] } });
    assert_eq!(relations(&alice, &room_id, &parent).await, expected);
    // A relation to an event of another room is none.
    let elsewhere = alice.room().await;
    alice.relate(&elsewhere, "m.reference", &parent, "3").await;
    assert_eq!(relations(&alice, &room_id, &parent).await, expected);
}

#[tokio::test]
async fn ignored_users_and_hidden_history_count_for_nothing() {
    let (alice, nobody) = server().await;
    let (bob, carol) = (nobody.register("bob").await, nobody.register("carol").await);
    let room_id = alice.room().await;
    bob.join(&room_id).await;
    carol.join(&room_id).await;
    let root = alice.say_text(&room_id, "root").await;
    let seen = alice.relate(&room_id, "m.thread", &root, "1").await;
    bob.relate(&room_id, "m.thread", &root, "2").await;
    bob.relate(&room_id, "m.reference", &root, "3").await;
    alice.ignore(&bob.user_id).await;
    let told = relations(&alice, &room_id, &root).await;
    assert_eq!(
        (&told["m.thread"]["count"], told.get("m.reference")),
        (&json!(1), None)
    );
    assert_eq!(told["m.thread"]["latest_event"]["event_id"], seen);
    // What was said after Carol left is not for her.
    carol.leave(&room_id).await;
    alice.relate(&room_id, "m.thread", &root, "4").await;
    let told = relations(&carol, &room_id, &root).await;
    assert_eq!(
        (
            &told["m.thread"]["count"],
            &told["m.thread"]["latest_event"]["content"]["body"]
        ),
        (&json!(2), &json!("2"))
    );
}

#[tokio::test]
async fn every_door_shows_them() {
    let (alice, _) = server().await;
    let room_id = alice.room().await;
    let root = alice.say_text(&room_id, "root").await;
    let reply = alice.relate(&room_id, "m.thread", &root, "reply").await;
    let edit = alice.relate(&room_id, "m.replace", &reply, "reply!").await;
    let find = |events: &Value, event_id: &str| -> Value {
        let mut found = events
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["event_id"] == event_id);
        found.next().unwrap_or_else(|| panic!("{event_id} in {events}"))["unsigned"]["m.relations"].clone()
    };
    let is_whole = |relations: &Value| {
        let latest = &relations["m.thread"]["latest_event"];
        assert_eq!(latest["event_id"], reply);
        assert_eq!(latest["unsigned"]["m.relations"]["m.replace"]["event_id"], edit);
    };
    is_whole(&relations(&alice, &room_id, &root).await);
    let page = alice
        .get(&format!("/rooms/{room_id}/messages?dir=b&limit=50"))
        .await
        .ok();
    is_whole(&find(&page["chunk"], &root));
    assert_eq!(find(&page["chunk"], &reply)["m.replace"]["event_id"], edit);
    let around = alice.get(&format!("/rooms/{room_id}/context/{root}")).await.ok();
    is_whole(&around["event"]["unsigned"]["m.relations"]);
    assert_eq!(
        find(&around["events_after"], &reply)["m.replace"]["event_id"],
        edit
    );
    let before = alice.get(&format!("/rooms/{room_id}/context/{edit}")).await.ok();
    is_whole(&find(&before["events_before"], &root));
    let threads = alice.get(&v1(&format!("/rooms/{room_id}/threads"))).await.ok();
    is_whole(&find(&threads["chunk"], &root));
    let children = alice
        .get(&v1(&format!("/rooms/{room_id}/relations/{root}")))
        .await
        .ok();
    assert_eq!(find(&children["chunk"], &reply)["m.replace"]["event_id"], edit);
    // A limited sync has them, without room IDs; one that tells all since the last has no need of them.
    let synced = alice
        .get("/sync?filter=%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:3%7D%7D%7D")
        .await
        .ok();
    let timeline = &synced["rooms"]["join"][&room_id]["timeline"];
    assert_eq!(timeline["limited"], true);
    let told = find(&timeline["events"], &root);
    is_whole(&told);
    assert_eq!(told["m.thread"]["latest_event"].get("room_id"), None);
    let since = synced["next_batch"].as_str().unwrap();
    let late = alice.say_text(&room_id, "late").await;
    alice.relate(&room_id, "m.reference", &late, "later").await;
    let synced = alice.get(&format!("/sync?since={since}")).await.ok();
    let timeline = &synced["rooms"]["join"][&room_id]["timeline"];
    assert_eq!(
        (&timeline["limited"], &find(&timeline["events"], &late)),
        (&json!(false), &Value::Null)
    );
}
