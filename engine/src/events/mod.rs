//! Events: parsed once, shared by everything that looks at them, and served to clients from here.

mod fields;
pub(crate) mod json;
mod load;
mod matching;
mod member;
pub(crate) mod pdu;
mod relation;
mod serve;

use std::sync::{Arc, OnceLock};

use hearth_storage::{
    DeviceNid, EventNid, KeyNid, RoomNid, StateNid, TypeNid, UserNid,
    events::{EventStatus, Place},
    log::NewEvent,
};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, RoomId, UserId,
    events::TimelineEventType,
    room_version_rules::{EventsReferenceFormatVersion, RoomVersionRules},
};
use serde_json::value::RawValue;

pub(crate) use fields::Fields;
use json::{Numbers, essential, read_object, sha256};
pub(crate) use load::{EventStore, InRoom, stored_redacted_form};
pub(crate) use matching::{
    excludes_room, lets_all_through, lets_nothing_through, matches, matches_global, matches_in_room,
    matches_presence,
};
pub(crate) use member::membership_named;
use pdu::Pdu;
pub use serve::{ClientFormat, Viewer};
pub(crate) use serve::{redact, without_content};

/// An event of a room, as everything in this crate sees it.
#[derive(Debug)]
pub struct Event {
    /// Its number.
    pub nid: EventNid,
    /// Its ID.
    pub event_id: OwnedEventId,
    /// The number of its room.
    pub room_nid: RoomNid,
    /// Its room.
    pub room_id: OwnedRoomId,
    /// The number of its type.
    pub type_nid: TypeNid,
    /// The number of its type and state key, for a state event.
    pub key_nid: Option<KeyNid>,
    /// The number of its sender.
    pub sender_nid: UserNid,
    /// The state of the room after it.
    pub state_after: StateNid,
    /// Its place in the room.
    pub place: Place,
    /// For a state event: the event whose place in the current state it took.
    pub replaces: Option<EventNid>,
    /// What the server's own push rules make of it: bits of [`crate::unread::class`].
    pub(crate) push_class: i16,
    /// The request that made it, for the device that sent it.
    pub transaction: Option<(DeviceNid, Arc<str>)>,
    /// Whether it counts in its room.
    pub status: EventStatus,
    /// The event that redacted it; [`Event::pdu`] is then the redacted form.
    pub redacted_because: Option<Arc<Event>>,
    /// The event as federation carries it.
    pub pdu: Arc<str>,
    /// The reference hash, in room versions 1 and 2: there other events name it along with the ID.
    pub(crate) reference_hash: Option<[u8; 32]>,
    parsed: Pdu,
    redacts: Option<OwnedEventId>,
    client_json: OnceLock<Box<str>>,
}

/// A stored event could not be understood: it is no event of its room's version.
#[derive(Debug, thiserror::Error)]
#[error("event {event_id} can't be read")]
pub(crate) struct ParseError {
    event_id: String,
    source: serde_json::Error,
}

impl Event {
    /// Parses a stored event of `room_id`.
    pub(crate) fn parse(
        stored: &NewEvent,
        sub: i32,
        room_id: &RoomId,
        rules: &RoomVersionRules,
    ) -> Result<Self, ParseError> {
        let failed = |source| ParseError {
            event_id: stored.event_id.clone(),
            source,
        };
        let parsed: Pdu = serde_json::from_str(&stored.pdu).map_err(failed)?;
        let event_id = OwnedEventId::try_from(stored.event_id.as_str())
            .map_err(|error| failed(serde::de::Error::custom(error)))?;
        let redacts = parsed.redacts(rules);
        let reference_hash = match rules.events_reference_format {
            EventsReferenceFormatVersion::V1 => {
                let object = read_object(&stored.pdu, &[], usize::MAX, Numbers::Any);
                let essential = object.and_then(|object| essential(&object, &rules.redaction));
                Some(sha256(
                    &essential.map_err(|error| failed(serde::de::Error::custom(error)))?,
                ))
            }
            _ => None,
        };
        Ok(Self {
            nid: stored.event_nid,
            event_id,
            room_nid: stored.room_nid,
            room_id: room_id.to_owned(),
            type_nid: stored.type_nid,
            key_nid: stored.key_nid,
            sender_nid: stored.sender_nid,
            state_after: stored.state_after,
            place: Place {
                sequence: stored.sequence,
                sub,
            },
            replaces: stored.replaces,
            push_class: stored.push_class,
            transaction: stored.transaction.clone(),
            status: EventStatus::Accepted,
            redacted_because: None,
            pdu: Arc::clone(&stored.pdu),
            reference_hash,
            parsed,
            redacts,
            client_json: OnceLock::new(),
        })
    }

    /// The same, of another status than accepted.
    pub(crate) fn with_status(self, status: EventStatus) -> Self {
        Self { status, ..self }
    }

    /// Whether it was rejected: not allowed by what authorises it, or by the state before it.
    pub fn is_rejected(&self) -> bool {
        self.status == EventStatus::Rejected
    }

    /// The sender.
    pub fn sender(&self) -> &UserId {
        &self.parsed.sender
    }

    /// The type.
    pub fn event_type(&self) -> &TimelineEventType {
        &self.parsed.event_type
    }

    /// The state key; a state event has one.
    pub fn state_key(&self) -> Option<&str> {
        self.parsed.state_key.as_deref()
    }

    /// The content, a JSON object.
    pub fn content(&self) -> &RawValue {
        &self.parsed.content
    }

    /// `origin_server_ts`, or the nearest time that can be one.
    pub fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.parsed.origin_server_ts()
    }

    /// `depth`.
    pub fn depth(&self) -> i64 {
        self.parsed.depth
    }

    /// The event it asks to redact, wherever its room version says so.
    pub fn redacts(&self) -> Option<&EventId> {
        self.redacts.as_deref()
    }

    /// Roughly the memory it takes, in bytes.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + 3 * self.pdu.len()
    }
}

impl ruma::state_res::Event for Event {
    type Id = OwnedEventId;

    fn event_id(&self) -> &Self::Id {
        &self.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.parsed.room_id.as_deref()
    }

    fn sender(&self) -> &UserId {
        &self.parsed.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts()
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.parsed.event_type
    }

    fn content(&self) -> &RawValue {
        &self.parsed.content
    }

    fn state_key(&self) -> Option<&str> {
        self.parsed.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.parsed.prev_events.iter().map(AsRef::as_ref))
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.parsed.auth_events.iter().map(AsRef::as_ref))
    }

    fn redacts(&self) -> Option<&Self::Id> {
        self.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.is_rejected()
    }
}
