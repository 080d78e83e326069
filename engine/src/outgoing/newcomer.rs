//! What a server that has just come into a room may not have heard of: events that were on their way when it was let in.

use std::sync::Arc;

use hearth_storage::{Position, RoomNid, outgoing::OutgoingEvent};
use ruma::OwnedServerName;

use crate::{Engine, Error, rooms};

/// Another server, of which nobody was in a room before.
#[derive(Debug)]
pub(super) struct Newcomer {
    pub server: OwnedServerName,
    pub room_nid: RoomNid,
    /// Where the log says so.
    pub position: Position,
    /// The sequence number of the room's last event then.
    pub sequence: i64,
}

/// The newest event of this server that the newcomer can't know of, to be sent to it at the position at which it came.
/// From that event on it can ask for those before.
///
/// Such an event was made here before it was known that the other server is in the room, so it went to the servers that
/// were; and the server that let it in did not know the event, so it is not in the state that it told. Without this the
/// newcomer would not know of it until somebody's next event names it as a predecessor. It is not of the log: where the
/// process ends in the same moment, that next event has to do.
pub(super) async fn unseen_by(
    engine: &Arc<Engine>,
    newcomer: &Newcomer,
) -> Result<Option<OutgoingEvent>, Error> {
    let Some(room) = rooms::by_nid(engine, newcomer.room_nid).await? else {
        return Ok(None);
    };
    let extremities = rooms::committed_extremities(engine, &room).await?;
    let own_name = &engine.config.server_name;
    let own = extremities.iter().filter(|event| {
        event.sender().server_name() == own_name && event.place.sequence <= newcomer.sequence
    });
    let newest = own.max_by_key(|event| event.place.sequence);
    Ok(newest.map(|event| OutgoingEvent {
        event_nid: event.nid,
        room_nid: newcomer.room_nid,
        position: newcomer.position,
    }))
}
