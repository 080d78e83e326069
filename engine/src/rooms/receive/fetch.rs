//! Asking other servers for events, and believing none before its signatures are verified.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::{StreamExt as _, stream};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, UInt,
    api::federation::event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
    signatures::PublicKeyMap,
};
use serde_json::value::RawValue;

use super::pdu::{self, ReceivedPdu, Verified};
use crate::{
    Engine,
    remote::{KeysWanted, Large, LargePlace, RemoteError},
    rooms::Room,
};

/// Events that are asked for one by one, at once.
const AT_ONCE: usize = 16;
/// Where more events of a state than this are missing, it is asked for whole.
const ONE_BY_ONE: usize = 100;
/// Events asked for between what we have and what we were sent.
const MISSING_EVENTS: u32 = 50;
/// Servers that are asked for the same thing, one after another.
const SERVERS: usize = 5;

/// The events of `pdus` that are well formed and properly signed, in their order; the others are left out with a word
/// in the log.
pub(in crate::rooms) async fn verified(
    engine: &Engine,
    room: &Room,
    pdus: &[Box<RawValue>],
) -> Vec<ReceivedPdu> {
    let mut read = Vec::with_capacity(pdus.len());
    for json in pdus {
        match pdu::read(json.get(), &room.rules) {
            Ok(pdu) if pdu.room_id == room.id => read.push(pdu),
            Ok(pdu) => {
                tracing::info!(event_id = %pdu.event_id, room_id = %room.id, "left out an event of another room")
            }
            Err(dropped) => tracing::info!(%dropped, room_id = %room.id, "dropped an event"),
        }
    }
    verify_all(engine, room, read).await
}

/// The same for events that are read already. Keys are asked for once for all of them.
pub(in crate::rooms) async fn verify_all(
    engine: &Engine,
    room: &Room,
    read: Vec<ReceivedPdu>,
) -> Vec<ReceivedPdu> {
    let wanted: Vec<KeysWanted> = read.iter().map(|pdu| pdu.signers(&room.rules)).collect();
    let keys = public_keys(engine, &together(&wanted, Ord::max)).await;
    // A date in the future that one event has leaves the others without the key that they share with it. Then each asks
    // for itself, if there is such a key at all: it has been fetched by then.
    let lacking: Vec<KeysWanted> = wanted
        .iter()
        .filter(|wanted| !has_all(&keys, wanted))
        .cloned()
        .collect();
    let earlier_keys = match lacking.is_empty() {
        true => PublicKeyMap::new(),
        false => public_keys(engine, &together(&lacking, Ord::min)).await,
    };
    let mut verified = Vec::with_capacity(read.len());
    for (pdu, wanted) in read.into_iter().zip(wanted) {
        let own_keys = match has_all(&keys, &wanted) || !has_all(&earlier_keys, &wanted) {
            true => None,
            false => Some(public_keys(engine, &wanted).await),
        };
        let event_id = pdu.event_id.clone();
        match pdu::verify(pdu, own_keys.as_ref().unwrap_or(&keys), &room.rules) {
            Ok(Verified::Whole(pdu) | Verified::Redacted(pdu)) => verified.push(pdu),
            Err(dropped) => tracing::info!(%dropped, %event_id, room_id = %room.id, "dropped an event"),
        }
    }
    verified
}

/// Keys of servers, this one among them.
async fn public_keys(engine: &Engine, wanted: &KeysWanted) -> PublicKeyMap {
    let mut keys = engine.remote.public_keys(wanted).await;
    let (own_name, own_keys) = engine.own_public_keys();
    keys.entry(own_name).or_default().extend(own_keys);
    keys
}

/// What several want, with one time for each key.
fn together(
    wanted: &[KeysWanted],
    choose: fn(MilliSecondsSinceUnixEpoch, MilliSecondsSinceUnixEpoch) -> MilliSecondsSinceUnixEpoch,
) -> KeysWanted {
    let mut together = KeysWanted::new();
    for (server, keys) in wanted.iter().flatten() {
        let all = together.entry(server.clone()).or_default();
        for (key_id, valid_at) in keys {
            let at = all.entry(key_id.clone()).or_insert(*valid_at);
            *at = choose(*at, *valid_at);
        }
    }
    together
}

/// Whether there is a key of each server for one of its signatures.
fn has_all(keys: &PublicKeyMap, wanted: &KeysWanted) -> bool {
    wanted.iter().all(|(server, wanted)| {
        let keys = keys.get(server.as_str());
        keys.is_some_and(|keys| wanted.keys().any(|key_id| keys.contains_key(key_id.as_str())))
    })
}

/// Whom to ask about a room: `first`, then others that are in it and answered lately.
pub(in crate::rooms) fn servers(
    engine: &Engine,
    room: &Room,
    first: &[OwnedServerName],
) -> Vec<OwnedServerName> {
    let mut servers: Vec<OwnedServerName> = Vec::new();
    let present = room.servers();
    let reachable = present
        .into_iter()
        .filter(|server| engine.remote.is_reachable(server));
    for server in first.iter().cloned().chain(reachable) {
        if server != engine.config.server_name && !servers.contains(&server) {
            servers.push(server);
        }
        if servers.len() == SERVERS {
            break;
        }
    }
    servers
}

/// The events between the room's forward extremities and `event_id`, as the first server tells that knows any.
pub(super) async fn missing_events(
    engine: &Engine,
    room: &Room,
    servers: &[OwnedServerName],
    event_id: &OwnedEventId,
    min_depth: i64,
) -> Vec<ReceivedPdu> {
    let earliest = room.head.extremities().into_iter();
    let earliest: Vec<OwnedEventId> = earliest.map(|extremity| extremity.event_id).collect();
    for server in servers {
        let mut request =
            get_missing_events::v1::Request::new(room.id.clone(), earliest.clone(), vec![event_id.clone()]);
        request.limit = UInt::from(MISSING_EVENTS);
        request.min_depth = UInt::try_from(min_depth).unwrap_or_default();
        metrics::counter!("hearth_federation_missing_events_asked_total").increment(1);
        match engine.remote.missing_events(server, request).await {
            Ok(response) if !response.events.is_empty() => {
                let most = response.events.len().min(MISSING_EVENTS as usize);
                let mut events = verified(engine, room, &response.events[..most]).await;
                events.retain(|event| event.depth >= min_depth);
                return events;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, %server, room_id = %room.id, "could not get missing events")
            }
        }
    }
    Vec::new()
}

/// Events that were asked for.
#[derive(Debug)]
pub(in crate::rooms) struct Fetched {
    /// Those that somebody has, and that are well formed and properly signed.
    pub pdus: Vec<ReceivedPdu>,
    /// Whether the others are not to be had: every server that was asked for them has answered.
    pub is_complete: bool,
}

/// Events by ID, from whoever has them.
pub(in crate::rooms) async fn by_ids(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    servers: &[OwnedServerName],
    event_ids: impl IntoIterator<Item = OwnedEventId>,
) -> Fetched {
    let asked = event_ids.into_iter().map(|event_id| async move {
        let mut is_answered = true;
        for server in servers {
            match engine
                .remote
                .event(server, get_event::v1::Request::new(event_id.clone()))
                .await
            {
                Ok(response) => return Ok((event_id, response.pdu)),
                Err(error) => {
                    is_answered &= !error.is_passing();
                    tracing::debug!(%error, %server, %event_id, "could not get an event");
                }
            }
        }
        Err(is_answered)
    });
    let answers: Vec<Result<(OwnedEventId, Box<RawValue>), bool>> =
        stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
    let is_complete = !answers.iter().any(|answer| matches!(answer, Err(false)));
    let (asked, pdus): (BTreeSet<OwnedEventId>, Vec<Box<RawValue>>) = answers.into_iter().flatten().unzip();
    let mut pdus = verified(engine, room, &pdus).await;
    pdus.retain(|pdu| asked.contains(&pdu.event_id));
    Fetched { pdus, is_complete }
}

/// The state before an event, as another server tells.
#[derive(Debug)]
pub(in crate::rooms) struct RemoteState {
    /// The IDs of its events.
    pub state: Vec<OwnedEventId>,
    /// Events among both that are not known here, as far as they could be had.
    pub pdus: Vec<ReceivedPdu>,
    /// Whether the others are not to be had; they may be later where the server did not answer for them.
    pub is_complete: bool,
    /// Where they are large.
    pub place: LargePlace,
}

/// What came of asking for the state before an event.
#[derive(Debug)]
pub(in crate::rooms) enum Told {
    State(RemoteState),
    /// Everybody who was asked answered, and nobody tells.
    Nothing,
    /// Somebody did not answer, and may later.
    NotNow,
}

/// Asks for the state before an event.
pub(in crate::rooms) async fn state_before(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    servers: &[OwnedServerName],
    event_id: &OwnedEventId,
) -> Result<Told, crate::Error> {
    let mut is_answered = true;
    for server in servers {
        let request = get_room_state_ids::v1::Request::new(event_id.clone(), room.id.clone());
        let response = match engine.remote.state_ids(server, request).await {
            // Its place isn't kept: the state itself may want it.
            Ok(told) => told.answer,
            Err(error) => {
                is_answered &= !error.is_passing();
                tracing::debug!(%error, %server, %event_id, room_id = %room.id, "could not get the state at an event");
                continue;
            }
        };
        let (state, auth_chain) = (response.pdu_ids, response.auth_chain_ids);
        let all: BTreeSet<&OwnedEventId> = state.iter().chain(&auth_chain).collect();
        let known = super::number::known(engine, all.iter().map(|event_id| event_id.as_str())).await?;
        let missing: Vec<OwnedEventId> = all
            .into_iter()
            .filter(|event_id| !known.contains_key(event_id.as_str()))
            .cloned()
            .collect();
        let one = std::slice::from_ref(server);
        let (Fetched { pdus, is_complete }, place) = if missing.len() > ONE_BY_ONE {
            match whole_state(engine, room, server, event_id).await {
                Ok((pdus, place)) => {
                    let whole = Fetched {
                        pdus,
                        is_complete: true,
                    };
                    (whole, place)
                }
                Err(error) => {
                    is_answered &= !error.is_passing();
                    tracing::debug!(%error, %server, %event_id, room_id = %room.id, "could not get the whole state at an event");
                    continue;
                }
            }
        } else {
            (by_ids(engine, room, one, missing).await, None)
        };
        return Ok(Told::State(RemoteState {
            state,
            pdus,
            is_complete,
            place,
        }));
    }
    Ok(match is_answered {
        true => Told::Nothing,
        false => Told::NotNow,
    })
}

async fn whole_state(
    engine: &Engine,
    room: &Room,
    server: &OwnedServerName,
    event_id: &OwnedEventId,
) -> Result<(Vec<ReceivedPdu>, LargePlace), RemoteError> {
    let request = get_room_state::v1::Request::new(event_id.clone(), room.id.clone());
    let Large { answer, place } = engine.remote.state(server, request).await?;
    let mut pdus = answer.pdus;
    pdus.extend(answer.auth_chain);
    Ok((verified(engine, room, &pdus).await, place))
}
