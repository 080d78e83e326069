//! Rooms that were joined with a part of their state (server-server API, "Joining Rooms", `omit_members`): which they
//! are, and waiting for the rest. Until it is here, the members of such a room are not known but for those of whom an
//! event spoke.
//!
//! What arrives is in `handshake/arrive.rs`; the rest is asked for by [`resync`], and made to count by [`whole`].

mod places;
mod restate;
mod resync;
mod vouched;
mod whole;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hearth_storage::{
    Position, RoomNid,
    log::{EntryKind, PartialRoom},
    partial_rooms::{self, Completeness},
};
use parking_lot::Mutex;
use ruma::{OwnedServerName, UserId};
use tokio::{
    sync::{OwnedRwLockReadGuard, RwLock, Semaphore, watch},
    time::Instant,
};

use super::{Room, by_nid, draft::Draft};
use crate::{Engine, Error};
pub(in crate::rooms) use places::prevs;
pub(crate) use resync::{begin, resume};
pub(in crate::rooms) use vouched::{Vouched, vouched, with as with_vouched};

/// How long a request waits for the whole state of a room.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rooms whose state is asked for at once: each takes as much memory as its answer, and a join must find a place for its
/// own beside them.
const AT_ONCE: usize = 2;

/// The rooms that were joined with a part of their state.
#[derive(Debug)]
pub(crate) struct PartialRooms {
    rooms: Mutex<HashMap<RoomNid, Known>>,
    /// How many are partial: nearly always none.
    count: AtomicUsize,
    /// How many there are, of those that are whole by now too.
    known: AtomicUsize,
    places: Semaphore,
}

#[derive(Debug, Clone)]
enum Known {
    Partial(Arc<Partial>),
    WholeAt(Position),
}

/// A room of whose state a part is here.
#[derive(Debug)]
pub(crate) struct Partial {
    stored: PartialRoom,
    /// The servers that are said to be in it.
    pub servers: Arc<[OwnedServerName]>,
    whole: watch::Sender<bool>,
    at_work: AtomicBool,
    /// Held by who decides on an event of this server's users, and for a moment by the one who changes the state under
    /// them.
    deciding: Arc<RwLock<()>>,
}

impl Partial {
    fn of(stored: PartialRoom) -> Self {
        let servers = stored.servers.iter();
        let servers = servers.filter_map(|server| OwnedServerName::try_from(server.as_str()).ok());
        Self {
            servers: servers.collect(),
            stored,
            whole: watch::Sender::new(false),
            at_work: AtomicBool::new(false),
            deciding: Arc::default(),
        }
    }

    /// Waits until the state is whole; false if that takes longer than `time`.
    pub async fn is_whole_within(&self, time: Duration) -> bool {
        let mut whole = self.whole.subscribe();
        let became = whole.wait_for(|whole| *whole);
        matches!(tokio::time::timeout(time, became).await, Ok(Ok(_)))
    }
}

impl PartialRooms {
    pub fn new() -> Self {
        Self {
            rooms: Mutex::default(),
            count: AtomicUsize::new(0),
            known: AtomicUsize::new(0),
            places: Semaphore::new(AT_ONCE),
        }
    }

    /// What is known of a room of whose state only a part is here.
    pub fn get(&self, room_nid: RoomNid) -> Option<Arc<Partial>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        match self.rooms.lock().get(&room_nid) {
            Some(Known::Partial(partial)) => Some(Arc::clone(partial)),
            _ => None,
        }
    }

    /// From where in the log on the state of a room is whole: from its beginning for most, and nowhere yet for one of
    /// whose state only a part is here.
    pub fn whole_since(&self, room_nid: RoomNid) -> Option<Position> {
        if self.known.load(Ordering::Acquire) == 0 {
            return Some(Position(0));
        }
        match self.rooms.lock().get(&room_nid) {
            None => Some(Position(0)),
            Some(Known::WholeAt(position)) => Some(*position),
            Some(Known::Partial(_)) => None,
        }
    }

    fn all(&self) -> Vec<Arc<Partial>> {
        let rooms = self.rooms.lock();
        let partial = rooms.values().filter_map(|known| match known {
            Known::Partial(partial) => Some(Arc::clone(partial)),
            Known::WholeAt(_) => None,
        });
        partial.collect()
    }

    /// Notes what the table says of a room. The answer is one that is over: who waits for it is to be told.
    fn note(&self, room_nid: RoomNid, completeness: Option<Completeness>) -> Option<Arc<Partial>> {
        let mut rooms = self.rooms.lock();
        let before = rooms.remove(&room_nid);
        let after = match (completeness, &before) {
            (None, _) => None,
            (Some(Completeness::WholeAt(position)), _) => Some(Known::WholeAt(position)),
            // Who works for it and waits for it goes on doing so.
            (Some(Completeness::Partial(stored)), Some(Known::Partial(partial)))
                if partial.stored == stored =>
            {
                before.clone()
            }
            (Some(Completeness::Partial(stored)), _) => Some(Known::Partial(Arc::new(Partial::of(stored)))),
        };
        let is_partial = |known: &Option<Known>| matches!(known, Some(Known::Partial(_)));
        match (is_partial(&before), is_partial(&after)) {
            (false, true) => drop(self.count.fetch_add(1, Ordering::AcqRel)),
            (true, false) => drop(self.count.fetch_sub(1, Ordering::AcqRel)),
            _ => {}
        }
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        metrics::gauge!("hearth_rooms_partial").set(self.count.load(Ordering::Acquire) as f64);
        let is_over = matches!(after, None | Some(Known::WholeAt(_)));
        if let Some(after) = after {
            rooms.insert(room_nid, after);
        }
        self.known.store(rooms.len(), Ordering::Release);
        match before {
            Some(Known::Partial(before)) if is_over => Some(before),
            _ => None,
        }
    }
}

/// Reads which rooms there are, before anything else looks.
pub(crate) async fn load(engine: &Engine) -> Result<(), Error> {
    let stored = {
        let mut connection = engine.db.acquire().await?;
        partial_rooms::all(&mut connection).await?
    };
    let stored: HashMap<RoomNid, Completeness> = stored.into_iter().collect();
    let known: Vec<RoomNid> = engine.partial.rooms.lock().keys().copied().collect();
    let gone = known
        .into_iter()
        .filter(|room_nid| !stored.contains_key(room_nid));
    let gone: Vec<RoomNid> = gone.collect();
    let all = gone.into_iter().map(|room_nid| (room_nid, None));
    let all = all.chain(
        stored
            .into_iter()
            .map(|(room_nid, stored)| (room_nid, Some(stored))),
    );
    for (room_nid, completeness) in all.collect::<Vec<_>>() {
        if let Some(over) = engine.partial.note(room_nid, completeness) {
            over.whole.send_replace(true);
        }
    }
    Ok(())
}

/// Whether an entry of the log about a room may have changed how much of its state is here.
pub(crate) fn may_change(engine: &Engine, room_nid: RoomNid, kind: &EntryKind) -> bool {
    match kind {
        EntryKind::Event(event, _) => event.after_gap,
        EntryKind::State(..) | EntryKind::Membership(_) => engine.partial.get(room_nid).is_some(),
        _ => false,
    }
}

/// Looks how much of a room's state is here. What is in memory of one whose state became whole is read anew.
pub(crate) async fn look_again(engine: &Engine, room_nid: RoomNid) {
    let completeness = loop {
        let read = async {
            let mut connection = engine.db.acquire().await?;
            partial_rooms::of_room(&mut connection, room_nid).await
        };
        match read.await {
            Ok(completeness) => break completeness,
            Err(error) => {
                tracing::warn!(%error, "could not see whether the state of a room is whole; trying again");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        if engine.shutdown.is_cancelled() {
            return;
        }
    };
    if let Some(over) = engine.partial.note(room_nid, completeness) {
        if let Some(room) = engine.rooms.get(room_nid) {
            engine.rooms.withdraw(&room);
        }
        over.whole.send_replace(true);
    }
}

/// What is known of a room of whose state a part is here.
pub(in crate::rooms) async fn of(engine: &Engine, room: &Room) -> Option<Arc<Partial>> {
    if room.is_partial() && engine.partial.get(room.nid).is_none() {
        // It was joined just now, and the tables are ahead of memory.
        look_again(engine, room.nid).await;
    }
    engine.partial.get(room.nid)
}

/// The room once all of its state is here. Waits for it as long as a request may.
pub(crate) async fn whole(engine: &Engine, mut room: Arc<Room>) -> Result<Arc<Room>, Error> {
    let until = Instant::now() + PATIENCE;
    while room.is_partial() {
        if let Some(partial) = of(engine, &room).await
            && !partial.is_whole_within(until - Instant::now()).await
        {
            return Err(Error::Incomplete);
        }
        let again = by_nid(engine, room.nid).await?;
        room = again.ok_or_else(|| Error::Damaged("a room that became whole is gone".to_owned()))?;
    }
    Ok(room)
}

/// The room once it is known what `user_ids` are to it.
pub(in crate::rooms) async fn knows(
    engine: &Engine,
    room: Arc<Room>,
    user_ids: &[&UserId],
) -> Result<Arc<Room>, Error> {
    if !room.is_partial() {
        return Ok(room);
    }
    let keys: Vec<(&str, &str)> = user_ids.iter().map(|id| ("m.room.member", id.as_str())).collect();
    let keys = engine.interner.keys(&keys).await?;
    let known = room.read(|view| keys.iter().all(|key_nid| view.state.get(*key_nid).is_some()));
    match known {
        Some(true) => Ok(room),
        _ => whole(engine, room).await,
    }
}

/// Waits until it is known what those are to the room whose membership `drafts` would change.
pub(in crate::rooms) async fn knows_subjects(
    engine: &Engine,
    room: &Arc<Room>,
    drafts: &[Draft],
) -> Result<(), Error> {
    if !room.is_partial() {
        return Ok(());
    }
    let subjects = drafts.iter().filter(|draft| draft.membership().is_some());
    let subjects = subjects.filter_map(|draft| <&UserId>::try_from(draft.state_key.as_deref()?).ok());
    let subjects: Vec<&UserId> = subjects.collect();
    knows(engine, Arc::clone(room), &subjects).await?;
    Ok(())
}

/// Held while an event of this server is decided on: the state is not changed under it.
pub(in crate::rooms) async fn deciding(engine: &Engine, room: &Room) -> Option<OwnedRwLockReadGuard<()>> {
    let partial = engine.partial.get(room.nid)?;
    Some(Arc::clone(&partial.deciding).read_owned().await)
}
