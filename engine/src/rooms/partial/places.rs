//! Where received events come in a room of whose state a part is here.

use std::collections::HashSet;

use hearth_storage::events::EventStatus;
use ruma::OwnedEventId;

use super::Partial;
use crate::{
    Engine, Error,
    rooms::{
        Room, read,
        receive::{number::known, prevs::Prevs},
    },
};

/// The predecessors of an event, if the state after each is known as far as the room's is. Those that the join came
/// after stand for the state before it: who wrote at the same time as somebody joined names them too. Nothing for an
/// event that comes elsewhere: it has to wait for the whole state.
pub(in crate::rooms) async fn prevs(
    engine: &Engine,
    room: &Room,
    partial: &Partial,
    prev_events: &[OwnedEventId],
) -> Result<Option<Prevs>, Error> {
    let known = known(engine, prev_events.iter().map(|event_id| event_id.as_str())).await?;
    let before_join = before_join(engine, room, partial).await?;
    let mut prevs = Prevs::default();
    for event_id in prev_events {
        let found = known
            .get(event_id.as_str())
            .filter(|known| known.room_nid == room.nid);
        prevs.nids.extend(found.map(|found| found.event_nid));
        let placed = found.filter(|found| found.status != EventStatus::Outlier);
        if let Some(state_after) = placed.and_then(|found| found.state_after) {
            prevs.states.push(state_after);
        } else if before_join.contains(event_id) {
            prevs.states.push(partial.stored.state_before);
            prevs.missing.push(event_id.to_string());
        } else {
            return Ok(None);
        }
    }
    Ok((!prevs.states.is_empty()).then_some(prevs))
}

/// The predecessors of the join.
pub(super) async fn before_join(
    engine: &Engine,
    room: &Room,
    partial: &Partial,
) -> Result<HashSet<OwnedEventId>, Error> {
    let join_nid = partial.stored.join_nid;
    let join = read::events(engine, room, [join_nid]).await?.remove(&join_nid);
    let join = join.ok_or_else(|| Error::Damaged("a join that is not stored".to_owned()))?;
    Ok(ruma::state_res::Event::prev_events(&*join).cloned().collect())
}
