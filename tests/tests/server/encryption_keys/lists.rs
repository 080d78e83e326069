//! Who is told that somebody's devices changed, or that they need not be known any more.

use std::collections::BTreeSet;

use hearth_tests::{Client, Server, encoded, public_chat};
use serde_json::{Value, json};

use super::{CrossSigning, publish, query, with_password};

fn names(sync: &Value, field: &str) -> BTreeSet<String> {
    let names = sync["device_lists"][field]
        .as_array()
        .cloned()
        .unwrap_or_default();
    names
        .iter()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

/// Of whom the devices have to be asked for anew.
pub fn changed(sync: &Value) -> BTreeSet<String> {
    names(sync, "changed")
}

/// Whose devices need not be known any more.
pub fn left(sync: &Value) -> BTreeSet<String> {
    names(sync, "left")
}

pub fn set(users: &[&Client]) -> BTreeSet<String> {
    users.iter().map(|user| user.user_id.clone()).collect()
}

/// A public chat that is encrypted.
pub fn encrypted_chat() -> Value {
    let mut parameters = public_chat();
    let algorithm = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    parameters["initial_state"] =
        json!([{ "type": "m.room.encryption", "state_key": "", "content": algorithm }]);
    parameters
}

#[tokio::test]
async fn changes_are_told_to_the_user_and_to_who_shares_a_room() {
    let mut server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.create_room(encrypted_chat()).await.room_id();
    bob.join(&room).await.ok();
    for client in [&alice, &bob, &carol] {
        let first = client.sync().await;
        assert!(
            first["device_lists"].is_null(),
            "only a sync that goes on tells that: {first}"
        );
    }
    let heard = async |what: &str| {
        for client in [&alice, &bob] {
            let told = changed(&client.sync().await);
            assert_eq!(told, set(&[&alice]), "{what}, as {} hears", client.user_id);
            assert_eq!(changed(&client.sync().await), set(&[]), "once");
        }
        assert_eq!(
            changed(&carol.sync().await),
            set(&[]),
            "{what}: none of her business"
        );
    };
    publish(&alice).await;
    heard("keys").await;
    let tablet = alice.another_device().await;
    assert_eq!(
        changed(&bob.sync().await),
        set(&[]),
        "a device without keys is no news"
    );
    publish(&tablet).await;
    heard("another device").await;
    server.restart().await;
    let name = json!({ "display_name": "Tablet" });
    alice
        .put(&format!("/v3/devices/{}", tablet.device_id), name)
        .await
        .ok();
    heard("a name").await;
    let keys = CrossSigning::new().objects(&alice.user_id);
    alice.post("/v3/keys/device_signing/upload", keys).await.ok();
    heard("cross-signing keys").await;
    server.restart().await;
    let delete = with_password(&alice, &json!({ "devices": [tablet.device_id] }));
    alice.post("/v3/delete_devices", delete).await.ok();
    heard("a deletion").await;
    let keys = query(&bob, &[&alice]).await;
    let devices = keys["device_keys"][&alice.user_id]
        .as_object()
        .map(serde_json::Map::len);
    assert_eq!(devices, Some(1));
}

#[tokio::test]
async fn who_waits_hears_of_a_change_at_once() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(encrypted_chat()).await.room_id();
    bob.join(&room).await.ok();
    bob.sync().await;
    let (told, _) = tokio::join!(bob.sync_until(|sync| !changed(sync).is_empty()), publish(&alice));
    assert_eq!(changed(&told), set(&[&alice]));
}

#[tokio::test]
async fn who_comes_to_share_an_encrypted_room_counts_as_changed_and_who_shares_none_any_more_as_left() {
    let mut server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (one, two) = (
        alice.create_room(encrypted_chat()).await.room_id(),
        alice.create_room(encrypted_chat()).await.room_id(),
    );
    let plain = alice.create_room(public_chat()).await.room_id();
    alice.sync().await;
    bob.sync().await;
    bob.join(&plain).await.ok();
    for client in [&alice, &bob] {
        assert_eq!(changed(&client.sync().await), set(&[]), "not encrypted");
    }
    bob.join(&one).await.ok();
    assert_eq!(changed(&alice.sync().await), set(&[&bob]));
    assert_eq!(changed(&bob.sync().await), set(&[&alice]));
    bob.join(&two).await.ok();
    alice.sync().await;
    bob.sync().await;
    bob.leave(&one).await.ok();
    for client in [&alice, &bob] {
        let told = client.sync().await;
        assert_eq!(
            (changed(&told), left(&told)),
            (set(&[]), set(&[])),
            "there is another room"
        );
    }
    let profile = json!({ "membership": "join", "displayname": "Bob" });
    bob.send_state(&two, "m.room.member", &bob.user_id, profile)
        .await
        .event_id();
    assert_eq!(changed(&alice.sync().await), set(&[]), "a name is no join");
    bob.leave(&two).await.ok();
    assert_eq!(left(&alice.sync().await), set(&[&bob]));
    assert_eq!(left(&bob.sync().await), set(&[&alice]));
    // Away and back between two syncs: what happened meanwhile nobody was told.
    bob.join(&one).await.ok();
    alice.sync().await;
    bob.leave(&one).await.ok();
    publish(&bob).await;
    bob.join(&one).await.ok();
    server.restart().await;
    let told = alice.sync().await;
    assert_eq!((changed(&told), left(&told)), (set(&[&bob]), set(&[])));
    alice.kick(&one, &bob, None).await.ok();
    server.restart().await;
    assert_eq!(left(&alice.sync().await), set(&[&bob]));
}

#[tokio::test]
async fn the_members_of_a_room_that_becomes_encrypted_count_as_changed() {
    let mut server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for restarts in [false, true] {
        let room = alice.create_room(public_chat()).await.room_id();
        bob.join(&room).await.ok();
        alice.sync().await;
        let since = alice.since().expect("a token");
        bob.sync().await;
        let algorithm = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        alice
            .send_state(&room, "m.room.encryption", "", algorithm.clone())
            .await
            .event_id();
        if restarts {
            server.restart().await;
        }
        assert_eq!(changed(&alice.sync().await), set(&[&bob]));
        assert_eq!(changed(&bob.sync().await), set(&[&alice]));
        let again = json!({ "algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 5 });
        alice
            .send_state(&room, "m.room.encryption", "", again)
            .await
            .event_id();
        assert_eq!(changed(&bob.sync().await), set(&[]), "it was before");
        let (since, upto) = (encoded(&since), encoded(&alice.since().expect("a token")));
        let path = format!("/v3/keys/changes?from={since}&to={upto}");
        let told = alice.get(&path).await.ok();
        assert_eq!(told, json!({ "changed": [bob.user_id], "left": [] }));
        alice.leave(&room).await.ok();
        bob.leave(&room).await.ok();
    }
    alice
        .get("/v3/keys/changes?from=x&to=y")
        .await
        .refused(400, "M_INVALID_PARAM");
    alice
        .get("/v3/keys/changes?from=h1_1")
        .await
        .refused(400, "M_MISSING_PARAM");
}
