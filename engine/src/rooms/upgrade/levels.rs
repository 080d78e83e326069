//! The power levels of a room that replaces another, and those that the other is left with. Pure.

use std::collections::BTreeSet;

use ruma::{CanonicalJsonValue, OwnedUserId, UserId, canonical_json::to_canonical_value};
use serde_json::{Map, Value, json};

/// Levels are integers of canonical JSON.
const MAX_LEVEL: i64 = (1 << 53) - 1;
/// What the creator of a room has that doesn't privilege creators.
const CREATORS_LEVEL: i64 = 100;
/// What it takes to speak, or to invite, in a room that was replaced.
const LEAST_IN_REPLACED: i64 = 50;

/// Properties that are levels.
const LEVELS: [&str; 7] = [
    "ban",
    "events_default",
    "invite",
    "kick",
    "redact",
    "state_default",
    "users_default",
];
/// Properties that are maps of levels.
const MAPS: [&str; 3] = ["events", "notifications", "users"];

/// Who made a room, and whether that alone gives power in it without end.
#[derive(Debug)]
pub(super) struct Creators {
    pub users: BTreeSet<OwnedUserId>,
    pub privileged: bool,
}

/// The power levels of the new room: those of the old one, in which its creators keep what they had.
///
/// Creators who are privileged may not be named, and those of an old room that were, and are nothing special in the new
/// one, get a level that nothing in it exceeds.
pub(super) fn for_new_room(old: Option<&Value>, old_creators: &Creators, new_creators: &Creators) -> Value {
    let mut levels = match old {
        Some(Value::Object(old)) => tidied(old),
        // Without power levels everybody may set state, and who created the room has more than others.
        _ => Map::from_iter([("state_default".to_owned(), json!(0))]),
    };
    let has_levels = old.is_some_and(Value::is_object);
    let are_to_be_named = match (old_creators.privileged, new_creators.privileged) {
        (true, privileged) => !privileged,
        (false, _) => !has_levels,
    };
    let mut users = match levels.remove("users") {
        Some(Value::Object(users)) => users,
        _ => Map::new(),
    };
    if are_to_be_named {
        let level = highest(&levels).max(highest_of(&users)).max(CREATORS_LEVEL);
        let named = old_creators.users.iter();
        users.extend(named.map(|user_id| (user_id.to_string(), json!(level))));
    }
    if new_creators.privileged {
        users.retain(|user_id, _| !new_creators.users.iter().any(|creator| creator == user_id));
    }
    levels.insert("users".to_owned(), Value::Object(users));
    Value::Object(levels)
}

/// The power levels of a room that was replaced: it takes power to speak there, or to invite. Nothing if they are such
/// already.
pub(super) fn for_replaced_room(current: &Value) -> Option<Value> {
    let mut levels = current.as_object()?.clone();
    let level_of = |levels: &Map<String, Value>, name: &str| levels.get(name).and_then(level).unwrap_or(0);
    let least = LEAST_IN_REPLACED.max(level_of(&levels, "users_default").saturating_add(1));
    let raised: Vec<&str> = ["events_default", "invite"]
        .into_iter()
        .filter(|name| level_of(&levels, name) < least)
        .collect();
    for name in &raised {
        levels.insert((*name).to_owned(), json!(least));
    }
    (!raised.is_empty()).then_some(Value::Object(levels))
}

/// A level as it may stand in the oldest rooms: a number with a fraction, or a string.
fn level(value: &Value) -> Option<i64> {
    let level = match value {
        Value::Number(number) => match number.as_i64() {
            Some(level) => level,
            #[expect(clippy::cast_possible_truncation, reason = "it is cut to the range of levels")]
            None => number.as_f64()? as i64,
        },
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    Some(level.clamp(-MAX_LEVEL, MAX_LEVEL))
}

/// Power levels as every room version takes them: integers where levels are, user IDs where users are, and otherwise
/// what canonical JSON allows.
fn tidied(levels: &Map<String, Value>) -> Map<String, Value> {
    let tidy = |(name, value): (&String, &Value)| {
        let value = if LEVELS.contains(&name.as_str()) {
            json!(level(value)?)
        } else if MAPS.contains(&name.as_str()) {
            let is_users = name == "users";
            let map = value.as_object()?.iter();
            let map = map.filter(|(key, _)| !is_users || <&UserId>::try_from(key.as_str()).is_ok());
            let map = map.filter_map(|(key, value)| Some((key.clone(), json!(level(value)?))));
            Value::Object(map.collect())
        } else {
            to_canonical_value(value).ok().map(CanonicalJsonValue::into)?
        };
        Some((name.clone(), value))
    };
    levels.iter().filter_map(tidy).collect()
}

/// The highest level that is needed for anything, or given to somebody.
fn highest(levels: &Map<String, Value>) -> i64 {
    let maps = MAPS.iter().filter_map(|name| levels.get(*name)?.as_object());
    maps.map(highest_of).fold(highest_of(levels), i64::max)
}

/// The highest of the values that are levels.
fn highest_of(levels: &Map<String, Value>) -> i64 {
    levels.values().filter_map(level).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Creators, for_new_room, for_replaced_room};

    fn creators(privileged: bool, users: &[&str]) -> Creators {
        let users = users
            .iter()
            .map(|user_id| (*user_id).try_into().expect("a user ID"));
        Creators {
            users: users.collect(),
            privileged,
        }
    }

    #[test]
    fn levels_of_the_oldest_rooms_become_integers() {
        let old = json!({
            "ban": "50", "kick": 50.7, "redact": null, "events_default": 1e300,
            "events": { "m.room.name": " 75 ", "m.room.topic": [] },
            "users": { "@alice:a": "100", "nobody": 100, "@bob:b": 50 },
            "org.example": { "x": 1 }, "org.float": 0.5,
        });
        let plain = creators(false, &["@alice:a"]);
        let new = for_new_room(Some(&old), &plain, &plain);
        let expected = json!({
            "ban": 50, "kick": 50, "events_default": 9_007_199_254_740_991_i64,
            "events": { "m.room.name": 75 },
            "users": { "@alice:a": 100, "@bob:b": 50 },
            "org.example": { "x": 1 },
        });
        assert_eq!(new, expected);
    }

    #[test]
    fn privileged_creators_are_not_named() {
        let old = json!({ "users": { "@alice:a": 100, "@bob:b": 100, "@carol:c": 50 } });
        let new = for_new_room(
            Some(&old),
            &creators(false, &["@carol:c"]),
            &creators(true, &["@alice:a", "@bob:b"]),
        );
        assert_eq!(new, json!({ "users": { "@carol:c": 50 } }));
    }

    #[test]
    fn creators_that_were_privileged_keep_more_power_than_anything_takes() {
        let old = json!({ "events": { "m.room.tombstone": 150 }, "users": { "@carol:c": 90 } });
        let new = for_new_room(
            Some(&old),
            &creators(true, &["@alice:a", "@bob:b"]),
            &creators(false, &["@alice:a"]),
        );
        assert_eq!(
            new["users"],
            json!({ "@alice:a": 150, "@bob:b": 150, "@carol:c": 90 })
        );
        // Where the new room privileges creators too, they are named anew by whoever upgrades, or not.
        let new = for_new_room(
            Some(&old),
            &creators(true, &["@alice:a", "@bob:b"]),
            &creators(true, &["@alice:a"]),
        );
        assert_eq!(new["users"], json!({ "@carol:c": 90 }));
    }

    #[test]
    fn a_room_without_power_levels_leaves_its_creator_in_power() {
        let new = for_new_room(
            None,
            &creators(false, &["@alice:a"]),
            &creators(false, &["@bob:b"]),
        );
        assert_eq!(new, json!({ "state_default": 0, "users": { "@alice:a": 100 } }));
        let nonsense = json!("levels");
        let new = for_new_room(
            Some(&nonsense),
            &creators(false, &["@alice:a"]),
            &creators(true, &["@bob:b"]),
        );
        assert_eq!(new["users"], json!({ "@alice:a": 100 }));
    }

    #[test]
    fn it_takes_power_to_speak_in_a_room_that_was_replaced() {
        let restricted = |current: Value| for_replaced_room(&current);
        assert_eq!(
            restricted(json!({ "events_default": 0, "users_default": 0, "invite": 60, "ban": 50 })),
            Some(json!({ "events_default": 50, "users_default": 0, "invite": 60, "ban": 50 }))
        );
        assert_eq!(
            restricted(json!({ "users_default": 80 })),
            Some(json!({ "events_default": 81, "users_default": 80, "invite": 81 }))
        );
        assert_eq!(restricted(json!({ "events_default": 50, "invite": 100 })), None);
        assert_eq!(restricted(json!([])), None);
    }
}
