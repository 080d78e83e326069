use hearth_engine::{
    account_data::{self, AccountDataError},
    push_rules::{self, PushRuleError},
    sync::{SyncRequest, sync},
};
use ruma::push::{NewPatternedPushRule, NewPushRule, RuleKind};

use super::*;

const REACTION: &str = ".m.rule.reaction";

fn keyword(word: &str) -> NewPushRule {
    NewPushRule::Content(NewPatternedPushRule::new(
        word.to_owned(),
        word.to_owned(),
        Vec::new(),
    ))
}

async fn all(server: &Server, user: &Requester) -> Value {
    serde_json::from_str(&push_rules::all(&server.engine, user).await.unwrap()).unwrap()
}

/// A sync that doesn't wait: its token, and the push rules that it tells.
async fn synced(
    server: &Server,
    user: &Requester,
    since: Option<&str>,
    full_state: bool,
) -> (String, Vec<Value>) {
    let request = SyncRequest {
        since: since.map(ToOwned::to_owned),
        full_state,
        ..SyncRequest::default()
    };
    let response = sync(&server.engine, user, request).await.unwrap();
    let told = response
        .account_data
        .events
        .iter()
        .map(|event| serde_json::from_str::<Value>(event.get()).unwrap());
    let told = told
        .filter(|event| event["type"] == "m.push_rules")
        .map(|event| event["content"].clone());
    (response.next_batch, told.collect())
}

#[tokio::test]
async fn who_never_changed_a_rule_has_the_servers_and_is_told_so_at_first() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let rules = all(&server, &alice).await;
    assert_eq!(rules["global"]["content"], json!([]));
    assert_eq!(rules["global"]["override"][0]["rule_id"], ".m.rule.master");
    let data = account_data::get_global(&server.engine, &alice, &alice.user_id, "m.push_rules")
        .await
        .unwrap();
    assert_eq!(serde_json::from_str::<Value>(&data).unwrap(), rules);
    let (token, told) = synced(&server, &alice, None, false).await;
    assert_eq!(told, std::slice::from_ref(&rules));
    assert!(synced(&server, &alice, Some(&token), false).await.1.is_empty());
    assert_eq!(synced(&server, &alice, Some(&token), true).await.1, [rules]);
}

#[tokio::test]
async fn every_change_is_told_to_who_syncs_and_outlives_a_restart() {
    let mut server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let (mut token, _) = synced(&server, &alice, None, false).await;
    let (of_bob, _) = synced(&server, &bob, None, false).await;
    for step in 0..4 {
        let engine = &server.engine;
        match step {
            0 => push_rules::set(engine, &alice, keyword("cake"), None, None)
                .await
                .unwrap(),
            1 => push_rules::set_enabled(engine, &alice, RuleKind::Override, REACTION, false)
                .await
                .unwrap(),
            2 => {
                let actions = serde_json::from_value(json!(["notify", "dont_notify", "coalesce"])).unwrap();
                push_rules::set_actions(engine, &alice, RuleKind::Content, "cake", actions)
                    .await
                    .unwrap();
            }
            _ => push_rules::delete(engine, &alice, RuleKind::Content, "cake")
                .await
                .unwrap(),
        }
        let (next, told) = synced(&server, &alice, Some(&token), false).await;
        assert_eq!(told, [all(&server, &alice).await], "step {step}");
        assert_eq!(
            told[0]["global"]["content"].as_array().unwrap().len(),
            usize::from(step < 3)
        );
        if step == 2 {
            assert_eq!(told[0]["global"]["content"][0]["actions"], json!(["notify"]));
        }
        token = next;
    }
    assert!(synced(&server, &bob, Some(&of_bob), false).await.1.is_empty());
    server.engine.shutdown.cancel();
    server.engine = engine_on(&server.db).await;
    let rules = all(&server, &alice).await;
    let reaction = rules["global"]["override"]
        .as_array()
        .unwrap()
        .iter()
        .find(|rule| rule["rule_id"] == REACTION);
    assert_eq!(reaction.unwrap()["enabled"], false);
    assert_eq!(synced(&server, &alice, None, false).await.1, [rules]);
    assert_eq!(all(&server, &bob).await["global"]["override"][7]["enabled"], true);
}

#[tokio::test]
async fn rules_set_at_once_are_all_there() {
    let server = Arc::new(Server::start().await);
    let alice = server.user("alice").await;
    let setting: Vec<_> = (0..20)
        .map(|number| {
            let (server, alice) = (Arc::clone(&server), alice.clone());
            tokio::spawn(async move {
                push_rules::set(&server.engine, &alice, keyword(&number.to_string()), None, None)
                    .await
                    .unwrap();
            })
        })
        .collect();
    for task in setting {
        task.await.unwrap();
    }
    assert_eq!(
        all(&server, &alice).await["global"]["content"]
            .as_array()
            .unwrap()
            .len(),
        20
    );
}

#[tokio::test]
async fn what_is_not_there_or_too_much_changes_nothing() {
    let server = Server::start().await;
    let (alice, engine) = (server.user("alice").await, &server.engine);
    let before = engine.log.head().position;
    let missing = push_rules::rule(engine, &alice, RuleKind::Content, "cake").await;
    assert!(matches!(missing, Err(PushRuleError::NotFound)));
    for kind in [RuleKind::Content, RuleKind::from("org.example")] {
        let changed = push_rules::set_enabled(engine, &alice, kind.clone(), "cake", true).await;
        assert!(matches!(changed, Err(PushRuleError::NotFound)));
        let changed = push_rules::set_actions(engine, &alice, kind.clone(), "cake", Vec::new()).await;
        assert!(matches!(changed, Err(PushRuleError::NotFound)));
        let deleted = push_rules::delete(engine, &alice, kind, "cake").await;
        assert!(matches!(deleted, Err(PushRuleError::NotFound)));
    }
    let deleted = push_rules::delete(engine, &alice, RuleKind::Override, REACTION).await;
    assert!(matches!(deleted, Err(PushRuleError::ServerRule)));
    let large = push_rules::set(engine, &alice, keyword(&"x".repeat(256 << 10)), None, None).await;
    assert!(matches!(large, Err(PushRuleError::TooLarge)));
    let put = account_data::set_global(engine, &alice, &alice.user_id, "m.push_rules", "{}").await;
    assert!(matches!(put, Err(AccountDataError::ServerManaged(_))));
    assert_eq!(engine.log.head().position, before);
}
