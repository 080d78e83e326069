//! What random runs have found syncs to tell wrongly, one by one.

use hearth_engine::receipts::{self, Marker, Thread};

use super::*;

struct Scene {
    server: Server,
    alice: Requester,
    bob: Requester,
    room_id: OwnedRoomId,
}

impl Scene {
    async fn new() -> Self {
        let server = Server::start().await;
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room_id = server.room(&alice).await;
        server.join(&bob, &room_id).await;
        Self {
            server,
            alice,
            bob,
            room_id,
        }
    }

    /// What a device that loads members lazily is told of the room, and its next token.
    async fn lazily(&self, user: &Requester, since: Option<&str>, limit: usize) -> (Value, String) {
        let filter =
            json!({ "room": { "timeline": { "limit": limit }, "state": { "lazy_load_members": true } } });
        let synced = sync_json(&self.server.engine, user, since, filter, |_| ())
            .await
            .unwrap();
        let next = synced["next_batch"].as_str().unwrap().to_owned();
        (synced["rooms"]["join"][self.room_id.as_str()].clone(), next)
    }
}

#[tokio::test]
async fn a_receipt_that_moved_twice_is_told_where_it_is() {
    let Scene {
        server,
        alice,
        bob,
        room_id,
    } = Scene::new().await;
    let first = sync_json(&server.engine, &alice, None, json!({}), |_| ())
        .await
        .unwrap();
    let mut said = Vec::new();
    for number in 0..5 {
        said.push(server.say(&alice, &room_id, &number.to_string()).await);
    }
    for event_id in &said {
        let marker = (Marker::Read(Thread::Unthreaded), &**event_id);
        receipts::set(&server.engine, &bob, &room_id, &[marker])
            .await
            .unwrap();
    }
    let synced = sync_json(
        &server.engine,
        &alice,
        first["next_batch"].as_str(),
        json!({}),
        |_| (),
    )
    .await
    .unwrap();
    let receipts = &synced["rooms"]["join"][room_id.as_str()]["ephemeral"]["events"][0]["content"];
    let told: Vec<&String> = receipts.as_object().unwrap().keys().collect();
    assert_eq!(told, [said[4].as_str()], "{receipts:#}");
    server.end().await;
}

#[tokio::test]
async fn a_client_that_loads_members_lazily_hears_how_many_came_in_a_gap() {
    let scene = Scene::new().await;
    let (_, since) = scene.lazily(&scene.bob, None, 1).await;
    for name in ["carol", "dave"] {
        let user = scene.server.user(name).await;
        scene.server.join(&user, &scene.room_id).await;
    }
    scene.server.say(&scene.alice, &scene.room_id, "hello").await;
    let (told, _) = scene.lazily(&scene.bob, Some(&since), 1).await;
    assert_eq!(told["timeline"]["limited"], true);
    assert_eq!(told["summary"]["m.joined_member_count"], 4, "{told:#}");
    scene.server.end().await;
}

#[tokio::test]
async fn who_speaks_before_they_change_their_name_is_told_as_they_were() {
    let scene = Scene::new().await;
    let Scene {
        server,
        alice,
        bob,
        room_id,
    } = &scene;
    // Bob's first message is far from alice's beginning: she was not told of him yet.
    for number in 0..3 {
        server.say(alice, room_id, &number.to_string()).await;
    }
    let (first, since) = scene.lazily(alice, None, 1).await;
    let was = state_ids(&server.engine, alice, room_id).await.unwrap();
    let was = &was[&("m.room.member".to_owned(), bob.user_id.to_string())];
    server.say(bob, room_id, "hello").await;
    let renamed = json!({ "membership": "join", "displayname": "Robert" });
    server
        .set_state(bob, room_id, "m.room.member", bob.user_id.as_str(), renamed)
        .await;
    let (second, _) = scene.lazily(alice, Some(&since), 10).await;
    let told = [&first, &second]
        .map(|told| ids_of(told["state"]["events"].as_array().unwrap()))
        .concat();
    assert!(told.contains(was), "{first:#}\n{second:#}");
    scene.server.end().await;
}

#[tokio::test]
async fn what_a_lazy_client_is_told_of_a_room_it_left_ends_with_the_leave() {
    let scene = Scene::new().await;
    let Scene {
        server,
        alice,
        bob,
        room_id,
    } = &scene;
    let filter = || json!({ "room": { "state": { "lazy_load_members": true } } });
    let first = sync_json(&server.engine, bob, None, filter(), |_| ())
        .await
        .unwrap();
    server.say(alice, room_id, "hello").await;
    server.leave(bob, room_id).await;
    let renamed = json!({ "membership": "join", "displayname": "hidden" });
    server
        .set_state(alice, room_id, "m.room.member", alice.user_id.as_str(), renamed)
        .await;
    let synced = sync_json(
        &server.engine,
        bob,
        first["next_batch"].as_str(),
        filter(),
        |_| (),
    )
    .await
    .unwrap();
    assert!(
        synced["rooms"]["leave"][room_id.as_str()].is_object(),
        "{synced:#}"
    );
    assert!(!synced.to_string().contains("hidden"), "{synced:#}");
    scene.server.end().await;
}

#[tokio::test]
async fn who_comes_back_is_told_a_new_beginning() {
    let scene = Scene::new().await;
    let Scene {
        server,
        alice,
        bob,
        room_id,
    } = &scene;
    let first = sync_json(&server.engine, bob, None, json!({}), |_| ())
        .await
        .unwrap();
    server.leave(bob, room_id).await;
    server.say(alice, room_id, "hello").await;
    server.join(bob, room_id).await;
    let filter = json!({ "room": { "timeline": { "limit": 100 } } });
    let synced = sync_json(&server.engine, bob, first["next_batch"].as_str(), filter, |_| ())
        .await
        .unwrap();
    // Events that were told before are told again: a client must not put them behind those it has.
    let timeline = &synced["rooms"]["join"][room_id.as_str()]["timeline"];
    assert_eq!(timeline["limited"], true, "{timeline:#}");
    // To one who never was there, the same is no gap.
    let carol = server.user("carol").await;
    let filter = || json!({ "room": { "timeline": { "limit": 100 } } });
    let first = sync_json(&server.engine, &carol, None, filter(), |_| ())
        .await
        .unwrap();
    server.join(&carol, room_id).await;
    let synced = sync_json(
        &server.engine,
        &carol,
        first["next_batch"].as_str(),
        filter(),
        |_| (),
    )
    .await
    .unwrap();
    let timeline = &synced["rooms"]["join"][room_id.as_str()]["timeline"];
    assert_eq!(timeline["limited"], false, "{timeline:#}");
    scene.server.end().await;
}
