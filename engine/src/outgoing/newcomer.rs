//! What a server that has just come into a room may not have heard of: events that were on their way when it was let in.

use std::sync::Arc;

use hearth_storage::outgoing::OutgoingEvent;

use crate::{Engine, Error, rooms};

/// The newest event of this server that is not in the past of `join`, by which another server came into the room; to be
/// sent to it at the position of the join. From that event on it can ask for those before.
///
/// Such an event was made here before the join came, so it went to the servers that were in the room then; the server
/// that let the newcomer in did not know it, so it is not in the state that it told. Without this the newcomer would not
/// know of it until somebody's next event names it as a predecessor. It is not of the log: where the process ends in the
/// same moment, that next event has to do.
pub(super) async fn unseen_by(
    engine: &Arc<Engine>,
    join: OutgoingEvent,
) -> Result<Option<OutgoingEvent>, Error> {
    let Some(room) = rooms::by_nid(engine, join.room_nid).await? else {
        return Ok(None);
    };
    let extremities = rooms::forward_extremities(engine, &room).await?;
    let join_event = rooms::read::events(engine, &room, [join.event_nid]).await?;
    let Some(join_event) = join_event.get(&join.event_nid) else {
        return Ok(None);
    };
    // What was decided here after the join names it among its predecessors.
    let before = extremities
        .iter()
        .filter(|event| event.place.sequence < join_event.place.sequence);
    let own_name = &engine.config.server_name;
    let own = before.filter(|event| event.sender().server_name() == own_name);
    let newest = own.max_by_key(|event| event.place.sequence);
    Ok(newest.map(|event| OutgoingEvent {
        event_nid: event.nid,
        ..join
    }))
}
