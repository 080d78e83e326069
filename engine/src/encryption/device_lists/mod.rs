//! Device lists: that the devices or cross-signing keys of a user changed, and who hears of it.

mod changes;
mod edus;
mod recent;

use std::sync::{Arc, OnceLock};

use hearth_storage::{
    Position, RoomNid, UserNid,
    log::{DeviceListChange, EntryKind, Membership, MembershipChange},
    memberships,
};

use crate::{
    Engine, Error,
    accounts::Requester,
    log::{LogHead, position_of},
    outgoing, rooms,
    tokens::{BadToken, SyncToken},
    users,
};
pub use changes::DeviceLists;
pub(crate) use changes::{Move, between};
pub(crate) use edus::edus;
pub(crate) use recent::{Recent, RecentChange};

/// Why changes are not told.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// A token is none of ours.
    #[error(transparent)]
    BadToken(#[from] BadToken),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(ChangesError);

/// `keys/changes`: what syncs between two tokens told, or would have.
pub async fn changes(
    engine: &Arc<Engine>,
    requester: &Requester,
    from: &str,
    to: &str,
) -> Result<DeviceLists, ChangesError> {
    let (from, to): (SyncToken, SyncToken) = (from.parse()?, to.parse()?);
    let user = users::load(engine, requester.user_nid).await?;
    let head = engine.log.head();
    let head = LogHead {
        // What the user's memberships are known up to.
        position: head.position.max(user.newest),
        ..head
    };
    let (since, _) = position_of(engine, &from, head).await?;
    let (upto, _) = position_of(engine, &to, head).await?;
    Ok(between(engine, (requester.user_nid, &user), since, upto).await?)
}

/// Notes a change that the log tells of, and wakes whoever is to hear of it.
pub(crate) fn apply(engine: &Arc<Engine>, position: Position, change: &DeviceListChange) {
    let noted = Arc::new(RecentChange {
        user_nid: change.user_nid,
        only_for: change.only_for,
        rooms: OnceLock::new(),
    });
    engine.encryption.changes.push(position, Arc::clone(&noted));
    if change.only_for.is_none() {
        outgoing::note_device_list(engine, position, change);
    }
    let engine = Arc::clone(engine);
    tokio::spawn(async move {
        // Whoever is woken before memory has come this far would find nothing.
        let mut applied = engine.log.watch();
        if applied.wait_for(|head| head.position >= position).await.is_err() {
            return;
        }
        wake(&engine, &noted).await;
    });
}

async fn wake(engine: &Engine, change: &RecentChange) {
    engine.waiting.wake(change.only_for.unwrap_or(change.user_nid));
    if change.only_for.is_some() {
        return;
    }
    match rooms_of(engine, change).await {
        Ok(room_nids) => room_nids
            .iter()
            .for_each(|room_nid| rooms::wake(engine, *room_nid)),
        Err(error) => {
            tracing::warn!(%error, "could not see who shares a room with a user; waking everyone");
            engine.waiting.wake_all();
        }
    }
}

/// Notes what an entry about a room says of who is in it, and whether it is encrypted from then on.
pub(crate) fn note(engine: &Engine, room_nid: RoomNid, position: Position, kind: &EntryKind) {
    let moves = &engine.encryption.moves;
    match kind {
        EntryKind::Membership(change) => {
            if let Some(one) = move_of(change) {
                moves.push(position, (room_nid, one));
            }
        }
        EntryKind::Event(_, states) | EntryKind::State(_, states) => {
            let key = engine.encryption.key();
            let begins = |state: &&_| changes::begins(state) && Some(state.key_nid) == key;
            if states.iter().any(|state| begins(&state)) {
                moves.push(position, (room_nid, Move::Encrypted));
            }
        }
        _ => {}
    }
}

fn move_of(change: &MembershipChange) -> Option<Move> {
    match change.membership {
        Membership::Join if !change.continues => Some(Move::Joined(change.user_nid)),
        Membership::Leave | Membership::Ban => Some(Move::Left(change.user_nid)),
        _ => None,
    }
}

/// The rooms that a user of a change is in; read once a change. Whoever comes to share one later is told by that.
async fn rooms_of(engine: &Engine, change: &RecentChange) -> Result<Arc<[RoomNid]>, Error> {
    if let Some(room_nids) = change.rooms.get() {
        return Ok(Arc::clone(room_nids));
    }
    let joined = joined_rooms(engine, change.user_nid).await?;
    Ok(Arc::clone(change.rooms.get_or_init(|| joined.into())))
}

/// The rooms that a user, of this server or of another, is in.
pub(crate) async fn joined_rooms(engine: &Engine, user_nid: UserNid) -> Result<Vec<RoomNid>, Error> {
    let mut connection = engine.db.acquire().await?;
    Ok(memberships::joined_rooms(&mut connection, user_nid).await?)
}
