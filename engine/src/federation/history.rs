//! The past of rooms, as other servers ask for it: only those in the room, and only what they may see.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{
    EventId, OwnedEventId, RoomId, ServerName,
    api::federation::{
        authorization::get_event_authorization,
        backfill::get_backfill,
        event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
    },
};
use serde_json::value::RawValue;

use super::ServeError;
use crate::{
    Engine, Error,
    events::Event,
    rooms::{
        Room, by_nid, handshake::serve::room_for, read::current_state_event, told,
        visibility::HistoryVisibility,
    },
};

/// Events told at once.
const MOST: usize = 100;
/// Events that a question may start from.
const MOST_NAMED: usize = 100;

/// The room, if `origin` is in it.
async fn room_with(engine: &Engine, origin: &ServerName, room_id: &RoomId) -> Result<Arc<Room>, ServeError> {
    let room = room_for(engine, origin, room_id).await?;
    match room.has_server(origin) {
        true => Ok(room),
        false => Err(ServeError::Forbidden(
            "your server is not in that room".to_owned(),
        )),
    }
}

/// The same, if it can be said what `origin` may see: where that depends on who was in the room, all of its state has
/// to be here.
async fn room_seen_by(
    engine: &Engine,
    origin: &ServerName,
    room_id: &RoomId,
) -> Result<Arc<Room>, ServeError> {
    let room = room_with(engine, origin, room_id).await?;
    if room.is_partial() {
        let visibility = current_state_event(engine, &room, "m.room.history_visibility", "").await?;
        let visibility = visibility.map(|event| HistoryVisibility::of(&event));
        if matches!(
            visibility,
            Some(HistoryVisibility::Invited | HistoryVisibility::Joined)
        ) {
            return Err(ServeError::Incomplete);
        }
    }
    Ok(room)
}

async fn event_in(engine: &Engine, room: &Room, event_id: &EventId) -> Result<Arc<Event>, ServeError> {
    told::by_id(engine, room, event_id)
        .await?
        .ok_or(ServeError::UnknownEvent)
}

fn raw(json: &str) -> Result<Box<RawValue>, ServeError> {
    RawValue::from_string(json.to_owned())
        .map_err(|error| Error::Damaged(format!("an event: {error}")).into())
}

fn raw_pdus(events: &[Arc<Event>]) -> Result<Vec<Box<RawValue>>, ServeError> {
    events.iter().map(|event| raw(&event.pdu)).collect()
}

fn ids(events: &[Arc<Event>]) -> Vec<OwnedEventId> {
    events.iter().map(|event| event.event_id.clone()).collect()
}

/// `GET /_matrix/federation/v1/event/{eventId}`
pub async fn event(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: get_event::v1::Request,
) -> Result<get_event::v1::Response, ServeError> {
    let room_nid = {
        let mut connection = engine.db.acquire().await.map_err(Error::from)?;
        let known = hearth_storage::events::known(&mut connection, &[request.event_id.as_str()]).await;
        known.map_err(Error::from)?.pop().map(|known| known.room_nid)
    };
    let room = by_nid(engine, room_nid.ok_or(ServeError::UnknownEvent)?).await?;
    let room = room.ok_or(ServeError::UnknownEvent)?;
    let room = match room_seen_by(engine, origin, &room.id).await {
        Ok(room) => room,
        // No different from an event that isn't there.
        Err(ServeError::UnknownRoom | ServeError::Forbidden(_) | ServeError::Incomplete) => {
            return Err(ServeError::UnknownEvent);
        }
        Err(error) => return Err(error),
    };
    let event = event_in(engine, &room, &request.event_id).await?;
    if event.is_rejected() {
        return Err(ServeError::UnknownEvent);
    }
    let seen = told::as_seen_by(engine, &room, origin, vec![event]).await?.pop();
    let own = engine.config.server_name.clone();
    let pdu = raw(&seen.ok_or(ServeError::UnknownEvent)?)?;
    Ok(get_event::v1::Response::new(own, engine.clock.now(), pdu))
}

/// `GET /_matrix/federation/v1/state/{roomId}`
pub async fn state(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: get_room_state::v1::Request,
) -> Result<get_room_state::v1::Response, ServeError> {
    let (state, auth_chain) = state_at(engine, origin, &request.room_id, &request.event_id).await?;
    Ok(get_room_state::v1::Response::new(
        raw_pdus(&auth_chain)?,
        raw_pdus(&state)?,
    ))
}

/// `GET /_matrix/federation/v1/state_ids/{roomId}`
pub async fn state_ids(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: get_room_state_ids::v1::Request,
) -> Result<get_room_state_ids::v1::Response, ServeError> {
    let (state, auth_chain) = state_at(engine, origin, &request.room_id, &request.event_id).await?;
    Ok(get_room_state_ids::v1::Response::new(
        ids(&auth_chain),
        ids(&state),
    ))
}

async fn state_at(
    engine: &Arc<Engine>,
    origin: &ServerName,
    room_id: &RoomId,
    event_id: &EventId,
) -> Result<(told::Events, told::Events), ServeError> {
    let room = room_with(engine, origin, room_id).await?;
    if room.is_partial() {
        return Err(ServeError::Incomplete);
    }
    let event = event_in(engine, &room, event_id).await?;
    let state = told::state_before(engine, &room, &event).await?;
    let state = state.ok_or(ServeError::UnknownEvent)?;
    Ok(told::with_auth_chain(engine, &room, &state, &[]).await?)
}

/// `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`
pub async fn event_auth(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: get_event_authorization::v1::Request,
) -> Result<get_event_authorization::v1::Response, ServeError> {
    let room = room_with(engine, origin, &request.room_id).await?;
    let event = event_in(engine, &room, &request.event_id).await?;
    let chain = told::auth_chain_of(engine, &room, &event).await?;
    Ok(get_event_authorization::v1::Response::new(raw_pdus(&chain)?))
}

/// `GET /_matrix/federation/v1/backfill/{roomId}`
pub async fn backfill(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: get_backfill::v1::Request,
) -> Result<get_backfill::v1::Response, ServeError> {
    let room = room_seen_by(engine, origin, &request.room_id).await?;
    let limit = usize::try_from(u64::from(request.limit))
        .unwrap_or(MOST)
        .min(MOST);
    let from: Vec<OwnedEventId> = request.v.into_iter().take(MOST_NAMED).collect();
    let events = told::walk_back(engine, &room, from, &BTreeSet::new(), 0, limit).await?;
    let seen = told::as_seen_by(engine, &room, origin, events).await?;
    let pdus: Result<Vec<_>, _> = seen.iter().map(|pdu| raw(pdu)).collect();
    let own = engine.config.server_name.clone();
    Ok(get_backfill::v1::Response::new(own, engine.clock.now(), pdus?))
}

/// `POST /_matrix/federation/v1/get_missing_events/{roomId}`
pub async fn missing_events(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: get_missing_events::v1::Request,
) -> Result<get_missing_events::v1::Response, ServeError> {
    let room = room_seen_by(engine, origin, &request.room_id).await?;
    let limit = usize::try_from(u64::from(request.limit))
        .unwrap_or(MOST)
        .min(MOST);
    let stop: BTreeSet<OwnedEventId> = request.earliest_events.into_iter().take(MOST_NAMED).collect();
    let latest: Vec<OwnedEventId> = request.latest_events.into_iter().take(MOST_NAMED).collect();
    let named = told::by_ids(engine, &room, &latest).await?;
    // The latest themselves are there already.
    let before = named
        .iter()
        .flat_map(|event| {
            ruma::state_res::Event::prev_events(event)
                .cloned()
                .collect::<Vec<_>>()
        })
        .collect();
    let mut events = told::walk_back(engine, &room, before, &stop, request.min_depth.into(), limit).await?;
    events.sort_by_key(|event| event.depth());
    let seen = told::as_seen_by(engine, &room, origin, events).await?;
    let pdus: Result<Vec<_>, _> = seen.iter().map(|pdu| raw(pdu)).collect();
    Ok(get_missing_events::v1::Response::new(pdus?))
}
