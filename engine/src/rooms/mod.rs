//! Rooms: their heads in memory, what is decided on them, and what is read of them.

pub(crate) mod aggregations;
mod annotations;
pub mod at_time;
mod begin;
mod checks;
mod commit;
pub mod context;
pub mod create;
mod decide;
pub(crate) mod descriptions;
pub mod directory;
mod draft;
pub(crate) mod elsewhere;
mod gather;
pub(crate) mod handshake;
mod head;
pub mod hierarchy;
mod load;
mod members;
pub mod membership;
pub mod messages;
pub(crate) mod partial;
mod power;
mod prune;
pub mod read;
pub(crate) mod receive;
mod registry;
pub mod relations;
mod resolve;
mod restricted;
pub mod send;
pub(crate) mod serve;
pub(crate) mod space_children;
mod state;
pub mod summary;
pub mod third_party;
pub(crate) mod told;
pub mod upgrade;
mod view;
pub(crate) mod visibility;
mod walk;

use std::{collections::HashMap, sync::Arc};

use hearth_storage::{RoomNid, log::Entry};
use ruma::OwnedRoomId;

use crate::{Engine, Error};

pub use commit::SendError;
pub(crate) use commit::commit_one;
pub use decide::DecideError;
pub(crate) use draft::{Draft, content_from_json};
pub(crate) use handshake::JoinTurns;
pub use handshake::{HandshakeError, serve::ServeError};
pub(crate) use load::{by_id, by_nid, committed_extremities, load_views};
pub(crate) use partial::PartialRooms;
pub(crate) use prune::prune_redacted;
pub(crate) use receive::{inbox::Inbox, state::States};
pub use registry::{Room, Rooms};
pub use state::StateMap;
pub(crate) use view::{RoomEntryKind, View};

/// Brings a room in memory up to an entry about it. A room that isn't in memory will read it from the tables.
pub(crate) async fn apply(engine: &Arc<Engine>, room_nid: RoomNid, entry: &Entry) {
    if let Some(room) = engine.rooms.get(room_nid) {
        view::apply(engine, &room, entry).await;
    }
}

/// Wakes whoever waits for news of a room: its joined local members.
pub(crate) fn wake(engine: &Engine, room_nid: RoomNid) {
    let members = engine.rooms.get(room_nid).and_then(|room| room.local_members());
    match members {
        Some(members) => members.iter().for_each(|user_nid| engine.waiting.wake(*user_nid)),
        // A room that was committed to elsewhere and isn't in memory here: whoever is in it looks for themselves.
        None => engine.waiting.wake_all(),
    }
}

/// The IDs of rooms.
pub(crate) async fn ids(
    engine: &Engine,
    room_nids: &[RoomNid],
) -> Result<HashMap<RoomNid, OwnedRoomId>, Error> {
    let mut ids = HashMap::with_capacity(room_nids.len());
    let mut missing = Vec::new();
    for room_nid in room_nids {
        match engine.rooms.get(*room_nid) {
            Some(room) => drop(ids.insert(*room_nid, room.id.clone())),
            None => missing.push(*room_nid),
        }
    }
    if !missing.is_empty() {
        let mut connection = engine.db.acquire().await?;
        let stored = hearth_storage::rooms::heads(&mut connection, &missing).await?;
        ids.extend(
            stored
                .into_iter()
                .filter_map(|head| Some((head.room.room_nid, head.room.room_id.try_into().ok()?))),
        );
    }
    Ok(ids)
}
