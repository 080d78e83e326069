//! The fields of stored events, of every room version. What is in them was checked before they were stored.

use std::fmt;

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, UInt, events::TimelineEventType,
    room_version_rules::RoomVersionRules,
};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// The fields of a PDU that this crate reads.
#[derive(Debug, Deserialize)]
pub(crate) struct Pdu {
    /// Absent from the create event since room version 12.
    pub room_id: Option<OwnedRoomId>,
    pub sender: OwnedUserId,
    #[serde(rename = "type")]
    pub event_type: TimelineEventType,
    pub state_key: Option<Box<str>>,
    pub content: Box<RawValue>,
    origin_server_ts: i64,
    pub depth: i64,
    pub prev_events: Vec<Reference>,
    pub auth_events: Vec<Reference>,
    /// Means something in redactions before room version 11, and may be anything elsewhere.
    redacts: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct RedactionContent<'a> {
    #[serde(borrow)]
    redacts: Option<&'a RawValue>,
}

impl Pdu {
    /// What the event redacts, wherever its room version says so. A redacted redaction names nothing.
    pub fn redacts(&self, rules: &RoomVersionRules) -> Option<OwnedEventId> {
        if self.event_type != TimelineEventType::RoomRedaction {
            return None;
        }
        if !rules.redaction.content_field_redacts {
            return self.redacts_beside_content();
        }
        let content: RedactionContent<'_> = serde_json::from_str(self.content.get()).ok()?;
        serde_json::from_str(content.redacts?.get()).ok()
    }

    /// What is in the place that names what an event redacts before room version 11.
    pub fn redacts_beside_content(&self) -> Option<OwnedEventId> {
        serde_json::from_str(self.redacts.as_deref()?.get()).ok()
    }

    /// `origin_server_ts`, if it is of a time that can be: other servers' events are of any, and the nearest is told.
    pub fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        let origin_server_ts = u64::try_from(self.origin_server_ts).unwrap_or_default();
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(origin_server_ts))
    }
}

/// An event that another names: by its ID, or in room versions 1 and 2 by a pair of that and hashes.
#[derive(Debug)]
pub(crate) struct Reference(OwnedEventId);

impl From<Reference> for OwnedEventId {
    fn from(reference: Reference) -> Self {
        reference.0
    }
}

impl AsRef<OwnedEventId> for Reference {
    fn as_ref(&self) -> &OwnedEventId {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ReferenceVisitor;

        impl<'de> Visitor<'de> for ReferenceVisitor {
            type Value = Reference;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event ID, or a pair of one and hashes")
            }

            fn visit_str<E: Error>(self, event_id: &str) -> Result<Reference, E> {
                OwnedEventId::try_from(event_id).map(Reference).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Reference, A::Error> {
                let event_id = pair.next_element()?;
                let event_id = event_id.ok_or_else(|| A::Error::invalid_length(0, &self))?;
                while pair.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Reference(event_id))
            }
        }

        deserializer.deserialize_any(ReferenceVisitor)
    }
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;
    use serde_json::json;

    use super::Pdu;

    #[test]
    fn references_are_ids_or_pairs() {
        let mut event = json!({
            "type": "m.room.redaction", "sender": "@a:b", "room_id": "!r:b", "origin_server_ts": -1,
            "depth": i64::MAX, "content": { "a": 1.5 }, "redacts": "$x:b", "auth_events": [],
            "prev_events": [["$p:b", { "sha256": "x" }], ["$q:b", {}]],
        });
        let pdu: Pdu = serde_json::from_value(event.clone()).unwrap();
        let ids: Vec<&str> = pdu.prev_events.iter().map(|id| id.as_ref().as_str()).collect();
        assert_eq!(ids, ["$p:b", "$q:b"]);
        assert_eq!(pdu.redacts(&RoomVersionId::V1.rules().unwrap()).unwrap(), "$x:b");
        assert_eq!(pdu.redacts(&RoomVersionId::V11.rules().unwrap()), None);

        event["prev_events"] = json!(["$p", "$q"]);
        event["redacts"] = json!({});
        event["content"] = json!({ "redacts": "$x" });
        let pdu: Pdu = serde_json::from_value(event.clone()).unwrap();
        assert_eq!(pdu.prev_events.len(), 2);
        assert_eq!(pdu.redacts(&RoomVersionId::V10.rules().unwrap()), None);
        assert_eq!(pdu.redacts(&RoomVersionId::V11.rules().unwrap()).unwrap(), "$x");

        for bad in [json!([[]]), json!([5]), json!(["p"]), json!([[{}, "$p"]])] {
            event["prev_events"] = bad;
            assert!(serde_json::from_value::<Pdu>(event.clone()).is_err());
        }
    }
}
