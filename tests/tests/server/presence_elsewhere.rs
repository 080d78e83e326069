//! Who is there, across servers.

use hearth_engine::federation::send_transaction_message;
use hearth_tests::{Client, Server, Two, presence, presence_is, public_chat};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName,
    api::federation::transactions::send_transaction_message::v1::Request, serde::Raw,
};
use serde_json::{Value, json};

const UNSEEN: &str = "timeout=0&set_presence=offline";

#[tokio::test]
async fn presence_crosses_servers_both_ways() {
    let two = Two::start_with(|settings| settings.presence.offline_after_s = 2).await;
    two.room().await;
    two.bob.sync_with(UNSEEN).await.ok();
    two.alice
        .set_presence(json!({ "presence": "online", "status_msg": "here" }))
        .await;
    let sync = two.bob.sync_until(presence_is(&two.alice, "online")).await;
    let content = presence(&sync, &two.alice).expect("it is told");
    assert_eq!(
        (&content["status_msg"], &content["currently_active"]),
        (&json!("here"), &json!(true))
    );
    assert!(content["last_active_ago"].is_u64(), "{content}");
    // She isn't connected, and goes.
    let sync = two.bob.sync_until(presence_is(&two.alice, "offline")).await;
    let content = presence(&sync, &two.alice).expect("it is told");
    assert!(content["last_active_ago"].is_u64(), "{content}");
    let seen = two.bob.presence_of(&two.alice).await;
    assert_eq!(
        (&seen["presence"], &seen["status_msg"]),
        (&json!("offline"), &json!("here"))
    );

    two.bob.set_presence(json!({ "presence": "unavailable" })).await;
    two.alice.sync_until(presence_is(&two.bob, "unavailable")).await;
}

#[tokio::test]
async fn a_server_that_comes_into_a_room_is_told_who_is_there() {
    let two = Two::start().await;
    let carol = two.b.register("carol").await;
    two.alice.set_presence(json!({ "presence": "online" })).await;
    two.alice.sync_until(presence_is(&two.alice, "online")).await;
    let room = two.alice.create_room(public_chat()).await.room_id();
    two.bob.join_via(&room, two.a.name()).await;
    two.bob.sees(&two.alice, "online").await;
    let path = format!("/v3/presence/{}/status", two.alice.user_id);
    carol.get(&path).await.refused(403, "M_FORBIDDEN");
    // And one of a server that is there already.
    two.bob.set_presence(json!({ "presence": "online" })).await;
    two.alice.sync_until(presence_is(&two.bob, "online")).await;
    // Her first sync says that she is online.
    carol.join_via(&room, two.a.name()).await;
    two.alice.sync_until(presence_is(&carol, "online")).await;
}

#[tokio::test]
async fn one_who_hides_is_offline_to_other_servers_too() {
    let two = Two::start().await;
    two.room().await;
    two.alice
        .set_presence(json!({ "presence": "online", "status_msg": "here" }))
        .await;
    two.bob.sync_until(presence_is(&two.alice, "online")).await;
    let hidden = json!({ "hidden": true });
    two.alice
        .set_account_data("chat.hearth.presence", hidden)
        .await
        .ok();
    let sync = two.bob.sync_until(presence_is(&two.alice, "offline")).await;
    assert_eq!(
        presence(&sync, &two.alice),
        Some(json!({ "presence": "offline" }))
    );
    assert_eq!(
        two.bob.presence_of(&two.alice).await,
        json!({ "presence": "offline" })
    );
}

/// Hands a server a transaction as if from another.
async fn transaction(to: &Server, from: &Server, txn_id: &str, edus: &[Value]) {
    let origin: OwnedServerName = from.name().try_into().expect("a server name");
    let mut request = Request::new(txn_id.into(), origin.clone(), MilliSecondsSinceUnixEpoch::now());
    let edus = edus.iter().map(|edu| {
        let json = serde_json::value::to_raw_value(edu).expect("JSON");
        Raw::from_json(json)
    });
    request.edus = edus.collect();
    send_transaction_message(to.engine(), &origin, request)
        .await
        .expect("it is taken");
}

fn said(of: &Client, presence: &Value) -> Value {
    let mut update = json!({ "user_id": of.user_id, "last_active_ago": 5_000, "presence": "online" });
    for (key, value) in presence.as_object().into_iter().flatten() {
        update[key] = value.clone();
    }
    update
}

fn edu(push: &[Value]) -> Value {
    json!({ "edu_type": "m.presence", "content": { "push": push } })
}

#[tokio::test]
async fn a_server_is_believed_of_its_own_users_only_and_of_what_makes_sense() {
    let two = Two::start().await;
    let room = two.room().await;
    let carol = two.b.register("carol").await;
    carol.join(&room).await.ok();
    two.bob.sees_membership(&room, &carol, "join").await;
    carol.sync_with(UNSEEN).await.ok();
    let odd = [
        json!({ "edu_type": "m.presence", "content": {} }),
        json!({ "edu_type": "m.presence", "content": { "push": "x" } }),
        edu(&[
            json!(5),
            json!({ "user_id": "nobody" }),
            said(&two.alice, &json!({ "presence": "dancing" })),
            said(&two.alice, &json!({ "last_active_ago": -5 })),
            // Of the receiving server itself.
            said(&two.bob, &json!({ "presence": "online" })),
            json!({ "user_id": format!("@unheard:{}", two.a.name()), "presence": "online", "last_active_ago": 1 }),
        ]),
        edu(&[said(
            &two.alice,
            &json!({ "presence": "unavailable", "status_msg": "x".repeat(5_000) }),
        )]),
    ];
    transaction(&two.b, &two.a, "one", &odd).await;
    let sync = carol.sync_until(presence_is(&two.alice, "unavailable")).await;
    let content = presence(&sync, &two.alice).expect("it is told");
    assert_eq!(
        content["status_msg"],
        Value::Null,
        "nobody's message is that long"
    );
    assert!(
        content["last_active_ago"]
            .as_u64()
            .is_some_and(|ago| ago >= 5_000),
        "{content}"
    );
    assert_ne!(carol.presence_of(&two.bob).await["presence"], "unavailable");
    let path = format!("/v3/presence/@unheard:{}/status", two.a.name());
    carol.get(&path).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn servers_are_not_told_or_not_believed_where_that_is_switched_off() {
    let two = Two::start_with(|settings| {
        settings.presence.to_servers = false;
        settings.presence.from_servers = false;
    })
    .await;
    two.room().await;
    transaction(&two.b, &two.a, "one", &[edu(&[said(&two.alice, &Value::Null)])]).await;
    two.alice.set_presence(json!({ "presence": "online" })).await;
    two.alice.sync_until(presence_is(&two.alice, "online")).await;
    let path = format!("/v3/presence/{}/status", two.alice.user_id);
    two.bob.get(&path).await.refused(404, "M_NOT_FOUND");
}
