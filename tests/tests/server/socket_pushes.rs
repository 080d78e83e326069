//! Pushes on the WebSocket: each event once, whatever becomes of connections and servers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use hearth_tests::{Authority, Client, Ledger, Server, Socket, event_ids, public_chat, timeline};
use serde_json::{Value, json};

async fn a_room_of_two(server: &Server) -> (Client, Client, String) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    (alice, bob, room)
}

/// A connection that is pushed what comes after `pos`, if any.
async fn pushed_since(client: &Client, pos: Option<&str>) -> Socket {
    let mut socket = Socket::connect(client).await;
    socket.say(json!({ "op": "sync", "since": pos })).await;
    socket
}

/// The same for one who wants every message, however many came meanwhile.
async fn all_pushed_since(client: &Client, pos: Option<&str>) -> Socket {
    let filter = json!({ "room": { "timeline": { "limit": 1_000 } } });
    let mut socket = Socket::connect(client).await;
    socket
        .say(json!({ "op": "sync", "since": pos, "filter": filter }))
        .await;
    socket
}

/// Enters pushes until a room's last message is `body`.
async fn follow(socket: &mut Socket, ledger: &mut Ledger, room: &str, body: &str) {
    while ledger.bodies(room).last().is_none_or(|last| last != body) {
        ledger.enter(&socket.push().await);
    }
}

#[tokio::test]
async fn a_push_is_what_sync_would_tell_and_its_token_is_of_the_same_kind() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    alice.send_text(&room, "before").await.ok();
    let by_http = bob
        .another_device()
        .await
        .first_sync(&json!({ "room": { "timeline": { "limit": 100 } } }))
        .await;
    let mut socket = pushed_since(&bob, None).await;
    let mut by_socket = socket.push().await;
    let ids = |sync: &Value| event_ids(&timeline(sync, &room).into());
    assert_eq!(ids(&by_socket), ids(&by_http));
    let joined = &mut by_socket["rooms"]["join"][&room];
    assert_eq!(joined["chat.hearth.seq"]["after"], 0);
    assert_eq!(joined["chat.hearth.seq"]["upto"], ids(&by_http).len());
    for section in [
        "state",
        "summary",
        "ephemeral",
        "account_data",
        "unread_notifications",
    ] {
        let of_http = &by_http["rooms"]["join"][&room][section];
        assert_eq!(joined[section].is_object(), of_http.is_object(), "{section}");
    }
    assert_eq!(joined["summary"], by_http["rooms"]["join"][&room]["summary"]);

    // On from the socket's token by HTTP, and on from there by the socket.
    let one = alice.send_text(&room, "one").await.event_id();
    assert_eq!(ids(&socket.push().await), [one]);
    let two = alice.send_text(&room, "two").await.event_id();
    assert_eq!(ids(&socket.push().await), [two]);
    let pos = socket.pos.clone();
    drop(socket);
    let three = alice.send_text(&room, "three").await.event_id();
    bob.set_since(pos.as_deref());
    assert_eq!(ids(&bob.sync().await), [three]);
    let four = alice.send_text(&room, "four").await.event_id();
    let mut socket = pushed_since(&bob, bob.since().as_deref()).await;
    assert_eq!(ids(&socket.push().await), [four]);
    // HTTP tells no numbers.
    bob.set_since(None);
    let sync = bob.sync().await.to_string();
    assert!(!sync.contains("chat.hearth.seq"));
}

#[tokio::test]
async fn a_filter_holds_and_what_it_keeps_back_is_counted() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let filter = json!({ "room": { "timeline": { "limit": 3, "types": ["m.room.message"] } } });
    let id = bob.store_filter(filter.clone()).await;
    for filter in [filter, Value::from(id)] {
        let mut ledger = Ledger::default();
        let mut socket = Socket::connect(&bob).await;
        socket.say(json!({ "op": "sync", "filter": filter })).await;
        ledger.enter(&socket.push().await);
        let before = ledger.upto(&room).expect("the room is told");
        alice.send(&room, "org.example.other", json!({})).await.ok();
        // Nothing in it but the number.
        let push = socket.push().await;
        ledger.enter(&push);
        assert_eq!(timeline(&push, &room), Vec::<Value>::new());
        assert_eq!(ledger.upto(&room), Some(before + 1));
        alice.send_text(&room, "said").await.ok();
        follow(&mut socket, &mut ledger, &room, "said").await;
    }
}

#[tokio::test]
async fn who_does_not_confirm_is_sent_eight_and_later_the_rest_in_one() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let mut socket = pushed_since(&bob, None).await;
    let mut ledger = Ledger::default();
    ledger.enter(&socket.push().await);
    let mut last = Value::Null;
    for number in 0..8 {
        alice.send_text(&room, &format!("a{number}")).await.ok();
        let push = socket.hear_op("sync").await;
        ledger.enter(&push["data"]);
        last = push["pos"].clone();
    }
    for number in 0..20 {
        alice.send_text(&room, &format!("b{number}")).await.ok();
    }
    socket.settle().await;
    assert!(!socket.has_push());
    // A confirmation of something else opens nothing.
    socket.say(json!({ "op": "ack", "pos": "h1_1" })).await;
    socket.settle().await;
    assert!(!socket.has_push());
    socket.say(json!({ "op": "ack", "pos": last })).await;
    let push = socket.hear_op("sync").await;
    ledger.enter(&push["data"]);
    assert_eq!(timeline(&push["data"], &room).len(), 20);
    assert_eq!(ledger.bodies(&room).len(), 28);
}

#[tokio::test]
async fn where_more_waits_than_the_limit_there_is_a_gap_that_the_numbers_show() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let mut socket = Socket::connect(&bob).await;
    let filter = json!({ "room": { "timeline": { "limit": 5 } } });
    socket.say(json!({ "op": "sync", "filter": filter })).await;
    let first = socket.push().await;
    let upto = first["rooms"]["join"][&room]["chat.hearth.seq"]["upto"].as_i64();
    let pos = socket.pos.clone();
    drop(socket);
    let sent = alice.send_texts(&room, 12).await;
    let mut socket = Socket::connect(&bob).await;
    socket
        .say(json!({ "op": "sync", "filter": filter, "since": pos }))
        .await;
    let push = socket.push().await;
    let joined = &push["rooms"]["join"][&room];
    assert_eq!(event_ids(&joined["timeline"]["events"]), sent[7..]);
    assert_eq!(joined["timeline"]["limited"], true);
    let upto = upto.expect("a number");
    assert_eq!(
        joined["chat.hearth.seq"],
        json!({ "after": upto + 7, "upto": upto + 12 })
    );
    let prev_batch = joined["timeline"]["prev_batch"].as_str().expect("a token");
    let page = bob
        .messages(&room, &format!("dir=b&limit=7&from={prev_batch}"))
        .await
        .ok();
    let mut missed = event_ids(&page["chunk"]);
    missed.reverse();
    assert_eq!(missed, sent[..7]);
}

#[tokio::test]
async fn a_large_first_sync_comes_in_parts_and_none_is_lost_where_it_breaks() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut rooms = Vec::new();
    for _ in 0..8 {
        let room = alice.create_room(public_chat()).await.room_id();
        bob.join(&room).await.ok();
        for number in 0..6 {
            let body = format!("{number} {}", "x".repeat(50_000));
            alice.send_text(&room, &body).await.ok();
        }
        rooms.push(room);
    }
    let data = json!({ "is": "told" });
    bob.set_account_data("org.example.global", data.clone())
        .await
        .ok();
    for room in &rooms {
        bob.set_room_account_data(room, "org.example.own", data.clone())
            .await
            .ok();
    }
    let mut ledger = Ledger::default();
    let (mut pos, mut parts, mut told) = (None::<String>, 0, Vec::new());
    let mut globals = 0;
    // Each part on another connection, while there is talk in all rooms.
    while ledger.rooms() < rooms.len() {
        let mut socket = pushed_since(&bob, pos.as_deref()).await;
        let push = socket.push().await;
        let length = push.to_string().len();
        assert!(length < 2 << 20, "{length} bytes");
        ledger.enter(&push);
        let joined = push["rooms"]["join"].as_object().expect("rooms");
        for (room, told_now) in joined {
            let own = told_now["account_data"]["events"].as_array().expect("a list");
            let is_first = !told.contains(room);
            assert_eq!(own.len(), usize::from(is_first), "{room}");
            if is_first {
                told.push(room.clone());
            }
        }
        globals += push["account_data"]["events"].as_array().map_or(0, |events| {
            events
                .iter()
                .filter(|event| event["type"] == "org.example.global")
                .count()
        });
        pos = socket.pos.clone();
        parts += 1;
        for room in &rooms {
            alice.send_text(room, &format!("after part {parts}")).await.ok();
        }
    }
    assert!(parts >= 3, "{parts} parts");
    assert_eq!(globals, 1);
    // HTTP goes on from there as well.
    bob.set_since(pos.as_deref());
    let sync = bob.sync().await;
    for room in &rooms {
        let bodies: Vec<&str> = ledger
            .bodies(room)
            .iter()
            .map(|body| body.split(' ').next().unwrap_or(body))
            .collect();
        assert_eq!(bodies[..6], ["0", "1", "2", "3", "4", "5"], "{room}");
        assert_eq!(bodies.len(), 6 + parts - 1, "{room}: {bodies:?}");
        assert_eq!(timeline(&sync, room).len(), 1);
    }
}

#[tokio::test]
async fn a_token_of_a_part_serves_for_sync_by_http() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut rooms = Vec::new();
    for _ in 0..4 {
        let room = alice.create_room(public_chat()).await.room_id();
        bob.join(&room).await.ok();
        for _ in 0..9 {
            alice.send_text(&room, &"x".repeat(50_000)).await.ok();
        }
        rooms.push(room);
    }
    let mut socket = pushed_since(&bob, None).await;
    let push = socket.push().await;
    let told = push["rooms"]["join"].as_object().expect("rooms").len();
    assert!(told < rooms.len());
    bob.set_since(socket.pos.as_deref());
    drop(socket);
    let sync = bob.sync().await;
    assert_eq!(
        sync["rooms"]["join"].as_object().expect("rooms").len(),
        rooms.len() - told
    );
    assert!(bob.sync().await["rooms"].is_null());
}

#[tokio::test]
async fn more_than_a_hundred_rooms_come_in_parts_one_after_the_other() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let mut socket = Socket::connect(&alice).await;
    for batch in [30, 30, 30, 17] {
        let mut begun = Vec::new();
        for _ in 0..batch {
            begun.push(socket.begin("POST", "/v3/createRoom", Some(json!({}))).await);
        }
        for id in begun {
            assert_eq!(socket.answer(id).await["status"], 200);
        }
    }
    let mut ledger = Ledger::default();
    socket.say(json!({ "op": "sync" })).await;
    ledger.enter(&socket.push().await);
    assert_eq!(ledger.rooms(), 100);
    ledger.enter(&socket.push().await);
    assert_eq!(ledger.rooms(), 107);
    socket.settle().await;
    assert!(!socket.has_push());
}

#[tokio::test]
async fn nothing_is_lost_or_repeated_over_reconnects_and_a_restart() {
    let mut server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let mut ledger = Ledger::default();
    let mut pos: Option<String> = None;
    for round in 0..6 {
        let mut socket = pushed_since(&bob, pos.as_deref()).await;
        for number in 0..5 {
            alice.send_text(&room, &format!("{round}.{number}")).await.ok();
        }
        if round == 3 {
            server.restart().await;
            // What was under way is of no use: what came before the end counts.
            while let Ok(frame) = socket.hear().await {
                if frame["op"] == "sync" {
                    ledger.enter(&frame["data"]);
                }
            }
        } else if round % 2 == 0 {
            follow(&mut socket, &mut ledger, &room, &format!("{round}.4")).await;
        } else {
            // Cut off in the middle: received, and not confirmed.
            ledger.enter(&socket.hear_op("sync").await["data"]);
        }
        pos = socket.pos.clone().or(pos);
    }
    let mut socket = pushed_since(&bob, pos.as_deref()).await;
    alice.send_text(&room, "the end").await.ok();
    follow(&mut socket, &mut ledger, &room, "the end").await;
    let mut wanted: Vec<String> = (0..6)
        .flat_map(|round| (0..5).map(move |number| format!("{round}.{number}")))
        .collect();
    wanted.push("the end".to_owned());
    assert_eq!(ledger.bodies(&room), wanted);
}

#[tokio::test]
async fn each_of_two_servers_counts_for_itself() {
    let authority = Authority::new();
    let (a, b) = (
        Server::start_federated(&authority).await,
        Server::start_federated(&authority).await,
    );
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    alice.send_text(&room, "before").await.ok();
    let (mut of_alice, mut of_bob) = (Ledger::default(), Ledger::default());
    let (mut alices, mut bobs) = (pushed_since(&alice, None).await, pushed_since(&bob, None).await);
    of_bob.enter(&bobs.push().await);
    let join = format!("/v3/join/{room}?via={}", a.name());
    let joined = bobs.request("POST", &join, Some(json!({}))).await;
    assert_eq!(joined["status"], 200, "{joined}");
    for round in 0..5 {
        let (from_alice, from_bob) = (format!("alice {round}"), format!("bob {round}"));
        alice.send_text(&room, &from_alice).await.ok();
        follow(&mut bobs, &mut of_bob, &room, &from_alice).await;
        bob.send_text(&room, &from_bob).await.ok();
        follow(&mut alices, &mut of_alice, &room, &from_bob).await;
        follow(&mut bobs, &mut of_bob, &room, &from_bob).await;
    }
    assert_eq!(of_alice.bodies(&room).first().map(String::as_str), Some("before"));
    assert!(of_alice.bodies(&room).ends_with(of_bob.bodies(&room)));
    assert!(of_bob.bodies(&room).len() >= 10);
    assert_ne!(of_alice.upto(&room), of_bob.upto(&room));
}

#[tokio::test]
async fn a_second_sync_frame_starts_anew() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let mut socket = pushed_since(&bob, None).await;
    let first = socket.push().await;
    socket.say(json!({ "op": "sync" })).await;
    let again = socket.push().await;
    assert_eq!(timeline(&first, &room).len(), timeline(&again, &room).len());
    alice.send_text(&room, "once").await.ok();
    assert_eq!(timeline(&socket.push().await, &room).len(), 1);
    socket.settle().await;
    assert!(!socket.has_push());
}

#[tokio::test]
async fn slow_readers_hold_up_nobody_else() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let carol = server.register("carol").await;
    // More than the sockets' buffers of the system hold.
    let large = alice.create_room(public_chat()).await.room_id();
    carol.join(&large).await.ok();
    for _ in 0..100 {
        alice.send_text(&large, &"x".repeat(60_000)).await.ok();
    }
    // More of them than the database has connections; none reads.
    let mut slow = Vec::new();
    for _ in 0..12 {
        slow.push(pushed_since(&carol, None).await);
    }
    let mut socket = pushed_since(&bob, None).await;
    let mut ledger = Ledger::default();
    for number in 0..10 {
        let body = number.to_string();
        alice.send_text(&room, &body).await.ok();
        follow(&mut socket, &mut ledger, &room, &body).await;
    }
    // And a slow one has lost nothing.
    let mut ledger = Ledger::default();
    let mut slow = slow.pop().expect("there are twelve");
    alice.send_text(&large, "the end").await.ok();
    follow(&mut slow, &mut ledger, &large, "the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_reconnects_loses_and_repeats_nothing() {
    const USERS: usize = 10;
    const SOCKETS: usize = 200;
    const ROUNDS: usize = 3;
    let server = Server::start().await;
    let alice = Arc::new(server.register("alice").await);
    let room = alice.create_room(public_chat()).await.room_id();
    let mut users = Vec::new();
    for number in 0..USERS {
        let user = server.register(&format!("user{number}")).await;
        user.join(&room).await.ok();
        users.push(Arc::new(user));
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&is_over);
    let sending =
        tokio::spawn(Arc::clone(&alice).send_until(room.clone(), move || !stop.load(Ordering::Relaxed)));
    // All at once, and again, each from where it was.
    let clients = (0..SOCKETS).map(|number| {
        let (user, room) = (Arc::clone(&users[number % USERS]), room.clone());
        tokio::spawn(async move {
            let (mut ledger, mut pos) = (Ledger::default(), None::<String>);
            for _ in 0..ROUNDS {
                let mut socket = all_pushed_since(&user, pos.as_deref()).await;
                for _ in 0..2 {
                    ledger.enter(&socket.push().await);
                }
                pos = socket.pos.clone();
            }
            (user, room, ledger, pos)
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut come_through = Vec::new();
    for client in clients {
        come_through.push(client.await.expect("it came through"));
    }
    is_over.store(true, Ordering::Relaxed);
    let sent = sending.await.expect("all was sent").len();
    alice.send_text(&room, "the end").await.ok();
    let last: Vec<_> = come_through
        .into_iter()
        .map(|(user, room, mut ledger, pos)| {
            tokio::spawn(async move {
                let mut socket = all_pushed_since(&user, pos.as_deref()).await;
                follow(&mut socket, &mut ledger, &room, "the end").await;
                ledger.bodies(&room).to_vec()
            })
        })
        .collect();
    for client in last {
        let bodies = client.await.expect("it saw the end");
        // From where it first came in, every one in its turn; the ledger would have said if one were missing.
        let numbers: Vec<usize> = bodies
            .iter()
            .filter_map(|body| body.strip_prefix("txn")?.parse().ok())
            .collect();
        assert!(
            numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "{numbers:?}"
        );
        assert_eq!(numbers.last().map(|last| last + 1), Some(sent));
    }
}
