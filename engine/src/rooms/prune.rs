//! Takes the content of redacted events out of the database. Readers see the redacted form from the moment of the
//! redaction on; this makes it the stored one.

use std::collections::HashMap;

use hearth_storage::{events, rooms};
use ruma::{OwnedRoomId, RoomVersionId};

use crate::{
    Engine, Error,
    events::{InRoom, stored_redacted_form},
};

/// Events in one round.
const BATCH: i64 = 200;

/// Stores the redacted form of events that were redacted since the last time.
pub(crate) async fn prune_redacted(engine: &Engine) -> Result<(), Error> {
    let mut connection = engine.db.acquire().await?;
    let event_nids = events::unpruned(&mut connection, BATCH).await?;
    if event_nids.is_empty() {
        return Ok(());
    }
    let stored = events::by_nids(&mut connection, &event_nids).await?;
    let mut room_nids: Vec<_> = stored.iter().map(|row| row.event.room_nid).collect();
    room_nids.sort_unstable();
    room_nids.dedup();
    let mut versions = HashMap::new();
    for head in rooms::heads(&mut connection, &room_nids).await? {
        let version = RoomVersionId::try_from(head.room.room_version.as_str())
            .ok()
            .and_then(|version| version.rules());
        if let Some((rules, room_id)) = version.zip(OwnedRoomId::try_from(head.room.room_id).ok()) {
            versions.insert(head.room.room_nid, (rules, room_id));
        }
    }
    for row in stored {
        let Some((rules, room_id)) = versions.get(&row.event.room_nid) else {
            continue;
        };
        let redacted = stored_redacted_form(&row, InRoom { room_id, rules })?;
        events::prune(&mut connection, row.event.event_nid, &redacted).await?;
    }
    Ok(())
}
