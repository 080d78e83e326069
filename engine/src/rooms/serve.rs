//! Serving events of a room to a client: with what they replaced, and what the viewer was at each.

use std::{collections::HashMap, sync::Arc};

use hearth_storage::{EventNid, Position, log::Membership};
use serde_json::value::RawValue;

use super::{Room, aggregations::Bundles, read, visibility::Sight};
use crate::{
    Engine, Error,
    accounts::Requester,
    events::{ClientFormat, Event, Viewer},
};

/// The state events that `events` replaced, from memory where they are there.
pub(crate) async fn replaced(
    engine: &Engine,
    room: &Room,
    events: &[Arc<Event>],
) -> Result<HashMap<EventNid, Arc<Event>>, Error> {
    read::events(engine, room, events.iter().filter_map(|event| event.replaces)).await
}

/// State events in client format, for `requester`.
pub(crate) async fn to_client(
    engine: &Engine,
    room: &Room,
    events: &[Arc<Event>],
    requester: &Requester,
    format: ClientFormat,
    membership: impl Fn(&Event) -> Option<Membership>,
) -> Result<Vec<Box<RawValue>>, Error> {
    let replaced = replaced(engine, room, events).await?;
    let viewer = viewer(engine, requester);
    let served = events.iter().map(|event| {
        let old = event.replaces.and_then(|event_nid| replaced.get(&event_nid));
        let membership = membership(event).map(name_of);
        event.to_client(format, &viewer, old.map(|old| &**old), membership, None)
    });
    Ok(served.collect())
}

/// Events of a timeline in client format, for `requester`, with what their children come to: those that `sight` lets be
/// seen of the log up to a position.
pub(crate) async fn with_relations(
    engine: &Engine,
    room: &Room,
    events: &[Arc<Event>],
    requester: &Requester,
    (sight, upto): (&Sight, Position),
    membership: impl Fn(&Event) -> Option<Membership>,
) -> Result<Vec<Box<RawValue>>, Error> {
    let replaced = replaced(engine, room, events).await?;
    let ranges: Vec<_> = sight
        .ranges(upto)
        .into_iter()
        .map(|(from, to)| (room.nid, from, to))
        .collect();
    let bundles = Bundles::load(
        engine,
        requester.user_nid,
        &ranges,
        &Bundles::parents(events),
        |_| Some(room.in_room()),
    )
    .await?;
    let (format, viewer) = (ClientFormat::WithRoomId, viewer(engine, requester));
    let served = events.iter().map(|event| {
        let old = event.replaces.and_then(|event_nid| replaced.get(&event_nid));
        let relations = bundles.of(event, format, &viewer);
        event.to_client(
            format,
            &viewer,
            old.map(|old| &**old),
            membership(event).map(name_of),
            relations,
        )
    });
    Ok(served.collect())
}

/// Who looks, now.
pub(crate) fn viewer(engine: &Engine, requester: &Requester) -> Viewer {
    Viewer {
        user_nid: requester.user_nid,
        device_nid: requester.device_nid,
        now: engine.clock.now_ms(),
        tells_sequence: false,
    }
}

/// The name of a membership.
pub(crate) fn name_of(membership: Membership) -> &'static str {
    match membership {
        Membership::Leave => "leave",
        Membership::Join => "join",
        Membership::Invite => "invite",
        Membership::Knock => "knock",
        Membership::Ban => "ban",
    }
}
