//! `GET /room_summary/{roomIdOrAlias}`.

use serde_json::json;

use crate::client::server;

fn path(room: &str) -> String {
    format!("/_matrix/client/v1/room_summary/{room}")
}

#[tokio::test]
async fn a_public_room_is_described_to_anyone() {
    let (alice, nobody) = server().await;
    let room_id = alice
        .create_room(json!({
            "preset": "public_chat", "room_version": "11", "name": "CHEESE", "topic": "Tasty tasty cheese",
            "room_alias_name": "cheese", "creation_content": { "type": "m.space" },
            "initial_state": [
                { "type": "m.room.avatar", "content": { "url": "mxc://example.org/cheese" } },
                { "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } },
                { "type": "m.room.history_visibility", "content": { "history_visibility": "world_readable" } },
                { "type": "m.room.guest_access", "content": { "guest_access": "can_join" } },
            ],
        }))
        .await;
    let expected = json!({
        "room_id": room_id, "name": "CHEESE", "topic": "Tasty tasty cheese", "avatar_url": "mxc://example.org/cheese",
        "canonical_alias": "#cheese:example.org", "encryption": "m.megolm.v1.aes-sha2", "room_type": "m.space",
        "num_joined_members": 1, "guest_can_join": true, "world_readable": true, "room_version": "11",
        "join_rule": "public",
    });
    for room in [&room_id, "#cheese:example.org"] {
        let mut summary = nobody.get(&path(room)).await.ok();
        // Left out, it is public.
        summary
            .as_object_mut()
            .unwrap()
            .entry("join_rule")
            .or_insert(json!("public"));
        assert_eq!(summary, expected);
    }
    let bob = nobody.register("bob").await;
    assert_eq!(bob.get(&path(&room_id)).await.ok()["membership"], "leave");
    bob.join(&room_id).await;
    let summary = bob.get(&path(&room_id)).await.ok();
    assert_eq!(
        (&summary["membership"], &summary["num_joined_members"]),
        (&json!("join"), &json!(2))
    );
}

#[tokio::test]
async fn a_private_room_is_described_to_who_is_invited() {
    let (alice, nobody) = server().await;
    let bob = nobody.register("bob").await;
    let room_id = alice
        .create_room(json!({ "preset": "private_chat", "name": "secret" }))
        .await;
    bob.get(&path(&room_id)).await.refused(404, "M_NOT_FOUND");
    nobody.get(&path(&room_id)).await.refused(404, "M_NOT_FOUND");
    alice
        .post(
            &format!("/rooms/{room_id}/invite"),
            json!({ "user_id": bob.user_id }),
        )
        .await
        .ok();
    let summary = bob.get(&path(&room_id)).await.ok();
    assert_eq!(
        [
            &summary["membership"],
            &summary["name"],
            &summary["join_rule"],
            &summary["world_readable"]
        ],
        [
            &json!("invite"),
            &json!("secret"),
            &json!("invite"),
            &json!(false)
        ]
    );
    bob.join(&room_id).await;
    bob.leave(&room_id).await;
    bob.get(&path(&room_id)).await.refused(404, "M_NOT_FOUND");
    nobody
        .get(&path("!nowhere:example.org"))
        .await
        .refused(404, "M_NOT_FOUND");
    nobody
        .get(&path("#nowhere:example.org"))
        .await
        .refused(404, "M_NOT_FOUND");
    nobody.get(&path("nowhere")).await.refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_restricted_room_is_described_to_who_may_join_it() {
    let (alice, nobody) = server().await;
    let bob = nobody.register("bob").await;
    let space = alice.room().await;
    let rules = json!({
        "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": space }],
    });
    let initial = json!([{ "type": "m.room.join_rules", "content": rules }]);
    let room_id = alice
        .create_room(json!({ "preset": "private_chat", "initial_state": initial }))
        .await;
    bob.get(&path(&room_id)).await.refused(404, "M_NOT_FOUND");
    bob.join(&space).await;
    let summary = bob.get(&path(&room_id)).await.ok();
    assert_eq!(
        (&summary["join_rule"], &summary["allowed_room_ids"]),
        (&json!("restricted"), &json!([space]))
    );
    nobody.get(&path(&room_id)).await.refused(404, "M_NOT_FOUND");
    alice
        .set_state(&room_id, "m.room.join_rules", json!({ "join_rule": "knock" }))
        .await;
    assert_eq!(nobody.get(&path(&room_id)).await.ok()["join_rule"], "knock");
}
