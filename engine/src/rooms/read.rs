//! Reading the state of a room, as it is or as it was when the reader left.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hearth_storage::{EventNid, KeyNid, StateNid, events as stored_events, log::Membership, states};
use ruma::{OwnedUserId, RoomId};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Room, StateMap, by_id,
    messages::ReadError,
    partial, serve,
    visibility::{self, Access},
};
use crate::{
    Engine, Error,
    accounts::Requester,
    events::{ClientFormat, Event},
    tokens::HistoryToken,
};

/// The current state event at a type and key.
pub(crate) async fn current_state_event(
    engine: &Engine,
    room: &Room,
    event_type: &str,
    state_key: &str,
) -> Result<Option<Arc<Event>>, Error> {
    let Some(key_nid) = engine.interner.find_key(event_type, state_key).await? else {
        return Ok(None);
    };
    let event_nid = room.read(|view| view.state.get(key_nid)).flatten();
    let Some(event_nid) = event_nid else {
        return Ok(None);
    };
    Ok(events(engine, room, [event_nid]).await?.remove(&event_nid))
}

/// Events of a room by number, from memory where they are there.
pub(crate) async fn events(
    engine: &Engine,
    room: &Room,
    event_nids: impl IntoIterator<Item = EventNid>,
) -> Result<HashMap<EventNid, Arc<Event>>, Error> {
    let (mut found, missing) = engine.events.partition(event_nids);
    if !missing.is_empty() {
        let mut connection = engine.db.acquire().await?;
        found.extend(
            engine
                .events
                .load(&mut connection, room.in_room(), missing)
                .await?,
        );
    }
    Ok(found)
}

/// All of the state that a user may read: the current one, or the one they left behind. Where a part of the room's state
/// is here, this waits for the rest.
async fn whole_state(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
) -> Result<(Arc<Room>, StateMap), ReadError> {
    let (room, state) = readable_state(engine, requester, room_id).await?;
    if !room.is_partial() {
        return Ok((room, state));
    }
    partial::whole(engine, room).await?;
    readable_state(engine, requester, room_id).await
}

/// As much as is here of it.
async fn readable_state(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
) -> Result<(Arc<Room>, StateMap), ReadError> {
    let room = by_id(engine, room_id).await?.ok_or(ReadError::NotMember)?;
    let state = match visibility::access(engine, &room, requester.user_nid).await? {
        Access::None => return Err(ReadError::NotMember),
        Access::Current => room.read(|view| view.state.clone()).unwrap_or_default(),
        Access::UntilLeft(leave, _) => {
            let leave = events(engine, &room, [leave]).await?.remove(&leave);
            match leave {
                Some(leave) => load_state(engine, leave.state_after).await?,
                None => StateMap::default(),
            }
        }
    };
    Ok((room, state))
}

pub(super) async fn load_state(engine: &Engine, state_nid: StateNid) -> Result<StateMap, Error> {
    let mut connection = engine.db.acquire().await?;
    let loaded = states::load(&mut connection, &[state_nid]).await?;
    Ok(loaded.into_iter().flat_map(|state| state.map).collect())
}

/// The whole state, in client format (`GET …/state`).
pub async fn state(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
) -> Result<Vec<Box<RawValue>>, ReadError> {
    let (room, state) = whole_state(engine, requester, room_id).await?;
    let events = events(engine, &room, state.iter().map(|(_, event_nid)| event_nid)).await?;
    let events: Vec<Arc<Event>> = events.into_values().collect();
    Ok(serve::to_client(
        engine,
        &room,
        &events,
        requester,
        ClientFormat::WithRoomId,
        |_| None,
    )
    .await?)
}

/// The content of a state event, and the event in client format.
#[derive(Debug)]
pub struct StateEvent {
    /// Its content.
    pub content: Box<RawValue>,
    /// All of it.
    pub event: Box<RawValue>,
}

/// One state event (`GET …/state/{eventType}/{stateKey}`).
pub async fn state_event(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
    event_type: &str,
    state_key: &str,
) -> Result<StateEvent, ReadError> {
    let (mut room, mut state) = readable_state(engine, requester, room_id).await?;
    let key_nid = engine
        .interner
        .find_key(event_type, state_key)
        .await
        .map_err(Error::from)?;
    if event_type == "m.room.member" && key_nid.is_none_or(|key_nid| state.get(key_nid).is_none()) {
        (room, state) = whole_state(engine, requester, room_id).await?;
    }
    let key_nid = match key_nid {
        Some(key_nid) => Some(key_nid),
        // It may have come with the rest of the state.
        None => engine
            .interner
            .find_key(event_type, state_key)
            .await
            .map_err(Error::from)?,
    };
    let event_nid = key_nid
        .and_then(|key_nid| state.get(key_nid))
        .ok_or(ReadError::NotFound)?;
    let event = events(engine, &room, [event_nid])
        .await?
        .remove(&event_nid)
        .ok_or(ReadError::NotFound)?;
    let content = event.content().to_owned();
    let served = serve::to_client(
        engine,
        &room,
        &[event],
        requester,
        ClientFormat::WithRoomId,
        |_| None,
    )
    .await?;
    let event = served.into_iter().next().ok_or(ReadError::NotFound)?;
    Ok(StateEvent { content, event })
}

/// Which members to show.
#[derive(Debug, Default)]
pub struct MembersRequest<'a> {
    /// At which point of the history; now by default.
    pub at: Option<&'a str>,
    /// Those who have this membership, …
    pub membership: Option<&'a str>,
    /// … or don't have this one.
    pub not_membership: Option<&'a str>,
}

/// The member events (`GET …/members`).
pub async fn members(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
    request: MembersRequest<'_>,
) -> Result<Vec<Box<RawValue>>, ReadError> {
    let (room, mut state) = whole_state(engine, requester, room_id).await?;
    if let Some(at) = request.at {
        state = state_at(engine, requester, &room, at.parse()?).await?;
    }
    let wanted = |event: &Event| {
        let membership = event.membership().map(serve::name_of);
        match (request.membership, request.not_membership) {
            (None, None) => true,
            (is, is_not) => {
                is.is_some_and(|is| membership == Some(is))
                    || is_not.is_some_and(|is_not| membership != Some(is_not))
            }
        }
    };
    let members = member_events(engine, &room, &state).await?;
    let members: Vec<Arc<Event>> = members.into_iter().filter(|event| wanted(event)).collect();
    Ok(serve::to_client(
        engine,
        &room,
        &members,
        requester,
        ClientFormat::WithRoomId,
        |_| None,
    )
    .await?)
}

/// The state at a point of history, no later than what the user may read.
async fn state_at(
    engine: &Engine,
    requester: &Requester,
    room: &Room,
    token: HistoryToken,
) -> Result<StateMap, ReadError> {
    let head = engine.log.head();
    let until = match visibility::access(engine, room, requester.user_nid).await? {
        Access::UntilLeft(_, left_at) => left_at,
        _ => head.position,
    };
    let mut connection = engine.db.acquire().await.map_err(Error::from)?;
    let (before, upto) = match token {
        HistoryToken::Place(place) => (
            stored_events::Place {
                sub: place.sub.saturating_add(1),
                ..place
            },
            until,
        ),
        HistoryToken::Sync(token) => {
            let (position, _) = crate::log::position_on(&mut connection, &token, head).await?;
            (stored_events::Place::END, position.min(until))
        }
    };
    let start = stored_events::Place::START;
    let last = stored_events::page_backwards(&mut connection, room.nid, before, start, upto, 1)
        .await
        .map_err(Error::from)?;
    drop(connection);
    match last.into_iter().next() {
        Some(last) => Ok(load_state(engine, last.event.state_after).await?),
        None => Ok(StateMap::default()),
    }
}

/// The member events of a state.
async fn member_events(engine: &Engine, room: &Room, state: &StateMap) -> Result<Vec<Arc<Event>>, Error> {
    let keys: Vec<KeyNid> = state.iter().map(|(key_nid, _)| key_nid).collect();
    let names = engine.interner.key_names(&keys).await?;
    let is_member = |key_nid: &KeyNid| {
        names
            .get(key_nid)
            .is_some_and(|(event_type, _)| &**event_type == "m.room.member")
    };
    let wanted = state
        .iter()
        .filter(|(key_nid, _)| is_member(key_nid))
        .map(|(_, event_nid)| event_nid);
    Ok(events(engine, room, wanted).await?.into_values().collect())
}

/// The name and picture of a joined member.
#[derive(Debug, Default, Deserialize)]
pub struct JoinedMember {
    /// `displayname`.
    #[serde(default)]
    pub displayname: Option<String>,
    /// `avatar_url`.
    #[serde(default)]
    pub avatar_url: Option<String>,
}

/// Who is in the room (`GET …/joined_members`); for members only.
pub async fn joined_members(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
) -> Result<BTreeMap<OwnedUserId, JoinedMember>, ReadError> {
    let room = by_id(engine, room_id).await?.ok_or(ReadError::NotMember)?;
    let membership = room.read(|view| view.members.get(requester.user_nid)).flatten();
    if membership != Some(Membership::Join) {
        return Err(ReadError::NotMember);
    }
    let room = partial::whole(engine, room).await?;
    let state = room.read(|view| view.state.clone()).ok_or(ReadError::NotMember)?;
    let members = member_events(engine, &room, &state)
        .await?
        .into_iter()
        .filter_map(|event| {
            let user_id = event
                .state_key()
                .filter(|_| event.membership() == Some(Membership::Join))?;
            let member = serde_json::from_str(event.content().get()).unwrap_or_default();
            Some((OwnedUserId::try_from(user_id).ok()?, member))
        });
    Ok(members.collect())
}
