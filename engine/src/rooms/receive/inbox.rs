//! What other servers send: verified, kept, acknowledged, and then judged in order, room by room. A room that takes long
//! holds up no other.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};

use hearth_storage::{
    RoomNid,
    inbound::{self, InboundPdu, NewInboundPdu},
};
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Notify, watch};

use super::{
    fetch,
    judge::{Judgement, judge},
    pdu,
};
use crate::{
    Engine, Error,
    events::Event,
    federation::acl,
    rooms::{Room, by_id, by_nid, handshake::end_by_other, load::load_head, partial},
};

/// Events of one room that are read at once.
const BATCH: i64 = 50;
/// How long a room is left alone after its events could not be judged.
const PAUSE: Duration = Duration::from_secs(2);
/// In a room of whose state a part is here, others are asked on behalf of an event for this long, in milliseconds.
const ASKING_MS: i64 = 5_000;
/// How long an event waits for what it hangs on, in milliseconds, before it is given up.
const PATIENCE_MS: i64 = 3_600_000;
/// Events of one server that may wait to be judged: what it sends beyond them is refused until there are fewer.
const MOST_WAITING: i64 = 10_000;

/// How long events of a room wait for a user who is about to join it.
const ARRIVAL: Duration = Duration::from_secs(10);

/// The rooms whose events are being judged, and those that are about to be joined.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    at_work: Mutex<HashMap<RoomNid, Again>>,
    /// More came while a room was at work.
    news: Notify,
    arriving: Arc<Mutex<HashMap<OwnedRoomId, watch::Sender<usize>>>>,
}

/// Held while a user joins a room by another server: events of the room may come before the join is done.
#[derive(Debug)]
pub(in crate::rooms) struct Arriving {
    room_id: OwnedRoomId,
    arriving: Arc<Mutex<HashMap<OwnedRoomId, watch::Sender<usize>>>>,
}

impl Inbox {
    pub(in crate::rooms) fn arriving(&self, room_id: &RoomId) -> Arriving {
        let mut arriving = self.arriving.lock();
        let count = arriving.entry(room_id.to_owned()).or_default();
        count.send_modify(|count| *count += 1);
        Arriving {
            room_id: room_id.to_owned(),
            arriving: Arc::clone(&self.arriving),
        }
    }

    /// Waits until nobody is about to join a room, for some time; false if nobody was.
    async fn arrived(&self, room_id: &RoomId) -> bool {
        let Some(mut count) = self.arriving.lock().get(room_id).map(watch::Sender::subscribe) else {
            return false;
        };
        // Whoever joins last takes the count away.
        let done = count.wait_for(|count| *count == 0);
        drop(tokio::time::timeout(ARRIVAL, done).await);
        true
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let mut arriving = self.arriving.lock();
        let Some(count) = arriving.get(&self.room_id) else {
            return;
        };
        count.send_modify(|count| *count = count.saturating_sub(1));
        if *count.borrow() == 0 {
            arriving.remove(&self.room_id);
        }
    }
}

/// Whether more came while a room was at work.
type Again = bool;

/// What is answered of each event of a transaction: nothing, or why it was not taken.
pub type Answers = BTreeMap<OwnedEventId, Result<(), String>>;

/// Why a transaction is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// Too many events of the server wait to be judged: it may come again later.
    #[error("too many of your events wait to be judged here; come again later")]
    TooMany,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Takes the events of a transaction: those that are well formed, properly signed and of rooms this server is in are
/// kept, durably, when this returns. `txn_id` that was answered before gets the same answer.
pub async fn receive_pdus(
    engine: &Arc<Engine>,
    origin: &ServerName,
    txn_id: &str,
    pdus: &[Box<RawValue>],
) -> Result<Answers, ReceiveError> {
    {
        let mut connection = engine.db.acquire().await.map_err(Error::from)?;
        if let Some(response) = inbound::response(&mut connection, origin.as_str(), txn_id)
            .await
            .map_err(Error::from)?
        {
            return Ok(answers_from(&response));
        }
        let waiting = inbound::count_of(&mut connection, origin.as_str(), MOST_WAITING + 1)
            .await
            .map_err(Error::from)?;
        if waiting > MOST_WAITING {
            return Err(ReceiveError::TooMany);
        }
    }
    let mut answers = Answers::new();
    let mut by_room: HashMap<RoomNid, (Arc<Room>, Vec<pdu::ReceivedPdu>)> = HashMap::new();
    let mut order = Vec::new();
    for json in pdus {
        match read(engine, origin, json).await? {
            Ok(Read::Heard(event_id)) => drop(answers.insert(event_id, Ok(()))),
            Ok(Read::OfRoom(room, pdu)) => {
                order.push((room.nid, pdu.event_id.clone()));
                answers.insert(pdu.event_id.clone(), Err("its signature is not valid".to_owned()));
                by_room
                    .entry(room.nid)
                    .or_insert_with(|| (room, Vec::new()))
                    .1
                    .push(*pdu);
            }
            Err((event_id, reason)) => {
                tracing::info!(%origin, reason, event_id = event_id.as_ref().map(|id| id.as_str()), "refused an event");
                if let Some(event_id) = event_id {
                    answers.insert(event_id, Err(reason));
                }
            }
        }
    }
    let mut verified = HashMap::new();
    for (room, pdus) in by_room.values() {
        for pdu in fetch::verify_all(engine, room, pdus.clone()).await {
            answers.insert(pdu.event_id.clone(), Ok(()));
            verified.insert(pdu.event_id.clone(), pdu);
        }
    }
    let staged: Vec<NewInboundPdu<'_>> = order
        .iter()
        .filter_map(|(room_nid, event_id)| {
            let pdu = verified.get(event_id)?;
            Some(NewInboundPdu {
                room_nid: *room_nid,
                event_id: pdu.event_id.as_str(),
                pdu: &pdu.json,
            })
        })
        .collect();
    let response = answers_to_json(&answers);
    let mut connection = engine.db.acquire().await.map_err(Error::from)?;
    let now = engine.clock.now_ms();
    inbound::stage(&mut connection, origin.as_str(), txn_id, &response, &staged, now)
        .await
        .map_err(Error::from)?;
    drop(connection);
    metrics::counter!("hearth_federation_pdus_received_total").increment(staged.len() as u64);
    for room_nid in by_room.keys() {
        wake(engine, *room_nid);
    }
    Ok(answers)
}

/// What is made of an event of a transaction at first sight.
enum Read {
    /// To be judged in its room.
    OfRoom(Arc<Room>, Box<pdu::ReceivedPdu>),
    /// Of a room that this server isn't in: it ended an invite or a knock, which is all that there is to it here.
    Heard(OwnedEventId),
}

type Refused = (Option<OwnedEventId>, String);

/// The room, if this server is in it; or else what is known of it.
async fn joined(engine: &Engine, room_id: &RoomId) -> Result<Result<Arc<Room>, Option<Arc<Room>>>, Error> {
    let room = by_id(engine, room_id).await?;
    let is_in = |room: &Arc<Room>| room.has_server(&engine.config.server_name);
    Ok(match room {
        Some(room) if is_in(&room) => Ok(room),
        room => Err(room),
    })
}

/// An event of a transaction with its room, or why it is not taken.
async fn read(
    engine: &Arc<Engine>,
    origin: &ServerName,
    json: &RawValue,
) -> Result<Result<Read, Refused>, Error> {
    #[derive(Deserialize)]
    struct Addressed {
        room_id: OwnedRoomId,
    }
    let Ok(Addressed { room_id }) = serde_json::from_str(json.get()) else {
        return Ok(Err((None, "it has no `room_id`".to_owned())));
    };
    let mut known = joined(engine, &room_id).await?;
    if known.is_err() && engine.inbox.arrived(&room_id).await {
        known = joined(engine, &room_id).await?;
    }
    let room = match known {
        Ok(room) => room,
        Err(Some(room)) => {
            let Ok(pdu) = pdu::read(json.get(), &room.rules) else {
                return Ok(Err((None, "this server is not in the room".to_owned())));
            };
            let event_id = pdu.event_id.clone();
            return Ok(
                match pdu.room_id == room.id && end_by_other(engine, &room, pdu).await? {
                    true => Ok(Read::Heard(event_id)),
                    false => Err((Some(event_id), "this server is not in the room".to_owned())),
                },
            );
        }
        Err(None) => return Ok(Err((None, format!("the room {room_id} is not known here")))),
    };
    let pdu = match pdu::read(json.get(), &room.rules) {
        Ok(pdu) if pdu.room_id == room.id => pdu,
        Ok(pdu) => return Ok(Err((Some(pdu.event_id), "it is of another room".to_owned()))),
        Err(dropped) => return Ok(Err((None, dropped.to_string()))),
    };
    if !acl::allows(engine, &room, origin).await?
        || !acl::allows(engine, &room, pdu.sender.server_name()).await?
    {
        return Ok(Err((
            Some(pdu.event_id),
            "the room's server ACL denies it".to_owned(),
        )));
    }
    Ok(Ok(Read::OfRoom(room, Box::new(pdu))))
}

fn answers_to_json(answers: &Answers) -> String {
    let of = |answer: &Result<(), String>| match answer {
        Ok(()) => serde_json::json!({}),
        Err(error) => serde_json::json!({ "error": error }),
    };
    let all: serde_json::Map<_, _> = answers
        .iter()
        .map(|(id, answer)| (id.to_string(), of(answer)))
        .collect();
    serde_json::Value::Object(all).to_string()
}

fn answers_from(json: &str) -> Answers {
    let all: BTreeMap<OwnedEventId, serde_json::Value> = serde_json::from_str(json).unwrap_or_default();
    let of = |answer: serde_json::Value| match answer.get("error").and_then(|error| error.as_str()) {
        Some(error) => Err(error.to_owned()),
        None => Ok(()),
    };
    all.into_iter().map(|(id, answer)| (id, of(answer))).collect()
}

/// Goes on where an earlier process stopped.
pub(crate) async fn resume(engine: Weak<Engine>) {
    loop {
        let Some(alive) = engine.upgrade() else { return };
        let read = async {
            let mut connection = alive.db.acquire().await?;
            inbound::rooms_waiting(&mut connection).await
        };
        match read.await {
            Ok(room_nids) => {
                for room_nid in room_nids {
                    wake(&alive, room_nid);
                }
                return;
            }
            Err(error) => tracing::warn!(%error, "could not see which events wait; trying again"),
        }
        drop(alive);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Sees to it that the events of a room are judged.
pub(crate) fn wake(engine: &Arc<Engine>, room_nid: RoomNid) {
    let mut at_work = engine.inbox.at_work.lock();
    if let Some(again) = at_work.get_mut(&room_nid) {
        *again = true;
        engine.inbox.news.notify_waiters();
        return;
    }
    at_work.insert(room_nid, false);
    drop(at_work);
    tokio::spawn(work(Arc::downgrade(engine), room_nid));
}

/// Judges the events of a room until none waits.
async fn work(engine: Weak<Engine>, room_nid: RoomNid) {
    loop {
        let Some(alive) = engine.upgrade() else { return };
        if alive.shutdown.is_cancelled() {
            return;
        }
        match judge_some(&alive, room_nid).await {
            Ok(true) => {}
            Ok(false) => {
                let mut at_work = alive.inbox.at_work.lock();
                match at_work.get_mut(&room_nid) {
                    Some(again) if *again => *again = false,
                    _ => {
                        at_work.remove(&room_nid);
                        return;
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "events of a room could not be judged; trying again");
                let shutdown = alive.shutdown.clone();
                drop(alive);
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }
}

/// Judges the oldest events that wait in a room; false when none does.
async fn judge_some(engine: &Arc<Engine>, room_nid: RoomNid) -> Result<bool, Error> {
    let waiting = {
        let mut connection = engine.db.acquire().await?;
        inbound::waiting_in(&mut connection, room_nid, BATCH).await?
    };
    if waiting.is_empty() {
        return Ok(false);
    }
    let room = by_nid(engine, room_nid).await?;
    let mut postponed = 0;
    let count = waiting.len();
    for inbound in waiting {
        if engine.shutdown.is_cancelled() {
            break;
        }
        let is_done = match &room {
            Some(room) => judge_staged(engine, room, &inbound).await?,
            None => true,
        };
        // What waits for the whole state of the room waits as long as that takes.
        let is_fresh = engine.partial.get(room_nid).is_some()
            || engine.clock.now_ms().saturating_sub(inbound.received_at) < PATIENCE_MS;
        if !is_done && !is_fresh {
            tracing::info!(event_id = inbound.event_id, origin = inbound.origin, room_nid = ?room_nid,
                "gave up an event: what was before it could not be had");
        }
        let mut connection = engine.db.acquire().await?;
        if is_done || !is_fresh {
            inbound::done(&mut connection, &[inbound.inbound_nid]).await?;
        } else {
            inbound::postpone(&mut connection, inbound.inbound_nid).await?;
            postponed += 1;
        }
    }
    if postponed == count {
        // Nothing but what nobody tells the past of: there is no hurry.
        tokio::select! {
            () = engine.shutdown.cancelled() => {}
            () = pause(engine, room_nid) => {}
        }
    }
    Ok(true)
}

/// Leaves what could not be judged alone for a while, but not when something new comes, or the state of the room is
/// whole.
async fn pause(engine: &Engine, room_nid: RoomNid) {
    let until = tokio::time::Instant::now() + PAUSE;
    loop {
        let news = engine.inbox.news.notified();
        if engine
            .inbox
            .at_work
            .lock()
            .get(&room_nid)
            .is_some_and(|again| *again)
        {
            return;
        }
        tokio::select! {
            () = news => {}
            () = tokio::time::sleep_until(until) => return,
        }
    }
}

/// Has an event that was judged before the state of its room was whole judged anew, after those that wait.
pub(in crate::rooms) async fn put_back(engine: &Engine, room: &Room, event: &Event) -> Result<(), Error> {
    let pdu = NewInboundPdu {
        room_nid: room.nid,
        event_id: event.event_id.as_str(),
        pdu: &event.pdu,
    };
    let origin = event.sender().server_name().as_str();
    let mut connection = engine.db.acquire().await?;
    Ok(inbound::put_back(&mut connection, origin, &pdu, engine.clock.now_ms()).await?)
}

/// Judges one event; false when what it hangs on could not be had, and may be later.
async fn judge_staged(engine: &Arc<Engine>, room: &Arc<Room>, inbound: &InboundPdu) -> Result<bool, Error> {
    let pdu = match pdu::read(&inbound.pdu, &room.rules) {
        Ok(pdu) => pdu,
        Err(dropped) => {
            tracing::error!(%dropped, event_id = inbound.event_id, "an event that was kept can't be read");
            return Ok(true);
        }
    };
    let _graph = room.graph.lock().await;
    load_head(engine, room).await?;
    if !room.has_server(&engine.config.server_name) {
        // The last of us left while it waited.
        return Ok(true);
    }
    if let Some(partial) = engine.partial.get(room.nid)
        && engine.clock.now_ms().saturating_sub(inbound.received_at) > ASKING_MS
        && partial::prevs(engine, room, &partial, &pdu.prev_events)
            .await?
            .is_none()
    {
        // It waits for the whole state.
        return Ok(false);
    }
    let origin = OwnedServerName::try_from(inbound.origin.as_str());
    let first: Vec<OwnedServerName> = origin
        .into_iter()
        .chain([pdu.sender.server_name().to_owned()])
        .collect();
    let servers = fetch::servers(engine, room, &first);
    let event_id = pdu.event_id.clone();
    let judgement = judge(engine, room, &servers, pdu).await?;
    tracing::debug!(%event_id, room_id = %room.id, ?judgement, "judged an event");
    Ok(judgement != Judgement::Unplaceable)
}

/// Judges events that were fetched, or made and signed by two servers, at once.
pub(crate) async fn judge_now(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    origin: &ServerName,
    pdus: Vec<pdu::ReceivedPdu>,
) -> Result<Vec<(OwnedEventId, Judgement)>, Error> {
    let _graph = room.graph.lock().await;
    load_head(engine, room).await?;
    let servers = fetch::servers(engine, room, &[origin.to_owned()]);
    let mut judgements = Vec::with_capacity(pdus.len());
    for pdu in pdus {
        let event_id = pdu.event_id.clone();
        judgements.push((event_id, judge(engine, room, &servers, pdu).await?));
    }
    Ok(judgements)
}
