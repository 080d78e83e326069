//! The state before a received event: what its predecessors left, resolved where they differ.

use std::collections::BTreeSet;

use hearth_storage::{
    EventNid, KeyNid, StateNid,
    log::NewState,
    states::{self, LoadedState},
};
use quick_cache::sync::Cache;

use crate::{
    Engine, Error,
    rooms::{Room, StateMap, resolve},
};

/// States kept for the next event that builds on them. Few: another server chooses which, and one of a large room that
/// shares nothing with the others takes a megabyte or two.
const STATES: usize = 64;

/// A state with the way it is stored.
#[derive(Debug, Clone)]
pub(in crate::rooms) struct KnownState {
    pub nid: StateNid,
    /// Deltas since the last whole state.
    pub depth: i16,
    pub map: StateMap,
}

/// States that received events came after lately.
#[derive(Debug)]
pub(crate) struct States(Cache<StateNid, KnownState>);

impl States {
    pub fn new() -> Self {
        Self(Cache::new(STATES))
    }

    pub fn clear(&self) {
        self.0.clear();
    }
}

/// States by number, each as a map. Those in memory share what they have in common.
pub(in crate::rooms) async fn load(
    engine: &Engine,
    room: &Room,
    state_nids: &BTreeSet<StateNid>,
) -> Result<Vec<KnownState>, Error> {
    let mut found = Vec::with_capacity(state_nids.len());
    let mut missing = Vec::new();
    for nid in state_nids {
        match current(room, *nid).or_else(|| engine.states.0.get(nid)) {
            Some(state) => found.push(state),
            None => missing.push(*nid),
        }
    }
    if !missing.is_empty() {
        let mut connection = engine.db.acquire().await?;
        let base = found
            .first()
            .map(|state| state.map.clone())
            .or_else(|| room.head.state());
        for loaded in states::load(&mut connection, &missing).await? {
            let state = shared_with(base.as_ref(), loaded);
            engine.states.0.insert(state.nid, state.clone());
            found.push(state);
        }
    }
    if found.len() != state_nids.len() {
        return Err(Error::Damaged(format!("a state of room {} is missing", room.id)));
    }
    found.sort_by_key(|state| state.nid);
    Ok(found)
}

/// The room's current state, if that is the one asked for: the common case.
fn current(room: &Room, nid: StateNid) -> Option<KnownState> {
    let (map, stored) = room.head.state_as_stored()?;
    let (current, depth) = stored?;
    (current == nid).then_some(KnownState { nid, depth, map })
}

/// A loaded state as a map that shares with `base` what is the same.
fn shared_with(base: Option<&StateMap>, loaded: LoadedState) -> KnownState {
    let map = match base {
        Some(base) => {
            let mut map = base.clone();
            let gone: Vec<KeyNid> = base
                .iter()
                .map(|(key_nid, _)| key_nid)
                .filter(|key_nid| !loaded.map.contains_key(key_nid))
                .collect();
            for key_nid in gone {
                map.set(key_nid, None);
            }
            for (key_nid, event_nid) in loaded.map {
                if map.get(key_nid) != Some(event_nid) {
                    map.set(key_nid, Some(event_nid));
                }
            }
            map
        }
        None => loaded.map.into_iter().collect(),
    };
    KnownState {
        nid: loaded.state_nid,
        depth: loaded.depth,
        map,
    }
}

/// What the states after an event's predecessors come to. Stored where it is a new one.
pub(in crate::rooms) async fn before(
    engine: &Engine,
    room: &Room,
    after_prevs: &BTreeSet<StateNid>,
) -> Result<KnownState, Error> {
    together(engine, room, load(engine, room, after_prevs).await?).await
}

/// What several states come to. Stored where it is a new one.
pub(in crate::rooms) async fn together(
    engine: &Engine,
    room: &Room,
    mut states: Vec<KnownState>,
) -> Result<KnownState, Error> {
    states.sort_by_key(|state| state.nid);
    states.dedup_by_key(|state| state.nid);
    if states.len() == 1 {
        return states.pop().ok_or_else(|| Error::Damaged("no state".to_owned()));
    }
    let maps: Vec<StateMap> = states.iter().map(|state| state.map.clone()).collect();
    let resolved = resolve::resolve(engine, room, &maps).await?;
    // Mostly it is one of them, or near one of them.
    let nearest = states
        .into_iter()
        .map(|state| (difference(&state.map, &resolved), state))
        .min_by_key(|(delta, _)| delta.len());
    match nearest {
        Some((delta, state)) if delta.is_empty() => Ok(state),
        Some((delta, state)) => store(engine, Some((state.nid, state.depth)), &delta, resolved).await,
        None => store(engine, None, &[], resolved).await,
    }
}

type Delta = Vec<(KeyNid, Option<EventNid>)>;

fn difference(old: &StateMap, new: &StateMap) -> Delta {
    let changed = new
        .iter()
        .filter(|(key_nid, event_nid)| old.get(*key_nid) != Some(*event_nid));
    let removed = old.iter().filter(|(key_nid, _)| new.get(*key_nid).is_none());
    changed
        .map(|(key_nid, event_nid)| (key_nid, Some(event_nid)))
        .chain(removed.map(|(key_nid, _)| (key_nid, None)))
        .collect()
}

/// The state after a state event, stored.
pub(in crate::rooms) async fn after(
    engine: &Engine,
    before: &KnownState,
    key_nid: KeyNid,
    event_nid: EventNid,
) -> Result<KnownState, Error> {
    let mut map = before.map.clone();
    map.set(key_nid, Some(event_nid));
    store(
        engine,
        Some((before.nid, before.depth)),
        &[(key_nid, Some(event_nid))],
        map,
    )
    .await
}

/// Stores a state, as a delta on `previous` where there is one. It counts when something refers to it.
pub(in crate::rooms) async fn store(
    engine: &Engine,
    previous: Option<(StateNid, i16)>,
    delta: &[(KeyNid, Option<EventNid>)],
    map: StateMap,
) -> Result<KnownState, Error> {
    let nid = engine.numbers.states(1).await?.pop();
    let nid = nid.ok_or_else(|| Error::Damaged("no state number".to_owned()))?;
    let packed: NewState = states::pack(nid, previous, delta, || map.iter().collect::<Vec<_>>())?;
    let state = KnownState {
        nid,
        depth: packed.depth,
        map,
    };
    let mut connection = engine.db.acquire().await?;
    states::insert(&mut connection, &packed).await?;
    engine.states.0.insert(nid, state.clone());
    Ok(state)
}
