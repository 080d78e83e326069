//! Push rules (client-server API, "Push Rules"): the server's own, and what users make of them.
//!
//! They are account data, `m.push_rules`, so that sync tells of changes. Nothing is stored for a user who never changed
//! any: they have the server's. The server's rules in a stored set are those of the version that stored it, so every
//! reader brings a set up to date first ([`parse`]).

mod carry_over;

use std::sync::Arc;

pub(crate) use carry_over::carry_over;
use hearth_storage::{
    account_data,
    log::{AccountData, Change, Fact},
};
use ruma::{
    UserId,
    push::{Action, AnyPushRule, InsertPushRuleError, NewPushRule, RemovePushRuleError, RuleKind, Ruleset},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Engine, Error, accounts::Requester};

/// The type of account data that push rules are.
pub(crate) const PUSH_RULES: &str = "m.push_rules";
/// All rules of a user together take this much at most, in bytes of JSON: some two thousand muted rooms.
const MAX_BYTES: usize = 256 << 10;
/// Every kind of rule, each a list in a set of rules.
const KINDS: [&str; 5] = ["content", "override", "room", "sender", "underride"];
/// Actions that mean nothing any more (client-server API, "Historical Actions").
const HISTORICAL: [&str; 2] = ["dont_notify", "coalesce"];

/// Why a push rule was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum PushRuleError {
    /// There is no such rule.
    #[error("there is no such push rule")]
    NotFound,
    /// The rule to place a rule by is not there, or is the rule itself.
    #[error("before/after rule not found: {0}")]
    UnknownNeighbour(String),
    /// A rule can't be placed by one of the server's.
    #[error("a rule can't be placed by one of the server's")]
    ServerNeighbour,
    /// Only the server's rules have IDs that begin with a dot.
    #[error("the ID of a rule doesn't begin with a dot: those are the server's")]
    ReservedId,
    /// No rule may have this ID.
    #[error("the ID of a rule is not empty, and has no slashes or backslashes")]
    BadId,
    /// The server's rules can be disabled, not deleted.
    #[error("the server's rules can be disabled, not deleted")]
    ServerRule,
    /// The user has too many rules, or too long ones.
    #[error("the push rules of a user take {MAX_BYTES} bytes at most")]
    TooLarge,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<hearth_storage::StorageError> for PushRuleError {
    fn from(error: hearth_storage::StorageError) -> Self {
        Self::Failed(error.into())
    }
}

/// The rules of the requester as clients get them, JSON: `{"global": …}`, every kind included.
pub async fn all(engine: &Engine, requester: &Requester) -> Result<Arc<str>, PushRuleError> {
    Ok(content(&load(engine, requester).await?)?)
}

/// The global rules of the requester, JSON: what is under `global` of [`all`].
pub async fn global(engine: &Engine, requester: &Requester) -> Result<Arc<str>, PushRuleError> {
    Ok(to_value(&load(engine, requester).await?)?.to_string().into())
}

/// One rule of the requester.
pub async fn rule(
    engine: &Engine,
    requester: &Requester,
    kind: RuleKind,
    rule_id: &str,
) -> Result<AnyPushRule, PushRuleError> {
    let rules = load(engine, requester).await?;
    rules
        .get(kind, rule_id)
        .map(|rule| rule.to_owned())
        .ok_or(PushRuleError::NotFound)
}

/// Adds a rule of the requester's, or changes it: it stands right after rule `after`, or right before rule `before`,
/// which decides where both are given. Without either a new rule comes first, and one there is stays where it is.
pub async fn set(
    engine: &Engine,
    requester: &Requester,
    rule: NewPushRule,
    after: Option<&str>,
    before: Option<&str>,
) -> Result<(), PushRuleError> {
    change(engine, requester, |rules| insert(rules, rule, after, before)).await
}

/// Deletes a rule of the requester's own.
pub async fn delete(
    engine: &Engine,
    requester: &Requester,
    kind: RuleKind,
    rule_id: &str,
) -> Result<(), PushRuleError> {
    let delete = |rules: &mut Ruleset| {
        rules.remove(kind, rule_id).map_err(|error| match error {
            RemovePushRuleError::ServerDefault => PushRuleError::ServerRule,
            _ => PushRuleError::NotFound,
        })
    };
    change(engine, requester, delete).await
}

/// Enables or disables a rule, which may be one of the server's.
pub async fn set_enabled(
    engine: &Engine,
    requester: &Requester,
    kind: RuleKind,
    rule_id: &str,
    enabled: bool,
) -> Result<(), PushRuleError> {
    let set = |rules: &mut Ruleset| {
        rules
            .set_enabled(kind, rule_id, enabled)
            .map_err(|_| PushRuleError::NotFound)
    };
    change(engine, requester, set).await
}

/// Sets what a rule does, which may be one of the server's.
pub async fn set_actions(
    engine: &Engine,
    requester: &Requester,
    kind: RuleKind,
    rule_id: &str,
    actions: Vec<Action>,
) -> Result<(), PushRuleError> {
    let set = |rules: &mut Ruleset| {
        rules
            .set_actions(kind, rule_id, without_historical(actions))
            .map_err(|_| PushRuleError::NotFound)
    };
    change(engine, requester, set).await
}

/// The rules of a user: those stored, with the server's brought up to date, or the server's alone.
pub(crate) fn parse(user_id: &UserId, stored: Option<&str>) -> Result<Ruleset, Error> {
    #[derive(Deserialize)]
    struct Content {
        global: Ruleset,
    }
    let server_default = Ruleset::server_default(user_id);
    let Some(stored) = stored else {
        return Ok(server_default);
    };
    let content: Content = serde_json::from_str(stored)
        .map_err(|error| Error::Damaged(format!("push rules of {user_id}: {error}")))?;
    let mut rules = content.global;
    rules.update_with_server_default(server_default);
    Ok(rules)
}

/// The content of `m.push_rules` to tell a user: as stored, or the server's rules.
pub(crate) fn told(user_id: &UserId, stored: Option<&str>) -> Result<Arc<str>, Error> {
    content(&parse(user_id, stored)?)
}

async fn load(engine: &Engine, requester: &Requester) -> Result<Ruleset, Error> {
    let mut connection = engine.db.acquire().await?;
    let stored = account_data::find(&mut connection, requester.user_nid, None, PUSH_RULES).await?;
    parse(&requester.user_id, stored.as_deref())
}

/// Changes the rules of the requester, one change after the other.
async fn change(
    engine: &Engine,
    requester: &Requester,
    change: impl FnOnce(&mut Ruleset) -> Result<(), PushRuleError>,
) -> Result<(), PushRuleError> {
    let _turn = engine.receipt_turns.of(requester.user_nid).await;
    let mut rules = load(engine, requester).await?;
    change(&mut rules)?;
    let content = content(&rules)?;
    if content.len() > MAX_BYTES {
        return Err(PushRuleError::TooLarge);
    }
    let data = AccountData {
        user_nid: requester.user_nid,
        room_nid: None,
        data_type: PUSH_RULES.into(),
        content,
    };
    engine
        .log
        .commit(Change::of(Fact::AccountData(data)))
        .await
        .map_err(Error::from)?;
    Ok(())
}

fn content(rules: &Ruleset) -> Result<Arc<str>, Error> {
    Ok(json!({ "global": to_value(rules)? }).to_string().into())
}

/// A set of rules as JSON. ruma leaves out kinds without a rule, and there are clients that insist on all.
fn to_value(rules: &Ruleset) -> Result<Value, Error> {
    let mut value =
        serde_json::to_value(rules).map_err(|error| Error::Damaged(format!("push rules: {error}")))?;
    if let Some(global) = value.as_object_mut() {
        for kind in KINDS {
            global.entry(kind).or_insert_with(|| json!([]));
        }
    }
    Ok(value)
}

fn insert(
    rules: &mut Ruleset,
    rule: NewPushRule,
    after: Option<&str>,
    before: Option<&str>,
) -> Result<(), PushRuleError> {
    let (kind, rule_id) = (rule.kind(), rule.rule_id().to_owned());
    if rule_id.is_empty() {
        return Err(PushRuleError::BadId);
    }
    for neighbour in [after, before].into_iter().flatten() {
        // Not relative to itself: it is taken out first.
        if !neighbour.starts_with('.')
            && (neighbour == rule_id || rules.get(kind.clone(), neighbour).is_none())
        {
            return Err(PushRuleError::UnknownNeighbour(neighbour.to_owned()));
        }
    }
    let existing = rules.get(kind.clone(), &rule_id).map(|rule| rule.enabled());
    // ruma counts places before it takes the rule out of its old one: let there be none.
    let moves = after.is_some() || before.is_some();
    if existing.is_some() && moves {
        rules
            .remove(kind.clone(), &rule_id)
            .map_err(|_| PushRuleError::ReservedId)?;
    }
    let after = if before.is_some_and(|before| !before.starts_with('.')) {
        None
    } else {
        after
    };
    rules
        .insert(stripped(rule), after, before)
        .map_err(|error| match error {
            InsertPushRuleError::ServerDefaultRuleId => PushRuleError::ReservedId,
            InsertPushRuleError::RelativeToServerDefaultRule => PushRuleError::ServerNeighbour,
            InsertPushRuleError::UnknownRuleId | InsertPushRuleError::BeforeHigherThanAfter => {
                PushRuleError::UnknownNeighbour(after.or(before).unwrap_or_default().to_owned())
            }
            _ => PushRuleError::BadId,
        })?;
    match existing {
        // One that is changed stays as it was, enabled or not.
        Some(enabled) => rules
            .set_enabled(kind, &rule_id, enabled)
            .map_err(|_| PushRuleError::NotFound),
        None => Ok(()),
    }
}

fn stripped(mut rule: NewPushRule) -> NewPushRule {
    let actions = match &mut rule {
        NewPushRule::Override(rule) | NewPushRule::Underride(rule) => &mut rule.actions,
        NewPushRule::Content(rule) => &mut rule.actions,
        NewPushRule::Room(rule) => &mut rule.actions,
        NewPushRule::Sender(rule) => &mut rule.actions,
        _ => return rule,
    };
    *actions = without_historical(std::mem::take(actions));
    rule
}

fn without_historical(mut actions: Vec<Action>) -> Vec<Action> {
    actions.retain(|action| {
        let name = serde_json::to_value(action).unwrap_or_default();
        !name.as_str().is_some_and(|name| HISTORICAL.contains(&name))
    });
    actions
}

#[cfg(test)]
mod tests {
    use ruma::{
        push::{NewConditionalPushRule, NewPatternedPushRule, NewPushRule, Ruleset},
        user_id,
    };
    use serde_json::json;

    use super::{PushRuleError, content, insert, parse, told};

    fn keyword(rule_id: &str) -> NewPushRule {
        NewPushRule::Content(NewPatternedPushRule::new(
            rule_id.to_owned(),
            rule_id.to_owned(),
            Vec::new(),
        ))
    }

    fn order(rules: &Ruleset) -> Vec<&str> {
        rules.content.iter().map(|rule| rule.rule_id.as_str()).collect()
    }

    #[test]
    fn a_rule_stands_where_it_was_asked_to_stand() {
        let mut rules = Ruleset::server_default(user_id!("@a:b"));
        let mut put = |rule_id, after: Option<&str>, before: Option<&str>| {
            insert(&mut rules, keyword(rule_id), after, before).unwrap();
            order(&rules).concat()
        };
        assert_eq!(put("a", None, None), "a");
        assert_eq!(put("b", None, None), "ba");
        assert_eq!(put("c", Some("b"), None), "bca");
        assert_eq!(put("d", None, Some("a")), "bcda");
        // Rules that are there already, both ways.
        assert_eq!(put("b", Some("a"), None), "cdab");
        assert_eq!(put("c", None, Some("b")), "dacb");
        assert_eq!(put("b", None, Some("d")), "bdac");
        assert_eq!(put("c", Some("b"), None), "bcda");
        assert_eq!(put("d", None, None), "bcda");
        // `before` decides, whatever `after` says.
        assert_eq!(put("a", Some("d"), Some("c")), "bacd");
    }

    #[test]
    fn rules_of_users_come_before_the_servers_but_after_the_master() {
        let mut rules = Ruleset::server_default(user_id!("@a:b"));
        let rule = NewConditionalPushRule::new("mine".to_owned(), Vec::new(), Vec::new());
        insert(&mut rules, NewPushRule::Override(rule.clone()), None, None).unwrap();
        insert(&mut rules, NewPushRule::Underride(rule), None, None).unwrap();
        let ids: Vec<&str> = rules.override_.iter().map(|rule| rule.rule_id.as_str()).collect();
        assert_eq!(ids[..3], [".m.rule.master", "mine", ".m.rule.suppress_notices"]);
        assert_eq!(
            rules.underride.first().map(|rule| rule.rule_id.as_str()),
            Some("mine")
        );
    }

    #[test]
    fn a_changed_rule_stays_disabled() {
        let mut rules = Ruleset::server_default(user_id!("@a:b"));
        for rule_id in ["a", "b"] {
            insert(&mut rules, keyword(rule_id), None, None).unwrap();
        }
        rules
            .set_enabled(ruma::push::RuleKind::Content, "a", false)
            .unwrap();
        insert(&mut rules, keyword("a"), None, None).unwrap();
        insert(&mut rules, keyword("a"), None, Some("b")).unwrap();
        assert_eq!(
            rules.content.iter().map(|rule| rule.enabled).collect::<Vec<_>>(),
            [false, true]
        );
    }

    #[test]
    fn bad_places_and_ids_change_nothing() {
        let mut rules = Ruleset::server_default(user_id!("@a:b"));
        insert(&mut rules, keyword("a"), None, None).unwrap();
        let refused =
            |rule_id, after, before| insert(&mut rules.clone(), keyword(rule_id), after, before).unwrap_err();
        assert!(matches!(refused("b", Some("c"), None), PushRuleError::UnknownNeighbour(c) if c == "c"));
        assert!(matches!(
            refused("b", Some("c"), Some("a")),
            PushRuleError::UnknownNeighbour(_)
        ));
        assert!(matches!(
            refused("a", None, Some("a")),
            PushRuleError::UnknownNeighbour(_)
        ));
        assert!(matches!(
            refused("b", Some(".m.rule.master"), None),
            PushRuleError::ServerNeighbour
        ));
        assert!(matches!(
            refused("b", None, Some(".m.rule.master")),
            PushRuleError::ServerNeighbour
        ));
        assert!(matches!(refused(".b", None, None), PushRuleError::ReservedId));
        for bad in ["", "a/b", "a\\b"] {
            assert!(matches!(refused(bad, None, None), PushRuleError::BadId), "{bad}");
        }
    }

    #[test]
    fn stored_rules_get_the_servers_of_today_and_keep_what_was_made_of_them() {
        let user_id = user_id!("@a:b");
        let stored = json!({ "global": {
            "override": [
                { "rule_id": ".m.rule.reaction", "default": true, "enabled": false, "conditions": [], "actions": ["notify"] },
                { "rule_id": ".m.rule.gone", "default": true, "enabled": true, "conditions": [], "actions": [] },
                { "rule_id": "mine", "default": false, "enabled": true, "conditions": [{ "kind": "org.example", "x": 1 }],
                  "actions": [{ "set_tweak": "org.example", "value": [1] }] },
            ],
        } });
        let rules = parse(user_id, Some(&stored.to_string())).unwrap();
        let told: serde_json::Value =
            serde_json::from_str(&told(user_id, Some(&stored.to_string())).unwrap()).unwrap();
        assert_eq!(
            told,
            serde_json::from_str::<serde_json::Value>(&content(&rules).unwrap()).unwrap()
        );
        let all = told["global"]["override"].as_array().unwrap();
        let named = |rule_id: &str| all.iter().find(|rule| rule["rule_id"] == rule_id);
        assert_eq!(*named("mine").unwrap(), stored["global"]["override"][2]);
        let reaction = named(".m.rule.reaction").unwrap();
        assert_eq!(
            (&reaction["enabled"], &reaction["actions"]),
            (&json!(false), &json!(["notify"]))
        );
        assert_eq!(reaction["conditions"][0]["pattern"], "m.reaction");
        assert!(named(".m.rule.gone").is_none());
        assert_eq!(told["global"]["sender"], json!([]));
    }
}
