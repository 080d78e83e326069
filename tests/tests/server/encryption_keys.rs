//! Keys for end-to-end encryption: published, asked for, claimed and signed, on one server and across two.

mod elsewhere;
pub mod lists;
pub mod signing;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::future::join_all;
use hearth_engine::{Engine, encryption::claim};
use hearth_tests::{Client, Server};
use serde_json::{Value, json};

use signing::{CrossSigning, device_keys, one_time_keys, with_password};

/// Publishes the identity keys of a device.
pub async fn publish(client: &Client) -> Value {
    let (keys, _) = device_keys(client);
    upload(client, json!({ "device_keys": keys })).await;
    keys
}

pub async fn upload(client: &Client, body: Value) -> Value {
    client.post("/v3/keys/upload", body).await.ok()
}

/// What `asker` is told of users, all devices of each.
pub async fn query(asker: &Client, users: &[&Client]) -> Value {
    let wanted: BTreeMap<&str, Value> = users.iter().map(|user| (&*user.user_id, json!([]))).collect();
    asker
        .post("/v3/keys/query", json!({ "device_keys": wanted }))
        .await
        .ok()
}

/// A key of a device: its name and itself.
pub async fn claim(asker: &Client, device: &Client) -> Option<(String, Value)> {
    let wanted = json!({ &device.user_id: { &device.device_id: "signed_curve25519" } });
    let answer = asker
        .post("/v3/keys/claim", json!({ "one_time_keys": wanted }))
        .await
        .ok();
    assert!(answer["failures"].is_object(), "{answer}");
    let keys = answer["one_time_keys"][&device.user_id][&device.device_id].as_object()?;
    assert_eq!(keys.len(), 1, "{answer}");
    keys.iter().next().map(|(name, key)| (name.clone(), key.clone()))
}

/// The name of a key of a device, claimed as a request does it, without a connection of its own.
async fn claim_in(engine: &Arc<Engine>, device: &Client) -> String {
    let wanted = json!({ &device.user_id: { &device.device_id: "signed_curve25519" } });
    let wanted = serde_json::from_value(wanted).expect("a claim");
    let answer = claim::claim(engine, wanted, None).await.expect("an answer");
    let keys = answer.one_time_keys.into_values().flat_map(BTreeMap::into_values);
    let names: Vec<String> = keys.flat_map(BTreeMap::into_keys).collect();
    let [name] = &names[..] else { panic!("{names:?}") };
    name.clone()
}

fn fallback(client: &Client, id: &str) -> Value {
    let signatures = json!({ &client.user_id: { format!("ed25519:{}", client.device_id): "sig" } });
    json!({ format!("signed_curve25519:{id}"): { "key": id, "fallback": true, "signatures": signatures } })
}

#[tokio::test]
async fn keys_of_a_device_are_told_as_they_were_published_with_its_name_beside_them() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let keys = publish(&alice).await;
    alice
        .put(
            &format!("/v3/devices/{}", alice.device_id),
            json!({ "display_name": "Phone" }),
        )
        .await
        .ok();
    let told = query(&bob, &[&alice, &bob]).await;
    let mut expected = keys.clone();
    expected["unsigned"] = json!({ "device_display_name": "Phone" });
    assert_eq!(
        told["device_keys"][&alice.user_id],
        json!({ &alice.device_id: expected })
    );
    assert_eq!(told["device_keys"][&bob.user_id], json!({}), "no keys, no device");
    assert_eq!(told["failures"], json!({}));
    let other = json!({ &alice.user_id: ["OTHER"] });
    let told = bob
        .post("/v3/keys/query", json!({ "device_keys": other }))
        .await
        .ok();
    assert_eq!(told["device_keys"][&alice.user_id], json!({}));
    alice.post("/v3/logout", json!({})).await.ok();
    let told = query(&bob, &[&alice]).await;
    assert_eq!(
        told["device_keys"][&alice.user_id],
        json!({}),
        "its keys went with it"
    );
}

#[tokio::test]
async fn keys_that_are_not_the_device_s_own_or_not_keys_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let (keys, _) = device_keys(&alice);
    let refused = async |change: &dyn Fn(&mut Value), status: u16, errcode: &str| {
        let mut keys = keys.clone();
        change(&mut keys);
        alice
            .post("/v3/keys/upload", json!({ "device_keys": keys }))
            .await
            .refused(status, errcode);
    };
    let other = format!("@bob:{}", server.name());
    refused(&|keys| keys["user_id"] = json!(other), 400, "M_INVALID_PARAM").await;
    refused(&|keys| keys["device_id"] = json!("OTHER"), 400, "M_INVALID_PARAM").await;
    refused(&|keys| keys["keys"] = json!([]), 400, "M_BAD_JSON").await;
    refused(&|keys| keys["algorithms"] = json!("olm"), 400, "M_BAD_JSON").await;
    refused(
        &|keys| keys["signatures"] = json!({ "a": "b" }),
        400,
        "M_BAD_JSON",
    )
    .await;
    refused(&|keys| keys["x"] = json!(1.5), 400, "M_BAD_JSON").await;
    refused(&|keys| keys["x"] = json!("x".repeat(40_000)), 413, "M_TOO_LARGE").await;
    for (name, key, status, errcode) in [
        ("signed_curve25519:A", json!({ "key": 1 }), 400, "M_BAD_JSON"),
        ("signed_curve25519:A", json!(7), 400, "M_BAD_JSON"),
        ("curve25519:A\0", json!("a"), 400, "M_INVALID_PARAM"),
        ("curve25519:A", json!("a".repeat(9_000)), 413, "M_TOO_LARGE"),
    ] {
        alice
            .post("/v3/keys/upload", json!({ "one_time_keys": { name: key } }))
            .await
            .refused(status, errcode);
    }
    let two = json!({ "curve25519:A": "a", "curve25519:B": "b" });
    alice
        .post("/v3/keys/upload", json!({ "fallback_keys": two }))
        .await
        .refused(400, "M_INVALID_PARAM");
    alice
        .post(
            "/v3/keys/upload",
            json!({ "one_time_keys": one_time_keys(&alice, 0..2_001) }),
        )
        .await
        .refused(413, "M_TOO_LARGE");
    assert_eq!(
        upload(&alice, json!({})).await["one_time_key_counts"],
        json!({ "signed_curve25519": 0 }),
        "nothing of all that was taken"
    );
}

#[tokio::test]
async fn an_upload_again_changes_nothing_and_other_keys_of_the_same_names_are_refused() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let keys = one_time_keys(&alice, 0..5);
    for _ in 0..2 {
        let counts = upload(&alice, json!({ "one_time_keys": keys })).await;
        assert_eq!(counts["one_time_key_counts"], json!({ "signed_curve25519": 5 }));
    }
    let mut other = one_time_keys(&alice, 4..7);
    other["signed_curve25519:AA00004"]["key"] = json!("another");
    alice
        .post("/v3/keys/upload", json!({ "one_time_keys": other }))
        .await
        .refused(400, "M_INVALID_PARAM");
    let (name, _) = claim(&bob, &alice).await.expect("a key");
    assert_eq!(name, "signed_curve25519:AA00000");
    let counts = upload(&alice, json!({ "one_time_keys": keys })).await;
    assert_eq!(
        counts["one_time_key_counts"],
        json!({ "signed_curve25519": 4 }),
        "a key that was given out does not come back"
    );
}

#[tokio::test]
async fn one_time_keys_go_in_the_order_of_upload() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for ids in [20..23, 10..13, 0..3] {
        upload(&alice, json!({ "one_time_keys": one_time_keys(&alice, ids) })).await;
    }
    let mut given = Vec::new();
    while let Some((name, _)) = claim(&bob, &alice).await {
        given.push(name);
    }
    let ids: Vec<usize> = [20..23, 10..13, 0..3].into_iter().flatten().collect();
    let expected: Vec<String> = ids
        .iter()
        .map(|id| format!("signed_curve25519:AA{id:05}"))
        .collect();
    assert_eq!(given, expected);
}

#[tokio::test]
async fn a_thousand_claims_at_once_get_five_hundred_keys_once_each_and_then_the_fallback() {
    let mut server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for first in (0..500).step_by(100) {
        upload(
            &alice,
            json!({ "one_time_keys": one_time_keys(&alice, first..first + 100) }),
        )
        .await;
    }
    upload(&alice, json!({ "fallback_keys": fallback(&alice, "FALLBACK") })).await;
    let before = alice.sync().await;
    assert_eq!(
        (
            &before["device_one_time_keys_count"],
            &before["device_unused_fallback_key_types"]
        ),
        (
            &json!({ "signed_curve25519": 500 }),
            &json!(["signed_curve25519"])
        )
    );
    let given: Vec<String> = {
        // As many connections at once as this machine hands over in a moment are fewer.
        let claims = (0..1_000).map(|_| claim_in(server.engine(), &alice));
        join_all(claims).await
    };
    let once: BTreeSet<&String> = given.iter().filter(|name| name.contains(":AA")).collect();
    let fallbacks = given.iter().filter(|name| name.ends_with(":FALLBACK")).count();
    assert_eq!((once.len(), fallbacks), (500, 500));
    server.restart().await;
    let (name, key) = claim(&bob, &alice).await.expect("a key");
    assert_eq!(
        (&*name, &key["fallback"]),
        ("signed_curve25519:FALLBACK", &json!(true))
    );
    let after = alice.sync().await;
    assert_eq!(
        (
            &after["device_one_time_keys_count"],
            &after["device_unused_fallback_key_types"]
        ),
        (&json!({ "signed_curve25519": 0 }), &json!([]))
    );
    upload(&alice, json!({ "fallback_keys": fallback(&alice, "FALLBACK") })).await;
    assert_eq!(
        alice.sync().await["device_unused_fallback_key_types"],
        json!([]),
        "the same again is as used as it was"
    );
    upload(&alice, json!({ "fallback_keys": fallback(&alice, "NEXT") })).await;
    assert_eq!(
        alice.sync().await["device_unused_fallback_key_types"],
        json!(["signed_curve25519"])
    );
}

#[tokio::test]
async fn every_sync_counts_keys_and_one_that_waits_ends_when_they_are_fewer() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let first = alice.sync().await;
    assert_eq!(
        (
            &first["device_one_time_keys_count"],
            &first["device_unused_fallback_key_types"]
        ),
        (&json!({ "signed_curve25519": 0 }), &json!([]))
    );
    upload(&alice, json!({ "one_time_keys": one_time_keys(&alice, 0..3) })).await;
    alice.sync().await;
    let (told, claimed) = tokio::join!(
        alice.sync_until(|sync| { sync["device_one_time_keys_count"]["signed_curve25519"] == 2 }),
        claim(&bob, &alice)
    );
    assert!(claimed.is_some());
    assert!(told["rooms"].is_null(), "{told}");
    let other = alice.another_device().await;
    assert_eq!(
        other.sync().await["device_one_time_keys_count"],
        json!({ "signed_curve25519": 0 }),
        "each device has its own"
    );
}

#[tokio::test]
async fn cross_signing_keys_need_the_password_only_to_be_replaced() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let path = "/v3/keys/device_signing/upload";
    let keys = CrossSigning::new().objects(&alice.user_id);
    let alone = json!({ "self_signing_key": keys["self_signing_key"] });
    alice.post(path, alone).await.refused(400, "M_MISSING_PARAM");
    alice.post(path, keys.clone()).await.ok();
    alice.post(path, keys.clone()).await.ok();
    let told = query(&alice, &[&alice]).await;
    for (field, key) in [
        ("master_keys", "master_key"),
        ("self_signing_keys", "self_signing_key"),
        ("user_signing_keys", "user_signing_key"),
    ] {
        assert_eq!(told[field][&alice.user_id], keys[key]);
    }
    let told = query(&bob, &[&alice]).await;
    assert_eq!(told["master_keys"][&alice.user_id], keys["master_key"]);
    assert!(told["user_signing_keys"].is_null(), "only its owner sees that");

    let others = CrossSigning::new().objects(&alice.user_id);
    let challenge = alice.post(path, others.clone()).await;
    assert_eq!(challenge.status, 401, "{challenge:?}");
    assert!(challenge.body["flows"].is_array(), "{challenge:?}");
    assert_eq!(
        query(&bob, &[&alice]).await["master_keys"][&alice.user_id],
        keys["master_key"]
    );
    alice.post(path, with_password(&alice, &others)).await.ok();
    assert_eq!(
        query(&bob, &[&alice]).await["master_keys"][&alice.user_id],
        others["master_key"]
    );
}

#[tokio::test]
async fn cross_signing_keys_must_be_signed_be_for_their_use_and_no_device() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let path = "/v3/keys/device_signing/upload";
    let mut keys = CrossSigning::new().objects(&alice.user_id);
    let stranger = CrossSigning::new().objects(&alice.user_id);
    let own = keys["self_signing_key"].take();
    keys["self_signing_key"] = stranger["self_signing_key"].clone();
    alice
        .post(path, keys.clone())
        .await
        .refused(400, "M_INVALID_SIGNATURE");
    keys["self_signing_key"] = own.clone();
    keys["self_signing_key"]["usage"] = json!(["master"]);
    alice
        .post(path, keys.clone())
        .await
        .refused(400, "M_INVALID_PARAM");
    keys["self_signing_key"] = own.clone();
    keys["self_signing_key"]["keys"]["ed25519:two"] = json!("two");
    alice.post(path, keys.clone()).await.refused(400, "M_BAD_JSON");
    keys["self_signing_key"] = own;
    keys["master_key"]["user_id"] = json!("@bob:elsewhere");
    alice.post(path, keys).await.refused(400, "M_INVALID_PARAM");
    let id = format!("ed25519:{}", alice.device_id);
    let device = json!({ "user_id": alice.user_id, "usage": ["master"], "keys": { id: alice.device_id } });
    alice
        .post(path, json!({ "master_key": device }))
        .await
        .refused(403, "M_FORBIDDEN");
    assert!(query(&alice, &[&alice]).await["master_keys"].is_null());
}

#[tokio::test]
async fn signatures_are_judged_one_by_one_and_seen_by_whom_they_concern() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let (device, pair) = device_keys(&alice);
    upload(&alice, json!({ "device_keys": device })).await;
    let (own, theirs) = (CrossSigning::new(), CrossSigning::new());
    for (client, keys) in [(&alice, &own), (&bob, &theirs)] {
        let objects = keys.objects(&client.user_id);
        client.post("/v3/keys/device_signing/upload", objects).await.ok();
    }
    alice.sync().await;
    let unsigned = |object: &Value| {
        let mut object = object.clone();
        object.as_object_mut().expect("an object").remove("signatures");
        object
    };
    let signed_device = own.self_signing.sign(&alice.user_id, &unsigned(&device));
    let master = own.objects(&alice.user_id)["master_key"].clone();
    let signed_master = pair.sign(&alice.user_id, &master);
    let their_master = theirs.objects(&bob.user_id)["master_key"].clone();
    let signed_theirs = own.user_signing.sign(&alice.user_id, &their_master);
    let wrong = own.master.sign(&alice.user_id, &their_master);
    let mut changed = signed_device.clone();
    changed["algorithms"] = json!([]);
    let sign = async |body: Value| alice.post("/v3/keys/signatures/upload", body).await.ok();

    let failed = sign(json!({
        &alice.user_id: { &alice.device_id: changed, "NONE": signed_device },
        &bob.user_id: { &theirs.master.public: wrong },
    }))
    .await;
    let errcode = |user: &Client, key: &str| failed["failures"][&user.user_id][key]["errcode"].clone();
    assert_eq!(errcode(&alice, &alice.device_id), "M_INVALID_PARAM");
    assert_eq!(errcode(&alice, "NONE"), "M_NOT_FOUND");
    assert_eq!(
        errcode(&bob, &theirs.master.public),
        "M_NOT_FOUND",
        "not by the user-signing key"
    );
    let mut forged = signed_device.clone();
    let key = format!("ed25519:{}", own.self_signing.public);
    forged["signatures"][&alice.user_id][&key] =
        signed_theirs["signatures"][&alice.user_id][format!("ed25519:{}", own.user_signing.public)].clone();
    let failed = sign(json!({ &alice.user_id: { &alice.device_id: forged } })).await;
    assert_eq!(
        failed["failures"][&alice.user_id][&alice.device_id]["errcode"],
        "M_INVALID_SIGNATURE"
    );
    assert!(alice.sync().await["device_lists"].is_null(), "nothing changed");

    let done = sign(json!({
        &alice.user_id: { &alice.device_id: signed_device, &own.master.public: signed_master },
        &bob.user_id: { &theirs.master.public: signed_theirs },
    }))
    .await;
    assert_eq!(done, json!({ "failures": {} }));
    let told = query(&carol, &[&alice, &bob]).await;
    let signatures = &told["device_keys"][&alice.user_id][&alice.device_id]["signatures"][&alice.user_id];
    assert_eq!(
        signatures.as_object().map(serde_json::Map::len),
        Some(2),
        "{signatures}"
    );
    let of_master = &told["master_keys"][&alice.user_id]["signatures"][&alice.user_id];
    assert!(
        of_master[format!("ed25519:{}", alice.device_id)].is_string(),
        "{told}"
    );
    let by_alice = |told: &Value| told["master_keys"][&bob.user_id]["signatures"][&alice.user_id].is_object();
    assert!(
        !by_alice(&told),
        "whom alice has verified is nobody else's business"
    );
    assert!(!by_alice(&query(&bob, &[&bob]).await));
    assert!(by_alice(&query(&alice, &[&bob]).await));
    let changed = lists::changed(&alice.sync().await);
    assert_eq!(
        changed,
        BTreeSet::from([alice.user_id.clone(), bob.user_id.clone()])
    );
}
