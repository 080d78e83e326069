//! Events as resolution reads them: of a large room it reads many, and of most of them little.

use std::sync::LazyLock;

use hearth_storage::{EventNid, KeyNid, event_auth};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::{StateEventType, TimelineEventType},
    state_res,
};
use serde_json::value::RawValue;

use crate::{Error, events::pdu::Pdu};

/// A state event, with what authorisation and the orderings read of it.
#[derive(Debug, Clone)]
pub(super) struct StateEvent {
    pub nid: EventNid,
    pub key_nid: KeyNid,
    pub event_id: OwnedEventId,
    /// Its `auth_events`; see [`super::v2`] for which of them an event is given.
    pub auth_events: Vec<OwnedEventId>,
    pub depth: i64,
    state_key: Box<str>,
    is_rejected: bool,
    event_type: TimelineEventType,
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    content: Box<RawValue>,
    prev_events: Vec<OwnedEventId>,
    /// Asked for by the rules of room versions 1 and 2 only.
    redacts: Option<OwnedEventId>,
}

/// The rules ask whether an event follows the create event and nothing else. Two tell.
const PREV_EVENTS: usize = 2;

static NO_CONTENT: LazyLock<Box<RawValue>> =
    LazyLock::new(|| RawValue::from_string("{}".to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned()));

impl StateEvent {
    pub fn parse(stored: event_auth::AuthEvent) -> Result<Self, Error> {
        let damaged = |error: &dyn std::fmt::Display| {
            Error::Damaged(format!("state event {} can't be read: {error}", stored.event_id))
        };
        let event_id = OwnedEventId::try_from(stored.event_id.as_str()).map_err(|error| damaged(&error))?;
        let pdu: Pdu = serde_json::from_str(&stored.pdu).map_err(|error| damaged(&error))?;
        let (origin_server_ts, redacts) = (pdu.origin_server_ts(), pdu.redacts_beside_content());
        // The types whose content authorisation reads. What others hold may be large, and isn't kept.
        let is_read = matches!(
            pdu.event_type,
            TimelineEventType::RoomCreate
                | TimelineEventType::RoomMember
                | TimelineEventType::RoomPowerLevels
                | TimelineEventType::RoomJoinRules
                | TimelineEventType::RoomThirdPartyInvite
        );
        Ok(Self {
            nid: stored.event_nid,
            key_nid: stored.key_nid,
            event_id,
            auth_events: pdu.auth_events.into_iter().map(OwnedEventId::from).collect(),
            depth: pdu.depth,
            state_key: pdu.state_key.unwrap_or_default(),
            is_rejected: stored.is_rejected,
            event_type: pdu.event_type,
            room_id: pdu.room_id,
            sender: pdu.sender,
            origin_server_ts,
            content: if is_read { pdu.content } else { NO_CONTENT.clone() },
            prev_events: pdu
                .prev_events
                .into_iter()
                .take(PREV_EVENTS)
                .map(OwnedEventId::from)
                .collect(),
            redacts,
        })
    }

    /// Its type and state key, as ruma's state maps have them.
    pub fn key(&self) -> (StateEventType, String) {
        (self.event_type.to_string().into(), self.state_key.to_string())
    }
}

impl state_res::Event for StateEvent {
    type Id = OwnedEventId;

    fn event_id(&self) -> &Self::Id {
        &self.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.room_id.as_deref()
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }

    fn content(&self) -> &RawValue {
        &self.content
    }

    fn state_key(&self) -> Option<&str> {
        Some(&self.state_key)
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.auth_events.iter())
    }

    fn redacts(&self) -> Option<&Self::Id> {
        self.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.is_rejected
    }
}

/// The keys of the state that decide whether `event` is allowed (server-server API, "Auth events selection"). None for
/// an event that no state allows.
pub(super) fn auth_types(
    event: &StateEvent,
    rules: &ruma::room_version_rules::AuthorizationRules,
) -> Vec<(StateEventType, String)> {
    state_res::auth_types_for_event(
        &event.event_type,
        &event.sender,
        Some(&event.state_key),
        &event.content,
        rules,
    )
    .unwrap_or_default()
}

/// Events by ID, as ruma looks them up.
pub(super) fn find<'a>(
    events: &'a std::collections::HashMap<OwnedEventId, StateEvent>,
) -> impl Fn(&EventId) -> Option<&'a StateEvent> {
    |event_id| events.get(event_id)
}
