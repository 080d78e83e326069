//! What a user's push rules say of one room, said of another: of one that replaces it.

use ruma::{
    OwnedRoomId, RoomId,
    push::{
        ConditionalPushRule, NewConditionalPushRule, NewPushRule, NewSimplePushRule, PushCondition, Ruleset,
    },
};

use super::{PushRuleError, change, insert, load};
use crate::{Engine, accounts::Requester};

/// Has what a user's rules say of `from` hold for `to` too, where they have no such rule of that yet.
pub(crate) async fn carry_over(
    engine: &Engine,
    requester: &Requester,
    from: &RoomId,
    to: &RoomId,
) -> Result<(), PushRuleError> {
    // Most users have no rule of a room: nothing is to be changed for them.
    if carried(&load(engine, requester).await?, from, to).is_empty() {
        return Ok(());
    }
    change(engine, requester, |rules| {
        for Carried { rule, enabled } in carried(rules, from, to) {
            let (kind, rule_id) = (rule.kind(), rule.rule_id().to_owned());
            insert(rules, rule, None, None)?;
            rules
                .set_enabled(kind, &rule_id, enabled)
                .map_err(|_| PushRuleError::NotFound)?;
        }
        Ok(())
    })
    .await
}

/// A rule for the new room.
#[derive(Debug)]
struct Carried {
    rule: NewPushRule,
    enabled: bool,
}

/// The rules to add: the one of the kind `room`, and those with a condition on the room, which is how clients mute one.
/// Those that come first are added last.
fn carried(rules: &Ruleset, from: &RoomId, to: &RoomId) -> Vec<Carried> {
    let of_room = rules.room.iter().filter(|rule| rule.rule_id == from);
    let mut carried: Vec<Carried> = of_room
        .map(|rule| Carried {
            rule: NewPushRule::Room(NewSimplePushRule::<OwnedRoomId>::new(
                to.to_owned(),
                rule.actions.clone(),
            )),
            enabled: rule.enabled,
        })
        .collect();
    let conditional = |rule: &ConditionalPushRule| (conditional(rule, from, to), rule.enabled);
    let overriding = rules.override_.iter().rev().map(conditional);
    carried.extend(overriding.filter_map(|(rule, enabled)| {
        let rule = NewPushRule::Override(rule?);
        Some(Carried { rule, enabled })
    }));
    let underriding = rules.underride.iter().rev().map(conditional);
    carried.extend(underriding.filter_map(|(rule, enabled)| {
        let rule = NewPushRule::Underride(rule?);
        Some(Carried { rule, enabled })
    }));
    carried.retain(|carried| rules.get(carried.rule.kind(), carried.rule.rule_id()).is_none());
    carried
}

/// A rule of the user's own with a condition on `from`, for `to`.
fn conditional(rule: &ConditionalPushRule, from: &RoomId, to: &RoomId) -> Option<NewConditionalPushRule> {
    if rule.default {
        return None;
    }
    let mut is_of_room = false;
    let conditions = rule.conditions.iter().cloned().map(|condition| match condition {
        PushCondition::EventMatch(mut data) if data.key == "room_id" && data.pattern == from.as_str() => {
            is_of_room = true;
            data.pattern = to.to_string();
            PushCondition::EventMatch(data)
        }
        other => other,
    });
    let conditions: Vec<PushCondition> = conditions.collect();
    // Clients name such a rule by the room.
    let rule_id = match rule.rule_id.contains(from.as_str()) {
        true => rule.rule_id.replace(from.as_str(), to.as_str()),
        false => to.to_string(),
    };
    is_of_room.then(|| NewConditionalPushRule::new(rule_id, conditions, rule.actions.clone()))
}

#[cfg(test)]
mod tests {
    use ruma::{
        push::{NewPushRule, RuleKind, Ruleset},
        room_id, user_id,
    };
    use serde_json::json;

    use super::carried;
    use crate::push_rules::parse;

    fn rules() -> Ruleset {
        let of_room = |room: &str| json!({ "kind": "event_match", "key": "room_id", "pattern": room });
        let stored = json!({ "global": {
            "override": [
                { "rule_id": "!old:a", "default": false, "enabled": true, "conditions": [of_room("!old:a")], "actions": [] },
                { "rule_id": "mine", "default": false, "enabled": true, "conditions": [of_room("!other:a")], "actions": [] },
            ],
            "room": [
                { "rule_id": "!old:a", "default": false, "enabled": false, "actions": ["notify"] },
                { "rule_id": "!other:a", "default": false, "enabled": true, "actions": [] },
            ],
        } });
        parse(user_id!("@a:b"), Some(&stored.to_string())).expect("they are rules")
    }

    #[test]
    fn rules_of_a_room_hold_for_the_one_that_replaces_it() {
        let (old, new) = (room_id!("!old:a"), room_id!("!new:a"));
        let found = carried(&rules(), old, new);
        let told: Vec<_> = found
            .iter()
            .map(|carried| (carried.rule.kind(), carried.rule.rule_id(), carried.enabled))
            .collect();
        assert_eq!(
            told,
            [
                (RuleKind::Room, "!new:a", false),
                (RuleKind::Override, "!new:a", true)
            ]
        );
        let NewPushRule::Override(rule) = &found[1].rule else {
            panic!("{:?}", found[1]);
        };
        let conditions = serde_json::to_value(&rule.conditions).expect("JSON");
        assert_eq!(conditions[0]["pattern"], "!new:a");
    }

    #[test]
    fn rules_that_are_there_already_stay_as_they_are() {
        let (old, other) = (room_id!("!old:a"), room_id!("!other:a"));
        let found = carried(&rules(), old, other);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].rule.kind(), RuleKind::Override);
        assert!(carried(&rules(), room_id!("!unknown:a"), old).is_empty());
    }
}
