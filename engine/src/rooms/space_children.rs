//! The children of a space, as its `m.space.child` events name them (client-server API, "Spaces").

use std::cmp::Ordering;

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomId, OwnedServerName, OwnedUserId,
    events::space::child::HierarchySpaceChildEvent, serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::events::Event;

/// Servers through which a child can be found, at most; more are not looked at.
const MOST_VIA: usize = 20;
/// An `order` has at most this many characters.
const MAX_ORDER: usize = 50;

/// A child of a space.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Servers that may be in it.
    pub via: Vec<OwnedServerName>,
    /// Whether the space recommends it.
    pub is_suggested: bool,
    /// The event in stripped form, with its time.
    pub json: Raw<HierarchySpaceChildEvent>,
    order: Option<String>,
    ts: MilliSecondsSinceUnixEpoch,
}

#[derive(Deserialize)]
struct Content {
    via: Vec<String>,
    #[serde(default)]
    order: serde_json::Value,
    #[serde(default)]
    suggested: serde_json::Value,
}

/// A stripped state event with an added `origin_server_ts`.
#[derive(Deserialize, Serialize)]
struct Stripped {
    #[serde(rename = "type")]
    event_type: String,
    state_key: String,
    content: Box<RawValue>,
    sender: OwnedUserId,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
}

impl Child {
    /// By an event of this server's; nothing for one that names no child, or no longer.
    pub fn of(event: &Event) -> Option<Self> {
        Self::read(Stripped {
            event_type: event.event_type().to_string(),
            state_key: event.state_key()?.to_owned(),
            content: event.content().to_owned(),
            sender: event.sender().to_owned(),
            origin_server_ts: event.origin_server_ts(),
        })
    }

    /// By what another server tells; nothing for what can't be understood.
    pub fn told(event: &Raw<HierarchySpaceChildEvent>) -> Option<Self> {
        Self::read(serde_json::from_str(event.json().get()).ok()?)
    }

    fn read(event: Stripped) -> Option<Self> {
        if event.event_type != "m.space.child" {
            return None;
        }
        let content: Content = serde_json::from_str(event.content.get()).ok()?;
        if content.via.is_empty() {
            return None;
        }
        let via = content.via.into_iter().take(MOST_VIA);
        Some(Self {
            room_id: OwnedRoomId::try_from(event.state_key.as_str()).ok()?,
            via: via.filter_map(|server| server.try_into().ok()).collect(),
            is_suggested: content.suggested.as_bool().unwrap_or(false),
            order: content
                .order
                .as_str()
                .filter(|order| is_order(order))
                .map(ToOwned::to_owned),
            ts: event.origin_server_ts,
            json: Raw::from_json(to_raw_value(&event).ok()?),
        })
    }

    /// Which of two children is shown first (client-server API, "Ordering of children within a space").
    pub fn compare(&self, other: &Self) -> Ordering {
        let key = |child: &Self| child.order.is_none();
        key(self)
            .cmp(&key(other))
            .then_with(|| self.order.cmp(&other.order))
            .then_with(|| self.ts.cmp(&other.ts))
            .then_with(|| self.room_id.cmp(&other.room_id))
    }

    /// Roughly the memory it takes, in bytes.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + 2 * self.json.json().get().len()
    }
}

fn is_order(order: &str) -> bool {
    (1..=MAX_ORDER).contains(&order.len()) && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

#[cfg(test)]
mod tests {
    use ruma::serde::Raw;
    use serde_json::{Value, json, value::to_raw_value};

    use super::Child;

    fn told(room_id: &str, ts: i64, content: Value) -> Option<Child> {
        let event = json!({
            "type": "m.space.child", "state_key": room_id, "sender": "@alice:example.org", "origin_server_ts": ts,
            "content": content,
        });
        Child::told(&Raw::from_json(to_raw_value(&event).unwrap()))
    }

    #[test]
    fn children_come_in_the_order_of_the_specification() {
        let via = json!(["example.org"]);
        // The specification's example, with orders beside it that count for none.
        let mut children: Vec<Child> = [
            (
                "!b:example.org",
                1640341000000,
                json!({ "order": " ", "via": via }),
            ),
            (
                "!a:example.org",
                1640141000000,
                json!({ "order": "aaaa", "via": via }),
            ),
            (
                "!c:example.org",
                1640841000000,
                json!({ "order": "first", "via": via }),
            ),
            (
                "!e:example.org",
                1640641000000,
                json!({ "order": "\u{7f}", "via": via }),
            ),
            (
                "!d:example.org",
                1640741000000,
                json!({ "order": "x".repeat(51), "via": via }),
            ),
            ("!g:example.org", 1640741000001, json!({ "order": 5, "via": via })),
            (
                "!f:example.org",
                1640741000001,
                json!({ "order": "", "via": via }),
            ),
        ]
        .into_iter()
        .rev()
        .filter_map(|(room_id, ts, content)| told(room_id, ts, content))
        .collect();
        children.sort_by(Child::compare);
        let order: String = children
            .iter()
            .map(|child| &child.room_id.as_str()[1..2])
            .collect();
        assert_eq!(order, "bacedfg");
    }

    #[test]
    fn a_child_without_a_way_to_it_is_none() {
        assert!(told("!a:example.org", 1, json!({})).is_none());
        assert!(told("!a:example.org", 1, json!({ "via": [] })).is_none());
        assert!(told("!a:example.org", 1, json!({ "via": "example.org" })).is_none());
        assert!(told("!a:example.org", 1, json!({ "via": [5] })).is_none());
        assert!(told("no room", 1, json!({ "via": ["example.org"] })).is_none());
        let odd = told(
            "!a:example.org",
            1,
            json!({ "via": ["a b", "example.org"], "suggested": "yes" }),
        )
        .unwrap();
        assert_eq!((odd.via.len(), odd.is_suggested), (1, false));
    }
}
