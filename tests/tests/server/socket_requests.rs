//! Requests on the WebSocket: the client API, as by HTTP.

use hearth_tests::{Server, Socket, encoded, public_chat, text};
use serde_json::json;

#[tokio::test]
async fn a_conversation_goes_through_requests_alone() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (mut a, mut b) = (Socket::connect(&alice).await, Socket::connect(&bob).await);
    let created = a.request("POST", "/v3/createRoom", Some(public_chat())).await;
    assert_eq!(created["status"], 200, "{created}");
    let room = created["body"]["room_id"].as_str().expect("an ID").to_owned();
    let path = format!("/v3/join/{}", encoded(&room));
    assert_eq!(b.request("POST", &path, None).await["status"], 200);
    b.say(json!({ "op": "sync" })).await;
    b.push().await;
    let path = format!("/v3/rooms/{room}/send/m.room.message/1");
    let sent = a.request("PUT", &path, Some(text("hello"))).await;
    let push = b.push().await;
    let event = &push["rooms"]["join"][&room]["timeline"]["events"][0];
    assert_eq!(event["event_id"], sent["body"]["event_id"]);
    // The same transaction by HTTP is the same event.
    let again = alice.put(&path, text("hello")).await.event_id();
    assert_eq!(sent["body"]["event_id"], again.as_str());
}

#[tokio::test]
async fn refusals_are_those_of_http() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let mut socket = Socket::connect(&alice).await;
    for (method, path, body) in [
        ("GET", "/v3/nonsense", None),
        ("POST", "/v3/account/whoami", Some(json!({}))),
        ("PUT", "/v3/rooms/!nowhere/send/m.room.message/1", Some(text("x"))),
        ("GET", "/v3/rooms/nonsense/messages", None),
        ("POST", "/v3/createRoom", Some(json!({ "preset": 7 }))),
        (
            "PUT",
            "/v3/profile/@alice:elsewhere/displayname",
            Some(json!({ "displayname": "x" })),
        ),
    ] {
        let answer = socket.request(method, path, body.clone()).await;
        let by_http = alice.ask(method.parse().expect("a method"), path, body).await;
        assert_eq!(answer["status"], by_http.status, "{method} {path}");
        assert_eq!(answer["body"], by_http.body, "{method} {path}");
    }
}

#[tokio::test]
async fn a_rate_limit_is_one_for_both_and_says_how_long() {
    let server = Server::start_with(|settings| settings.rate_limits.enabled = true).await;
    let alice = server.register("alice").await;
    let mut socket = Socket::connect(&alice).await;
    let room = alice.create_room(public_chat()).await.room_id();
    let mut refused = None;
    for number in 0..200 {
        let path = format!("/v3/rooms/{room}/send/m.room.message/{number}");
        let answer = socket.request("PUT", &path, Some(text("x"))).await;
        if answer["status"] == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("it is too much at some point");
    assert_eq!(refused["body"]["errcode"], "M_LIMIT_EXCEEDED");
    assert!(refused["headers"]["retry-after"].is_string(), "{refused}");
}

#[tokio::test]
async fn what_goes_over_http_only_is_refused_with_its_route() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut socket = Socket::connect(&alice).await;
    for (method, path) in [
        ("GET", "/v3/sync"),
        ("GET", "/v3/sync?timeout=30000"),
        ("POST", "/unstable/org.matrix.simplified_msc3575/sync"),
        ("GET", "/v1/media/download/example.org/abc"),
        ("GET", "/unstable/chat.hearth.socket"),
    ] {
        let error = socket.request(method, path, None).await;
        assert_eq!(error["op"], "error", "{path}");
        let route = format!(
            "{method} /_matrix/client{}",
            path.split('?').next().unwrap_or(path)
        );
        assert!(
            error["error"]
                .as_str()
                .is_some_and(|error| error.contains(&route)),
            "{error}"
        );
    }
    // Names that people choose are not those of routes.
    let room = alice.create_room(json!({})).await.room_id();
    for name in ["sync", "events"] {
        let path = format!("/v3/rooms/{room}/send/m.room.message/{name}");
        let sent = socket.request("PUT", &path, Some(json!({}))).await;
        assert_eq!(sent["status"], 200, "{sent}");
    }
    let token = bob.token.clone().expect("a token");
    for path in [
        "https://example.org/_matrix/client/versions".to_owned(),
        "/_matrix/federation/v1/version".to_owned(),
        "/metrics".to_owned(),
        "/_matrix/client/v3/account/whoami#x".to_owned(),
        format!("/_matrix/client/v3/account/whoami?access_token={token}"),
    ] {
        socket
            .say(json!({ "op": "request", "id": "x", "method": "GET", "path": path }))
            .await;
        let error = socket.hear_op("error").await;
        assert_eq!(error["errcode"], "M_INVALID_PARAM", "{path}");
        assert_eq!(error["id"], "x");
    }
}

#[tokio::test]
async fn writes_to_a_room_are_committed_in_the_order_of_their_frames() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let rooms = [
        alice.create_room(public_chat()).await.room_id(),
        alice.create_room(public_chat()).await.room_id(),
    ];
    let mut socket = Socket::connect(&alice).await;
    let mut sent = Vec::new();
    for number in 0..30 {
        let room = &rooms[number % 2];
        // However the room is spelt.
        let room = if number % 3 == 0 {
            encoded(room)
        } else {
            room.clone()
        };
        let path = format!("/v3/rooms/{room}/send/m.room.message/t{number}");
        sent.push(socket.begin("PUT", &path, Some(text(&number.to_string()))).await);
    }
    for id in sent {
        assert_eq!(socket.answer(id).await["status"], 200);
    }
    for (index, room) in rooms.iter().enumerate() {
        let events = alice.page_through(room, "f", 100, None).await;
        let said: Vec<usize> = events
            .iter()
            .filter_map(|event| event["content"]["body"].as_str()?.parse().ok())
            .collect();
        let wanted: Vec<usize> = (0..30).filter(|number| number % 2 == index).collect();
        assert_eq!(said, wanted);
    }
}

#[tokio::test]
async fn one_request_too_many_is_refused_and_the_others_are_answered() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(public_chat()).await.room_id();
    let mut socket = Socket::connect(&alice).await;
    let mut begun = Vec::new();
    for number in 0..120 {
        let path = format!("/v3/rooms/{room}/send/m.room.message/t{number}");
        begun.push(socket.begin("PUT", &path, Some(text("x"))).await);
    }
    let (mut served, mut refused) = (0, 0);
    for id in begun {
        let answer = socket.answer(id).await;
        if answer["op"] == "error" {
            assert_eq!(answer["errcode"], "M_LIMIT_EXCEEDED");
            refused += 1;
        } else {
            assert_eq!(answer["status"], 200, "{answer}");
            served += 1;
        }
    }
    assert!(served >= 32 && refused > 0, "{served} served, {refused} refused");
    socket.settle().await;
}
