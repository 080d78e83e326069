//! Bringing rooms into memory: a fixed number of queries, however many rooms.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use hearth_storage::{
    Connection, EventNid, KeyNid, RoomNid, StateNid, UserNid, gaps,
    log::{self, Membership},
    memberships,
    rooms::{self, StoredHead},
    states,
};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, RoomVersionId};

use super::{
    Room, StateMap,
    head::{Extremity, Head},
    members::Members,
    read,
    view::View,
};
use crate::{
    Engine, Error,
    events::{Event, InRoom},
};

impl Room {
    /// What reading its events needs.
    pub(crate) fn in_room(&self) -> InRoom<'_> {
        InRoom {
            room_id: &self.id,
            rules: &self.rules,
        }
    }
}

/// The room of an ID, loaded; nothing if it isn't known here.
pub(crate) async fn by_id(engine: &Engine, room_id: &RoomId) -> Result<Option<Arc<Room>>, Error> {
    let room_nid = match engine.rooms.nid(room_id) {
        Some(room_nid) => room_nid,
        None => {
            let mut connection = engine.db.acquire().await?;
            match rooms::by_id(&mut connection, room_id.as_str()).await? {
                Some(stored) => stored.room_nid,
                None => return Ok(None),
            }
        }
    };
    by_nid(engine, room_nid).await
}

/// The room of a number, loaded.
pub(crate) async fn by_nid(engine: &Engine, room_nid: RoomNid) -> Result<Option<Arc<Room>>, Error> {
    Ok(load_views(engine, &[room_nid]).await?.pop())
}

/// Rooms by number, loaded, in no order; numbers that stand for nothing are passed over.
pub(crate) async fn load_views(engine: &Engine, room_nids: &[RoomNid]) -> Result<Vec<Arc<Room>>, Error> {
    let mut found = Vec::with_capacity(room_nids.len());
    let mut missing = Vec::new();
    for room_nid in room_nids {
        match engine.rooms.get(*room_nid).filter(|room| room.view.is_loaded()) {
            Some(room) => found.push(room),
            None => missing.push(*room_nid),
        }
    }
    if missing.is_empty() {
        return Ok(found);
    }
    // The rooms are in the registry before the snapshot is taken: an entry that is not in the one reaches the other.
    let admitted = admit(engine, &missing).await?;
    let mut transaction = engine.db.begin_read().await?;
    let (_, upto) = log::head(&mut transaction).await?;
    let heads = rooms::heads(&mut transaction, &missing).await?;
    let mut states = load_states(&mut transaction, &heads).await?;
    let mut members = load_members(engine, &mut transaction, &missing).await?;
    let mut gaps: HashMap<RoomNid, BTreeSet<i64>> = HashMap::new();
    for gap in gaps::of_rooms(&mut transaction, &missing).await? {
        gaps.entry(gap.room_nid).or_default().insert(gap.sequence);
    }
    drop(transaction);
    for stored in heads {
        let Some(room) = admitted.get(&stored.room.room_nid) else {
            continue;
        };
        let (_, state) = states.remove(&stored.state_nid).unwrap_or_default();
        let members = members.remove(&room.nid).unwrap_or_default();
        let mut members = Members::of(members, &engine.config.server_name);
        if let Some(partial) = engine.partial.get(room.nid) {
            members.assume(&partial.servers, &engine.config.server_name);
        }
        let mut view = View::new(upto, stored.sequence, state, members);
        view.is_partial = stored.is_partial;
        view.gaps = gaps.remove(&room.nid).unwrap_or_default();
        room.view.loaded(view);
        found.push(Arc::clone(room));
    }
    Ok(found)
}

/// Puts rooms in the registry, not loaded.
async fn admit(engine: &Engine, room_nids: &[RoomNid]) -> Result<HashMap<RoomNid, Arc<Room>>, Error> {
    let mut connection = engine.db.acquire().await?;
    let mut admitted = HashMap::with_capacity(room_nids.len());
    for stored in rooms::heads(&mut connection, room_nids).await? {
        match new_room(&stored) {
            Some(room) => drop(admitted.insert(room.nid, engine.rooms.admit(room))),
            None => tracing::error!(
                room_id = stored.room.room_id,
                "passed over a room of an unknown version"
            ),
        }
    }
    Ok(admitted)
}

fn new_room(stored: &StoredHead) -> Option<Room> {
    let room_id = OwnedRoomId::try_from(stored.room.room_id.as_str()).ok()?;
    let version = RoomVersionId::try_from(stored.room.room_version.as_str()).ok()?;
    let rules = version.rules()?;
    Some(Room::new(stored.room.room_nid, room_id, version, rules))
}

type States = HashMap<StateNid, (i16, StateMap)>;

async fn load_states(connection: &mut Connection, heads: &[StoredHead]) -> Result<States, Error> {
    let state_nids: Vec<StateNid> = heads.iter().map(|head| head.state_nid).collect();
    let loaded = states::load(connection, &state_nids).await?;
    let as_map = |map: BTreeMap<KeyNid, EventNid>| map.into_iter().collect();
    Ok(loaded
        .into_iter()
        .map(|state| (state.state_nid, (state.depth, as_map(state.map))))
        .collect())
}

async fn load_members(
    engine: &Engine,
    connection: &mut Connection,
    room_nids: &[RoomNid],
) -> Result<HashMap<RoomNid, Vec<(UserNid, Membership, OwnedUserId)>>, Error> {
    let mut members: HashMap<RoomNid, Vec<_>> = HashMap::new();
    for (room_nid, user_nid, membership, user_id) in memberships::of_rooms(connection, room_nids).await? {
        let Ok(user_id) = OwnedUserId::try_from(user_id) else {
            continue;
        };
        engine.interner.remember_user(user_nid, &user_id);
        members
            .entry(room_nid)
            .or_default()
            .push((user_nid, membership, user_id));
    }
    Ok(members)
}

/// Sees to it that `room` has a head to decide on.
pub(super) async fn load_head(engine: &Engine, room: &Room) -> Result<(), Error> {
    if room.head.is_loaded() {
        return Ok(());
    }
    let mut transaction = engine.db.begin_read().await?;
    let Some(stored) = rooms::heads(&mut transaction, &[room.nid]).await?.pop() else {
        return Err(Error::Damaged(format!("room {} has no head", room.id)));
    };
    let mut states = load_states(&mut transaction, std::slice::from_ref(&stored)).await?;
    let wanted = stored.forward_extremities.iter().copied();
    let extremities = engine
        .events
        .load(&mut transaction, room.in_room(), wanted)
        .await?;
    drop(transaction);
    let (depth, state) = states.remove(&stored.state_nid).unwrap_or_default();
    // The memory that the view's map takes anyway is shared when both are at the same state.
    let state = room
        .read(|view| (view.sequence == stored.sequence).then(|| view.state.clone()))
        .flatten()
        .unwrap_or(state);
    let mut extremities: Vec<Extremity> = extremities
        .into_values()
        .map(|event| Extremity::of(&event, event.state_after))
        .collect();
    extremities.sort_by_key(|extremity| (extremity.depth, extremity.nid));
    room.head.offer(Head {
        sequence: stored.sequence,
        extremities,
        state,
        stored_state: Some((stored.state_nid, depth)),
        permitted: Default::default(),
    });
    Ok(())
}

/// The events that no event of the log names as a predecessor yet. What is only being committed may come to nothing.
pub(crate) async fn committed_extremities(engine: &Engine, room: &Room) -> Result<Vec<Arc<Event>>, Error> {
    let stored = {
        let mut connection = engine.db.acquire().await?;
        rooms::heads(&mut connection, &[room.nid]).await?.pop()
    };
    let nids = stored.into_iter().flat_map(|stored| stored.forward_extremities);
    Ok(read::events(engine, room, nids).await?.into_values().collect())
}
