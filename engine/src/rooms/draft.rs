//! An event to be: what the sender says, before the room adds its part.

use std::sync::Arc;

use hearth_storage::{DeviceNid, EventNid, UserNid};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedUserId, events::TimelineEventType};

/// What a local user wants to send.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub sender: OwnedUserId,
    pub sender_nid: UserNid,
    pub event_type: TimelineEventType,
    pub state_key: Option<String>,
    pub content: CanonicalJsonObject,
    /// The event it asks to redact.
    pub redacts: Option<OwnedEventId>,
    /// The state event that must still be the current one at its key, where it was made from that.
    pub replaces: Option<EventNid>,
    /// A member event that is not sent when the user has that membership already.
    pub unless_already: bool,
    /// The request it answers, where the client gave a transaction id.
    pub request: Option<ClientRequest>,
}

/// A request with a transaction id.
#[derive(Debug, Clone)]
pub(crate) struct ClientRequest {
    pub device_nid: DeviceNid,
    pub request_key: [u8; 16],
    pub txn_id: Arc<str>,
}

/// The content is no JSON object, or not one that canonical JSON allows.
#[derive(Debug, thiserror::Error)]
#[error("the content of an event must be a JSON object of canonical JSON: {0}")]
pub struct BadContent(String);

impl Draft {
    /// A state event of a local user.
    pub fn state(
        sender: (OwnedUserId, UserNid),
        event_type: impl Into<TimelineEventType>,
        state_key: impl Into<String>,
        content: CanonicalJsonObject,
    ) -> Self {
        Self {
            sender: sender.0,
            sender_nid: sender.1,
            event_type: event_type.into(),
            state_key: Some(state_key.into()),
            content,
            redacts: None,
            replaces: None,
            unless_already: false,
            request: None,
        }
    }

    /// The same, allowed only in place of a certain state event.
    pub fn replacing(self, current: EventNid) -> Self {
        Self {
            replaces: Some(current),
            ..self
        }
    }

    /// The `membership` of a member event's content.
    pub fn membership(&self) -> Option<&str> {
        (self.event_type == TimelineEventType::RoomMember)
            .then(|| self.content.get("membership")?.as_str())
            .flatten()
    }
}

/// Event content from a client, as canonical JSON: integers within ±(2^53 − 1), no floats (appendices, "Canonical
/// JSON").
pub(crate) fn content_from_json(json: &str) -> Result<CanonicalJsonObject, BadContent> {
    match serde_json::from_str(json) {
        Ok(CanonicalJsonValue::Object(content)) => Ok(content),
        Ok(_) => Err(BadContent("it is not an object".to_owned())),
        Err(error) => Err(BadContent(error.to_string())),
    }
}

/// Event content from a value of ruma's.
pub(crate) fn content_of(value: &impl serde::Serialize) -> Result<CanonicalJsonObject, BadContent> {
    match ruma::canonical_json::to_canonical_value(value) {
        Ok(CanonicalJsonValue::Object(content)) => Ok(content),
        Ok(_) => Err(BadContent("it is not an object".to_owned())),
        Err(error) => Err(BadContent(error.to_string())),
    }
}
