//! What goes to other servers: which of them, what, in which order, and what each is still owed. How it gets there is
//! the federation's work: it hears of servers to be sent to by [`Due`], takes a [`Batch`] for one, and says what came
//! of it.
//!
//! Each server gets the events that are for it in the order of the log. There is no row for an event and a server: what
//! a server is owed is in a short queue in memory, and in the log after the position up to which it was served.
//! EDUs go along; receipts are of the log as well, all others are dropped where a server can't be reached.

mod catch_up;
mod destination;
mod edus;
mod feed;
mod lists;
mod messages;
mod newcomer;
mod presence;
mod progress;
mod received;
mod status;
mod whom;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use hearth_storage::{
    EventNid, Position, UserNid,
    destinations::{self as stored, Destination as Stored},
};
use parking_lot::Mutex;
use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::{
    Engine, Error,
    events::Event,
    presence::{recovered, unreachable},
    rooms,
};
use destination::{Destination, Failing, Taken};

pub use edus::EphemeralEdu;
pub(crate) use feed::{note, note_device_list, note_messages, note_typing};
pub use presence::PresenceUpdate;
pub(crate) use received::received;
pub use status::{DestinationStatus, RoomsShared, of_server, status};

/// A server that is owed something for longer gets a row of its own, so that the position of all others moves on.
/// Milliseconds.
const PATIENCE_MS: i64 = 2_000;
/// Who is on a server that takes nothing for so long is not known to be there. Milliseconds.
const AWAY_MS: i64 = 60_000;

/// Everything that is on its way to other servers.
pub struct Outgoing {
    state: Mutex<State>,
    feed: feed::Feed,
    /// Events of other servers that this one sends on, until they have come through the log.
    relayed: Mutex<HashSet<OwnedEventId>>,
    /// Held while progress is stored: what is stored last is what was so last.
    saving: tokio::sync::Mutex<()>,
    /// Tells one transaction from the next.
    transactions: AtomicU64,
    /// This server sends nothing to anybody.
    is_off: AtomicBool,
}

#[derive(Default)]
struct State {
    destinations: HashMap<OwnedServerName, Destination>,
    /// Everything up to here is in queues.
    dispatched: Position,
    /// What is stored of the position up to which all have been served that have no row.
    served: Position,
    /// The same when this run began, and when that was, in milliseconds.
    began: (Position, i64),
    /// Nothing until [`begin`].
    sending: Option<Sending>,
}

struct Sending {
    due: mpsc::UnboundedSender<OwnedServerName>,
    allows: Box<dyn Fn(&ServerName) -> bool + Send + Sync>,
    /// Begins the name of every transaction of this run.
    run: String,
}

/// What is to be stored.
struct Progress {
    rows: Vec<Stored>,
    gone: Vec<String>,
    served: Position,
}

/// The servers to be sent to, as they come to be owed something; each until [`rest`] lets go of it.
#[derive(Debug)]
pub struct Due(mpsc::UnboundedReceiver<OwnedServerName>);

impl Due {
    /// The next; nothing when the engine is gone.
    pub async fn next(&mut self) -> Option<OwnedServerName> {
        self.0.recv().await
    }
}

/// What one transaction carries. To be given to [`delivered`] or [`failed`].
#[derive(Debug)]
pub struct Batch {
    /// Names it.
    pub txn_id: String,
    /// At most 50 events, in order.
    pub pdus: Vec<Box<RawValue>>,
    /// At most 100 EDUs.
    pub edus: Vec<Box<RawValue>>,
    /// `origin_server_ts` of the first event, in milliseconds.
    pub oldest: Option<i64>,
    taken: Taken,
}

/// How deliveries to a server fail. Times are in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures {
    /// Failures in a row; 0 where it does not fail.
    pub count: u32,
    /// Since when.
    pub since: Option<i64>,
}

impl Outgoing {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            feed: feed::Feed::default(),
            relayed: Mutex::default(),
            saving: tokio::sync::Mutex::default(),
            transactions: AtomicU64::new(0),
            is_off: AtomicBool::new(false),
        }
    }

    /// Whether a server may be sent anything in this run.
    pub(crate) fn may_send_to(&self, server: &ServerName) -> bool {
        !self.is_off.load(Ordering::Relaxed) && !self.denies(server)
    }

    /// Whether the operator has this server send nothing to that one.
    pub(crate) fn denies(&self, server: &ServerName) -> bool {
        let state = self.state.lock();
        state
            .sending
            .as_ref()
            .is_some_and(|sending| !(sending.allows)(server))
    }

    /// The log lost what was after `position`, and goes on otherwise from there.
    pub(crate) fn cut_back(&self, position: Position) {
        {
            let mut state = self.state.lock();
            state.dispatched = state.dispatched.min(position);
            state.served = state.served.min(position);
            state
                .destinations
                .values_mut()
                .for_each(|one| one.cut_back(position));
        }
        self.feed.cut_back(position);
    }

    /// Sends an EDU to servers, as far as they can be reached now.
    pub fn add_ephemeral<'a>(
        &self,
        engine: &Engine,
        servers: impl Iterator<Item = &'a OwnedServerName>,
        edu: &EphemeralEdu,
    ) {
        self.each(engine, servers, |destination, now| {
            destination.add_ephemeral(edu.clone(), now)
        });
    }

    /// Tells servers of a user's presence, as far as they can be reached now.
    pub fn add_presence<'a>(
        &self,
        engine: &Engine,
        servers: impl Iterator<Item = &'a OwnedServerName>,
        user_nid: UserNid,
        update: &Arc<PresenceUpdate>,
    ) {
        self.each(engine, servers, |destination, now| {
            destination.add_presence(user_nid, Arc::clone(update), now);
        });
    }

    /// Gives something to servers, and has them attended. Those that this server has nothing to do with, and itself,
    /// are passed over.
    fn each<'a>(
        &self,
        engine: &Engine,
        servers: impl Iterator<Item = &'a OwnedServerName>,
        mut give: impl FnMut(&mut Destination, i64),
    ) {
        let now = engine.clock.now_ms();
        let mut state = self.state.lock();
        let State {
            destinations,
            sending,
            ..
        } = &mut *state;
        let Some(sending) = sending else { return };
        for server in servers {
            if *server == engine.config.server_name || !(sending.allows)(server) {
                continue;
            }
            let destination = match destinations.get_mut(server) {
                Some(destination) => destination,
                None => destinations.entry(server.clone()).or_default(),
            };
            give(destination, now);
            attend(sending, server, destination);
        }
    }

    fn with<T>(&self, server: &ServerName, with: impl FnOnce(&mut Destination, Position) -> T) -> Option<T> {
        let mut state = self.state.lock();
        let dispatched = state.dispatched;
        state
            .destinations
            .get_mut(server)
            .map(|destination| with(destination, dispatched))
    }

    fn dispatched(&self) -> Position {
        self.state.lock().dispatched
    }

    fn set_dispatched(&self, position: Position) {
        self.state.lock().dispatched = position;
    }

    /// Whether an event that comes through the log is one that this server sends on.
    fn relays(&self, event_id: &str) -> bool {
        let mut relayed = self.relayed.lock();
        if relayed.is_empty() {
            return false;
        }
        <&EventId>::try_from(event_id).is_ok_and(|event_id| relayed.remove(event_id))
    }

    fn progress(&self, now: i64) -> Option<Progress> {
        let state = self.state.lock();
        let mut progress = Progress {
            rows: Vec::new(),
            gone: Vec::new(),
            served: state.dispatched,
        };
        let (mut waiting, mut failing, mut behind) = (0, 0, 0);
        for (server, destination) in &state.destinations {
            waiting += destination.waiting().0;
            failing += usize::from(destination.failing.is_some());
            behind += usize::from(destination.waiting().1);
            let row = destination.row(server.as_str(), now, PATIENCE_MS);
            match (row, &destination.stored) {
                (None, stored) => {
                    // Without a row, what it is owed is after the position of all.
                    progress.served = progress
                        .served
                        .min(destination.served().unwrap_or(progress.served));
                    if stored.is_some() {
                        progress.gone.push(server.to_string());
                    }
                }
                (Some(row), stored) if stored.as_ref() != Some(&row) => progress.rows.push(row),
                _ => {}
            }
        }
        metrics::gauge!("hearth_federation_outgoing_waiting").set(waiting as f64);
        metrics::gauge!("hearth_federation_destinations_failing").set(failing as f64);
        metrics::gauge!("hearth_federation_destinations_behind").set(behind as f64);
        let lag = state.dispatched.0.saturating_sub(progress.served.0);
        metrics::gauge!("hearth_federation_outgoing_lag_positions").set(lag as f64);
        let is_same = progress.rows.is_empty() && progress.gone.is_empty() && progress.served == state.served;
        (!is_same).then_some(progress)
    }

    fn saved(&self, progress: Progress) {
        let mut state = self.state.lock();
        state.served = progress.served;
        for row in progress.rows {
            let destination = state.destinations.get_mut(row.server_name.as_str());
            if let Some(destination) = destination {
                destination.stored = Some(row);
            }
        }
        for server in progress.gone {
            if let Some(destination) = state.destinations.get_mut(server.as_str()) {
                destination.stored = None;
            }
        }
    }
}

/// Sees to it that somebody sends to a server that is owed something.
fn attend(sending: &Sending, server: &OwnedServerName, destination: &mut Destination) {
    if !destination.attended && destination.has_work() {
        destination.attended = sending.due.send(server.clone()).is_ok();
    }
}

/// Begins to send to other servers: those that `allows` lets through. Servers that failed or were behind when the last
/// run ended are due at once.
pub async fn begin(
    engine: &Arc<Engine>,
    allows: impl Fn(&ServerName) -> bool + Send + Sync + 'static,
) -> Result<Due, Error> {
    let (served, rows) = {
        let mut connection = engine.db.acquire().await?;
        (
            stored::served(&mut connection).await?,
            stored::all(&mut connection).await?,
        )
    };
    let served = served.min(engine.log.head().position);
    let now = engine.clock.now_ms();
    let (due, receiver) = mpsc::unbounded_channel();
    let sending = Sending {
        due,
        allows: Box::new(allows),
        run: format!("{now}{}", engine.entropy.alphanumeric(6)),
    };
    {
        let mut state = engine.outgoing.state.lock();
        (state.dispatched, state.served) = (served, served);
        state.began = (served, now);
        for row in rows {
            let Ok(server) = ServerName::parse(&row.server_name) else {
                continue;
            };
            let mut destination = Destination::of_stored(row, now);
            if !(sending.allows)(&server) {
                destination.drop_all();
            }
            attend(&sending, &server, &mut destination);
            state.destinations.insert(server, destination);
        }
        state.sending = Some(sending);
    }
    tokio::spawn(feed::dispatch(Arc::downgrade(engine), served));
    tokio::spawn(progress::keep(Arc::downgrade(engine)));
    Ok(Due(receiver))
}

/// Says that nothing is sent to other servers in this run: what would have to be kept for them is not.
pub fn turn_off(engine: &Engine) {
    engine.outgoing.is_off.store(true, Ordering::Relaxed);
}

/// What is to be sent to a server next; nothing if it is owed nothing.
pub async fn next(engine: &Arc<Engine>, server: &ServerName) -> Result<Option<Batch>, Error> {
    loop {
        messages::read(engine, server).await?;
        catch_up::read(engine, server).await?;
        let taken = engine.outgoing.with(server, |destination, _| {
            let taken = destination.take();
            (taken, destination.has_work())
        });
        let Some((taken, has_more)) = taken else {
            return Ok(None);
        };
        let edus = &taken.edus;
        let nothing = taken.events.is_empty()
            && taken.messages.is_empty()
            && taken.lists.is_empty()
            && edus.receipts.is_empty()
            && edus.ephemeral.is_empty()
            && edus.presence.is_empty();
        if nothing && !has_more {
            return Ok(None);
        }
        if nothing {
            continue;
        }
        return match batch(engine, &taken).await {
            Ok((pdus, edus, oldest)) => Ok(Some(Batch {
                txn_id: transaction_id(engine),
                pdus,
                edus,
                oldest,
                taken,
            })),
            Err(error) => {
                engine
                    .outgoing
                    .with(server, |destination, _| destination.put_back(taken));
                Err(error)
            }
        };
    }
}

type Bodies = (Vec<Box<RawValue>>, Vec<Box<RawValue>>, Option<i64>);

async fn batch(engine: &Arc<Engine>, taken: &Taken) -> Result<Bodies, Error> {
    let events = load(engine, taken).await?;
    let mut pdus = Vec::with_capacity(taken.events.len());
    for outgoing in &taken.events {
        match events.get(&outgoing.event_nid) {
            Some(event) => pdus.push(raw(&event.pdu)?),
            None => tracing::error!(
                position = outgoing.position.0,
                "an event that other servers are to get is gone"
            ),
        }
    }
    let oldest = taken
        .events
        .first()
        .and_then(|outgoing| events.get(&outgoing.event_nid));
    let oldest = oldest.map(|event| i64::from(event.origin_server_ts().0));
    let receipts = &taken.edus.receipts;
    let room_nids: Vec<_> = receipts.iter().map(|((room_nid, ..), _)| *room_nid).collect();
    let user_nids: Vec<_> = receipts.iter().map(|((_, user_nid, ..), _)| *user_nid).collect();
    let room_ids = rooms::ids(engine, &room_nids).await?;
    let user_ids = engine.interner.user_ids(&user_nids).await?;
    let mut edus = messages::edus(&taken.messages)?;
    edus.extend(lists::edus(engine, &taken.lists).await?);
    edus.extend(edus::receipts(receipts, &room_ids, &user_ids));
    edus.extend(presence::edu(&taken.edus.presence, engine.clock.now_ms()));
    edus.extend(
        taken
            .edus
            .ephemeral
            .iter()
            .map(|edu| edu.json.as_ref().to_owned()),
    );
    Ok((pdus, edus, oldest))
}

/// The events that were taken.
async fn load(engine: &Arc<Engine>, taken: &Taken) -> Result<HashMap<EventNid, Arc<Event>>, Error> {
    let nids = || taken.events.iter().map(|outgoing| outgoing.event_nid);
    let (mut events, missing) = engine.events.partition(nids());
    if missing.is_empty() {
        return Ok(events);
    }
    let mut rooms = HashMap::new();
    for outgoing in &taken.events {
        if let Some(room) = rooms::by_nid(engine, outgoing.room_nid).await? {
            rooms.insert(outgoing.room_nid, room);
        }
    }
    let mut connection = engine.db.acquire().await?;
    let loaded = engine.events.load_of_rooms(&mut connection, missing, |room_nid| {
        rooms.get(&room_nid).map(|room| room.in_room())
    });
    events.extend(loaded.await?);
    Ok(events)
}

fn raw(json: &str) -> Result<Box<RawValue>, Error> {
    RawValue::from_string(json.to_owned()).map_err(|error| Error::Damaged(format!("an event: {error}")))
}

fn transaction_id(engine: &Engine) -> String {
    let number = engine.outgoing.transactions.fetch_add(1, Ordering::Relaxed);
    let state = engine.outgoing.state.lock();
    let run = state.sending.as_ref().map_or("", |sending| &sending.run);
    format!("{run}_{number}")
}

/// Whether events wait for a server, and not only EDUs, which may wait a moment for others.
pub fn is_pressing(engine: &Engine, server: &ServerName) -> bool {
    engine
        .outgoing
        .with(server, |destination, _| destination.has_events())
        .unwrap_or(false)
}

/// Lets go of a server that is owed nothing: it comes by [`Due`] again when it is. False if it is owed something.
pub fn rest(engine: &Engine, server: &ServerName) -> bool {
    let rests = engine.outgoing.with(server, |destination, _| {
        destination.attended = destination.has_work();
        !destination.attended
    });
    rests.unwrap_or(true)
}

/// Lets go of a server that this one has nothing more to do with.
pub fn drop_server(engine: &Engine, server: &ServerName) {
    engine.outgoing.with(server, |destination, _| {
        destination.drop_all();
        destination.attended = false;
    });
}

/// A server has a batch.
pub fn delivered(engine: &Engine, server: &ServerName, batch: Batch) {
    let now = engine.clock.now_ms();
    let had_failed = engine.outgoing.with(server, |destination, _| {
        let had_failed = destination.failing.is_some();
        destination.delivered(&batch.taken, now);
        had_failed
    });
    if had_failed == Some(true) {
        recovered(engine, server);
    }
}

/// A server did not take a batch: it waits again. It is tried again at `retry_at`, in milliseconds.
pub fn failed(engine: &Engine, server: &ServerName, batch: Batch, reason: String, retry_at: i64) {
    let now = engine.clock.now_ms();
    let since = engine.outgoing.with(server, |destination, _| {
        let before = destination.failing;
        let failing = Failing {
            since: before.map_or(now, |failing| failing.since),
            failures: before.map_or(0, |failing| failing.failures).saturating_add(1),
            retry_at,
        };
        destination.failed(batch.taken, failing, reason);
        failing.since
    });
    if since.is_some_and(|since| now.saturating_sub(since) >= AWAY_MS) {
        unreachable(engine, server);
    }
}

/// How deliveries to a server failed so far.
pub fn failures(engine: &Engine, server: &ServerName) -> Failures {
    let failing = engine
        .outgoing
        .with(server, |destination, _| destination.failing)
        .flatten();
    failing.map_or(Failures::default(), |failing| Failures {
        count: failing.failures,
        since: Some(failing.since),
    })
}

/// A server was heard from after it had failed.
pub fn heard_from(engine: &Engine, server: &ServerName) {
    let had_failed = engine.outgoing.with(server, |destination, _| {
        let had_failed = destination.failing.is_some();
        destination.heard_from();
        had_failed && destination.failing.is_none()
    });
    if had_failed == Some(true) {
        recovered(engine, server);
    }
}

/// The servers that fail, and how.
pub fn failing(engine: &Engine) -> Vec<(OwnedServerName, Failures)> {
    let state = engine.outgoing.state.lock();
    let failing = state.destinations.iter().filter_map(|(server, destination)| {
        let failing = destination.failing?;
        let failures = Failures {
            count: failing.failures,
            since: Some(failing.since),
        };
        Some((server.clone(), failures))
    });
    failing.collect()
}

/// Has an event of another server sent on to the servers in its room, once it is accepted: this server let its sender
/// in or out. Durable when it returns.
pub async fn relay(engine: &Engine, event_id: &EventId) -> Result<(), Error> {
    let mut connection = engine.db.acquire().await?;
    hearth_storage::outgoing::relay(&mut connection, event_id.as_str()).await?;
    engine.outgoing.relayed.lock().insert(event_id.to_owned());
    Ok(())
}

/// The event was not accepted after all.
pub fn do_not_relay(engine: &Engine, event_id: &EventId) {
    engine.outgoing.relayed.lock().remove(event_id);
}

/// Stores at once how far everybody has been served, rather than within the second.
pub async fn save(engine: &Arc<Engine>) -> Result<(), Error> {
    progress::save(engine).await
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("destinations", &self.state.lock().destinations.len())
            .finish_non_exhaustive()
    }
}
