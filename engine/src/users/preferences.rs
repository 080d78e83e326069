//! The account data that the server itself goes by: push rules, the users that a user ignores, and what they let others
//! know of them.

use std::{
    collections::HashSet,
    sync::{Arc, OnceLock},
};

use hearth_storage::{Position, UserNid};
use ruma::{OwnedUserId, UserId, push::Ruleset};
use serde::Deserialize;

use crate::{
    events::Event,
    push_rules::{self, PUSH_RULES},
};

const IGNORED_USERS: &str = "m.ignored_user_list";
/// `{"enabled": false}`: the user neither tells nor is told what was delivered.
const DELIVERY_RECEIPTS: &str = "chat.hearth.delivery_receipts";
/// `{"hidden": true}`: nobody is told when the user is there.
pub(crate) const PRESENCE: &str = "chat.hearth.presence";

/// What a user wants to hear of.
#[derive(Debug, Clone, Default)]
pub struct Preferences {
    /// The position of the newest of what is here; 0 for a user who set none of it.
    pub position: Position,
    push_rules: Option<Arc<str>>,
    parsed: OnceLock<Option<Arc<Ruleset>>>,
    ignored: Arc<HashSet<OwnedUserId>>,
    refuses_delivery_receipts: bool,
    hides_presence: bool,
}

impl Preferences {
    /// The types of account data that they are.
    pub(super) const TYPES: [&str; 4] = [PUSH_RULES, IGNORED_USERS, DELIVERY_RECEIPTS, PRESENCE];

    /// These with a type of account data set anew; nothing for a type that is none of them.
    pub(super) fn with(&self, position: Position, data_type: &str, content: &Arc<str>) -> Option<Self> {
        let position = self.position.max(position);
        match data_type {
            PUSH_RULES => {
                let push_rules = Some(Arc::clone(content));
                Some(Self {
                    position,
                    push_rules,
                    parsed: OnceLock::new(),
                    ..self.clone()
                })
            }
            IGNORED_USERS => Some(Self {
                position,
                ignored: Arc::new(ignored_in(content)),
                ..self.clone()
            }),
            DELIVERY_RECEIPTS => Some(Self {
                position,
                refuses_delivery_receipts: says(content, "enabled", false),
                ..self.clone()
            }),
            PRESENCE => Some(Self {
                position,
                hides_presence: says(content, "hidden", true),
                ..self.clone()
            }),
            _ => None,
        }
    }

    /// The user's push rules; nothing for one who has the server's as they are.
    pub(crate) fn rules(&self, user_id: &UserId) -> Option<&Ruleset> {
        let stored = self.push_rules.as_deref()?;
        let parse = || match push_rules::parse(user_id, Some(stored)) {
            Ok(rules) => Some(Arc::new(rules)),
            Err(error) => {
                tracing::error!(%error, "the server's push rules are taken in place of a user's");
                None
            }
        };
        self.parsed.get_or_init(parse).as_deref()
    }

    /// Whether the user wants to hear nothing from another.
    pub(crate) fn ignores(&self, user_id: &UserId) -> bool {
        self.ignored.contains(user_id)
    }

    /// Those from whom the user wants to hear nothing.
    pub(crate) fn ignored(&self) -> impl Iterator<Item = &UserId> {
        self.ignored.iter().map(|user_id| &**user_id)
    }

    /// Whether the user is told what was delivered to others.
    pub(crate) fn wants_delivery_receipts(&self) -> bool {
        !self.refuses_delivery_receipts
    }

    /// Whether others may be told what was delivered to the user: who wants to know nothing of it tells nothing, and
    /// neither does who doesn't want to be seen.
    pub(crate) fn gives_delivery_receipts(&self) -> bool {
        self.wants_delivery_receipts() && !self.hides_presence
    }

    /// Whether nobody is to be told when the user is there.
    pub(crate) fn hides_presence(&self) -> bool {
        self.hides_presence
    }

    /// Whether an event is withheld from `viewer`, whose preferences these are: they ignore its sender, and it is no
    /// state (client-server API, "Ignoring Users").
    pub(crate) fn withholds(&self, event: &Event, viewer: UserNid) -> bool {
        event.state_key().is_none() && event.sender_nid != viewer && self.ignores(event.sender())
    }

    /// Whether anybody is ignored.
    pub(crate) fn ignores_anybody(&self) -> bool {
        !self.ignored.is_empty()
    }
}

/// Whether a switch is set to `value`. What is none is not.
fn says(content: &str, switch: &str, value: bool) -> bool {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(content)
        .is_ok_and(|content| content.get(switch) == Some(&value.into()))
}

/// The users in a list, readable IDs only: clients put there what they like.
fn ignored_in(content: &str) -> HashSet<OwnedUserId> {
    #[derive(Deserialize)]
    struct List {
        ignored_users: serde_json::Map<String, serde_json::Value>,
    }
    let Ok(list) = serde_json::from_str::<List>(content) else {
        return HashSet::new();
    };
    list.ignored_users
        .keys()
        .filter_map(|user_id| OwnedUserId::try_from(user_id.as_str()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use hearth_storage::Position;
    use ruma::user_id;

    use super::Preferences;

    #[test]
    fn a_list_of_ignored_users_is_read_however_clients_write_it() {
        let set =
            |content: &str| Preferences::default().with(Position(3), "m.ignored_user_list", &content.into());
        let list =
            set(r#"{"ignored_users":{"@spam:example.org":{"why":1},"nobody":{},"@x:y":null},"other":[]}"#)
                .unwrap();
        assert!(list.ignores(user_id!("@spam:example.org")) && list.ignores(user_id!("@x:y")));
        assert!(!list.ignores(user_id!("@other:example.org")));
        assert_eq!(list.position, Position(3));
        for odd in ["{}", r#"{"ignored_users":[]}"#, r#"{"ignored_users":{}}"#] {
            assert!(!set(odd).unwrap().ignores_anybody(), "{odd}");
        }
        assert!(
            Preferences::default()
                .with(Position(3), "m.direct", &"{}".into())
                .is_none()
        );
    }

    #[test]
    fn setting_one_keeps_the_other() {
        let user_id = user_id!("@a:b");
        let rules = crate::push_rules::told(user_id, None).unwrap();
        let list = r#"{"ignored_users":{"@spam:example.org":{}}}"#.into();
        let both = Preferences::default()
            .with(Position(1), "m.ignored_user_list", &list)
            .unwrap();
        let both = both.with(Position(2), "m.push_rules", &rules).unwrap();
        assert!(both.rules(user_id).is_some() && both.ignores(user_id!("@spam:example.org")));
        let none = both
            .with(Position(5), "m.ignored_user_list", &"{}".into())
            .unwrap();
        assert!(none.rules(user_id).is_some() && !none.ignores_anybody());
        assert_eq!(none.position, Position(5));
    }

    #[test]
    fn switches_are_as_they_are_set_and_else_as_the_server_has_them() {
        let set = |data_type: &str, content: &str| {
            Preferences::default()
                .with(Position(1), data_type, &content.into())
                .unwrap()
        };
        let delivery = |content: &str| set("chat.hearth.delivery_receipts", content);
        assert!(!delivery(r#"{"enabled":false}"#).wants_delivery_receipts());
        for other in [
            "{}",
            r#"{"enabled":true}"#,
            r#"{"enabled":0}"#,
            r#"{"enabled":null}"#,
        ] {
            assert!(delivery(other).gives_delivery_receipts(), "{other}");
        }
        let hidden = set("chat.hearth.presence", r#"{"hidden":true}"#);
        assert!(
            hidden.hides_presence() && hidden.wants_delivery_receipts() && !hidden.gives_delivery_receipts()
        );
        let again = hidden
            .with(Position(2), "chat.hearth.presence", &"{}".into())
            .unwrap();
        assert!(again.gives_delivery_receipts());
    }
}
