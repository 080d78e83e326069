//! Keys of users of another server: asked for, claimed, and told of when they change.

use std::collections::BTreeMap;

use hearth_engine::federation::send_transaction_message;
use hearth_tests::{Client, Server, Two, until};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName,
    api::federation::transactions::send_transaction_message::v1::Request, serde::Raw,
};
use serde_json::{Value, json};

use super::{
    CrossSigning, claim,
    lists::{changed, encrypted_chat, left, set},
    one_time_keys, publish, query, upload, with_password,
};

async fn together(two: &Two) -> String {
    let room = two.alice.create_room(encrypted_chat()).await.room_id();
    two.alice.sync().await;
    two.bob.join_via(&room, two.a.name()).await;
    two.alice
        .sync_until(|sync| changed(sync) == set(&[&two.bob]))
        .await;
    two.bob.sync().await;
    two.bob.sync().await;
    room
}

fn devices(told: &Value, user: &Client) -> Vec<String> {
    let devices = told["device_keys"][&user.user_id].as_object().cloned();
    devices.unwrap_or_default().keys().cloned().collect()
}

#[tokio::test]
async fn keys_are_asked_for_and_claimed_across_servers() {
    let two = Two::start().await;
    let Two { alice, bob, .. } = &two;
    let keys = publish(alice).await;
    let objects = CrossSigning::new().objects(&alice.user_id);
    alice
        .post("/v3/keys/device_signing/upload", objects.clone())
        .await
        .ok();
    upload(alice, json!({ "one_time_keys": one_time_keys(alice, 0..2) })).await;
    // Of a stranger, and of one who shares a room.
    for shares in [false, true] {
        if shares {
            together(&two).await;
        }
        let told = query(bob, &[alice]).await;
        assert_eq!(
            told["device_keys"][&alice.user_id][&alice.device_id], keys,
            "{told}"
        );
        assert_eq!(told["master_keys"][&alice.user_id], objects["master_key"]);
        assert_eq!(
            told["self_signing_keys"][&alice.user_id],
            objects["self_signing_key"]
        );
        assert!(told["user_signing_keys"].is_null(), "{told}");
        let (name, _) = claim(bob, alice).await.expect("a key");
        assert_eq!(name, format!("signed_curve25519:AA0000{}", usize::from(shares)));
    }
    assert_eq!(claim(bob, alice).await, None);
}

#[tokio::test]
async fn changes_cross_servers_and_what_is_known_is_told_without_asking() {
    let mut two = Two::start().await;
    together(&two).await;
    let Two { a, alice, bob, .. } = &mut two;
    assert_eq!(devices(&query(bob, &[alice]).await, alice), Vec::<String>::new());
    publish(alice).await;
    let heard = async |bob: &Client, alice: &Client| {
        bob.sync_until(|sync| changed(sync) == set(&[alice])).await;
    };
    heard(bob, alice).await;
    assert_eq!(
        devices(&query(bob, &[alice]).await, alice),
        std::slice::from_ref(&alice.device_id)
    );
    let tablet = alice.another_device().await;
    publish(&tablet).await;
    heard(bob, alice).await;
    until("both devices are known", || async {
        (devices(&query(bob, &[alice]).await, alice).len() == 2).then_some(())
    })
    .await;
    let objects = CrossSigning::new().objects(&alice.user_id);
    alice
        .post("/v3/keys/device_signing/upload", objects.clone())
        .await
        .ok();
    heard(bob, alice).await;
    let delete = with_password(alice, &json!({ "devices": [tablet.device_id] }));
    alice.post("/v3/delete_devices", delete).await.ok();
    until("one device is known", || async {
        (devices(&query(bob, &[alice]).await, alice).len() == 1).then_some(())
    })
    .await;
    // What the other server was told it knows, though nobody can be asked.
    a.stop().await;
    let told = query(bob, &[alice]).await;
    assert_eq!(devices(&told, alice), std::slice::from_ref(&alice.device_id));
    assert_eq!(told["master_keys"][&alice.user_id], objects["master_key"]);
    assert_eq!(told["failures"], json!({}));
}

#[tokio::test]
async fn a_server_that_is_away_fails_for_its_users_alone() {
    let mut two = Two::start().await;
    let carol = two.b.register("carol").await;
    publish(&carol).await;
    let Two { a, alice, bob, .. } = &mut two;
    publish(alice).await;
    a.stop().await;
    let nobody = "@nobody:127.0.0.1:1";
    let wanted: BTreeMap<&str, Value> = [&*carol.user_id, &*alice.user_id, nobody]
        .into_iter()
        .map(|user| (user, json!([])))
        .collect();
    let told = bob
        .post(
            "/v3/keys/query",
            json!({ "device_keys": wanted, "timeout": 5_000 }),
        )
        .await
        .ok();
    assert_eq!(devices(&told, &carol), std::slice::from_ref(&carol.device_id));
    let failed: Vec<&String> = told["failures"].as_object().expect("failures").keys().collect();
    assert_eq!(failed, [nobody.split_once(':').expect("a name").1, a.name()]);
    let wanted = json!({ &alice.user_id: { &alice.device_id: "signed_curve25519" } });
    let claimed = bob
        .post("/v3/keys/claim", json!({ "one_time_keys": wanted }))
        .await
        .ok();
    assert!(claimed["failures"][a.name()].is_object(), "{claimed}");
}

#[tokio::test]
async fn what_changed_while_a_server_was_away_is_told_when_it_is_back() {
    let mut two = Two::start().await;
    together(&two).await;
    let Two { a, b, alice, bob, .. } = &mut two;
    publish(alice).await;
    bob.sync_until(|sync| changed(sync) == set(&[alice])).await;
    query(bob, &[alice]).await;
    b.stop().await;
    let tablet = alice.another_device().await;
    publish(&tablet).await;
    let objects = CrossSigning::new().objects(&alice.user_id);
    alice
        .post("/v3/keys/device_signing/upload", objects.clone())
        .await
        .ok();
    // The server that owes it goes away as well.
    a.restart().await;
    b.restart().await;
    bob.sync_until(|sync| changed(sync) == set(&[alice])).await;
    until("all is known", || async {
        let told = query(bob, &[alice]).await;
        let is_all =
            devices(&told, alice).len() == 2 && told["master_keys"][&alice.user_id] == objects["master_key"];
        is_all.then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_changed_while_no_room_was_shared_is_asked_for_when_one_is() {
    let two = Two::start().await;
    let room = together(&two).await;
    let Two { a, alice, bob, .. } = &two;
    publish(alice).await;
    bob.sync_until(|sync| changed(sync) == set(&[alice])).await;
    assert_eq!(devices(&query(bob, &[alice]).await, alice).len(), 1);
    bob.leave(&room).await.ok();
    bob.sync_until(|sync| left(sync) == set(&[alice])).await;
    alice.sync_until(|sync| left(sync) == set(&[bob])).await;
    publish(&alice.another_device().await).await;
    let path = format!("/v3/join/{room}?via={}", a.name());
    bob.post(&path, json!({})).await.ok();
    bob.sync_until(|sync| changed(sync) == set(&[alice])).await;
    assert_eq!(devices(&query(bob, &[alice]).await, alice).len(), 2);
}

/// Has a server take EDUs that another is said to have sent.
async fn receive(server: &Server, origin: &str, edus: &[Value]) {
    let origin: OwnedServerName = origin.try_into().expect("a server name");
    let txn_id = format!("told-{}", edus.len()).into();
    let mut request = Request::new(txn_id, origin.clone(), MilliSecondsSinceUnixEpoch::now());
    request.edus = edus
        .iter()
        .map(|edu| Raw::from_json(serde_json::value::to_raw_value(edu).expect("JSON")))
        .collect();
    send_transaction_message(server.engine(), &origin, request)
        .await
        .expect("it is taken");
}

#[tokio::test]
async fn a_change_that_follows_nothing_known_has_the_list_asked_for_and_one_that_makes_no_sense_does_nothing()
{
    let two = Two::start().await;
    together(&two).await;
    let Two { a, b, alice, bob, .. } = &two;
    publish(alice).await;
    bob.sync_until(|sync| changed(sync) == set(&[alice])).await;
    let is_known = async || {
        until("the device is known", || async {
            (devices(&query(bob, &[alice]).await, alice) == std::slice::from_ref(&alice.device_id))
                .then_some(())
        })
        .await;
    };
    is_known().await;
    let stranger = format!("@stranger:{}", a.name());
    let update = |user: &str, more: Value| {
        let mut content =
            json!({ "user_id": user, "device_id": "FORGED", "stream_id": 900_000, "prev_id": [1] });
        let keys = json!({
            "user_id": user, "device_id": "FORGED", "algorithms": [], "keys": {}, "signatures": {},
        });
        content["keys"] = keys;
        for (name, value) in more.as_object().expect("an object") {
            content[name] = value.clone();
        }
        json!({ "edu_type": "m.device_list_update", "content": content })
    };
    bob.sync().await;
    let nonsense = [
        update(&bob.user_id, json!({})),
        update(&stranger, json!({})),
        update(&alice.user_id, json!({ "stream_id": "new" })),
        json!({ "edu_type": "m.device_list_update", "content": 7 }),
        json!({ "edu_type": "m.signing_key_update", "content": { "user_id": alice.user_id, "master_key": {} } }),
        // It came before.
        update(&alice.user_id, json!({ "stream_id": 1, "prev_id": [] })),
    ];
    receive(b, a.name(), &nonsense).await;
    assert_eq!(
        devices(&query(bob, &[alice]).await, alice),
        std::slice::from_ref(&alice.device_id)
    );
    // What her own server told may still be on its way to him.
    until("nothing more is told", || async {
        bob.sync().await["device_lists"].is_null().then_some(())
    })
    .await;
    receive(
        b,
        a.name(),
        &[update(&alice.user_id, json!({ "prev_id": [800_000] }))],
    )
    .await;
    bob.sync_until(|sync| changed(sync) == set(&[alice])).await;
    // Her server knows of no such device.
    is_known().await;
    publish(&alice.another_device().await).await;
    until("a later device is known", || async {
        (devices(&query(bob, &[alice]).await, alice).len() == 2).then_some(())
    })
    .await;
}
