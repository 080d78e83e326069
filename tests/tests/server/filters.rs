//! Filters (client-server API, "Filtering"): each field does what it says, at each door that takes one.

use std::time::Duration;

use hearth_tests::{
    Client, Server, account_data, encoded, event_ids, has_left, is_invited, is_joined, public_chat, state,
    text, timeline, timeline_has, within,
};
use serde_json::{Value, json};

async fn a_room_of_two(server: &Server) -> (Client, Client, String) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    (alice, bob, room)
}

fn ids(events: Vec<Value>) -> Vec<String> {
    event_ids(&events.into())
}

fn types(events: &[Value]) -> Vec<&str> {
    let mut types: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    types.sort_unstable();
    types
}

/// The user IDs of the member events among `events`.
fn members(events: &[Value]) -> Vec<&str> {
    let mut members: Vec<&str> = events
        .iter()
        .filter(|event| event["type"] == "m.room.member")
        .filter_map(|event| event["state_key"].as_str())
        .collect();
    members.sort_unstable();
    members
}

fn keys(object: &Value) -> Vec<&str> {
    object
        .as_object()
        .map(|object| object.keys().map(String::as_str).collect())
        .unwrap_or_default()
}

/// Of a room of a sync, the events of a section.
fn section(sync: &Value, room: &str, section: &str) -> Vec<Value> {
    let events = &sync["rooms"]["join"][room][section]["events"];
    events.as_array().cloned().unwrap_or_default()
}

#[tokio::test]
async fn event_fields_are_the_fields_of_events() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let parent = alice.send_text(&room, "a question").await.event_id();
    let reply = json!({
        "msgtype": "m.text", "body": "an answer", "org.example\\odd": 1,
        "m.relates_to": { "rel_type": "m.thread", "event_id": parent },
    });
    bob.send(&room, "m.room.message", reply).await.ok();
    let fields = json!([
        "type",
        "content.body",
        r"content.m\.relates_to.event_id",
        r"content.org\.example\\odd",
        "content.body.deeper",
        "unsigned.nothing",
    ]);
    let filter = json!({ "event_fields": fields, "room": { "timeline": { "limit": 1 } } });
    let sync = bob.first_sync(&filter).await;
    assert_eq!(
        timeline(&sync, &room),
        [json!({
            "type": "m.room.message",
            "content": {
                "body": "an answer", "m.relates_to": { "event_id": parent }, "org.example\\odd": 1,
            },
        })]
    );
    let told = state(&sync, &room);
    assert!(
        types(&told).contains(&"m.room.create") && told.iter().all(|event| keys(event) == ["type"]),
        "of state too, and nothing is left of a content without a body: {told:?}"
    );
    // An event that has none of the fields is still an event.
    let filter = json!({ "event_fields": ["nothing.of.this"], "room": { "timeline": { "limit": 2 } } });
    assert_eq!(
        timeline(&bob.first_sync(&filter).await, &room),
        [json!({}), json!({})]
    );
    // What isn't an event of the room keeps its fields, and so does everything where none are named.
    let sync = bob.first_sync(&json!({ "event_fields": [] })).await;
    assert!(
        timeline(&sync, &room)
            .iter()
            .all(|event| event["sender"].is_string())
    );
    assert!(!account_data(&bob.first_sync(&filter).await, "m.push_rules").is_empty());
}

#[tokio::test]
async fn event_format_federation_is_the_event_as_servers_exchange_it() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let sent = alice.send_text(&room, "hello").await.event_id();
    let federation = json!({ "event_format": "federation", "room": { "timeline": { "limit": 1 } } });
    let sync = alice.first_sync(&federation).await;
    let message = timeline(&sync, &room).pop().expect("the message is there");
    assert_eq!(message["event_id"], sent);
    assert_eq!(message["room_id"], room);
    assert_eq!(message["content"], text("hello"));
    for field in ["auth_events", "prev_events"] {
        assert!(
            message[field].as_array().is_some_and(|events| !events.is_empty()),
            "{field}: {message}"
        );
    }
    assert!(message["depth"].is_u64() && message["hashes"]["sha256"].is_string());
    assert!(message["signatures"][server.name()].is_object());
    assert!(
        message["unsigned"]["age"].is_u64() && message["unsigned"]["transaction_id"].is_string(),
        "what a server adds for its client is there too: {message}"
    );
    let told = state(&sync, &room);
    assert!(!told.is_empty() && told.iter().all(|event| event["signatures"].is_object()));

    let as_ever = bob
        .first_sync(&json!({ "event_format": "client", "room": { "timeline": { "limit": 1 } } }))
        .await;
    let message = timeline(&as_ever, &room).pop().unwrap_or_default();
    assert!(message.get("signatures").is_none() && message.get("auth_events").is_none());

    let both = json!({ "event_format": "federation", "event_fields": ["depth", "hashes"], "room": { "timeline": { "limit": 1 } } });
    let message = timeline(&alice.first_sync(&both).await, &room)
        .pop()
        .unwrap_or_default();
    assert_eq!(keys(&message), ["depth", "hashes"]);

    alice.redact(&room, &sent, "never mind").await.ok();
    let redacted = json!({ "event_format": "federation", "room": { "timeline": { "limit": 2 } } });
    let message = timeline(&bob.first_sync(&redacted).await, &room).swap_remove(0);
    assert_eq!(
        (&message["event_id"], &message["content"]),
        (&json!(sent), &json!({}))
    );
    assert!(
        message["unsigned"]["redacted_because"]["signatures"].is_object(),
        "{message}"
    );
}

#[tokio::test]
async fn an_unknown_event_format_is_refused_wherever_it_is_named() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let filter = json!({ "event_format": "carrier pigeon" });
    let answer = alice
        .post(&format!("/v3/user/{}/filter", alice.user_id), filter.clone())
        .await;
    assert!(
        answer.status == 400 && answer.is_proper_refusal(),
        "{} {}",
        answer.status,
        answer.body
    );
    let answer = alice
        .get(&format!("/v3/sync?filter={}", encoded(&filter.to_string())))
        .await;
    assert!(
        answer.status == 400 && answer.is_proper_refusal(),
        "{} {}",
        answer.status,
        answer.body
    );
}

#[tokio::test]
async fn a_filter_hides_a_whole_room_however_one_is_in_it() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let other = alice.create_room(public_chat()).await.room_id();
    bob.join(&other).await.ok();
    let invited = alice
        .create_room(json!({ "invite": [bob.user_id] }))
        .await
        .room_id();
    let left = alice.create_room(public_chat()).await.room_id();
    bob.join(&left).await.ok();
    bob.leave(&left).await.ok();
    let shown = |sync: &Value| {
        [
            is_joined(&room)(sync),
            is_joined(&other)(sync),
            is_invited(&invited)(sync),
            has_left(&left)(sync),
        ]
    };
    let filtered = async |mut rooms: Value| {
        rooms["include_leave"] = true.into();
        shown(&bob.first_sync(&json!({ "room": rooms })).await)
    };
    assert_eq!(filtered(json!({})).await, [true; 4]);
    assert_eq!(
        filtered(json!({ "not_rooms": [room] })).await,
        [false, true, true, true]
    );
    assert_eq!(
        filtered(json!({ "not_rooms": [invited, left] })).await,
        [true, true, false, false]
    );
    assert_eq!(
        filtered(json!({ "rooms": [other, invited] })).await,
        [false, true, true, false]
    );
    assert_eq!(filtered(json!({ "rooms": [] })).await, [false; 4]);
    assert_eq!(
        filtered(json!({ "rooms": [room, other], "not_rooms": [room] })).await,
        [false, true, false, false],
        "what is excluded is, though it is included too"
    );
}

#[tokio::test]
async fn nothing_of_a_hidden_room_ends_a_poll_and_nothing_is_lost_for_who_looks_later() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let other = alice.create_room(public_chat()).await.room_id();
    bob.join(&other).await.ok();
    bob.sync().await;
    let before = bob.since();
    let without = encoded(&json!({ "room": { "not_rooms": [room] } }).to_string());
    let poll = format!("timeout=30000&filter={without}");
    let polling = bob.sync_with(&poll);
    let stirring = async {
        alice.send_texts(&room, 2).await;
        alice
            .send_state(&room, "m.room.topic", "", json!({ "topic": "hush" }))
            .await
            .ok();
        alice.set_typing(&room, Some(20_000)).await.ok();
        bob.set_room_account_data(&room, "org.example", json!({ "a": 1 }))
            .await
            .ok();
        alice.send_text(&other, "and here").await.event_id()
    };
    let (sync, there) = within(Duration::from_secs(25), "the poll returns", async {
        tokio::join!(polling, stirring)
    })
    .await;
    let sync = sync.ok();
    assert!(
        timeline_has(&other, &there)(&sync),
        "the first that it is told: {sync}"
    );
    assert!(!is_joined(&room)(&sync), "{sync}");

    bob.set_since(before.as_deref());
    let whole = bob.sync().await;
    assert_eq!(timeline(&whole, &room).len(), 3);
    assert_eq!(
        account_data(&whole["rooms"]["join"][&room], "org.example").len(),
        1
    );
}

/// How much the sections of a room have when their filter is `filter`: messages, state, ephemeral events, account data.
async fn sections(bob: &Client, room: &str, filter: &Value) -> [usize; 4] {
    let by_timeline = bob.first_sync(&json!({ "room": { "timeline": filter } })).await;
    let others = json!({ "room": {
        "timeline": { "limit": 1 }, "state": filter, "ephemeral": filter, "account_data": filter,
    } });
    let by_others = bob.first_sync(&others).await;
    for sync in [&by_timeline, &by_others] {
        assert!(is_joined(room)(sync), "a room that one is in is told of: {sync}");
    }
    let messages = timeline(&by_timeline, room);
    let messages = messages.iter().filter(|event| event["type"] == "m.room.message");
    let [state, ephemeral, account_data] =
        ["state", "ephemeral", "account_data"].map(|name| section(&by_others, room, name).len());
    [messages.count(), state, ephemeral, account_data]
}

#[tokio::test]
async fn each_section_of_a_room_has_its_own_rooms_types_and_senders() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let sent = alice.send_texts(&room, 3).await;
    alice.send_receipt(&room, "m.read", &sent[2]).await.ok();
    alice.set_typing(&room, Some(60_000)).await.ok();
    bob.set_room_account_data(&room, "org.example.one", json!({}))
        .await
        .ok();
    bob.set_room_account_data(&room, "org.example.two", json!({ "url": "x" }))
        .await
        .ok();
    let [_, all, ..] = sections(&bob, &room, &json!({})).await;
    assert!(all > 5);
    for (filter, expected) in [
        (json!({}), [3, all, 2, 2]),
        (json!({ "not_rooms": [room] }), [0; 4]),
        (json!({ "rooms": [] }), [0; 4]),
        (json!({ "rooms": ["!elsewhere:example.org"] }), [0; 4]),
        (json!({ "rooms": [room] }), [3, all, 2, 2]),
        (json!({ "rooms": [room], "not_rooms": [room] }), [0; 4]),
        (json!({ "types": [] }), [0; 4]),
        (json!({ "types": ["m.*"] }), [3, all, 2, 0]),
        (json!({ "types": ["*.example.*"] }), [0, 0, 0, 2]),
        (
            json!({ "types": ["*"], "not_types": ["m.ty*", "*.two", "m.room.me*"] }),
            [0, all - 2, 1, 1],
        ),
        (
            json!({ "not_types": ["m.receipt", "org.example.one", "m.room.create"] }),
            [3, all - 1, 1, 1],
        ),
        (json!({ "senders": [bob.user_id] }), [0, 1, 0, 0]),
        (json!({ "not_senders": [bob.user_id] }), [3, all - 1, 2, 2]),
        (
            json!({ "senders": [alice.user_id], "not_senders": [alice.user_id] }),
            [0; 4],
        ),
        (json!({ "contains_url": true }), [0, 0, 0, 1]),
        (json!({ "contains_url": false }), [3, all, 2, 1]),
    ] {
        assert_eq!(sections(&bob, &room, &filter).await, expected, "{filter}");
    }
}

#[tokio::test]
async fn urls_are_looked_for_in_the_content_of_what_is_told() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let plain = alice.send_text(&room, "see mxc://example.org/x").await.event_id();
    let image = json!({ "msgtype": "m.image", "body": "x", "url": "mxc://example.org/x" });
    let image = alice.send(&room, "m.room.message", image).await.event_id();
    alice
        .send_state(
            &room,
            "m.room.avatar",
            "",
            json!({ "url": "mxc://example.org/y" }),
        )
        .await
        .ok();
    alice.send_texts(&room, 1).await;
    let with = async |wanted: bool| {
        let filter = json!({ "room": {
            "timeline": { "contains_url": wanted, "types": ["m.room.message"] },
            "state": { "contains_url": wanted, "types": ["m.room.avatar", "m.room.create"] },
        } });
        bob.first_sync(&filter).await
    };
    let sync = with(true).await;
    assert_eq!(ids(timeline(&sync, &room)), std::slice::from_ref(&image));
    assert_eq!(types(&state(&sync, &room)), ["m.room.avatar"]);
    let sync = with(false).await;
    let told = ids(timeline(&sync, &room));
    assert!(told.contains(&plain) && !told.contains(&image));
    assert_eq!(types(&state(&sync, &room)), ["m.room.create"]);
}

#[tokio::test]
async fn global_account_data_is_chosen_by_type_and_nobody_sent_it() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    for data_type in ["org.example.one", "org.example.two", "net.other"] {
        alice.set_account_data(data_type, json!({})).await.ok();
    }
    let told = async |filter: Value| {
        let sync = alice.first_sync(&json!({ "account_data": filter })).await;
        let events = sync["account_data"]["events"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        types(&events).join(" ")
    };
    assert_eq!(
        told(json!({})).await,
        "m.push_rules net.other org.example.one org.example.two"
    );
    assert_eq!(
        told(json!({ "types": ["org.*.two", "net.other"] })).await,
        "net.other org.example.two"
    );
    assert_eq!(
        told(json!({ "types": ["org.*"], "not_types": ["*.one"] })).await,
        "org.example.two"
    );
    assert_eq!(told(json!({ "not_types": ["*"] })).await, "");
    assert_eq!(told(json!({ "types": [] })).await, "");
    assert_eq!(told(json!({ "senders": [alice.user_id] })).await, "");
    assert_eq!(
        told(json!({ "not_senders": [alice.user_id], "types": ["net.*"] })).await,
        "net.other"
    );
    // A change that is not wanted ends no poll; what is of a room is another filter's concern.
    let filter = json!({ "account_data": { "types": ["net.*"] } });
    alice.first_sync(&filter).await;
    alice
        .set_account_data("org.example.one", json!({ "again": 1 }))
        .await
        .ok();
    let sync = alice.sync_filtered(&filter).await;
    assert!(sync.get("account_data").is_none(), "{sync}");
}

#[tokio::test]
async fn a_presence_filter_is_taken_and_hides_nothing_else() {
    let server = Server::start().await;
    let (_, bob, room) = a_room_of_two(&server).await;
    let filter = json!({ "presence": { "types": ["m.presence"], "not_senders": [bob.user_id], "limit": 3 } });
    let filter_id = bob.store_filter(filter.clone()).await;
    let stored = bob
        .get(&format!("/v3/user/{}/filter/{filter_id}", bob.user_id))
        .await
        .ok();
    assert_eq!(stored, filter);
    let sync = bob
        .sync_with(&format!("timeout=0&set_presence=offline&filter={filter_id}"))
        .await
        .ok();
    assert!(is_joined(&room)(&sync));
    for set_presence in ["online", "unavailable"] {
        bob.sync_with(&format!("timeout=0&set_presence={set_presence}"))
            .await
            .ok();
    }
}

#[tokio::test]
async fn state_that_the_filter_keeps_out_of_the_timeline_is_told_as_state() {
    let mut server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let carol = server.register("carol").await;
    let messages = json!({ "room": { "timeline": { "types": ["m.room.message"], "limit": 2 } } });
    bob.first_sync(&messages).await;
    let since = bob.since();
    let said = alice.send_texts(&room, 3).await;
    alice
        .send_state(&room, "m.room.topic", "", json!({ "topic": "first" }))
        .await
        .ok();
    let topic = alice
        .send_state(&room, "m.room.topic", "", json!({ "topic": "second" }))
        .await
        .event_id();
    carol.join(&room).await.ok();
    for restarted in [false, true] {
        if restarted {
            // From the tables, then.
            server.restart().await;
        }
        bob.set_since(since.as_deref());
        let sync = bob.sync_filtered(&messages).await;
        assert_eq!(ids(timeline(&sync, &room)), said[1..]);
        let told = state(&sync, &room);
        assert_eq!(
            types(&told),
            ["m.room.member", "m.room.topic"],
            "restarted: {restarted}"
        );
        assert!(told.iter().any(|event| event["event_id"] == topic.as_str()));
        assert_eq!(members(&told), [carol.user_id.as_str()]);
        assert_eq!(
            sync["rooms"]["join"][&room]["summary"]["m.joined_member_count"],
            3
        );

        let whole = bob.first_sync(&messages).await;
        assert!(
            ids(state(&whole, &room)).contains(&topic),
            "restarted: {restarted}"
        );
        bob.set_since(since.as_deref());
        let hidden = json!({ "room": { "timeline": { "not_rooms": [room] } } });
        let sync = bob.sync_filtered(&hidden).await;
        assert!(timeline(&sync, &room).is_empty());
        assert_ne!(sync["rooms"]["join"][&room]["timeline"]["limited"], true);
        assert!(
            ids(state(&sync, &room)).contains(&topic),
            "restarted: {restarted}"
        );
    }
    // What a timeline has is not said in the state as well.
    bob.set_since(since.as_deref());
    let topics = json!({ "room": { "timeline": { "types": ["m.room.topic"] } } });
    let sync = bob.sync_filtered(&topics).await;
    assert_eq!(timeline(&sync, &room).len(), 2);
    assert_eq!(types(&state(&sync, &room)), ["m.room.member"]);
}

#[tokio::test]
async fn a_timeline_that_is_wanted_empty_tells_no_gap() {
    let mut server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let nothing = json!({ "room": { "timeline": { "types": [] }, "state": { "types": [] } } });
    bob.first_sync(&nothing).await;
    let since = bob.since();
    alice.send_texts(&room, 120).await;
    for restarted in [false, true] {
        if restarted {
            server.restart().await;
        }
        bob.set_since(since.as_deref());
        let sync = bob.sync_filtered(&nothing).await;
        assert!(!is_joined(&room)(&sync), "restarted: {restarted}: {sync}");
    }
    let first = bob.first_sync(&nothing).await;
    assert!(is_joined(&room)(&first), "in a first sync, that one is in it");
    assert_ne!(first["rooms"]["join"][&room]["timeline"]["limited"], true);
}

#[tokio::test]
async fn members_loaded_lazily_are_told_again_only_to_who_asks_for_it() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let carol = server.register("carol").await;
    carol.join(&room).await.ok();
    let phone = carol.another_device().await;
    let with = |redundant: bool| {
        json!({ "room": {
            "timeline": { "limit": 1 },
            "state": { "lazy_load_members": true, "include_redundant_members": redundant },
        } })
    };
    for (device, redundant) in [(&carol, false), (&phone, true)] {
        let lazy = with(redundant);
        let mut told = Vec::new();
        device.first_sync(&lazy).await;
        for who in [&alice, &alice, &bob, &alice] {
            who.send_text(&room, "and again").await.event_id();
            let sync = device.sync_filtered(&lazy).await;
            told.push(members(&state(&sync, &room)).join(" "));
        }
        // Alice and bob are heroes of a room without a name, so that a first sync tells of them.
        let again = [&alice, &alice, &bob, &alice].map(|who| who.user_id.clone());
        let expected = if redundant { again } else { Default::default() };
        assert_eq!(told, expected, "redundant: {redundant}");
    }
    // Without lazy loading, nobody is told of who only speaks.
    let eager = json!({ "room": { "state": { "include_redundant_members": true } } });
    let all = members(&state(
        &carol
            .first_sync(&json!({ "room": { "timeline": { "limit": 0 } } }))
            .await,
        &room,
    ))
    .len();
    assert_eq!(all, 3);
    alice.send_text(&room, "once more").await.event_id();
    assert!(state(&carol.sync_filtered(&eager).await, &room).is_empty());
}

#[tokio::test]
async fn threads_are_counted_apart_for_who_asks_for_it() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    bob.sync().await;
    let root = alice.send_text(&room, "a thread").await.event_id();
    let in_thread = json!({
        "msgtype": "m.text", "body": "in it", "m.relates_to": { "rel_type": "m.thread", "event_id": root },
    });
    alice.send(&room, "m.room.message", in_thread.clone()).await.ok();
    alice.send(&room, "m.room.message", in_thread).await.ok();
    let counted = async |apart: bool| {
        let filter = json!({ "room": { "timeline": { "unread_thread_notifications": apart } } });
        let sync = bob.first_sync(&filter).await;
        let of_room = &sync["rooms"]["join"][&room];
        (
            of_room["unread_notifications"]["notification_count"].clone(),
            of_room["unread_thread_notifications"][&root]["notification_count"].clone(),
        )
    };
    assert_eq!(counted(false).await, (json!(3), Value::Null));
    assert_eq!(counted(true).await, (json!(1), json!(2)));
}

#[tokio::test]
async fn rooms_that_were_left_are_told_to_who_includes_them() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    alice
        .send_state(&room, "m.room.topic", "", json!({ "topic": "as bob knew it" }))
        .await
        .ok();
    let last = alice.send_text(&room, "farewell").await.event_id();
    bob.leave(&room).await.ok();
    let topic = alice
        .send_state(&room, "m.room.topic", "", json!({ "topic": "behind his back" }))
        .await
        .event_id();
    let banned = alice.create_room(public_chat()).await.room_id();
    bob.join(&banned).await.ok();
    alice.ban(&banned, &bob, None).await.ok();
    let with = json!({ "room": { "include_leave": true, "timeline": { "limit": 2 } } });
    let sync = bob.first_sync(&with).await;
    assert!(has_left(&room)(&sync) && has_left(&banned)(&sync), "{sync}");
    assert!(timeline_has(&room, &last)(&sync) && !timeline_has(&room, &topic)(&sync));
    let topics: Vec<Value> = state(&sync, &room)
        .into_iter()
        .filter(|event| event["type"] == "m.room.topic")
        .map(|event| event["content"]["topic"].clone())
        .collect();
    assert_eq!(topics, [json!("as bob knew it")]);
    // Once they are told, there is nothing new of them; but all of it again for who asks for everything.
    assert!(!has_left(&room)(&bob.sync_filtered(&with).await));
    let query = format!("timeout=0&full_state=true&filter={}", encoded(&with.to_string()));
    assert!(has_left(&room)(&bob.sync_with(&query).await.ok()));
    let without = json!({ "room": { "include_leave": false } });
    assert!(!has_left(&room)(&bob.first_sync(&without).await));
    bob.forget(&room).await.ok();
    let sync = bob.first_sync(&with).await;
    assert!(
        !has_left(&room)(&sync) && has_left(&banned)(&sync),
        "forgotten is forgotten"
    );
}

#[tokio::test]
async fn pages_and_contexts_take_every_field_of_a_filter_for_events() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let middle = alice.send_text(&room, "the middle").await.event_id();
    let image = json!({ "msgtype": "m.image", "body": "x", "url": "mxc://example.org/x" });
    let image = bob.send(&room, "m.room.message", image).await.event_id();
    let odd = bob.send(&room, "org.example.odd", json!({})).await.event_id();
    let last = alice.send_text(&room, "last").await.event_id();
    let after = [image.clone(), odd.clone(), last.clone()];
    for (filter, expected) in [
        (json!({}), vec![&image, &odd, &last]),
        (json!({ "types": ["*.example.*"] }), vec![&odd]),
        (
            json!({ "types": ["m.*"], "not_types": ["org.*"] }),
            vec![&image, &last],
        ),
        (json!({ "types": ["*"], "not_types": ["*.message"] }), vec![&odd]),
        (json!({ "types": [] }), vec![]),
        (json!({ "senders": [bob.user_id] }), vec![&image, &odd]),
        (
            json!({ "senders": [bob.user_id, alice.user_id], "not_senders": [bob.user_id] }),
            vec![&last],
        ),
        (json!({ "contains_url": true }), vec![&image]),
        (json!({ "contains_url": false }), vec![&odd, &last]),
        (json!({ "rooms": [room] }), vec![&image, &odd, &last]),
        (json!({ "rooms": ["!elsewhere:example.org"] }), vec![]),
        (json!({ "rooms": [room], "not_rooms": [room] }), vec![]),
    ] {
        let query = encoded(&filter.to_string());
        let page = alice
            .messages(&room, &format!("dir=b&limit=50&filter={query}"))
            .await
            .ok();
        let mut newest = event_ids(&page["chunk"]);
        newest.retain(|event_id| after.contains(event_id));
        newest.reverse();
        assert_eq!(newest.iter().collect::<Vec<_>>(), expected, "a page by {filter}");
        let context = alice
            .get(&format!(
                "/v3/rooms/{room}/context/{middle}?limit=50&filter={query}"
            ))
            .await
            .ok();
        assert_eq!(
            context["event"]["event_id"], middle,
            "it is there, whatever the filter"
        );
        assert_eq!(
            event_ids(&context["events_after"]).iter().collect::<Vec<_>>(),
            expected,
            "a context by {filter}"
        );
        let told = context["state"].as_array().cloned().unwrap_or_default();
        let is_open =
            filter.as_object().is_some_and(serde_json::Map::is_empty) || filter["rooms"] == json!([room]);
        if filter["not_rooms"].is_array() || filter["types"] == json!([]) {
            assert!(told.is_empty(), "{filter}: {told:?}");
        } else if is_open {
            assert!(types(&told).contains(&"m.room.create"), "{filter}: {told:?}");
        }
    }
    let two = encoded(&json!({ "limit": 2 }).to_string());
    let page = alice
        .messages(&room, &format!("dir=b&limit=50&filter={two}"))
        .await
        .ok();
    assert_eq!(event_ids(&page["chunk"]), [last.clone(), odd.clone()]);
    let context = alice
        .get(&format!(
            "/v3/rooms/{room}/context/{middle}?limit=50&filter={two}"
        ))
        .await
        .ok();
    let around = [&context["events_before"], &context["events_after"]].map(|events| event_ids(events).len());
    assert_eq!(around, [1, 1], "the smaller of both limits holds");

    for bad in [
        json!({ "limit": -1 }),
        json!({ "types": "m.room.message" }),
        json!({ "senders": ["nobody"] }),
        json!([]),
    ] {
        let query = encoded(&bad.to_string());
        let answer = alice.messages(&room, &format!("dir=b&filter={query}")).await;
        assert!(
            answer.is_proper_refusal(),
            "{bad}: {} {}",
            answer.status,
            answer.body
        );
    }
}

#[tokio::test]
async fn pages_and_contexts_bring_the_members_who_speak_in_them() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let carol = server.register("carol").await;
    carol.join(&room).await.ok();
    let said = bob.send_text(&room, "bob speaks").await.event_id();
    let last = alice.send_text(&room, "alice too").await.event_id();
    for redundant in [false, true] {
        let filter = json!({ "lazy_load_members": true, "include_redundant_members": redundant });
        let lazy = encoded(&filter.to_string());
        for _ in 0..2 {
            let page = carol
                .messages(&room, &format!("dir=b&limit=1&filter={lazy}"))
                .await
                .ok();
            assert_eq!(event_ids(&page["chunk"]), std::slice::from_ref(&last));
            let told = page["state"].as_array().cloned().unwrap_or_default();
            assert_eq!(members(&told), [alice.user_id.as_str()]);
        }
        let context = carol
            .get(&format!("/v3/rooms/{room}/context/{said}?limit=1&filter={lazy}"))
            .await
            .ok();
        let told = context["state"].as_array().cloned().unwrap_or_default();
        assert_eq!(members(&told), [alice.user_id.as_str(), bob.user_id.as_str()]);
    }
    let eager = carol.messages(&room, "dir=b&limit=1").await.ok();
    assert!(
        eager["state"].as_array().is_none_or(Vec::is_empty),
        "{}",
        eager["state"]
    );
    let eager = carol
        .get(&format!("/v3/rooms/{room}/context/{said}?limit=1"))
        .await
        .ok();
    assert_eq!(
        members(&eager["state"].as_array().cloned().unwrap_or_default()).len(),
        3
    );
}

#[tokio::test]
async fn who_has_left_is_told_of_the_speakers_as_they_were() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    alice.send_text(&room, "while bob is here").await.event_id();
    bob.leave(&room).await.ok();
    alice.set_displayname("Alice the second").await.ok();
    alice
        .sync_until(|sync| {
            timeline(sync, &room)
                .iter()
                .any(|event| event["content"]["displayname"] == "Alice the second")
        })
        .await;
    let lazy = encoded(&json!({ "lazy_load_members": true }).to_string());
    let page = bob
        .messages(&room, &format!("dir=b&limit=10&filter={lazy}"))
        .await
        .ok();
    let told = page["state"].as_array().cloned().unwrap_or_default();
    let of_alice = told
        .iter()
        .find(|event| event["state_key"] == alice.user_id)
        .expect("alice spoke");
    assert_ne!(
        of_alice["content"]["displayname"], "Alice the second",
        "{of_alice}"
    );
}
