//! Keys between the two: devices that come and go, one-time keys and cross-signing.

use hearth_tests::{Client, until};
use serde_json::{Value, json};

use super::{Pair, Scenarios, Side, join_via};
use crate::encryption_keys::{
    claim,
    lists::{changed, encrypted_chat},
    publish, query,
    signing::{CrossSigning, one_time_keys},
    upload,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_synapse_devices_and_keys_are_known_on_the_other_side() {
    let pair = Pair::start().await;
    let mut scenarios = Scenarios::default();
    scenarios.both_ways(&pair, "devices that come and go", devices_come_and_go);
    scenarios.play().await;
}

fn devices(told: &Value, user: &Client) -> usize {
    told["device_keys"][&user.user_id]
        .as_object()
        .map_or(0, serde_json::Map::len)
}

async fn devices_come_and_go(host: Side, guest: Side) {
    let alice = host.register("alice.keys").await;
    let bob = guest.register("bob.keys").await;
    let keys = publish(&alice).await;
    upload(&alice, json!({ "one_time_keys": one_time_keys(&alice, 0..2) })).await;
    let room = alice.create_room(encrypted_chat()).await.room_id();
    alice.sync().await;
    bob.sync().await;
    join_via(&bob, &room, &host).await;
    let told = query(&bob, &[&alice]).await;
    let mut known = told["device_keys"][&alice.user_id][&alice.device_id].clone();
    known.as_object_mut().expect("an object").remove("unsigned");
    assert_eq!(known, keys, "{told}");
    let (name, _) = claim(&bob, &alice).await.expect("a key");
    assert_eq!(name, "signed_curve25519:AA00000");

    let hears = async |what: &str, is_so: &(dyn Fn(&Value) -> bool + Sync)| {
        bob.sync_until(|sync| changed(sync).contains(&alice.user_id))
            .await;
        until(what, || async {
            is_so(&query(&bob, &[&alice]).await).then_some(())
        })
        .await;
    };
    let tablet = alice.another_device().await;
    publish(&tablet).await;
    hears("a device that came is known", &|told| devices(told, &alice) == 2).await;
    let objects = CrossSigning::new().objects(&alice.user_id);
    alice
        .post("/v3/keys/device_signing/upload", objects.clone())
        .await
        .ok();
    hears("cross-signing keys are known", &|told| {
        told["master_keys"][&alice.user_id]["keys"] == objects["master_key"]["keys"]
            && told["self_signing_keys"][&alice.user_id]["keys"] == objects["self_signing_key"]["keys"]
    })
    .await;
    tablet.post("/v3/logout", json!({})).await.ok();
    hears("a device that went is gone", &|told| devices(told, &alice) == 1).await;
}
