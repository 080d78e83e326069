//! Asking for the rest of a room's state: of the server through which it was joined, then of others that are in it, as
//! long as somebody of this server is in the room. Goes on after a restart.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use hearth_storage::RoomNid;
use ruma::{OwnedEventId, OwnedServerName};

use super::{Partial, whole};
use crate::{
    Engine, Error,
    events::Event,
    rooms::{
        Room, by_nid, read,
        receive::{
            fetch::{self, Told},
            number::known,
            outliers,
            pdu::ReceivedPdu,
        },
    },
};

/// Servers that are asked in one round, one after another.
const SERVERS: usize = 5;
/// How long after a round in which nobody told the state the next begins: this, doubling, up to the other.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Goes on for every room where an earlier process stopped.
pub(crate) fn resume(engine: &Arc<Engine>) {
    for partial in engine.partial.all() {
        begin(engine, partial.stored.room_nid);
    }
}

/// Asks for the rest of a room's state, unless it is being asked for.
pub(crate) fn begin(engine: &Arc<Engine>, room_nid: RoomNid) {
    let Some(partial) = engine.partial.get(room_nid) else {
        return;
    };
    if !partial.at_work.swap(true, Ordering::AcqRel) {
        tokio::spawn(work(Arc::downgrade(engine), partial));
    }
}

async fn work(engine: Weak<Engine>, partial: Arc<Partial>) {
    let room_nid = partial.stored.room_nid;
    for round in 0.. {
        let Some(alive) = engine.upgrade() else { return };
        if alive.shutdown.is_cancelled() {
            return;
        }
        let is_it = |known: &Arc<Partial>| Arc::ptr_eq(known, &partial);
        if !alive.partial.get(room_nid).is_some_and(|known| is_it(&known)) {
            return;
        }
        match attempt(&alive, &partial, round).await {
            Ok(Attempt::Done) => return,
            Ok(Attempt::Again) => {}
            Ok(Attempt::NobodyHere) => {
                // Whoever joins it next begins anew.
                partial.at_work.store(false, Ordering::Release);
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the rest of a room's state could not be had; trying again");
            }
        }
        let shutdown = alive.shutdown.clone();
        drop(alive);
        let pause = FIRST_PAUSE * 2_u32.pow(round.min(6));
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause.min(LONGEST_PAUSE)) => {}
        }
    }
}

enum Attempt {
    /// The state is whole.
    Done,
    /// Nobody told it.
    Again,
    /// Nobody of this server is in the room.
    NobodyHere,
}

async fn attempt(engine: &Arc<Engine>, partial: &Arc<Partial>, round: u32) -> Result<Attempt, Error> {
    let _place = engine.partial.places.acquire().await;
    let room_nid = partial.stored.room_nid;
    let room = by_nid(engine, room_nid).await?;
    let room = room.ok_or_else(|| Error::Damaged("a room that was joined is gone".to_owned()))?;
    if room.local_members().is_none_or(|members| members.is_empty()) {
        return Ok(Attempt::NobodyHere);
    }
    let join_nid = partial.stored.join_nid;
    let join = read::events(engine, &room, [join_nid]).await?.remove(&join_nid);
    let join = join.ok_or_else(|| Error::Damaged("a join that is not stored".to_owned()))?;
    for server in servers(engine, &room, partial, round) {
        let asked = std::slice::from_ref(&server);
        let telling = fetch::state_before(engine, &room, asked, &join.event_id);
        // That may take minutes, which a server that is being stopped does not wait for.
        let Some(told) = engine.shutdown.run_until_cancelled(telling).await else {
            return Ok(Attempt::Again);
        };
        let Told::State(told) = told? else { continue };
        if take(engine, partial, &join, (&server, told), round).await? {
            return Ok(Attempt::Done);
        }
    }
    Ok(Attempt::Again)
}

/// Whom to ask: the server through which the room was joined, and others in turn, those that answered lately in front.
fn servers(engine: &Engine, room: &Room, partial: &Partial, round: u32) -> Vec<OwnedServerName> {
    let via = OwnedServerName::try_from(partial.stored.via.as_str()).ok();
    let mut others = room.servers();
    others.retain(|server| *server != engine.config.server_name && Some(server) != via.as_ref());
    let count = others.len();
    if count > 0 {
        others.rotate_left(usize::try_from(round).unwrap_or(0).wrapping_mul(SERVERS - 1) % count);
    }
    others.sort_by_key(|server| !engine.remote.is_reachable(server));
    via.into_iter().chain(others).take(SERVERS).collect()
}

/// Takes in a state that a server told; false where it told less than it named.
async fn take(
    engine: &Arc<Engine>,
    partial: &Arc<Partial>,
    join: &Arc<Event>,
    (server, told): (&OwnedServerName, fetch::RemoteState),
    round: u32,
) -> Result<bool, Error> {
    // What is in memory of the room may be another by now.
    let room = by_nid(engine, partial.stored.room_nid).await?;
    let room = room.ok_or_else(|| Error::Damaged("a room that was joined is gone".to_owned()))?;
    let fetch::RemoteState {
        state,
        pdus,
        is_complete,
        place: _place,
    } = told;
    let _graph = room.graph.lock().await;
    let is_it = engine
        .partial
        .get(room.nid)
        .is_some_and(|known| Arc::ptr_eq(&known, partial));
    if !is_it {
        return Ok(true);
    }
    let is_complete = fetch_authorising(engine, &room, server, &pdus).await? && is_complete;
    outliers::admit(engine, &room, pdus, is_complete).await?;
    if !is_complete {
        tracing::info!(%server, room_id = %room.id, "a server stopped answering while it told a room's state");
        return Ok(false);
    }
    let known = known(engine, state.iter().map(|event_id| event_id.as_str())).await?;
    let missing = state
        .iter()
        .filter(|event_id| !known.contains_key(event_id.as_str()))
        .count();
    if state.is_empty() || (missing > 0 && round == 0) {
        // Another may have them. What nobody can give is left out, as it is of a state that is told whole.
        tracing::info!(missing, %server, room_id = %room.id, "a server told less of a room's state than it named");
        return Ok(false);
    }
    whole::complete(engine, &room, partial, join, &state).await?;
    Ok(true)
}

/// What authorises the events and is not among them nor known: without it they could not be judged.
async fn fetch_authorising(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    server: &OwnedServerName,
    pdus: &[ReceivedPdu],
) -> Result<bool, Error> {
    let own: std::collections::HashSet<&OwnedEventId> = pdus.iter().map(|pdu| &pdu.event_id).collect();
    let auth = pdus.iter().flat_map(|pdu| &pdu.auth_events);
    let wanted: std::collections::BTreeSet<&OwnedEventId> =
        auth.filter(|event_id| !own.contains(event_id)).collect();
    let known = known(engine, wanted.iter().map(|event_id| event_id.as_str())).await?;
    let missing = wanted
        .into_iter()
        .filter(|event_id| !known.contains_key(event_id.as_str()));
    let missing: Vec<OwnedEventId> = missing.cloned().collect();
    match missing.is_empty() {
        true => Ok(true),
        false => outliers::fetch_authorising(engine, room, std::slice::from_ref(server), missing).await,
    }
}
