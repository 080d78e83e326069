//! What another server is told of a room's past: the state before an event, what authorises it, and of other events
//! what it may see (server-server API, "Backfilling and retrieving missing events"; client-server API, "Room history
//! visibility").

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use hearth_storage::{
    EventNid, KeyNid, StateNid, event_auth,
    events::{self as stored_events, EventStatus},
};
use ruma::{EventId, OwnedEventId, OwnedUserId, ServerName};

use super::{
    Room, StateMap, read,
    receive::{number::known, state},
    visibility::HistoryVisibility,
};
use crate::{
    Engine, Error,
    events::{Event, without_content},
};
use hearth_storage::log::Membership;

/// Events of auth chains that are told at once.
const MOST_AUTH: usize = 500_000;

/// Events.
pub(crate) type Events = Vec<Arc<Event>>;

/// An event of `room` by its ID, whatever its status.
pub(crate) async fn by_id(
    engine: &Engine,
    room: &Room,
    event_id: &EventId,
) -> Result<Option<Arc<Event>>, Error> {
    Ok(by_ids(engine, room, &[event_id.to_owned()]).await?.pop())
}

/// Events of `room` by ID, whatever their status, in no order.
pub(crate) async fn by_ids(
    engine: &Engine,
    room: &Room,
    event_ids: &[OwnedEventId],
) -> Result<Events, Error> {
    let wanted: Vec<&str> = event_ids.iter().map(|event_id| event_id.as_str()).collect();
    let mut connection = engine.db.acquire().await?;
    let mut stored = stored_events::by_ids(&mut connection, &wanted).await?;
    stored.retain(|stored| stored.event.room_nid == room.nid);
    Ok(engine
        .events
        .admit(&mut connection, stored, |_| Some(room.in_room()))
        .await?)
}

/// The state before an event; nothing for one whose past is not known.
pub(crate) async fn state_before(
    engine: &Engine,
    room: &Room,
    event: &Event,
) -> Result<Option<StateMap>, Error> {
    let prevs: Vec<&str> = ruma::state_res::Event::prev_events(event)
        .map(|id| id.as_str())
        .collect();
    let known = known(engine, prevs.iter().copied()).await?;
    let states: BTreeSet<StateNid> = known.values().filter_map(|known| known.state_after).collect();
    if states.is_empty() || known.len() < prevs.len() {
        // The first event known here: the state before it is the one after it, but for its own.
        return first_state_before(engine, room, event).await;
    }
    Ok(Some(state::before(engine, room, &states).await?.map))
}

async fn first_state_before(engine: &Engine, room: &Room, event: &Event) -> Result<Option<StateMap>, Error> {
    if event.state_after == StateNid::from(0) {
        return Ok(None);
    }
    let after = state::load(engine, room, &BTreeSet::from([event.state_after]))
        .await?
        .pop();
    Ok(after.map(|state| {
        let mut map = state.map;
        if let Some(key_nid) = event.key_nid.filter(|_| !event.is_rejected()) {
            map.set(key_nid, event.replaces);
        }
        map
    }))
}

/// The events of a state, and those that authorise them and `besides`, none of which is in the state.
pub(crate) async fn with_auth_chain(
    engine: &Engine,
    room: &Room,
    state: &StateMap,
    besides: &[EventNid],
) -> Result<(Events, Events), Error> {
    let state_nids: BTreeSet<EventNid> = state.iter().map(|(_, event_nid)| event_nid).collect();
    let from: BTreeSet<EventNid> = state_nids.iter().chain(besides).copied().collect();
    let mut chain = auth_chain(engine, &from).await?;
    chain.retain(|event_nid| !state_nids.contains(event_nid));
    let state = read::events(engine, room, state_nids)
        .await?
        .into_values()
        .collect();
    let chain = read::events(engine, room, chain).await?.into_values().collect();
    Ok((state, chain))
}

/// The events that authorise some, and those that authorise them, and so on.
async fn auth_chain(engine: &Engine, from: &BTreeSet<EventNid>) -> Result<BTreeSet<EventNid>, Error> {
    let mut chain = BTreeSet::new();
    // Messages have no edges of their own stored: theirs are in the event.
    let from: Vec<EventNid> = from.iter().copied().collect();
    let mut connection = engine.db.acquire().await?;
    let edges = event_auth::chain(&mut connection, &from, EventNid::from(0), MOST_AUTH).await?;
    chain.extend(edges.into_iter().flat_map(|edges| edges.auth_nids));
    Ok(chain)
}

/// What authorises one event, of any kind.
pub(crate) async fn auth_chain_of(engine: &Engine, room: &Room, event: &Event) -> Result<Events, Error> {
    let direct: Vec<&str> = ruma::state_res::Event::auth_events(event)
        .map(|id| id.as_str())
        .collect();
    let direct: BTreeSet<EventNid> = known(engine, direct)
        .await?
        .into_values()
        .filter(|known| known.room_nid == room.nid)
        .map(|known| known.event_nid)
        .collect();
    let mut chain = auth_chain(engine, &direct).await?;
    chain.extend(direct);
    Ok(read::events(engine, room, chain).await?.into_values().collect())
}

/// Up to `limit` events of a room before and with `latest`, nearest first, going no further back than `stop` and no
/// lower than `min_depth`. Only what has a place in the room, or was soft-failed, counts.
pub(crate) async fn walk_back(
    engine: &Engine,
    room: &Room,
    latest: Vec<OwnedEventId>,
    stop: &BTreeSet<OwnedEventId>,
    min_depth: i64,
    limit: usize,
) -> Result<Events, Error> {
    let mut found: Events = Vec::new();
    let mut seen: BTreeSet<OwnedEventId> = stop.clone();
    let mut next: Vec<OwnedEventId> = latest;
    while !next.is_empty() && found.len() < limit {
        next.retain(|event_id| seen.insert(event_id.clone()));
        let mut step = by_ids(engine, room, &next).await?;
        step.retain(|event| {
            matches!(event.status, EventStatus::Accepted | EventStatus::SoftFailed)
                && event.depth() >= min_depth
        });
        step.sort_by_key(|event| std::cmp::Reverse(event.depth()));
        next = step
            .iter()
            .flat_map(|event| {
                ruma::state_res::Event::prev_events(event)
                    .cloned()
                    .collect::<Vec<_>>()
            })
            .collect();
        found.extend(step);
    }
    found.truncate(limit);
    Ok(found)
}

/// The events as a server in the room may see them: redacted where history was hidden from its users.
pub(crate) async fn as_seen_by(
    engine: &Engine,
    room: &Room,
    server: &ServerName,
    events: Events,
) -> Result<Vec<Arc<str>>, Error> {
    let visibility_key = engine.interner.key("m.room.history_visibility", "").await?;
    let states: BTreeSet<StateNid> = events
        .iter()
        .map(|event| event.state_after)
        .filter(|nid| *nid != StateNid::from(0))
        .collect();
    let states: HashMap<StateNid, StateMap> = state::load(engine, room, &states)
        .await?
        .into_iter()
        .map(|state| (state.nid, state.map))
        .collect();
    let users = users_of(engine, room, server).await?;
    let mut seen = Vec::with_capacity(events.len());
    let mut decided: HashMap<StateNid, bool> = HashMap::new();
    for event in events {
        let may_see = match (decided.get(&event.state_after), states.get(&event.state_after)) {
            (Some(may_see), _) => *may_see,
            (None, Some(state)) => {
                let may_see = may_see(engine, room, state, visibility_key, &users).await?;
                decided.insert(event.state_after, may_see);
                may_see
            }
            // Without a state there is nothing to go by but that the server is in the room.
            (None, None) => event.state_key().is_some(),
        };
        let own = event.sender().server_name() == server;
        seen.push(match may_see || own {
            true => Arc::clone(&event.pdu),
            false => without_content(&event, &room.rules)?.pdu,
        });
    }
    Ok(seen)
}

/// The member keys of a server's users in the room, now or once.
async fn users_of(engine: &Engine, room: &Room, server: &ServerName) -> Result<Vec<KeyNid>, Error> {
    let nids = room
        .read(|view| view.members.of_server(server))
        .unwrap_or_default();
    let ids: Vec<OwnedUserId> = engine.interner.user_ids(&nids).await?.into_values().collect();
    let keys: Vec<(&str, &str)> = ids.iter().map(|id| ("m.room.member", id.as_str())).collect();
    Ok(engine.interner.keys(&keys).await?)
}

async fn may_see(
    engine: &Engine,
    room: &Room,
    state: &StateMap,
    visibility_key: KeyNid,
    users: &[KeyNid],
) -> Result<bool, Error> {
    let visibility = match state.get(visibility_key) {
        Some(event_nid) => {
            let event = read::events(engine, room, [event_nid]).await?.remove(&event_nid);
            event.map_or(HistoryVisibility::Shared, |event| HistoryVisibility::of(&event))
        }
        None => HistoryVisibility::Shared,
    };
    let enough: &[Membership] = match visibility {
        HistoryVisibility::WorldReadable | HistoryVisibility::Shared => return Ok(true),
        HistoryVisibility::Invited => &[Membership::Join, Membership::Invite],
        HistoryVisibility::Joined => &[Membership::Join],
    };
    let members: Vec<EventNid> = users.iter().filter_map(|key_nid| state.get(*key_nid)).collect();
    let members = read::events(engine, room, members).await?;
    Ok(members.values().any(|event| {
        event
            .membership()
            .is_some_and(|membership| enough.contains(&membership))
    }))
}
