//! What came before a received event: its predecessors, fetched where they are missing, and the states they left.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hearth_storage::{
    EventNid, KeyNid, Position, StateNid,
    events::{self, EventStatus, KnownEvent, Place, QuietEvent},
};
use ruma::{OwnedEventId, OwnedServerName};

use super::{
    fetch::{self, Told},
    number::known,
    outliers,
    pdu::ReceivedPdu,
    state,
};
use crate::{
    Engine, Error,
    rooms::{Room, StateMap},
};

/// The predecessors of an event.
#[derive(Debug, Default)]
pub(in crate::rooms) struct Prevs {
    /// Those that are known.
    pub nids: Vec<EventNid>,
    /// The states after them.
    pub states: Vec<StateNid>,
    /// Those whose own predecessors are not known: before the event, history is missing.
    pub missing: Vec<String>,
}

/// The event before which we know a state.
fn is_placed(known: &KnownEvent) -> bool {
    known.state_after.is_some() && known.status != EventStatus::Outlier
}

/// Where predecessors of `pdu` aren't known, asks for the events between them and the room's forward extremities.
pub(super) async fn fetch_missing(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    servers: &[OwnedServerName],
    pdu: &ReceivedPdu,
) -> Result<Vec<ReceivedPdu>, Error> {
    let prevs = known(engine, pdu.prev_events.iter().map(|event_id| event_id.as_str())).await?;
    let is_known = |event_id: &OwnedEventId| prevs.get(event_id.as_str()).is_some_and(is_placed);
    if pdu.prev_events.iter().all(is_known) {
        return Ok(Vec::new());
    }
    let floor = floor(engine, room).await?;
    Ok(fetch::missing_events(engine, room, servers, &pdu.event_id, floor).await)
}

/// The depth of the last live event before which history is missing, mostly that by which this server came to the room.
/// What is below is history, and never becomes live.
async fn floor(engine: &Engine, room: &Room) -> Result<i64, Error> {
    let Some(sequence) = room.read(|view| view.gaps.last().copied()).flatten() else {
        return Ok(0);
    };
    let (before, after) = (Place { sequence, sub: 1 }, Place { sequence, sub: -1 });
    let mut connection = engine.db.acquire().await?;
    let upto = Position(i64::MAX);
    let rows = events::page_backwards(&mut connection, room.nid, before, after, upto, 1).await?;
    let live = engine
        .events
        .admit(&mut connection, rows, |_| Some(room.in_room()))
        .await?;
    Ok(live.first().map_or(0, |event| event.depth()))
}

/// Each event after those of its predecessors that are among them; otherwise as they come.
pub(in crate::rooms) fn in_order(pdus: Vec<ReceivedPdu>) -> Vec<ReceivedPdu> {
    let mut waiting: Vec<ReceivedPdu> = Vec::with_capacity(pdus.len());
    let mut seen = HashSet::new();
    for pdu in pdus {
        if seen.insert(pdu.event_id.clone()) {
            waiting.push(pdu);
        }
    }
    let mut left: HashSet<OwnedEventId> = seen;
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let before = waiting.len();
        let (ready, rest): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|pdu| !pdu.prev_events.iter().any(|prev| left.contains(prev)));
        waiting = rest;
        for pdu in ready {
            left.remove(&pdu.event_id);
            ordered.push(pdu);
        }
        if waiting.len() == before {
            // A ring, which no honest hash allows.
            break;
        }
    }
    ordered
}

/// What became of asking for the states after predecessors.
#[derive(Debug)]
pub(super) enum PrevStates {
    /// The predecessors, with all of the states that are to be had.
    Known(Prevs),
    /// Nobody tells any.
    Nothing,
    /// Somebody did not answer, and may later.
    NotNow,
}

/// The predecessors with the states after them; those states that aren't known are asked for.
pub(super) async fn with_states(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    servers: &[OwnedServerName],
    prev_events: &[OwnedEventId],
) -> Result<PrevStates, Error> {
    let known = known(engine, prev_events.iter().map(|event_id| event_id.as_str())).await?;
    let mut prevs = Prevs::default();
    for event_id in prev_events {
        let found = known
            .get(event_id.as_str())
            .filter(|known| known.room_nid == room.nid);
        if let Some(found) = found {
            prevs.nids.push(found.event_nid);
        }
        match found.and_then(|found| found.state_after) {
            Some(state_after) => {
                prevs.states.push(state_after);
                if found.is_some_and(|found| found.status == EventStatus::Outlier) {
                    prevs.missing.push(event_id.to_string());
                }
            }
            None => {
                match state_after(engine, room, servers, event_id).await? {
                    StateAfter::Known(event_nid, state_after) => {
                        prevs
                            .nids
                            .extend(event_nid.filter(|nid| !prevs.nids.contains(nid)));
                        prevs.states.push(state_after);
                    }
                    StateAfter::Nothing => {}
                    StateAfter::NotNow => return Ok(PrevStates::NotNow),
                }
                prevs.missing.push(event_id.to_string());
            }
        }
    }
    Ok(match prevs.states.is_empty() {
        true => PrevStates::Nothing,
        false => PrevStates::Known(prevs),
    })
}

/// What others tell of the state after an event.
enum StateAfter {
    /// The state, and the event if it could be had.
    Known(Option<EventNid>, StateNid),
    Nothing,
    NotNow,
}

/// The state after an event that we lack, or lack the past of, as other servers tell: stored, and the event with it.
async fn state_after(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    servers: &[OwnedServerName],
    event_id: &OwnedEventId,
) -> Result<StateAfter, Error> {
    let remote = match fetch::state_before(engine, room, servers, event_id).await? {
        Told::State(remote) => remote,
        Told::Nothing => return Ok(StateAfter::Nothing),
        Told::NotNow => return Ok(StateAfter::NotNow),
    };
    let mut pdus = remote.pdus;
    let own = fetch::by_ids(engine, room, servers, [event_id.clone()]).await;
    // What authorises it is in the state before it, or in the chain that came with that.
    pdus.extend(own.pdus);
    let is_complete = remote.is_complete && own.is_complete;
    outliers::admit(engine, room, pdus, is_complete).await?;
    if !is_complete {
        // What is here by now need not be asked for again.
        return Ok(StateAfter::NotNow);
    }
    let map = state_of(engine, room, &remote.state).await?;
    if map.is_empty() {
        return Ok(StateAfter::Nothing);
    }
    let before = state::store(engine, None, &[], map).await?;
    let event = {
        let mut connection = engine.db.acquire().await?;
        events::by_ids(&mut connection, &[event_id.as_str()]).await?.pop()
    };
    let Some(event) = event.filter(|event| event.event.room_nid == room.nid) else {
        return Ok(StateAfter::Known(None, before.nid));
    };
    let after = match event
        .event
        .key_nid
        .filter(|_| event.status != EventStatus::Rejected)
    {
        Some(key_nid) => state::after(engine, &before, key_nid, event.event.event_nid).await?,
        None => before,
    };
    let quiet = QuietEvent {
        status: event.status,
        event: Arc::new(event.event),
        state_after: Some(after.nid),
        place: None,
    };
    let mut connection = engine.db.acquire().await?;
    events::store_quietly(&mut connection, std::slice::from_ref(&quiet)).await?;
    Ok(StateAfter::Known(Some(quiet.event.event_nid), after.nid))
}

/// The state that events make up, of which those that are unknown or rejected are left out.
pub(in crate::rooms) async fn state_of(
    engine: &Engine,
    room: &Room,
    event_ids: &[OwnedEventId],
) -> Result<StateMap, Error> {
    let known = known(engine, event_ids.iter().map(|event_id| event_id.as_str())).await?;
    let usable: Vec<EventNid> = known
        .values()
        .filter(|known| known.room_nid == room.nid && known.status != EventStatus::Rejected)
        .map(|known| known.event_nid)
        .collect();
    let mut connection = engine.db.acquire().await?;
    let keys: HashMap<EventNid, KeyNid> = events::keys(&mut connection, &usable)
        .await?
        .into_iter()
        .collect();
    Ok(keys
        .into_iter()
        .map(|(event_nid, key_nid)| (key_nid, event_nid))
        .collect())
}
