//! Tags of rooms.

use serde_json::json;

use crate::client::server;

#[tokio::test]
async fn tags_are_put_on_rooms_and_taken_off() {
    let (alice, _) = server().await;
    let room_id = alice.room().await;
    let tags = format!("/user/{}/rooms/{room_id}/tags", alice.user_id);
    assert_eq!(alice.get(&tags).await.ok(), json!({ "tags": {} }));
    let (favourite, work) = (format!("{tags}/m.favourite"), format!("{tags}/u.W%C3%B6rk"));
    assert_eq!(
        alice
            .put(&favourite, json!({ "order": 0.25, "org.example": "kept" }))
            .await
            .ok(),
        json!({})
    );
    alice.put(&work, json!({})).await.ok();
    let both = json!({ "m.favourite": { "order": 0.25, "org.example": "kept" }, "u.Wörk": {} });
    assert_eq!(alice.get(&tags).await.ok(), json!({ "tags": both }));
    // They are the room's account data, and syncs tell of them as of any other.
    let data = format!("/user/{}/rooms/{room_id}/account_data/m.tag", alice.user_id);
    assert_eq!(alice.get(&data).await.ok(), json!({ "tags": both }));
    let synced = alice.get("/sync").await.ok();
    let told = &synced["rooms"]["join"][&room_id]["account_data"]["events"];
    assert!(
        told.as_array()
            .unwrap()
            .contains(&json!({ "type": "m.tag", "content": { "tags": both } })),
        "{told}"
    );
    let since = synced["next_batch"].as_str().unwrap();
    assert_eq!(alice.delete(&favourite).await.ok(), json!({}));
    assert_eq!(alice.delete(&favourite).await.ok(), json!({}));
    assert_eq!(alice.get(&tags).await.ok(), json!({ "tags": { "u.Wörk": {} } }));
    let synced = alice.get(&format!("/sync?since={since}")).await.ok();
    let told = &synced["rooms"]["join"][&room_id]["account_data"]["events"];
    assert_eq!(
        *told,
        json!([{ "type": "m.tag", "content": { "tags": { "u.Wörk": {} } } }])
    );
}

#[tokio::test]
async fn tags_set_at_once_are_all_kept() {
    let (alice, _) = server().await;
    let room_id = alice.room().await;
    let tags = format!("/user/{}/rooms/{room_id}/tags", alice.user_id);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (alice, path) = (alice.clone(), format!("{tags}/u.{number}"));
        tasks.spawn(async move { alice.put(&path, json!({ "order": 0.5 })).await.ok() });
    }
    tasks.join_all().await;
    assert_eq!(alice.get(&tags).await.ok()["tags"].as_object().unwrap().len(), 20);
}

#[tokio::test]
async fn a_bad_tag_has_the_code_of_its_fault() {
    let (alice, nobody) = server().await;
    let bob = nobody.register("bob").await;
    let room_id = alice.room().await;
    let tags = format!("/user/{}/rooms/{room_id}/tags", alice.user_id);
    let tag = format!("{tags}/u.a");
    for (path, method) in [(&tags, "GET"), (&tag, "PUT"), (&tag, "DELETE")] {
        bob.send(method, path, "{}").await.refused(403, "M_FORBIDDEN");
        nobody
            .send(method, path, "{}")
            .await
            .refused(401, "M_MISSING_TOKEN");
    }
    alice
        .put(&tag, json!({ "order": "first" }))
        .await
        .refused(400, "M_BAD_JSON");
    alice.put(&tag, json!([])).await.refused(400, "M_BAD_JSON");
    alice.send("PUT", &tag, "{").await.refused(400, "M_NOT_JSON");
    alice
        .put(&format!("{tags}/u.{}", "x".repeat(254)), json!({}))
        .await
        .refused(400, "M_INVALID_PARAM");
    let elsewhere = tag.replace(&room_id, "!elsewhere:example.org");
    alice.put(&elsewhere, json!({})).await.refused(403, "M_FORBIDDEN");
    alice.delete(&elsewhere).await.ok();
    // Whatever a client made of the account data, tags can be put on the room.
    let data = format!("/user/{}/rooms/{room_id}/account_data/m.tag", alice.user_id);
    alice.put(&data, json!({ "tags": ["m.favourite"] })).await.ok();
    assert_eq!(alice.get(&tags).await.ok(), json!({ "tags": {} }));
    alice.put(&tag, json!({})).await.ok();
    assert_eq!(alice.get(&tags).await.ok(), json!({ "tags": { "u.a": {} } }));
}
