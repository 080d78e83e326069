//! What the server's own push rules make of an event (client-server API, "Predefined Rules"): decided once, when it is
//! committed, for everyone but those with rules of their own. Kept in step with ruma's rules by the tests below.

use ruma::{CanonicalJsonObject, CanonicalJsonValue};

/// It notifies everyone who didn't send it.
pub(crate) const NOTIFIES: i16 = 1;
/// It is highlighted for everyone whom it notifies.
pub(crate) const HIGHLIGHTS: i16 = 2;
/// It names users, whom it notifies, highlighted.
pub(crate) const MENTIONS: i16 = 4;
/// It relates to another event, and may so be in a thread.
pub(crate) const RELATES: i16 = 8;
/// It is something said: whoever says something has read what is before it.
pub(crate) const SAID: i16 = 16;

/// What others' events may be counted for.
pub(crate) const COUNTS: i16 = NOTIFIES | HIGHLIGHTS | MENTIONS;

/// The class of an event. `may_notify_room` is asked only where it matters: whether the sender has the power for it.
pub(crate) fn class_of<E>(
    event_type: &str,
    state_key: Option<&str>,
    content: &CanonicalJsonObject,
    may_notify_room: impl FnOnce() -> Result<bool, E>,
) -> Result<i16, E> {
    let is = |name: &str| event_type.eq_ignore_ascii_case(name);
    let rel_type = relation(content);
    let edits = rel_type == Some("m.replace");
    let said = state_key.is_none() && !edits && !is("m.reaction") && !is("m.room.redaction");
    let mut class = if said { SAID } else { 0 };
    if rel_type.is_some() {
        class |= RELATES;
    }
    let msgtype = content.get("msgtype").and_then(CanonicalJsonValue::as_str);
    // An invite notifies the invited, who is not in the room yet: nothing is counted.
    if msgtype.is_some_and(|msgtype| msgtype.eq_ignore_ascii_case("m.notice")) || is("m.room.member") {
        return Ok(class);
    }
    let mentions = content.get("m.mentions").and_then(CanonicalJsonValue::as_object);
    if mentions
        .and_then(|mentions| mentions.get("user_ids")?.as_array())
        .is_some_and(|user_ids| !user_ids.is_empty())
    {
        class |= MENTIONS;
    }
    let room = mentions.and_then(|mentions| mentions.get("room"));
    if room == Some(&CanonicalJsonValue::Bool(true)) && may_notify_room()? {
        return Ok(class | NOTIFIES | HIGHLIGHTS);
    }
    if is("m.room.tombstone") && state_key == Some("") {
        return Ok(class | NOTIFIES | HIGHLIGHTS);
    }
    // Nobody is notified of `m.reaction` and `m.room.server_acl` either, but no rule would do that anyway.
    let notifies = !edits && (is("m.room.message") || is("m.room.encrypted") || is("m.call.invite"));
    Ok(if notifies { class | NOTIFIES } else { class })
}

/// The type of the event's relation, if it has one to an event.
fn relation(content: &CanonicalJsonObject) -> Option<&str> {
    content
        .get("m.relates_to")?
        .as_object()?
        .get("rel_type")?
        .as_str()
}

/// The power that it takes to notify a whole room, by the content of `m.room.power_levels`.
pub(crate) fn level_to_notify_room(power_levels: &str) -> i64 {
    const DEFAULT: i64 = 50;
    let content: serde_json::Value = serde_json::from_str(power_levels).unwrap_or_default();
    let level = &content["notifications"]["room"];
    // Old rooms may write levels as strings.
    level
        .as_i64()
        .or_else(|| level.as_str()?.trim().parse().ok())
        .unwrap_or(DEFAULT)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use ruma::{
        CanonicalJsonObject, owned_room_id, owned_user_id,
        power_levels::NotificationPowerLevels,
        push::{PushConditionPowerLevelsCtx, PushConditionRoomCtx, Ruleset},
        room_version_rules::{AuthorizationRules, RoomPowerLevelsRules},
        serde::Raw,
        uint,
    };
    use serde_json::{Value, json};

    use super::{HIGHLIGHTS, MENTIONS, NOTIFIES, RELATES, SAID, class_of, level_to_notify_room};

    const VIEWER: &str = "@viewer:example.org";

    fn class(event: &Value, powerful: bool) -> i16 {
        let content: CanonicalJsonObject = serde_json::from_value(event["content"].clone()).unwrap();
        let (event_type, state_key) = (event["type"].as_str().unwrap(), event["state_key"].as_str());
        class_of(event_type, state_key, &content, || Ok::<_, Infallible>(powerful)).unwrap()
    }

    /// What ruma's rules make of it for the viewer: whether it notifies, and is highlighted.
    async fn by_the_rules(event: &Value, powerful: bool) -> (bool, bool) {
        let viewer = owned_user_id!("@viewer:example.org");
        let rules = RoomPowerLevelsRules::new(&AuthorizationRules::V11, None);
        let level = ruma::Int::from(if powerful { 50 } else { 49 });
        let levels = PushConditionPowerLevelsCtx::new(
            Default::default(),
            level,
            NotificationPowerLevels::default(),
            rules,
        );
        let ctx = PushConditionRoomCtx::new(
            owned_room_id!("!room:example.org"),
            uint!(7),
            viewer.clone(),
            "V".to_owned(),
        )
        .with_power_levels(levels);
        let raw: Raw<()> = Raw::from_json_string(event.to_string()).unwrap();
        let ruleset = Ruleset::server_default(&viewer);
        let actions = ruleset.get_actions(&raw, &ctx).await;
        (
            actions.iter().any(|action| action.should_notify()),
            actions.iter().any(|action| action.is_highlight()),
        )
    }

    #[tokio::test]
    async fn classes_say_what_the_servers_rules_say() {
        let types = [
            "m.room.message",
            "M.Room.Message",
            "m.room.encrypted",
            "m.call.invite",
            "m.reaction",
            "m.room.member",
            "m.room.tombstone",
            "m.room.server_acl",
            "m.room.name",
            "m.room.redaction",
            "m.sticker",
            "org.example.custom",
        ];
        let mentions = [
            json!(null),
            json!({}),
            json!({ "room": true }),
            json!({ "room": "true" }),
            json!({ "user_ids": [VIEWER] }),
            json!({ "user_ids": ["@other:example.org", VIEWER], "room": true }),
            json!({ "user_ids": [] }),
            json!({ "user_ids": VIEWER }),
            json!({ "user_ids": ["@other:example.org", 3] }),
            json!([VIEWER]),
        ];
        let relations = [
            json!(null),
            json!({ "rel_type": "m.replace", "event_id": "$e" }),
            json!({ "rel_type": "m.thread", "event_id": "$e" }),
            json!({ "rel_type": 7 }),
            json!("m.replace"),
            json!({ "m.in_reply_to": { "event_id": "$e" } }),
        ];
        let mut seen = 0;
        for event_type in types {
            for (mentions, relation) in mentions
                .iter()
                .flat_map(|m| relations.iter().map(move |r| (m, r)))
            {
                for msgtype in [
                    json!("m.text"),
                    json!("m.notice"),
                    json!("M.Notice"),
                    json!("m.notices"),
                    json!(null),
                    json!(1),
                ] {
                    for state_key in [None, Some(""), Some("x")] {
                        for powerful in [false, true] {
                            let content = json!({ "msgtype": msgtype, "m.mentions": mentions, "m.relates_to": relation, "membership": "join" });
                            let mut event = json!({ "type": event_type, "sender": "@sender:example.org", "content": content });
                            if let Some(state_key) = state_key {
                                event["state_key"] = state_key.into();
                            }
                            let class = class(&event, powerful);
                            let user_ids = mentions.get("user_ids").and_then(Value::as_array);
                            let named = class & MENTIONS != 0
                                && user_ids.unwrap().iter().any(|user_id| user_id == VIEWER);
                            let is = (class & NOTIFIES != 0 || named, class & HIGHLIGHTS != 0 || named);
                            assert_eq!(
                                is,
                                by_the_rules(&event, powerful).await,
                                "{event}, powerful: {powerful}"
                            );
                            seen += usize::from(is.0);
                        }
                    }
                }
            }
        }
        assert!(seen > 1000);
    }

    #[test]
    fn what_is_said_is_told_from_what_is_not() {
        let of = |event_type: &str, content: Value| {
            class(&json!({ "type": event_type, "content": content }), false) & (SAID | RELATES)
        };
        let relates = |rel_type: &str| json!({ "m.relates_to": { "rel_type": rel_type, "event_id": "$e" } });
        assert_eq!(of("m.room.message", json!({})), SAID);
        assert_eq!(of("m.room.message", json!({ "msgtype": "m.notice" })), SAID);
        assert_eq!(of("m.sticker", relates("m.thread")), SAID | RELATES);
        assert_eq!(of("m.room.message", relates("m.replace")), RELATES);
        assert_eq!(of("m.reaction", relates("m.annotation")), RELATES);
        assert_eq!(of("m.room.redaction", json!({})), 0);
        assert_eq!(
            class(
                &json!({ "type": "m.room.name", "state_key": "", "content": {} }),
                false
            ),
            0
        );
    }

    #[test]
    fn levels_to_notify_a_room_are_read_as_written() {
        for (content, level) in [
            ("{}", 50),
            (r#"{"notifications":{}}"#, 50),
            (r#"{"notifications":{"room":0}}"#, 0),
            (r#"{"notifications":{"room":"75"}}"#, 75),
            ("nothing", 50),
        ] {
            assert_eq!(level_to_notify_room(content), level, "{content}");
        }
    }
}
