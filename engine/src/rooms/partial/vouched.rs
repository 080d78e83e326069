//! Members who are not in the part of the state that is here: what an event that speaks of them says they are, by the
//! events that authorise it. Those were verified and judged like any; what they say is what its sender's server went by.

use std::collections::HashMap;

use hearth_storage::{EventNid, KeyNid};
use ruma::events::StateEventType;

use crate::{
    Engine, Error,
    rooms::{
        Room, StateMap,
        gather::Names,
        read,
        receive::{
            number::Incoming,
            state::{self, KnownState},
        },
    },
};

/// Member events that a state lacks, by their keys.
pub(in crate::rooms) type Vouched = HashMap<KeyNid, EventNid>;

/// The member events that authorise an event and are not in `state`.
pub(in crate::rooms) async fn vouched(
    engine: &Engine,
    room: &Room,
    incoming: &Incoming,
    names: &Names,
    state: &StateMap,
) -> Result<Vouched, Error> {
    let members = names.auth_keys.iter().filter(|(event_type, _, key_nid)| {
        *event_type == StateEventType::RoomMember && state.get(*key_nid).is_none()
    });
    let lacking: Vec<KeyNid> = members.map(|(_, _, key_nid)| *key_nid).collect();
    if lacking.is_empty() {
        return Ok(Vouched::new());
    }
    let authorising = read::events(engine, room, incoming.stored.auth_nids.iter().copied()).await?;
    let allowed = authorising.values().filter(|event| !event.is_rejected());
    Ok(allowed
        .filter_map(|event| Some((event.key_nid?, event.nid)))
        .filter(|(key_nid, _)| lacking.contains(key_nid))
        .collect())
}

/// A state with them.
pub(in crate::rooms) async fn with(
    engine: &Engine,
    before: KnownState,
    vouched: &Vouched,
) -> Result<KnownState, Error> {
    if vouched.is_empty() {
        return Ok(before);
    }
    let mut map = before.map.clone();
    let mut delta = Vec::with_capacity(vouched.len());
    for (key_nid, event_nid) in vouched {
        map.set(*key_nid, Some(*event_nid));
        delta.push((*key_nid, Some(*event_nid)));
    }
    state::store(engine, Some((before.nid, before.depth)), &delta, map).await
}
