//! Reading the state of a room.

use std::{collections::HashMap, sync::Arc};

use hearth_storage::{EventNid, KeyNid};

use super::Room;
use crate::{Engine, Error, events::Event};

/// The current state event at a type and key.
pub(crate) async fn current_state_event(
    engine: &Engine,
    room: &Room,
    event_type: &str,
    state_key: &str,
) -> Result<Option<Arc<Event>>, Error> {
    let Some(key_nid) = engine.interner.find_key(event_type, state_key).await? else { return Ok(None) };
    let event_nid = room.read(|view| view.state.get(key_nid)).flatten();
    let Some(event_nid) = event_nid else { return Ok(None) };
    Ok(events(engine, room, [event_nid]).await?.remove(&event_nid))
}

/// Events of a room by number, from memory where they are there.
pub(crate) async fn events(
    engine: &Engine,
    room: &Room,
    event_nids: impl IntoIterator<Item = EventNid>,
) -> Result<HashMap<EventNid, Arc<Event>>, Error> {
    let mut found = HashMap::new();
    let mut missing = Vec::new();
    for event_nid in event_nids {
        match engine.events.get(event_nid) {
            Some(event) => drop(found.insert(event_nid, event)),
            None => missing.push(event_nid),
        }
    }
    if !missing.is_empty() {
        let mut connection = engine.db.acquire().await?;
        found.extend(engine.events.load(&mut connection, room.in_room(), missing).await?);
    }
    Ok(found)
}

/// The whole current state, by key.
pub(crate) async fn current_state(engine: &Engine, room: &Room) -> Result<HashMap<KeyNid, Arc<Event>>, Error> {
    let state = room.read(|view| view.state.clone()).unwrap_or_default();
    let pairs: Vec<(KeyNid, EventNid)> = state.iter().collect();
    let mut by_nid = events(engine, room, pairs.iter().map(|(_, event_nid)| *event_nid)).await?;
    Ok(pairs.into_iter().filter_map(|(key_nid, event_nid)| Some((key_nid, by_nid.remove(&event_nid)?))).collect())
}
