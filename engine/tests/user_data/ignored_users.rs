use hearth_engine::{
    account_data,
    receipts::{self, Marker, Thread},
    rooms::{
        membership::invite,
        messages::{PageRequest, messages},
    },
    sync::{Response, SyncRequest, sync},
    typing,
};
use ruma::api::{Direction, client::filter::RoomEventFilter};

use super::*;

async fn ignore(server: &Server, user: &Requester, whom: &[&Requester]) {
    let ignored: serde_json::Map<String, Value> = whom
        .iter()
        .map(|other| (other.user_id.to_string(), json!({})))
        .collect();
    let content = json!({ "ignored_users": ignored }).to_string();
    account_data::set_global(
        &server.engine,
        user,
        &user.user_id,
        "m.ignored_user_list",
        &content,
    )
    .await
    .unwrap();
}

async fn synced(server: &Server, user: &Requester, since: Option<&str>) -> Response {
    let request = SyncRequest {
        since: since.map(ToOwned::to_owned),
        ..SyncRequest::default()
    };
    sync(&server.engine, user, request).await.unwrap()
}

/// The bodies of messages, and the types of other events.
fn said<'a>(events: impl IntoIterator<Item = &'a Box<serde_json::value::RawValue>>) -> Vec<String> {
    let events = events
        .into_iter()
        .map(|event| serde_json::from_str::<Value>(event.get()).unwrap());
    events
        .map(|event| {
            event["content"]["body"]
                .as_str()
                .or(event["type"].as_str())
                .unwrap()
                .to_owned()
        })
        .collect()
}

async fn paged(server: &Server, user: &Requester, room_id: &RoomId) -> Vec<String> {
    let filter = RoomEventFilter::default();
    let request = PageRequest {
        from: None,
        to: None,
        direction: Direction::Backward,
        limit: 4,
        filter: &filter,
    };
    said(
        &messages(&server.engine, user, room_id, request)
            .await
            .unwrap()
            .chunk,
    )
}

#[tokio::test]
async fn what_an_ignored_user_says_is_withheld_and_what_they_set_is_not() {
    let server = Server::start().await;
    let (alice, bob, carol) = (
        server.user("alice").await,
        server.user("bob").await,
        server.user("carol").await,
    );
    let room = server.room_of(&alice, &bob).await;
    server.join(&carol, &room).await;
    let before = synced(&server, &bob, None).await.next_batch;
    let of_carol = synced(&server, &carol, None).await.next_batch;
    server.say(&alice, &room, "before").await;
    ignore(&server, &bob, &[&alice, &bob]).await;
    server.say(&alice, &room, "during").await;
    server
        .set_state(&alice, &room, "m.room.topic", json!({ "topic": "t" }))
        .await;
    server.say(&carol, &room, "carol's").await;
    server.say(&bob, &room, "own").await;
    for forgetful in [false, true] {
        if forgetful {
            server.engine.drop_idle();
        }
        let told = synced(&server, &bob, Some(&before)).await;
        assert_eq!(
            said(&told.rooms.join[&room].timeline.events),
            ["m.room.topic", "carol's", "own"]
        );
        assert_eq!(told.rooms.join[&room].unread_notifications.notification_count, 0);
        let new = said(
            &synced(&server, &bob, None).await.rooms.join[&room]
                .timeline
                .events,
        );
        assert_eq!(
            new[new.len() - 4..],
            ["m.room.member", "m.room.topic", "carol's", "own"]
        );
        assert_eq!(
            paged(&server, &bob, &room).await,
            ["own", "carol's", "m.room.topic", "m.room.member"]
        );
        let others = synced(&server, &carol, Some(&of_carol)).await;
        let all = ["before", "during", "m.room.topic", "carol's", "own"];
        assert_eq!(said(&others.rooms.join[&room].timeline.events), all);
    }
    let now = synced(&server, &bob, None).await.next_batch;
    server.say(&alice, &room, "nothing to hear").await;
    assert!(synced(&server, &bob, Some(&now)).await.rooms.join.is_empty());
    ignore(&server, &bob, &[]).await;
    server.say(&alice, &room, "after").await;
    let told = synced(&server, &bob, Some(&now)).await;
    assert_eq!(
        said(&told.rooms.join[&room].timeline.events).last().unwrap(),
        "after"
    );
    assert_eq!(
        paged(&server, &bob, &room).await,
        ["after", "nothing to hear", "own", "carol's"]
    );
}

#[tokio::test]
async fn what_ignored_users_say_is_not_counted() {
    let server = Server::start().await;
    let (alice, bob, carol) = (
        server.user("alice").await,
        server.user("bob").await,
        server.user("carol").await,
    );
    let room = server.room_of(&alice, &bob).await;
    server.join(&carol, &room).await;
    for text in ["one", "two"] {
        server.say(&alice, &room, text).await;
        server.say(&carol, &room, text).await;
    }
    let unread = async || {
        synced(&server, &bob, None).await.rooms.join[&room]
            .unread_notifications
            .notification_count
    };
    assert_eq!(unread().await, 4);
    ignore(&server, &bob, &[&alice]).await;
    assert_eq!(unread().await, 2);
    server.say(&alice, &room, "three").await;
    server.say(&carol, &room, "three").await;
    assert_eq!(unread().await, 3);
}

#[tokio::test]
async fn receipts_and_typing_of_ignored_users_are_withheld() {
    let server = Server::start().await;
    let (alice, bob, carol) = (
        server.user("alice").await,
        server.user("bob").await,
        server.user("carol").await,
    );
    let room = server.room_of(&alice, &bob).await;
    server.join(&carol, &room).await;
    let event_id = server.say(&bob, &room, "hello").await;
    ignore(&server, &bob, &[&alice]).await;
    let since = synced(&server, &bob, None).await.next_batch;
    for user in [&alice, &carol] {
        let read = Marker::Read(Thread::Unthreaded);
        receipts::set(&server.engine, user, &room, &[(read, &event_id)])
            .await
            .unwrap();
        typing::set(
            &server.engine,
            user,
            &room,
            &user.user_id,
            Some(Duration::from_secs(60)),
        )
        .await
        .unwrap();
    }
    for since in [Some(&*since), None] {
        let told = synced(&server, &bob, since).await;
        let ephemeral: Vec<&str> = told.rooms.join[&room]
            .ephemeral
            .events
            .iter()
            .map(|event| event.get())
            .collect();
        let ephemeral = ephemeral.join("\n");
        assert!(
            ephemeral.contains("m.receipt") && ephemeral.contains("m.typing"),
            "{ephemeral}"
        );
        assert!(
            ephemeral.contains("@carol:") && !ephemeral.contains("@alice:"),
            "{ephemeral}"
        );
    }
}

#[tokio::test]
async fn invites_of_ignored_users_are_not_told() {
    let server = Server::start().await;
    let (alice, bob, carol) = (
        server.user("alice").await,
        server.user("bob").await,
        server.user("carol").await,
    );
    let since = synced(&server, &bob, None).await.next_batch;
    ignore(&server, &bob, &[&alice]).await;
    let (of_alice, of_carol) = (server.room(&alice).await, server.room(&carol).await);
    invite(&server.engine, &alice, &of_alice, &bob.user_id, None)
        .await
        .unwrap();
    invite(&server.engine, &carol, &of_carol, &bob.user_id, None)
        .await
        .unwrap();
    for since in [Some(&*since), None] {
        let told = synced(&server, &bob, since).await;
        assert_eq!(told.rooms.invite.keys().collect::<Vec<_>>(), [&of_carol]);
    }
    ignore(&server, &bob, &[]).await;
    assert_eq!(synced(&server, &bob, None).await.rooms.invite.len(), 2);
}
