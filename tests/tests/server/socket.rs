//! The WebSocket: how it is opened and how it ends, and what it makes of bad frames.

use hearth_tests::{Client, PASSWORD, Server, Socket, public_chat, until};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

const SUBPROTOCOL: Option<&str> = Some("chat.hearth.v1");

#[tokio::test]
async fn a_header_or_the_first_frame_says_who_it_is() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let versions = server.anonymous().get("/versions").await.ok();
    assert_eq!(versions["unstable_features"]["chat.hearth.socket"], true);

    let mut by_header = Socket::connect(&alice).await;
    let mut by_frame = Socket::connect_anonymously(&alice).await;
    by_frame
        .say(json!({ "op": "auth", "access_token": alice.token }))
        .await;
    for socket in [&mut by_header, &mut by_frame] {
        let answer = socket.request("GET", "/v3/account/whoami", None).await;
        assert_eq!(answer["op"], "response");
        assert_eq!(answer["status"], 200);
        assert_eq!(answer["body"]["user_id"], alice.user_id.as_str());
        assert_eq!(answer["body"]["device_id"], alice.device_id.as_str());
    }
}

#[tokio::test]
async fn a_bad_token_is_refused_before_the_upgrade_or_ends_the_connection() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let refused = Socket::try_connect(&alice, Some("nonsense"), SUBPROTOCOL).await;
    refused
        .expect_err("it is refused")
        .refused(401, "M_UNKNOWN_TOKEN");
    let refused = Socket::try_connect(&alice, alice.token.as_deref(), None).await;
    refused
        .expect_err("it is refused")
        .refused(400, "M_INVALID_PARAM");
    let refused = Socket::try_connect(&alice, alice.token.as_deref(), Some("another.v1")).await;
    refused
        .expect_err("it is refused")
        .refused(400, "M_INVALID_PARAM");
    alice
        .get("/unstable/chat.hearth.socket")
        .await
        .refused(426, "M_UNRECOGNIZED");
    alice
        .post("/unstable/chat.hearth.socket", json!({}))
        .await
        .refused(405, "M_UNRECOGNIZED");

    let mut socket = Socket::connect_anonymously(&alice).await;
    socket
        .say(json!({ "op": "auth", "access_token": "nonsense" }))
        .await;
    assert_eq!(socket.hear_op("error").await["errcode"], "M_UNKNOWN_TOKEN");
    assert_eq!(socket.ended().await.code(), Some(4001));

    let mut socket = Socket::connect_anonymously(&alice).await;
    socket.say(json!({ "op": "sync" })).await;
    assert_eq!(socket.hear_op("error").await["errcode"], "M_MISSING_TOKEN");
    assert_eq!(socket.ended().await.code(), Some(4004));
}

#[tokio::test]
async fn who_does_not_say_who_it_is_is_let_go() {
    let server = Server::start().await;
    let mut socket = Socket::connect_anonymously(server.anonymous()).await;
    // Pings are no answer to that.
    socket.settle().await;
    assert_eq!(socket.hear_op("error").await["errcode"], "M_MISSING_TOKEN");
    assert_eq!(socket.ended().await.code(), Some(4004));
}

#[tokio::test]
async fn bad_frames_are_answered_and_end_nothing() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let mut socket = Socket::connect(&alice).await;
    for (frame, errcode) in [
        ("{\"op\":", "M_NOT_JSON"),
        ("[]", "M_BAD_JSON"),
        ("{}", "M_BAD_JSON"),
        ("{\"op\":7}", "M_BAD_JSON"),
        ("{\"op\":\"dance\"}", "M_UNRECOGNIZED"),
        ("{\"op\":\"ack\"}", "M_BAD_JSON"),
        ("{\"op\":\"ack\",\"pos\":\"x\"}", "M_INVALID_PARAM"),
        ("{\"op\":\"sync\",\"since\":\"x\"}", "M_INVALID_PARAM"),
        ("{\"op\":\"sync\",\"filter\":\"x\"}", "M_INVALID_PARAM"),
        ("{\"op\":\"sync\",\"filter\":7}", "M_BAD_JSON"),
        ("{\"op\":\"sync\",\"set_presence\":\"x\"}", "M_INVALID_PARAM"),
        ("{\"op\":\"auth\",\"access_token\":\"x\"}", "M_UNKNOWN_TOKEN"),
    ] {
        socket.say_raw(Message::text(frame)).await;
        let error = socket.hear_op("error").await;
        assert_eq!(error["errcode"], errcode, "{frame}: {error}");
        assert!(error["error"].as_str().is_some_and(|error| error.len() > 3));
    }
    // The ID says which frame it was.
    socket
        .say(json!({ "op": "request", "id": "mine", "path": "/" }))
        .await;
    assert_eq!(socket.hear_op("error").await["id"], "mine");
    socket.say(json!({ "op": "dance", "id": 12 })).await;
    assert_eq!(socket.hear_op("error").await["id"], 12);
    let deep = format!(
        "{{\"op\":\"ping\",\"x\":{}{}}}",
        "[".repeat(50_000),
        "]".repeat(50_000)
    );
    socket.say_raw(Message::text(deep)).await;
    socket.hear().await.expect("it answers something");
    socket.settle().await;
}

#[tokio::test]
async fn some_frames_end_the_connection_and_no_other() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut bystander = Socket::connect(&bob).await;
    let too_large = format!("{{\"op\":\"ping\",\"x\":\"{}\"}}", "x".repeat(2 << 20));
    let not_utf8 = Frame::message(b"{\"op\":\"\xff\"}".to_vec(), OpCode::Data(Data::Text), true);
    let reserved = Frame::message(b"{}".to_vec(), OpCode::Data(Data::Reserved(5)), true);
    for (message, code) in [
        (Message::binary(b"{}".to_vec()), 1003),
        (Message::text(too_large), 1009),
        (Message::Frame(not_utf8), 1007),
        (Message::Frame(reserved), 1002),
    ] {
        let mut socket = Socket::connect(&alice).await;
        socket.say_raw(message).await;
        assert_eq!(socket.ended().await.code(), Some(code));
    }
    bystander.settle().await;
}

#[tokio::test]
async fn a_logout_a_deactivation_and_another_devices_token_end_it_each_in_its_way() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let other = alice.another_device().await;
    let (mut first, mut second) = (Socket::connect(&alice).await, Socket::connect(&other).await);
    first.settle().await;
    first
        .say(json!({ "op": "auth", "access_token": other.token }))
        .await;
    assert_eq!(first.ended().await.code(), Some(4005));

    let mut first = Socket::connect(&alice).await;
    first.say(json!({ "op": "sync" })).await;
    first.push().await;
    alice.post("/v3/logout", json!({})).await.ok();
    assert_eq!(first.hear_op("error").await["errcode"], "M_UNKNOWN_TOKEN");
    assert_eq!(first.ended().await.code(), Some(4001));

    second.settle().await;
    let auth = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": other.user_id },
        "password": PASSWORD,
    });
    other
        .post("/v3/account/deactivate", json!({ "auth": auth }))
        .await
        .ok();
    assert_eq!(second.ended().await.code(), Some(4003));
}

#[tokio::test]
async fn a_shutdown_answers_what_is_under_way_and_says_when_to_come_back() {
    let mut server = Server::start().await;
    let alice = server.register("alice").await;
    let mut socket = Socket::connect(&alice).await;
    socket.say(json!({ "op": "sync" })).await;
    socket.push().await;
    let room = socket.begin("POST", "/v3/createRoom", Some(public_chat())).await;
    let mut silent = Socket::connect_anonymously(&alice).await;
    socket.answer(room).await;
    server.stop().await;
    for socket in [&mut socket, &mut silent] {
        let error = socket.hear_op("error").await;
        let after_ms = error["retry_after_ms"].as_u64().expect("a time");
        assert!((1000..=5000).contains(&after_ms), "{error}");
        assert_eq!(socket.ended().await.code(), Some(4000));
    }
}

#[tokio::test]
async fn a_peer_that_does_not_answer_is_noticed_within_two_intervals() {
    let server = Server::start_with(|settings| settings.websocket.ping_interval_s = 1).await;
    let alice = server.register("alice").await;
    let mut silent = Socket::connect(&alice).await;
    silent.say(json!({ "op": "sync" })).await;
    silent.push().await;
    let mut talking = Socket::connect(&alice).await;
    // Pings are answered by whoever reads; this one does not until it is too late.
    let start = tokio::time::Instant::now();
    while start.elapsed().as_millis() < 2500 {
        let answer = talking.request("GET", "/v3/account/whoami", None).await;
        assert_eq!(answer["status"], 200);
        talking.say(json!({ "op": "ping" })).await;
        talking.hear_op("pong").await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(silent.ended().await.code(), Some(4007));
    talking.settle().await;
}

#[tokio::test]
async fn too_many_connections_of_a_user_or_an_address_are_refused() {
    let server = Server::start_with(|settings| {
        settings.rate_limits.enabled = true;
        settings.websocket.max_per_user = 2;
        settings.websocket.max_per_address = 4;
    })
    .await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (first, mut second) = (Socket::connect(&alice).await, Socket::connect(&alice).await);
    let refused = Socket::try_connect(&alice, alice.token.as_deref(), SUBPROTOCOL).await;
    refused
        .expect_err("two are enough")
        .refused(429, "M_LIMIT_EXCEEDED");
    let mut third = Socket::connect_anonymously(&alice).await;
    third
        .say(json!({ "op": "auth", "access_token": alice.token }))
        .await;
    assert_eq!(third.hear_op("error").await["errcode"], "M_LIMIT_EXCEEDED");
    assert_eq!(third.ended().await.code(), Some(4006));
    drop(third);

    let _bobs = [connected(&bob).await, connected(&bob).await];
    let refused = Socket::try_connect(&bob, None, SUBPROTOCOL).await;
    refused
        .expect_err("four are enough")
        .refused(429, "M_LIMIT_EXCEEDED");
    // Others are as they were, and a place is free again once its connection ends.
    second.settle().await;
    drop(first);
    connected(&alice).await.settle().await;
}

/// Connects once there is room for it.
async fn connected(client: &Client) -> Socket {
    until("there is room", || async {
        Socket::try_connect(client, client.token.as_deref(), SUBPROTOCOL)
            .await
            .ok()
    })
    .await
}

#[tokio::test]
async fn a_token_that_expires_is_told_of_and_renewed() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(public_chat()).await.room_id();
    let login = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": alice.user_id },
        "password": PASSWORD,
        "refresh_token": true,
    });
    let login = server.anonymous().post("/v3/login", login).await.ok();
    let phone = alice.session_of(&login);
    expire_in(&server, &phone, 3000).await;

    let mut socket = Socket::connect(&phone).await;
    socket.say(json!({ "op": "sync" })).await;
    socket.push().await;
    socket.hear_op("auth_needed").await;
    let expired = until("it expired", || async {
        phone
            .get("/v3/account/whoami")
            .await
            .errcode()
            .eq("M_UNKNOWN_TOKEN")
            .then_some(())
    });
    expired.await;
    let refused = socket.request("GET", "/v3/account/whoami", None).await;
    assert_eq!(refused["status"], 401);
    assert_eq!(refused["body"]["errcode"], "M_UNKNOWN_TOKEN");
    assert_eq!(refused["body"]["soft_logout"], true);
    // What happens meanwhile is not pushed.
    alice.send_text(&room, "did you see?").await.ok();
    socket.settle().await;
    socket.settle().await;
    assert!(!socket.has_push());

    let refresh = json!({ "refresh_token": login["refresh_token"] });
    let fresh = socket.request("POST", "/v3/refresh", Some(refresh)).await;
    assert_eq!(fresh["status"], 200, "{fresh}");
    socket
        .say(json!({ "op": "auth", "access_token": fresh["body"]["access_token"] }))
        .await;
    let push = socket.push().await;
    let body = &push["rooms"]["join"][&room]["timeline"]["events"][0]["content"]["body"];
    assert_eq!(body, "did you see?");
    let answer = socket.request("GET", "/v3/account/whoami", None).await;
    assert_eq!(answer["body"]["device_id"], phone.device_id.as_str());
    assert_eq!(answer["status"], Value::from(200));
}

/// Has the token of a device that asked for nothing yet expire soon.
async fn expire_in(server: &Server, client: &Client, ms: i64) {
    let at = server.engine().clock.now_ms() + ms;
    let pool = sqlx::PgPool::connect(server.database_url())
        .await
        .expect("the database is there");
    let changed = sqlx::query(
        "UPDATE access_tokens SET expires_at = $1 WHERE device_nid = \
         (SELECT device_nid FROM devices WHERE device_id = $2)",
    )
    .bind(at)
    .bind(&client.device_id)
    .execute(&pool)
    .await
    .expect("it can be changed");
    assert_eq!(changed.rows_affected(), 1);
}
