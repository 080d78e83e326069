//! `GET …/threads`.

use serde_json::json;

use crate::client::{ids, server, v1};

fn path(room_id: &str, rest: &str) -> String {
    v1(&format!("/rooms/{room_id}/threads{rest}"))
}

#[tokio::test]
async fn threads_are_in_the_order_of_their_last_events() {
    let (alice, nobody) = server().await;
    let bob = nobody.register("bob").await;
    let room_id = alice.room().await;
    bob.join(&room_id).await;
    assert_eq!(alice.get(&path(&room_id, "")).await.ok(), json!({ "chunk": [] }));
    let mut roots = Vec::new();
    for number in 0..3 {
        roots.push(alice.say_text(&room_id, &format!("root {number}")).await);
    }
    alice.say_text(&room_id, "no root").await;
    for (client, root) in [(&alice, 0), (&alice, 1), (&bob, 2), (&bob, 0)] {
        client
            .relate(&room_id, "m.thread", &roots[root], "in thread")
            .await;
    }
    let listed = alice.get(&path(&room_id, "")).await.ok();
    assert_eq!(ids(&listed["chunk"]), [&roots[0], &roots[2], &roots[1]]);
    assert_eq!(listed.get("next_batch"), None);
    assert_eq!(
        listed["chunk"][0]["unsigned"]["m.relations"]["m.thread"]["count"],
        2
    );
    let participated = bob.get(&path(&room_id, "?include=participated")).await.ok();
    assert_eq!(ids(&participated["chunk"]), [&roots[0], &roots[2]]);
    // Whoever began a thread takes part in it.
    assert_eq!(
        ids(&alice.get(&path(&room_id, "?include=participated")).await.ok()["chunk"]).len(),
        3
    );
    let first = alice.get(&path(&room_id, "?limit=2")).await.ok();
    assert_eq!(ids(&first["chunk"]), [&roots[0], &roots[2]]);
    let rest = format!("?limit=2&from={}", first["next_batch"].as_str().unwrap());
    let second = alice.get(&path(&room_id, &rest)).await.ok();
    assert_eq!(
        (ids(&second["chunk"]), second.get("next_batch")),
        (vec![roots[1].as_str()], None)
    );
}

#[tokio::test]
async fn ignored_users_are_silent_in_threads() {
    let (alice, nobody) = server().await;
    let bob = nobody.register("bob").await;
    let room_id = alice.room().await;
    bob.join(&room_id).await;
    let (of_alice, of_bob) = (
        alice.say_text(&room_id, "mine").await,
        bob.say_text(&room_id, "noise").await,
    );
    alice.relate(&room_id, "m.thread", &of_bob, "answer").await;
    bob.relate(&room_id, "m.thread", &of_alice, "more noise").await;
    alice.ignore(&bob.user_id).await;
    let listed = alice.get(&path(&room_id, "")).await.ok();
    assert_eq!(ids(&listed["chunk"]), [&of_bob]);
    assert_eq!(listed["chunk"][0]["content"], json!({}));
    assert_eq!(
        listed["chunk"][0]["unsigned"]["m.relations"]["m.thread"]["count"],
        1
    );
    assert_eq!(
        ids(&bob.get(&path(&room_id, "")).await.ok()["chunk"]),
        [&of_alice, &of_bob]
    );
}

#[tokio::test]
async fn threads_are_for_who_can_see_the_room() {
    let (alice, nobody) = server().await;
    let bob = nobody.register("bob").await;
    let room_id = alice.room().await;
    alice
        .set_state(
            &room_id,
            "m.room.history_visibility",
            json!({ "history_visibility": "joined" }),
        )
        .await;
    let hidden = alice.say_text(&room_id, "hidden").await;
    bob.get(&path(&room_id, "")).await.refused(403, "M_FORBIDDEN");
    bob.join(&room_id).await;
    // The root is out of sight, whatever is said in its thread.
    alice.relate(&room_id, "m.thread", &hidden, "in thread").await;
    assert_eq!(bob.get(&path(&room_id, "")).await.ok()["chunk"], json!([]));
    assert_eq!(
        ids(&alice.get(&path(&room_id, "")).await.ok()["chunk"]),
        [&hidden]
    );
    alice
        .get(&path("!nowhere:example.org", ""))
        .await
        .refused(403, "M_FORBIDDEN");
    alice
        .get(&path(&room_id, "?from=nowhere"))
        .await
        .refused(400, "M_INVALID_PARAM");
    alice
        .get(&path(&room_id, "?limit=0"))
        .await
        .refused(400, "M_INVALID_PARAM");
    alice
        .get(&path(&room_id, "?include=some"))
        .await
        .refused(400, "M_INVALID_PARAM");
    nobody
        .get(&path(&room_id, ""))
        .await
        .refused(401, "M_MISSING_TOKEN");
}
