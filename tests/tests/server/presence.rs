//! Who is there, and when they were last seen, on one server.

use std::time::Duration;

use hearth_tests::{
    Client, PATIENCE, Server, Socket, encoded, presence, presence_is, public_chat, until, within,
};
use homeserver::config::Settings;
use serde_json::{Value, json};

/// A sync of somebody who isn't seen by it.
const UNSEEN: &str = "timeout=0&set_presence=offline";

async fn a_room_of_two(server: &Server) -> (Client, Client, String) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    (alice, bob, room)
}

fn hasty(settings: &mut Settings) {
    settings.presence.idle_s = 2;
    settings.presence.offline_after_s = 1;
}

/// Polls for as long as this is not dropped.
struct Polling(tokio::task::JoinHandle<()>);

impl Polling {
    fn of(client: &Client) -> Self {
        let client = client.with_token(client.token.as_deref());
        Self(tokio::spawn(async move {
            loop {
                client.sync_with("timeout=10000").await.ok();
            }
        }))
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn those_who_share_a_room_hear_of_each_other_and_nobody_else_does() {
    let server = Server::start().await;
    let (alice, bob, _) = a_room_of_two(&server).await;
    let carol = server.register("carol").await;
    for client in [&bob, &carol] {
        client.sync_with(UNSEEN).await.ok();
    }
    alice
        .set_presence(json!({ "presence": "online", "status_msg": "at the \u{0} desk" }))
        .await;
    let sync = bob.sync_until(presence_is(&alice, "online")).await;
    let content = presence(&sync, &alice).expect("it is told");
    assert_eq!(content["status_msg"], "at the \u{0} desk");
    assert_eq!(content["currently_active"], true);
    assert!(
        content["last_active_ago"]
            .as_u64()
            .is_some_and(|ago| ago < 45_000),
        "{content}"
    );
    let asked = bob.presence_of(&alice).await;
    assert_eq!(
        (&asked["presence"], &asked["status_msg"]),
        (&content["presence"], &content["status_msg"])
    );

    let path = format!("/v3/presence/{}/status", alice.user_id);
    carol.get(&path).await.refused(403, "M_FORBIDDEN");
    assert_eq!(carol.sync_with(UNSEEN).await.ok()["presence"], Value::Null);
    let nobody = format!(
        "/v3/presence/{}/status",
        encoded(&alice.user_id.replace("alice", "nobody"))
    );
    bob.get(&nobody).await.refused(404, "M_NOT_FOUND");

    // A client that comes later is told who is there; and a token of it, only what comes after.
    let laptop = bob.another_device().await;
    let first = laptop.sync_with(UNSEEN).await.ok();
    assert!(presence_is(&alice, "online")(&first), "{first}");
    assert_eq!(presence(&laptop.sync_with(UNSEEN).await.ok(), &alice), None);
}

#[tokio::test]
async fn presence_is_set_for_oneself_and_as_the_specification_has_it() {
    let server = Server::start().await;
    let (alice, bob, _) = a_room_of_two(&server).await;
    let path = format!("/v3/presence/{}/status", alice.user_id);
    bob.put(&path, json!({ "presence": "online" }))
        .await
        .refused(403, "M_FORBIDDEN");
    alice
        .put(&path, json!({ "presence": "dancing" }))
        .await
        .refused(400, "M_INVALID_PARAM");
    alice
        .put(&path, json!({ "status_msg": "x" }))
        .await
        .refused(400, "M_BAD_JSON");
    alice
        .put(
            &path,
            json!({ "presence": "online", "status_msg": "x".repeat(2049) }),
        )
        .await
        .refused(413, "M_TOO_LARGE");
    server
        .anonymous()
        .get(&path)
        .await
        .refused(401, "M_MISSING_TOKEN");
    assert_eq!(
        bob.presence_of(&alice).await,
        json!({ "presence": "offline" }),
        "never seen"
    );
    alice
        .set_presence(json!({ "presence": "unavailable", "status_msg": "out" }))
        .await;
    let seen = bob.presence_of(&alice).await;
    assert_eq!(
        (&seen["presence"], &seen["status_msg"]),
        (&json!("unavailable"), &json!("out"))
    );
    assert_eq!(seen["currently_active"], Value::Null);
    // Without a message there is none.
    alice.set_presence(json!({ "presence": "offline" })).await;
    let seen = bob.presence_of(&alice).await;
    assert_eq!(
        (&seen["presence"], &seen["status_msg"]),
        (&json!("offline"), &Value::Null)
    );
    assert!(seen["last_active_ago"].is_u64());
}

#[tokio::test]
async fn a_client_is_online_idle_and_offline_by_itself() {
    let server = Server::start_with(hasty).await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    bob.sync_with(UNSEEN).await.ok();
    let polls = Polling::of(&alice);
    bob.sync_until(presence_is(&alice, "online")).await;
    bob.sync_until(presence_is(&alice, "unavailable")).await;
    let idle = bob.presence_of(&alice).await;
    assert!(
        idle["last_active_ago"].as_u64().is_some_and(|ago| ago >= 2_000),
        "{idle}"
    );
    // Whatever others see of what she does says that she is there.
    alice.send_text(&room, "hello").await.ok();
    bob.sync_until(presence_is(&alice, "online")).await;
    bob.sync_until(presence_is(&alice, "unavailable")).await;
    alice.set_typing(&room, Some(1_000)).await.ok();
    bob.sync_until(presence_is(&alice, "online")).await;
    drop(polls);
    let sync = bob.sync_until(presence_is(&alice, "offline")).await;
    let offline = presence(&sync, &alice).expect("it is told");
    assert!(offline["last_active_ago"].is_u64(), "{offline}");
    assert_eq!(offline["currently_active"], Value::Null);
}

#[tokio::test]
async fn a_sync_says_what_its_user_is() {
    let server = Server::start().await;
    let (alice, bob, _) = a_room_of_two(&server).await;
    alice.sync_with(UNSEEN).await.ok();
    assert_eq!(bob.presence_of(&alice).await["presence"], "offline");
    alice.sync_with("timeout=0&set_presence=unavailable").await.ok();
    assert_eq!(bob.presence_of(&alice).await["presence"], "unavailable");
    let laptop = alice.another_device().await;
    laptop.sync_with("timeout=0").await.ok();
    assert_eq!(
        bob.presence_of(&alice).await["presence"],
        "online",
        "the most present device counts"
    );
    laptop.sync_with(UNSEEN).await.ok();
    assert_eq!(bob.presence_of(&alice).await["presence"], "unavailable");
    // A message stands whatever devices do, and so does what was said of a device until it says otherwise.
    laptop.sync_with("timeout=0&set_presence=online").await.ok();
    laptop
        .set_presence(json!({ "presence": "offline", "status_msg": "busy" }))
        .await;
    laptop.sync_with("timeout=0").await.ok();
    let seen = bob.presence_of(&alice).await;
    assert_eq!(
        (&seen["presence"], &seen["status_msg"]),
        (&json!("unavailable"), &json!("busy"))
    );
}

#[tokio::test]
async fn when_users_were_last_seen_survives_a_restart() {
    // Long enough that she is there when the server stops.
    let mut server = Server::start_with(|settings| settings.presence.offline_after_s = 8).await;
    let (alice, bob, _) = a_room_of_two(&server).await;
    alice
        .set_presence(json!({ "presence": "online", "status_msg": "here" }))
        .await;
    bob.sync_with(UNSEEN).await.ok();
    bob.sync_until(presence_is(&alice, "online")).await;
    server.restart().await;
    // She may come back; when she doesn't, a client that takes her for online is told.
    let sync = bob.sync_until(presence_is(&alice, "offline")).await;
    let content = presence(&sync, &alice).expect("it is told");
    assert_eq!(content["status_msg"], "here");
    assert!(content["last_active_ago"].is_u64(), "{content}");
    server.restart().await;
    let seen = bob.presence_of(&alice).await;
    assert_eq!(
        (&seen["presence"], &seen["status_msg"]),
        (&json!("offline"), &json!("here"))
    );
    assert!(
        seen["last_active_ago"].as_u64().is_some_and(|ago| ago > 0),
        "{seen}"
    );
    // One's own devices show when they were seen, too.
    let devices = alice.get("/v3/devices").await.ok();
    let last_seen = devices["devices"][0]["last_seen_ts"].as_u64();
    assert!(last_seen.is_some_and(|at| at > 1_700_000_000_000), "{devices}");
}

#[tokio::test]
async fn one_who_hides_is_offline_to_others_without_a_time() {
    let server = Server::start().await;
    let (alice, bob, _) = a_room_of_two(&server).await;
    bob.sync_with(UNSEEN).await.ok();
    alice
        .set_presence(json!({ "presence": "online", "status_msg": "here" }))
        .await;
    bob.sync_until(presence_is(&alice, "online")).await;
    alice
        .set_account_data("chat.hearth.presence", json!({ "hidden": true }))
        .await
        .ok();
    let sync = bob.sync_until(presence_is(&alice, "offline")).await;
    assert_eq!(presence(&sync, &alice), Some(json!({ "presence": "offline" })));
    assert_eq!(bob.presence_of(&alice).await, json!({ "presence": "offline" }));
    let own = alice.presence_of(&alice).await;
    assert_eq!(
        (&own["presence"], &own["status_msg"]),
        (&json!("online"), &json!("here"))
    );
    let first = bob.another_device().await.sync_with(UNSEEN).await.ok();
    assert_eq!(presence(&first, &alice), None);
    alice
        .set_account_data("chat.hearth.presence", json!({ "hidden": false }))
        .await
        .ok();
    bob.sync_until(presence_is(&alice, "online")).await;
}

#[tokio::test]
async fn nobody_hears_of_those_they_ignore_or_filter_out() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let carol = server.register("carol").await;
    carol.join(&room).await.ok();
    let ignored = json!({ "ignored_users": { alice.user_id.clone(): {} } });
    bob.set_account_data("m.ignored_user_list", ignored).await.ok();
    bob.sync_with(UNSEEN).await.ok();
    alice.set_presence(json!({ "presence": "online" })).await;
    carol.set_presence(json!({ "presence": "online" })).await;
    let filtered = |filter: Value| format!("{UNSEEN}&filter={}", encoded(&filter.to_string()));
    let told_of_alice = std::cell::Cell::new(false);
    bob.sync_until(|sync| {
        told_of_alice.set(told_of_alice.get() || presence(sync, &alice).is_some());
        presence_is(&carol, "online")(sync)
    })
    .await;
    let again = bob.another_device().await.sync_with(UNSEEN).await.ok();
    assert!(presence(&again, &carol).is_some() && presence(&again, &alice).is_none() && !told_of_alice.get());
    for filter in [
        json!({ "presence": { "not_senders": [carol.user_id] } }),
        json!({ "presence": { "not_types": ["m.presence"] } }),
        json!({ "presence": { "types": [] } }),
    ] {
        let sync = bob
            .another_device()
            .await
            .sync_with(&filtered(filter.clone()))
            .await
            .ok();
        assert_eq!(presence(&sync, &carol), None, "{filter}");
    }
    let wanted = json!({ "presence": { "senders": [carol.user_id], "types": ["m.*"] } });
    let sync = bob.another_device().await.sync_with(&filtered(wanted)).await.ok();
    assert!(presence(&sync, &carol).is_some());
}

#[tokio::test]
async fn who_comes_into_a_room_hears_who_is_there_and_is_heard_of() {
    let server = Server::start().await;
    let (alice, bob, room) = a_room_of_two(&server).await;
    let carol = server.register("carol").await;
    for client in [&alice, &carol] {
        client.set_presence(json!({ "presence": "online" })).await;
    }
    bob.sync_until(presence_is(&alice, "online")).await;
    carol.sync_until(presence_is(&carol, "online")).await;
    carol.join(&room).await.ok();
    carol.sync_until(presence_is(&alice, "online")).await;
    bob.sync_until(presence_is(&carol, "online")).await;
    carol
        .post(&format!("/v3/rooms/{room}/leave"), json!({}))
        .await
        .ok();
    carol.set_presence(json!({ "presence": "unavailable" })).await;
    carol.sync_until(presence_is(&carol, "unavailable")).await;
    assert_eq!(presence(&bob.sync().await, &carol), None);
    let path = format!("/v3/presence/{}/status", carol.user_id);
    bob.get(&path).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn switched_off_nobody_is_told_of_anybody() {
    let server = Server::start_with(|settings| settings.presence.enabled = false).await;
    let (alice, bob, _) = a_room_of_two(&server).await;
    alice
        .set_presence(json!({ "presence": "online", "status_msg": "here" }))
        .await;
    assert_eq!(bob.presence_of(&alice).await, json!({ "presence": "offline" }));
    assert_eq!(bob.sync().await["presence"], Value::Null);
}

#[tokio::test]
async fn a_burst_of_changes_is_told_as_few() {
    let server = Server::start().await;
    let (alice, bob, _) = a_room_of_two(&server).await;
    let mut socket = Socket::connect(&bob).await;
    socket
        .say(json!({ "op": "sync", "set_presence": "offline" }))
        .await;
    socket.push().await;
    for round in 0..100 {
        let state = ["online", "unavailable"][round % 2];
        alice
            .set_presence(json!({ "presence": state, "status_msg": round.to_string() }))
            .await;
    }
    let mut pushes = 0;
    loop {
        let push = socket.push().await;
        pushes += 1;
        let pos = socket.pos.clone();
        socket.say(json!({ "op": "ack", "pos": pos })).await;
        if presence(&push, &alice).is_some_and(|content| content["status_msg"] == "99") {
            break;
        }
    }
    assert!(pushes < 50, "{pushes} pushes");
}

#[tokio::test]
async fn a_websocket_is_presence_for_as_long_as_it_is_there() {
    let server = Server::start_with(|settings| {
        settings.presence.offline_after_s = 1;
        settings.websocket.ping_interval_s = 1;
    })
    .await;
    let (alice, bob, _) = a_room_of_two(&server).await;
    let mut listening = Socket::connect(&bob).await;
    listening
        .say(json!({ "op": "sync", "set_presence": "offline" }))
        .await;
    listening.push().await;
    let mut socket = Socket::connect(&alice).await;
    socket.settle().await;
    assert_eq!(
        bob.presence_of(&alice).await["presence"],
        "offline",
        "she has not said so yet"
    );
    socket.say(json!({ "op": "sync" })).await;
    until_pushed(&mut listening, presence_is(&alice, "online")).await;
    socket
        .say(json!({ "op": "sync", "set_presence": "unavailable" }))
        .await;
    until_pushed(&mut listening, presence_is(&alice, "unavailable")).await;
    socket
        .say(json!({ "op": "sync", "set_presence": "offline" }))
        .await;
    until_pushed(&mut listening, presence_is(&alice, "offline")).await;
    socket
        .say(json!({ "op": "sync", "set_presence": "online" }))
        .await;
    until_pushed(&mut listening, presence_is(&alice, "online")).await;
    // Nothing is read on this one any more, so that no ping is answered: half open, as a phone in a tunnel.
    let gone = async { until_pushed(&mut listening, presence_is(&alice, "offline")).await };
    within(PATIENCE, "she is gone", gone).await;
    let seen = bob.presence_of(&alice).await;
    assert!(
        seen["last_active_ago"].as_u64().is_some_and(|ago| ago < 20_000),
        "{seen}"
    );
    assert_eq!(socket.ended().await.code(), Some(4007));
}

/// Takes pushes until one is as wanted.
async fn until_pushed(socket: &mut Socket, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let push = socket.push().await;
        let pos = socket.pos.clone();
        socket.say(json!({ "op": "ack", "pos": pos })).await;
        if wanted(&push) {
            return push;
        }
    }
}

#[tokio::test]
async fn a_closed_websocket_is_followed_by_offline_and_a_new_one_by_online() {
    let server = Server::start_with(|settings| settings.presence.offline_after_s = 2).await;
    let (alice, bob, _) = a_room_of_two(&server).await;
    bob.sync_with(UNSEEN).await.ok();
    let mut socket = Socket::connect(&alice).await;
    socket.say(json!({ "op": "sync" })).await;
    bob.sync_until(presence_is(&alice, "online")).await;
    drop(socket);
    // Back within the grace: nobody hears of it.
    let mut socket = Socket::connect(&alice).await;
    socket.say(json!({ "op": "sync" })).await;
    socket.push().await;
    until("the grace is over", || async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        Some(())
    })
    .await;
    assert_eq!(presence(&bob.sync_with(UNSEEN).await.ok(), &alice), None);
    drop(socket);
    bob.sync_until(presence_is(&alice, "offline")).await;
    let mut socket = Socket::connect(&alice).await;
    socket.say(json!({ "op": "sync" })).await;
    bob.sync_until(presence_is(&alice, "online")).await;
}
