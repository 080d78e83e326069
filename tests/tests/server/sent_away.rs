//! Invites that are taken back, and knocks that are refused, of users whose server is not in the room.

use hearth_tests::{Authority, Client, Server, encoded, has_left, is_invited, until};
use serde_json::json;

struct Two {
    _authority: Authority,
    a: Server,
    _b: Server,
    alice: Client,
    bob: Client,
}

async fn two() -> Two {
    let authority = Authority::new();
    let (a, b) = (
        Server::start_federated(&authority).await,
        Server::start_federated(&authority).await,
    );
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    Two {
        _authority: authority,
        a,
        _b: b,
        alice,
        bob,
    }
}

#[tokio::test]
async fn an_invite_that_is_taken_back_is_gone_on_the_other_server() {
    let Two { alice, bob, .. } = &two().await;
    let room = alice.create_room(json!({})).await.room_id();
    alice.invite(&room, bob).await.ok();
    bob.sync_until(is_invited(&room)).await;
    alice.kick(&room, bob, Some("a mistake")).await.ok();
    bob.sync_until(has_left(&room)).await;
    bob.set_since(None);
    assert!(!is_invited(&room)(&bob.sync().await));
    assert!(bob.join(&room).await.is_proper_refusal());
    // It is as if there had been none: the next is seen.
    alice.invite(&room, bob).await.ok();
    bob.sync_until(is_invited(&room)).await;
    alice.ban(&room, bob, None).await.ok();
    bob.sync_until(has_left(&room)).await;
}

#[tokio::test]
async fn a_knock_that_is_refused_is_gone_on_the_other_server() {
    let Two { a, alice, bob, .. } = &two().await;
    let knock = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let room = alice
        .create_room(json!({ "initial_state": [knock] }))
        .await
        .room_id();
    let path = format!("/v3/knock/{}?via={}", encoded(&room), encoded(a.name()));
    bob.post(&path, json!({})).await.ok();
    bob.sync_until(|sync| sync["rooms"]["knock"][&room].is_object())
        .await;
    until("the knock is seen", || async {
        (alice.memberships(&room).await[&bob.user_id] == "knock").then_some(())
    })
    .await;
    alice.kick(&room, bob, Some("not you")).await.ok();
    bob.sync_until(has_left(&room)).await;
}
