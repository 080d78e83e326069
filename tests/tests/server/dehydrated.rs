//! Dehydrated devices: they take messages while nobody is logged in to them.

use hearth_tests::{Client, Server, Two, encoded, text, until};
use serde_json::{Value, json};

const DEVICE: &str = "/unstable/org.matrix.msc3814.v1/dehydrated_device";

fn events_path(device_id: &str) -> String {
    format!("{DEVICE}/{}/events", encoded(device_id))
}

/// What a client uploads. The signatures and keys are none: the server can't tell.
fn dehydrated(of: &Client, device_id: &str) -> Value {
    let (ed25519, curve25519) = (format!("ed25519:{device_id}"), format!("curve25519:{device_id}"));
    let signatures = json!({ &of.user_id: { &ed25519: "c2lnbmF0dXJl" } });
    json!({
        "device_id": device_id,
        "initial_device_display_name": "Dehydrated",
        "device_data": { "algorithm": "org.matrix.msc3814.v2", "device_pickle": "pickle", "nonce": "nonce" },
        "device_keys": {
            "user_id": of.user_id, "device_id": device_id, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": { &ed25519: "a2V5", &curve25519: "a2V5" }, "signatures": signatures, "dehydrated": true,
        },
        "one_time_keys": { "signed_curve25519:one": { "key": "b25l", "signatures": signatures } },
        "fallback_keys": { "signed_curve25519:fallback": { "key": "ZmFsbGJhY2s", "fallback": true, "signatures": signatures } },
    })
}

async fn put(of: &Client, device_id: &str) {
    let answer = of.put(DEVICE, dehydrated(of, device_id)).await.ok();
    assert_eq!(answer, json!({ "device_id": device_id }));
}

async fn send(from: &Client, to: &str, device_id: &str, number: u64) {
    let path = format!("/v3/sendToDevice/org.example.key/{}", from.new_txn_id());
    let messages = json!({ to: { device_id: { "number": number } } });
    from.put(&path, json!({ "messages": messages })).await.ok();
}

/// The numbers in a page of messages, and what leads to the next.
async fn page(of: &Client, device_id: &str, next_batch: Option<&str>) -> (Vec<u64>, String) {
    let body = match next_batch {
        Some(next_batch) => json!({ "next_batch": next_batch }),
        None => json!({}),
    };
    let page = of.post(&events_path(device_id), body).await.ok();
    let events = page["events"].as_array().expect("events");
    let numbers = events
        .iter()
        .map(|event| event["content"]["number"].as_u64().expect("a number"));
    (
        numbers.collect(),
        page["next_batch"].as_str().expect("a token").to_owned(),
    )
}

async fn devices_of(asker: &Client, user: &Client) -> Value {
    let query = json!({ "device_keys": { &user.user_id: [] } });
    asker.post("/v3/keys/query", query).await.ok()["device_keys"][&user.user_id].clone()
}

#[tokio::test]
async fn a_dehydrated_device_is_put_found_replaced_and_deleted() {
    let mut server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    alice.get(DEVICE).await.refused(404, "M_NOT_FOUND");
    alice.delete(DEVICE, None).await.refused(404, "M_NOT_FOUND");
    put(&alice, "FIRST").await;
    server.restart().await;
    let expected = json!({ "device_id": "FIRST", "device_data": dehydrated(&alice, "FIRST")["device_data"] });
    assert_eq!(alice.get(DEVICE).await.ok(), expected);
    bob.get(DEVICE).await.refused(404, "M_NOT_FOUND");

    // Others see a device like any other, and can write to it.
    let seen = devices_of(&bob, &alice).await;
    assert_eq!(seen["FIRST"]["dehydrated"], true);
    assert_eq!(seen["FIRST"]["unsigned"]["device_display_name"], "Dehydrated");
    let claim = json!({ "one_time_keys": { &alice.user_id: { "FIRST": "signed_curve25519" } } });
    for expected in ["one", "fallback"] {
        let claimed = bob.post("/v3/keys/claim", claim.clone()).await.ok();
        let keys = &claimed["one_time_keys"][&alice.user_id]["FIRST"];
        assert!(
            keys[format!("signed_curve25519:{expected}")].is_object(),
            "{claimed}"
        );
    }
    send(&bob, &alice.user_id, "FIRST", 1).await;

    put(&alice, "SECOND").await;
    assert_eq!(alice.get(DEVICE).await.ok()["device_id"], "SECOND");
    let seen = devices_of(&bob, &alice).await;
    assert_eq!((&seen["FIRST"], seen["SECOND"].is_object()), (&Value::Null, true));
    // The same device anew is another: nothing of what waited for it is there.
    send(&bob, &alice.user_id, "SECOND", 2).await;
    put(&alice, "SECOND").await;
    assert_eq!(page(&alice, "SECOND", None).await.0, [0_u64; 0]);

    assert_eq!(
        alice.delete(DEVICE, None).await.ok(),
        json!({ "device_id": "SECOND" })
    );
    alice.get(DEVICE).await.refused(404, "M_NOT_FOUND");
    assert_eq!(devices_of(&bob, &alice).await["SECOND"], Value::Null);
    alice
        .post(&events_path("SECOND"), json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn its_messages_are_read_in_order_again_and_again_until_it_goes() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    put(&alice, "DEHYDRATED").await;
    let (none, start) = page(&alice, "DEHYDRATED", None).await;
    assert_eq!(none, [0_u64; 0]);
    for number in 0..150 {
        send(&bob, &alice.user_id, "DEHYDRATED", number).await;
    }
    // What goes to all devices goes to it.
    send(&bob, &alice.user_id, "*", 150).await;
    assert_eq!(page(&alice, "DEHYDRATED", Some(&start)).await.0.len(), 100);
    // Another client, which finds the work of the first undone.
    for client in [&alice, &alice.another_device().await] {
        let (first, next) = page(client, "DEHYDRATED", None).await;
        let (second, next) = page(client, "DEHYDRATED", Some(&next)).await;
        let (end, _) = page(client, "DEHYDRATED", Some(&next)).await;
        let read: Vec<u64> = first.iter().chain(&second).copied().collect();
        assert_eq!((first.len(), read), (100, (0..=150).collect()));
        assert_eq!(end, [0_u64; 0]);
    }
    // A sync of another device tells nothing of them.
    assert_eq!(
        alice.sync().await["to_device"]["events"].as_array().map(Vec::len),
        Some(1),
        "the one to all devices"
    );
    alice
        .post(&events_path("OTHER"), json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
    alice
        .post(&events_path(&alice.device_id), json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
    bob.post(&events_path("DEHYDRATED"), json!({}))
        .await
        .refused(403, "M_FORBIDDEN");
    alice
        .post(&events_path("DEHYDRATED"), json!({ "next_batch": "soon" }))
        .await
        .refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_dehydrated_device_takes_messages_of_another_server_while_nobody_is_logged_in() {
    let two = Two::start().await;
    let room = two.room().await;
    put(&two.alice, "DEHYDRATED").await;
    until("the other server knows the device", || async {
        let seen = devices_of(&two.bob, &two.alice).await;
        seen["DEHYDRATED"].is_object().then_some(())
    })
    .await;
    let username = two.alice.user_id.clone();
    two.alice.post("/v3/logout", json!({})).await.ok();
    send(&two.bob, &username, "DEHYDRATED", 1).await;
    two.bob
        .send(&room, "m.room.message", text("encrypted"))
        .await
        .ok();
    let login = two
        .a
        .anonymous()
        .login(&username, hearth_tests::PASSWORD)
        .await
        .ok();
    let back = two.a.anonymous().session_of(&login);
    until("the message is there", || async {
        (page(&back, "DEHYDRATED", None).await.0 == [1]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_no_dehydrated_device_is_refused_and_changes_nothing() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    put(&alice, "GOOD").await;
    let with = |change: fn(&mut Value)| {
        let mut body = dehydrated(&alice, "BAD");
        change(&mut body);
        body
    };
    for (body, status, errcode) in [
        (json!({}), 400, "M_BAD_JSON"),
        (
            with(|body| body["device_data"] = json!("pickle")),
            400,
            "M_BAD_JSON",
        ),
        (with(|body| body["device_data"] = json!({})), 400, "M_BAD_JSON"),
        (
            with(|body| body["device_data"]["x"] = json!("x".repeat(1 << 18))),
            413,
            "M_TOO_LARGE",
        ),
        (
            with(|body| body["device_id"] = json!("ANOTHER")),
            400,
            "M_INVALID_PARAM",
        ),
        (with(|body| body["device_id"] = json!("")), 400, "M_INVALID_PARAM"),
        (
            with(|body| body["device_id"] = json!("x".repeat(256))),
            400,
            "M_INVALID_PARAM",
        ),
        (
            with(|body| body["device_id"] = json!("\u{0}")),
            400,
            "M_INVALID_PARAM",
        ),
        (
            with(|body| body["initial_device_display_name"] = json!("\u{0}")),
            400,
            "M_INVALID_PARAM",
        ),
        (
            with(|body| body["device_keys"]["user_id"] = json!("@bob:example.org")),
            400,
            "M_INVALID_PARAM",
        ),
        (
            with(|body| body["device_keys"]["keys"] = json!([])),
            400,
            "M_BAD_JSON",
        ),
    ] {
        alice.put(DEVICE, body).await.refused(status, errcode);
    }
    // A device that somebody is logged in to stays theirs.
    alice
        .put(DEVICE, dehydrated(&alice, &alice.device_id))
        .await
        .refused(400, "M_INVALID_PARAM");
    alice.get("/v3/account/whoami").await.ok();
    assert_eq!(alice.get(DEVICE).await.ok()["device_id"], "GOOD");
    server
        .anonymous()
        .get(DEVICE)
        .await
        .refused(401, "M_MISSING_TOKEN");
}
