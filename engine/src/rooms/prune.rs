//! Takes the content of redacted events out of the database. Readers see the redacted form from the moment of the
//! redaction on; this makes it the stored one.

use std::collections::HashMap;

use hearth_storage::{Connection, EventNid, events, rooms};
use ruma::{OwnedRoomId, RoomVersionId};

use crate::{
    Engine, Error,
    events::{InRoom, stored_redacted_form},
};

/// Events in one round.
const BATCH: i64 = 200;

/// Stores the redacted form of events that were redacted since the last time. Those that can't be read are passed over,
/// as they are for readers.
pub(crate) async fn prune_redacted(engine: &Engine) -> Result<(), Error> {
    let mut connection = engine.db.acquire().await?;
    let mut last = None;
    loop {
        // Each round goes on behind the last: what is passed over keeps nobody from being reached.
        let event_nids = events::unpruned(&mut connection, last, BATCH).await?;
        if event_nids.is_empty() {
            return Ok(());
        }
        last = event_nids.last().copied();
        prune(&mut connection, &event_nids).await?;
    }
}

async fn prune(connection: &mut Connection, event_nids: &[EventNid]) -> Result<(), Error> {
    let stored = events::by_nids(connection, event_nids).await?;
    let mut room_nids: Vec<_> = stored.iter().map(|row| row.event.room_nid).collect();
    room_nids.sort_unstable();
    room_nids.dedup();
    let mut versions = HashMap::new();
    for head in rooms::heads(connection, &room_nids).await? {
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
        match stored_redacted_form(&row, InRoom { room_id, rules }) {
            Ok(redacted) => events::prune(connection, row.event.event_nid, &redacted).await?,
            Err(error) => tracing::debug!(%error, "a redacted event stays as it is"),
        }
    }
    Ok(())
}
