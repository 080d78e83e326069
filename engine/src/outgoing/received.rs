//! Which servers have received an event: its own, and those that answered the transaction with it.

use std::{collections::BTreeMap, sync::Arc};

use hearth_storage::{
    Position,
    outgoing::{self as stored, OutgoingEvent},
};
use ruma::OwnedServerName;

use super::whom;
use crate::{Engine, Error, events::Event, rooms::Room};

/// The servers that have an event of a user of this one, and since when, in milliseconds. This one has it since it was
/// made. Of another the time is that of its answer, as far as it is remembered; else a later one, by which it certainly had
/// it. A server that was not sent the event after an outage, only one that came later, is not said to have it.
pub(crate) async fn received(
    engine: &Arc<Engine>,
    room: &Room,
    event: &Event,
    position: Position,
) -> Result<BTreeMap<OwnedServerName, i64>, Error> {
    let outgoing = OutgoingEvent {
        position,
        room_nid: room.nid,
        event_nid: event.nid,
    };
    let recipients = whom::recipients(engine, room, &[outgoing]).await?;
    let skipped = {
        let mut connection = engine.db.acquire().await?;
        stored::skipped(&mut connection, room.nid, position).await?
    };
    let own = &engine.config.server_name;
    let mut received = BTreeMap::from([(own.clone(), i64::from(event.origin_server_ts().0))]);
    let state = engine.outgoing.state.lock();
    let Some(sending) = &state.sending else {
        return Ok(received);
    };
    let (served_at_start, began) = state.began;
    let others = recipients.iter().flat_map(|(_, recipients)| recipients.iter());
    for server in others.filter(|server| *server != own && (sending.allows)(server)) {
        let is_skipped = skipped.iter().any(|other| other == server.as_str());
        if is_skipped || position > state.dispatched {
            continue;
        }
        let since = match state.destinations.get(server) {
            Some(destination) => destination.has_since(position, began),
            None => (position <= served_at_start).then_some(began),
        };
        if let Some(since) = since {
            received.insert(server.clone(), since);
        }
    }
    Ok(received)
}
