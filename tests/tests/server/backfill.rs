//! The past of a room, from before a server was in it: asked for as clients page back to it.

use hearth_tests::{Client, Server, Two, event_ids, public_chat, timeline_has, until};
use serde_json::{Value, json};

/// The IDs of all events of a room, oldest first, as its host has them.
async fn history_of(host: &Client, room: &str) -> Vec<String> {
    event_ids(&Value::from(host.page_through(room, "f", 100, None).await))
}

/// Pages back to the beginning: the IDs of the events that are shown, oldest first.
async fn paged_back(client: &Client, room: &str, limit: usize) -> Vec<String> {
    let mut ids = event_ids(&Value::from(client.page_through(room, "b", limit, None).await));
    ids.reverse();
    ids
}

#[tokio::test]
async fn a_client_pages_back_to_the_first_event_of_another_servers_room() {
    let two = Two::start().await;
    let Two { a, alice, bob, .. } = &two;
    let room = alice.create_room(public_chat()).await.room_id();
    for n in 0..300 {
        match n % 50 {
            49 => {
                let content = json!({ "topic": format!("topic {n}") });
                alice
                    .send_state(&room, "m.room.topic", "", content)
                    .await
                    .event_id();
            }
            _ => drop(alice.send_text(&room, &format!("message {n}")).await.event_id()),
        }
    }
    bob.join_via(&room, a.name()).await;
    let last = alice.send_text(&room, "welcome").await.event_id();
    bob.sync_until(timeline_has(&room, &last)).await;
    let whole = history_of(alice, &room).await;
    assert!(whole.len() > 300, "{}", whole.len());
    // Many small pages, and then the same from what is here by now.
    assert_eq!(paged_back(bob, &room, 7).await, whole);
    assert_eq!(paged_back(bob, &room, 100).await, whole);
    assert_eq!(history_of(bob, &room).await, whole);
    // The state of long ago is that of then.
    let page = bob.messages(&room, "dir=f&limit=20").await.ok();
    assert_eq!(page["chunk"][0]["type"], "m.room.create", "{page}");
}

#[tokio::test]
async fn two_who_page_back_at_once_see_the_same() {
    let two = Two::start().await;
    let Two { a, b, alice, bob, .. } = &two;
    let carol = b.register("carol").await;
    let room = alice.create_room(public_chat()).await.room_id();
    alice.send_texts(&room, 250).await;
    bob.join_via(&room, a.name()).await;
    carol.join(&room).await.ok();
    alice.sees_membership(&room, &carol, "join").await;
    let whole = history_of(alice, &room).await;
    let (one, other) = tokio::join!(paged_back(bob, &room, 30), paged_back(&carol, &room, 45));
    assert_eq!(one, whole);
    assert_eq!(other, whole);
}

#[tokio::test]
async fn history_that_is_for_members_only_is_not_given_to_who_came_later() {
    let two = Two::start().await;
    let Two { a, b, alice, bob, .. } = &two;
    let joined = json!({
        "type": "m.room.history_visibility", "content": { "history_visibility": "joined" },
    });
    let mut parameters = public_chat();
    parameters["initial_state"] = json!([joined]);
    let room = alice.create_room(parameters).await.room_id();
    // More than is asked for at once: whole pages of what is not to be seen.
    let secret = alice.send_texts(&room, 250).await;
    bob.join_via(&room, a.name()).await;
    let welcome = alice.send_text(&room, "welcome").await.event_id();
    bob.sync_until(timeline_has(&room, &welcome)).await;
    let seen = paged_back(bob, &room, 10).await;
    assert!(seen.contains(&welcome), "{seen:?}");
    assert!(!seen.iter().any(|id| secret.contains(id)), "{seen:?}");
    for event_id in [&secret[0], &secret[249]] {
        bob.event(&room, event_id).await.refused(404, "M_NOT_FOUND");
    }
    // What the other server gave it was without what was said.
    let said: i64 = contents_with(b, "message ").await;
    assert_eq!(said, 0, "the other server was told what was said before it came");
}

/// How many stored events of a server contain a text.
async fn contents_with(server: &Server, text: &str) -> i64 {
    let pool = sqlx::PgPool::connect(server.database_url())
        .await
        .expect("the database is there");
    let count =
        sqlx::query_scalar("SELECT count(*) FROM events WHERE position(convert_to($1, 'UTF8') IN pdu) > 0")
            .bind(text)
            .fetch_one(&pool)
            .await
            .expect("it can be counted");
    pool.close().await;
    count
}

#[tokio::test]
async fn where_one_server_is_down_another_tells_the_past() {
    let mut two = Two::start().await;
    let c = Server::start_federated(&two.authority).await;
    let carol = c.register("carol").await;
    let room = two.alice.create_room(public_chat()).await.room_id();
    let early = two.alice.send_texts(&room, 60).await;
    two.bob.join_via(&room, two.a.name()).await;
    two.alice.sees_membership(&room, &two.bob, "join").await;
    // It has all of it before it is asked.
    let whole_of_bob = paged_back(&two.bob, &room, 50).await;
    assert!(whole_of_bob.contains(&early[0]), "{whole_of_bob:?}");
    carol.join_via(&room, two.a.name()).await;
    two.bob.sees_membership(&room, &carol, "join").await;
    let whole = history_of(&two.alice, &room).await;
    two.a.stop().await;
    assert_eq!(paged_back(&carol, &room, 20).await, whole);
}

#[tokio::test]
async fn where_nobody_tells_the_past_what_is_here_is_shown_and_the_rest_later() {
    let mut two = Two::start().await;
    let room = two.alice.create_room(public_chat()).await.room_id();
    two.alice.send_texts(&room, 40).await;
    two.bob.join_via(&room, two.a.name()).await;
    let welcome = two.alice.send_text(&room, "welcome").await.event_id();
    two.bob.sync_until(timeline_has(&room, &welcome)).await;
    let whole = history_of(&two.alice, &room).await;
    two.a.stop().await;
    let page = two.bob.messages(&room, "dir=b&limit=50").await.ok();
    assert_eq!(event_ids(&page["chunk"]).first(), Some(&welcome), "{page}");
    two.a.restart().await;
    until("the rest is shown", || async {
        (paged_back(&two.bob, &room, 50).await == whole).then_some(())
    })
    .await;
}
