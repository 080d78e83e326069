//! What the log says of a room: its current state, members and latest entries, in memory. Brought up to date by the
//! follower alone, entry by entry.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use hearth_storage::{
    EventNid, Position, UserNid,
    log::{Entry, EntryKind, Membership, Receipt, StateChange},
};
use parking_lot::Mutex;
use ruma::OwnedUserId;

use super::{Room, StateMap, members::Members};
use crate::{
    Engine,
    events::{Event, redact, without_content},
    ticks::DELIVERED,
};

/// The entries a room keeps in memory, at most, and their bytes.
const RECENT_ENTRIES: usize = 256;
const RECENT_BYTES: usize = 512 << 10;

/// One entry of the log about a room.
#[derive(Debug, Clone)]
pub(crate) struct RoomEntry {
    pub position: Position,
    pub kind: RoomEntryKind,
}

/// What it says.
#[derive(Debug, Clone)]
pub(crate) enum RoomEntryKind {
    /// A live event, and the changes of current state at its position.
    Event(Arc<Event>, Arc<[StateChange]>),
    /// Changes of current state without an event.
    State(Arc<[StateChange]>),
    /// A receipt.
    Receipt(Receipt),
}

impl RoomEntry {
    fn weight(&self) -> usize {
        match &self.kind {
            RoomEntryKind::Event(event, changes) => event.weight() + size_of_val::<[_]>(changes),
            RoomEntryKind::State(changes) => size_of_val::<[_]>(changes) + 64,
            RoomEntryKind::Receipt(receipt) => receipt.event_id.len() + 128,
        }
    }

    /// The changes of current state it carries.
    pub fn state_changes(&self) -> &[StateChange] {
        match &self.kind {
            RoomEntryKind::Event(_, changes) | RoomEntryKind::State(changes) => changes,
            RoomEntryKind::Receipt(_) => &[],
        }
    }
}

/// What the log says of a room up to [`View::upto`].
#[derive(Debug)]
pub(crate) struct View {
    /// The last position about this room that it reflects, or that of the log when it was loaded.
    pub upto: Position,
    /// The sequence number of the last live event.
    pub sequence: i64,
    /// The current state.
    pub state: StateMap,
    /// Everyone with a membership, leave and ban included.
    pub members: Members,
    /// The sequence numbers of the live events before which history is missing here.
    pub gaps: BTreeSet<i64>,
    /// A part of the state is here: the rest is being asked for.
    pub is_partial: bool,
    /// The latest entries, in order: all of them after [`View::recent_since`].
    pub recent: VecDeque<RoomEntry>,
    /// See [`View::recent`].
    pub recent_since: Position,
    recent_bytes: usize,
    /// The log's position when the view was loaded: entries up to it are in it.
    loaded_at: Position,
}

impl View {
    /// A view of a room that was loaded at `upto` and whose latest entries are not in memory.
    pub fn new(upto: Position, sequence: i64, state: StateMap, members: Members) -> Self {
        Self {
            upto,
            sequence,
            state,
            members,
            gaps: BTreeSet::new(),
            is_partial: false,
            recent: VecDeque::new(),
            recent_since: upto,
            recent_bytes: 0,
            loaded_at: upto,
        }
    }

    pub(super) fn weight(&self) -> u64 {
        // A persistent map takes about 80 bytes an entry, an ordinary one about 24.
        (self.state.len() * 80 + self.members.len() * 24 + self.recent_bytes + 512) as u64
    }

    fn push(&mut self, entry: RoomEntry) {
        self.recent_bytes += entry.weight();
        self.recent.push_back(entry);
        while self.recent.len() > RECENT_ENTRIES || self.recent_bytes > RECENT_BYTES {
            let Some(dropped) = self.recent.pop_front() else {
                break;
            };
            self.recent_bytes -= dropped.weight();
            self.recent_since = dropped.position;
        }
    }

    /// Drops a receipt whose place another takes, as in its table. These move with everything that is said, for everybody:
    /// they would soon be all that is kept.
    fn drop_delivered(&mut self, user_nid: UserNid, thread: &str) {
        let same = |entry: &RoomEntry| match &entry.kind {
            RoomEntryKind::Receipt(receipt) => {
                receipt.user_nid == user_nid
                    && &*receipt.receipt_type == DELIVERED
                    && &*receipt.thread == thread
            }
            _ => false,
        };
        if let Some(index) = self.recent.iter().rposition(same)
            && let Some(dropped) = self.recent.remove(index)
        {
            self.recent_bytes -= dropped.weight();
        }
    }

    fn change_state(&mut self, changes: &[StateChange]) {
        for change in changes {
            self.state.set(change.key_nid, change.new);
        }
    }

    fn replace(&mut self, event_nid: EventNid, redacted: &Arc<Event>) {
        for entry in &mut self.recent {
            if let RoomEntryKind::Event(event, _) = &mut entry.kind
                && event.nid == event_nid
            {
                *event = Arc::clone(redacted);
            }
        }
    }

    fn apply(&mut self, position: Position, applied: Applied) {
        if position <= self.loaded_at {
            return;
        }
        self.upto = position;
        match applied {
            Applied::Event(event, changes) => {
                self.sequence = event.place.sequence;
                self.change_state(&changes);
                self.push(RoomEntry {
                    position,
                    kind: RoomEntryKind::Event(event, changes),
                });
            }
            Applied::State(changes) => {
                self.change_state(&changes);
                self.push(RoomEntry {
                    position,
                    kind: RoomEntryKind::State(changes),
                });
            }
            Applied::Receipt(receipt) => {
                if &*receipt.receipt_type == DELIVERED {
                    self.drop_delivered(receipt.user_nid, &receipt.thread);
                }
                self.push(RoomEntry {
                    position,
                    kind: RoomEntryKind::Receipt(receipt),
                });
            }
            Applied::Membership(user_nid, membership, user_id, is_local) => {
                self.members
                    .set(user_nid, membership, user_id.server_name(), is_local);
            }
            Applied::Redacted(redacted) => redacted
                .iter()
                .for_each(|redacted| self.replace(redacted.nid, redacted)),
        }
    }
}

/// An entry with what it names fetched.
#[derive(Debug, Clone)]
enum Applied {
    Event(Arc<Event>, Arc<[StateChange]>),
    State(Arc<[StateChange]>),
    Receipt(Receipt),
    Membership(UserNid, Membership, OwnedUserId, bool),
    Redacted(Vec<Arc<Event>>),
}

/// Holds the view of a room, or the entries that came while it is being loaded.
#[derive(Debug, Default)]
pub(super) struct ViewCell(Mutex<Cell>);

#[derive(Debug)]
enum Cell {
    Loading(Vec<(Position, Applied)>),
    Loaded(Box<View>),
}

impl Default for Cell {
    fn default() -> Self {
        Self::Loading(Vec::new())
    }
}

impl ViewCell {
    pub fn read<T>(&self, read: impl FnOnce(&View) -> T) -> Option<T> {
        match &*self.0.lock() {
            Cell::Loading(_) => None,
            Cell::Loaded(view) => Some(read(view)),
        }
    }

    pub fn is_loaded(&self) -> bool {
        matches!(&*self.0.lock(), Cell::Loaded(_))
    }

    /// Gives a loading room its view, and brings it up to what came meanwhile.
    pub fn loaded(&self, mut view: View) {
        let mut cell = self.0.lock();
        if let Cell::Loading(pending) = &mut *cell {
            for (position, applied) in std::mem::take(pending) {
                view.apply(position, applied);
            }
            *cell = Cell::Loaded(Box::new(view));
        }
    }

    /// What was fetched fills a gap: no history is missing there any more.
    pub fn fill_gap(&self, sequence: i64) {
        if let Cell::Loaded(view) = &mut *self.0.lock() {
            view.gaps.remove(&sequence);
        }
    }

    fn apply(&self, position: Position, applied: Applied) {
        match &mut *self.0.lock() {
            Cell::Loading(pending) => pending.push((position, applied)),
            Cell::Loaded(view) => view.apply(position, applied),
        }
    }
}

/// Brings `room` up to an entry about it.
pub(super) async fn apply(engine: &Arc<Engine>, room: &Room, entry: &Entry) {
    if let EntryKind::Event(stored, _) = &entry.kind
        && stored.after_gap
    {
        // The state that came with it is in the tables, not in the entry: the next reader loads it.
        engine.rooms.withdraw(room);
        return;
    }
    match fetch(engine, room, entry).await {
        Ok(Some(applied)) => room.view.apply(entry.position, applied),
        Ok(None) => {}
        Err(error) => {
            // What is in memory is no longer what the log says: the next reader loads it anew.
            tracing::error!(%error, room_id = %room.id, "a room could not be brought up to date and is dropped from memory");
            engine.rooms.withdraw(room);
        }
    }
}

async fn fetch(engine: &Arc<Engine>, room: &Room, entry: &Entry) -> Result<Option<Applied>, crate::Error> {
    let in_room = room.in_room();
    Ok(Some(match &entry.kind {
        EntryKind::Event(stored, changes) => {
            let event = match engine.events.get(stored.event_nid) {
                Some(event) => event,
                None => {
                    let event = Arc::new(Event::parse(stored, 0, in_room.room_id, in_room.rules)?);
                    engine.events.insert(Arc::clone(&event));
                    event
                }
            };
            Applied::Event(event, Arc::clone(changes))
        }
        EntryKind::State(_, changes) => Applied::State(Arc::clone(changes)),
        EntryKind::Receipt(receipt) => Applied::Receipt(receipt.clone()),
        EntryKind::Membership(change) => {
            let mut user_ids = engine.interner.user_ids(&[change.user_nid]).await?;
            let Some(user_id) = user_ids.remove(&change.user_nid) else {
                return Ok(None);
            };
            let is_local = user_id.server_name() == engine.config.server_name;
            Applied::Membership(change.user_nid, change.membership, user_id, is_local)
        }
        EntryKind::Redaction(redaction) => {
            let wanted = [redaction.event_nid, redaction.redaction_nid];
            let mut events = super::read::events(engine, room, wanted).await?;
            let pair = events
                .remove(&redaction.event_nid)
                .zip(events.remove(&redaction.redaction_nid));
            let Some((event, because)) = pair else {
                return Ok(None);
            };
            let mut redacted = redacted_by(engine, room, &event).await?;
            redacted.push(match event.redacted_because {
                Some(_) => event,
                None => Arc::new(redact(&event, &because, &room.rules)?),
            });
            redacted
                .iter()
                .for_each(|event| engine.events.insert(Arc::clone(event)));
            Applied::Redacted(redacted)
        }
        EntryKind::AccountData(_)
        | EntryKind::Account(_)
        | EntryKind::DeviceList(_)
        | EntryKind::ToDevice(_) => return Ok(None),
    }))
}

/// What `event`, which is being redacted, redacted itself: that shows it, and must not show what it said.
async fn redacted_by(
    engine: &Engine,
    room: &Room,
    event: &Arc<Event>,
) -> Result<Vec<Arc<Event>>, crate::Error> {
    let Some(event_id) = event.redacts() else {
        return Ok(Vec::new());
    };
    let mut connection = engine.db.acquire().await?;
    let shows = |other: &Arc<Event>| {
        other
            .redacted_because
            .as_ref()
            .is_some_and(|because| because.nid == event.nid)
    };
    let Some(other) = engine
        .events
        .by_id(&mut connection, room, event_id)
        .await?
        .filter(shows)
    else {
        return Ok(Vec::new());
    };
    let said_nothing = Arc::new(without_content(event, &room.rules)?);
    Ok(vec![Arc::new(redact(&other, &said_nothing, &room.rules)?)])
}
