//! State resolution: from the states that events left behind on both sides of a fork to the one that follows them
//! (rooms specifications, "State resolution"). Versions 2 and 2.1 of the algorithm are ruma's; it is handed what it reads
//! and no more. Version 1 is ours.
//!
//! Gathering ([`source`], [`auth_chain`]) is apart from deciding ([`v1`], [`v2`]), which does no I/O.

mod auth_chain;
mod event;
mod source;
mod split;
mod v1;
mod v2;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod test_graph;
#[cfg(test)]
mod tests;

use hearth_storage::{EventNid, KeyNid};
use ruma::room_version_rules::StateResolutionVersion;

use self::{source::StoredRoom, split::Split};
use super::{Room, StateMap};
use crate::{Engine, Error};

/// What `states` resolve to: the state before an event of which each predecessor left one of them, or the current state
/// of a room whose forward extremities did. Their events are stored, with what authorises them.
pub(crate) async fn resolve(engine: &Engine, room: &Room, states: &[StateMap]) -> Result<StateMap, Error> {
    let split = Split::of(states);
    let Some(first) = split.states.first() else {
        return Ok(StateMap::default());
    };
    if split.differing.is_empty() {
        return Ok((*first).clone());
    }
    let source = StoredRoom { engine, room };
    let changes = match &room.rules.state_res {
        StateResolutionVersion::V1 => {
            let gathered = v1::gather(&source, &room.rules.authorization, &split).await?;
            decide(move || Ok(gathered.decide())).await?
        }
        StateResolutionVersion::V2(rules) => {
            let gathered = v2::gather(&source, &room.rules.authorization, rules, &split).await?;
            decide(move || gathered.decide()).await?
        }
        version => {
            return Err(Error::Damaged(format!(
                "state resolution {version:?} is not known"
            )));
        }
    };
    tracing::debug!(room_id = %room.id, states = split.states.len(), differing = split.differing.len(), "resolved");
    Ok(merged(&split, changes))
}

/// What a resolution says of a key: the event there, or none.
type Resolved = Vec<(KeyNid, EventNid)>;

/// Large conflicts take seconds: they are not decided where other tasks wait.
async fn decide(
    decide: impl FnOnce() -> Result<Resolved, Error> + Send + 'static,
) -> Result<Resolved, Error> {
    tokio::task::spawn_blocking(decide)
        .await
        .map_err(|error| Error::Damaged(format!("state resolution broke off: {error}")))?
}

/// The state that the states share, with `resolved` where they differ. Where they don't, what they share stands, whatever
/// was found ("Update the result by replacing any event with the event with the same key from the unconflicted state
/// map").
fn merged(split: &Split<'_>, resolved: Resolved) -> StateMap {
    let Some(mut state) = split.states.first().map(|state| (*state).clone()) else {
        return StateMap::default();
    };
    for key_nid in split.differing.keys() {
        state.set(*key_nid, None);
    }
    for (key_nid, event_nid) in resolved {
        if split.common(key_nid).is_none() {
            state.set(key_nid, Some(event_nid));
        }
    }
    state
}
