//! The checks on an event, named after those that the specification lists for one that is received (server-server API,
//! "Checks performed on receipt of a PDU"). What is made here meets the same ones. Pure; what follows from a check that
//! fails is for the caller to say.

use std::sync::Arc;

use ruma::{
    EventId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::AuthorizationRules,
    state_res::{check_state_dependent_auth_rules, check_state_independent_auth_rules},
};

use crate::events::Event;

/// `type` and `state_key` may be this long, in bytes (client-server API, "Size limits").
const MAX_KEY_BYTES: usize = 255;
/// A whole event may be this long, as canonical JSON.
const MAX_PDU_BYTES: usize = 65_536;

/// An event is larger than events may be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TooLarge {
    #[error("the {0} of an event is at most {MAX_KEY_BYTES} bytes long")]
    Key(&'static str),
    #[error("an event is at most {MAX_PDU_BYTES} bytes long")]
    Pdu,
}

/// The rules of the room don't allow an event, for a reason that ruma gives.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotAuthorised(String);

/// Of "is a valid event": the size of its type and state key.
pub(super) fn check_size_of_key(event_type: &str, state_key: Option<&str>) -> Result<(), TooLarge> {
    if event_type.len() > MAX_KEY_BYTES {
        return Err(TooLarge::Key("type"));
    }
    if state_key.is_some_and(|state_key| state_key.len() > MAX_KEY_BYTES) {
        return Err(TooLarge::Key("state_key"));
    }
    Ok(())
}

/// Of "is a valid event": the size of its canonical JSON.
pub(super) fn check_size_of_pdu(pdu: &str) -> Result<(), TooLarge> {
    match pdu.len() > MAX_PDU_BYTES {
        true => Err(TooLarge::Pdu),
        false => Ok(()),
    }
}

/// "Passes authorisation rules based on the state": `state` finds the event at a key of the state before the event, or
/// of the room's current state. For an event that is made here the two are one.
pub(super) fn check_auth_rules_by_state(
    event: &Arc<Event>,
    rules: &AuthorizationRules,
    state: impl Fn(&StateEventType, &str) -> Option<Arc<Event>>,
) -> Result<(), NotAuthorised> {
    let checked = if *event.event_type() == TimelineEventType::RoomCreate {
        check_state_independent_auth_rules(rules, event, |_| None::<Arc<Event>>)
    } else {
        check_state_dependent_auth_rules(rules, event, state)
    };
    checked.map_err(NotAuthorised)
}

/// "Passes authorisation rules based on the event's auth events": `event` finds them by ID, `state` by type and state key.
pub(super) fn check_auth_rules_by_auth_events(
    checked: &Arc<Event>,
    rules: &AuthorizationRules,
    event: impl Fn(&EventId) -> Option<Arc<Event>>,
    state: impl Fn(&StateEventType, &str) -> Option<Arc<Event>>,
) -> Result<(), NotAuthorised> {
    check_state_independent_auth_rules(rules, checked, event).map_err(NotAuthorised)?;
    check_state_dependent_auth_rules(rules, checked, state).map_err(NotAuthorised)
}
