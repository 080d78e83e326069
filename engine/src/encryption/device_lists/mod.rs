//! Device lists: that the devices or cross-signing keys of a user changed, and who hears of it.

mod recent;

use std::sync::Arc;

use hearth_storage::{Position, RoomNid, UserNid, log::DeviceListChange, memberships};

use crate::{Engine, Error, rooms};
pub(crate) use recent::{RecentChange, RecentChanges};

/// Notes a change that the log tells of, and wakes whoever is to hear of it.
pub(crate) fn apply(engine: &Arc<Engine>, position: Position, change: &DeviceListChange) {
    let noted = engine
        .encryption
        .changes
        .push(position, change.user_nid, change.only_for);
    let engine = Arc::clone(engine);
    tokio::spawn(async move {
        // Whoever is woken before memory has come this far would find nothing.
        let mut applied = engine.log.watch();
        if applied
            .wait_for(|head| head.position >= position)
            .await
            .is_err()
        {
            return;
        }
        engine.waiting.wake(noted.only_for.unwrap_or(noted.user_nid));
        if noted.only_for.is_some() {
            return;
        }
        match rooms_of(&engine, &noted).await {
            Ok(room_nids) => room_nids
                .iter()
                .for_each(|room_nid| rooms::wake(&engine, *room_nid)),
            Err(error) => {
                tracing::warn!(%error, "could not see who shares a room with a user; waking everyone");
                engine.waiting.wake_all();
            }
        }
    });
}

/// The rooms that a user of a change is in; read once a change. Whoever comes to share one later is told by that.
pub(crate) async fn rooms_of(engine: &Engine, change: &RecentChange) -> Result<Arc<[RoomNid]>, Error> {
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
