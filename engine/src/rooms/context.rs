//! The events around an event (client-server API, `GET …/context/{eventId}`).

use std::{collections::HashSet, sync::Arc};

use hearth_storage::{EventNid, KeyNid, Position, UserNid};
use ruma::{
    EventId, RoomId,
    api::{Direction, client::filter::RoomEventFilter},
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Room,
    messages::{ReadError, limit_within, seen_event},
    partial, read, serve,
    visibility::{self, Access, Sight},
    walk::{Walk, Walked},
};
use crate::{
    Engine, Error,
    accounts::Requester,
    events::{ClientFormat, Event, excludes_room, matches},
    tokens::HistoryToken,
    users::{self, Preferences},
};

/// An event among those around it, as it is served. Not ruma's type: that leaves out lists that are empty, and there
/// are clients that insist on every one.
#[derive(Debug, Serialize)]
pub struct Context {
    /// The token to page backwards from the first event with.
    pub start: String,
    /// The token to page forwards from the last event with.
    pub end: String,
    /// The events just before it, newest first.
    pub events_before: Vec<Box<RawValue>>,
    /// The event itself.
    pub event: Box<RawValue>,
    /// The events just after it, oldest first.
    pub events_after: Vec<Box<RawValue>>,
    /// The state at the last of these events.
    pub state: Vec<Box<RawValue>>,
}

/// An event and up to `limit` around it that `requester` may see. The filter is for those, and for the state.
pub async fn context(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
    event_id: &EventId,
    limit: usize,
    filter: &RoomEventFilter,
) -> Result<Context, ReadError> {
    let mut seen = seen_event(engine, requester, room_id, event_id).await?;
    if filter.lazy_load_options.is_disabled() && seen.0.is_partial() {
        partial::whole(engine, seen.0).await?;
        seen = seen_event(engine, requester, room_id, event_id).await?;
    }
    let (room, event, sight, position) = seen;
    let upto = match visibility::access(engine, &room, requester.user_nid).await? {
        Access::UntilLeft(_, left_at) => left_at.max(position),
        _ => engine.log.head().position,
    };
    let user = users::load(engine, requester.user_nid).await?;
    let viewer = (requester.user_nid, &*user.preferences);
    let around = Around {
        engine,
        room: &room,
        sight: &sight,
        filter,
        viewer,
        upto,
    };
    let (before, after) = around.walk(&event, limit_within(limit, filter)).await?;

    let mut events: Vec<Arc<Event>> = before.events.clone();
    events.push(Arc::clone(&event));
    events.extend(after.events.iter().cloned());
    let membership = |other: &Event| {
        let at = || {
            before
                .membership_at(&sight, other)
                .or_else(|| after.membership_at(&sight, other))
        };
        if other.nid == event.nid {
            sight.membership_at(position)
        } else {
            at()
        }
    };
    let last = after.events.last().unwrap_or(&event);
    let state = state_at(engine, &room, last, &events, filter).await?;
    let shown = (&sight, engine.log.head().position);
    let mut served = serve::with_relations(engine, &room, &events, requester, shown, membership).await?;
    let events_after = served.split_off(before.events.len() + 1);
    let event = served.pop().ok_or(ReadError::NotFound)?;
    Ok(Context {
        start: HistoryToken::Place(before.reached).to_string(),
        end: HistoryToken::Place(after.reached).to_string(),
        events_before: served,
        event,
        events_after,
        state: serve::to_client(engine, &room, &state, requester, ClientFormat::WithRoomId, |_| {
            None
        })
        .await?,
    })
}

struct Around<'a> {
    engine: &'a Engine,
    room: &'a Room,
    sight: &'a Sight,
    filter: &'a RoomEventFilter,
    viewer: (UserNid, &'a Preferences),
    upto: Position,
}

impl Around<'_> {
    /// The events before and after one, `limit` together: half of them on each side.
    async fn walk(&self, event: &Event, limit: usize) -> Result<(Walked, Walked), Error> {
        let Self {
            engine,
            room,
            sight,
            filter,
            viewer,
            upto,
        } = *self;
        let mut transaction = engine.db.begin_read().await?;
        let mut side = async |direction, to, limit| {
            let walk = Walk {
                engine,
                room,
                sight,
                filter,
                viewer,
                direction,
                upto,
            };
            walk.run(&mut transaction, walk.beyond(event.place), to, limit)
                .await
        };
        let before = side(
            Direction::Backward,
            hearth_storage::events::Place::START,
            limit / 2,
        )
        .await?;
        let after = side(
            Direction::Forward,
            hearth_storage::events::Place::END,
            limit - limit / 2,
        )
        .await?;
        Ok((before, after))
    }
}

/// The state at `last` that `filter` lets through; of members, with lazy loading, the senders of `events` alone.
async fn state_at(
    engine: &Engine,
    room: &Room,
    last: &Event,
    events: &[Arc<Event>],
    filter: &RoomEventFilter,
) -> Result<Vec<Arc<Event>>, Error> {
    if excludes_room(filter, &room.id) {
        return Ok(Vec::new());
    }
    let state = read::load_state(engine, last.state_after).await?;
    let mut wanted: Vec<EventNid> = state.iter().map(|(_, event_nid)| event_nid).collect();
    if !filter.lazy_load_options.is_disabled() {
        let senders: HashSet<&str> = events.iter().map(|event| event.sender().as_str()).collect();
        let keys: Vec<KeyNid> = state.iter().map(|(key_nid, _)| key_nid).collect();
        let names = engine.interner.key_names(&keys).await?;
        let is_told = |key_nid: KeyNid| {
            names.get(&key_nid).is_some_and(|(event_type, state_key)| {
                &**event_type != "m.room.member" || senders.contains(&**state_key)
            })
        };
        wanted = state
            .iter()
            .filter(|(key_nid, _)| is_told(*key_nid))
            .map(|(_, event_nid)| event_nid)
            .collect();
    }
    let found = read::events(engine, room, wanted).await?;
    Ok(found
        .into_values()
        .filter(|event| matches(filter, event))
        .collect())
}
