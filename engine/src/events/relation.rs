//! How an event says that it relates to another (client-server API, "Forming relationships between events").

use ruma::{OwnedEventId, events::TimelineEventType};
use serde::{Deserialize, de::IgnoredAny};

use super::Event;

/// A `rel_type` that is longer, in bytes, relates to nothing.
const MAX_REL_TYPE_BYTES: usize = 255;

/// `m.relates_to` of an event. A rich reply by itself is none: it has no `rel_type`.
#[derive(Debug)]
pub(crate) struct Relation {
    /// How it relates.
    pub rel_type: String,
    /// To which event.
    pub parent_id: OwnedEventId,
    /// It is no state event and has, or if it is encrypted may have, a new content for that event (client-server API,
    /// "Validity of replacement events").
    pub is_edit: bool,
}

#[derive(Deserialize)]
struct Content {
    #[serde(rename = "m.relates_to")]
    relates_to: RelatesTo,
    #[serde(rename = "m.new_content")]
    new_content: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct RelatesTo {
    rel_type: String,
    event_id: OwnedEventId,
}

impl Event {
    /// How it relates to another event. What is no relation by the schema is ignored.
    pub(crate) fn relation(&self) -> Option<Relation> {
        let content: Content = serde_json::from_str(self.content().get()).ok()?;
        let RelatesTo { rel_type, event_id } = content.relates_to;
        if rel_type.len() > MAX_REL_TYPE_BYTES {
            return None;
        }
        let is_encrypted = *self.event_type() == TimelineEventType::RoomEncrypted;
        let is_edit = rel_type == "m.replace"
            && self.state_key().is_none()
            && (is_encrypted || content.new_content.is_some());
        Some(Relation {
            rel_type,
            parent_id: event_id,
            is_edit,
        })
    }
}
