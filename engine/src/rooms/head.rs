//! The head of a room: what the next event is decided on. It runs ahead of the log by the changes that are queued.

use std::collections::HashSet;

use hearth_storage::{EventNid, StateNid, TypeNid, UserNid};
use parking_lot::Mutex;
use ruma::OwnedEventId;

use super::StateMap;
use crate::events::Event;

/// Distinct senders and types whose permission a head remembers.
const PERMISSIONS: usize = 4096;

/// An event that no event names as a predecessor yet.
#[derive(Debug, Clone)]
pub(super) struct Extremity {
    pub nid: EventNid,
    pub event_id: OwnedEventId,
    pub depth: i64,
    /// The state after it.
    pub state_nid: StateNid,
    /// In room versions 1 and 2, whose events name it along with the ID.
    pub reference_hash: Option<[u8; 32]>,
}

impl Extremity {
    /// An event as one, with the state after it.
    pub fn of(event: &Event, state_nid: StateNid) -> Self {
        Self {
            nid: event.nid,
            event_id: event.event_id.clone(),
            depth: event.depth(),
            state_nid,
            reference_hash: event.reference_hash,
        }
    }
}

/// Where a room stands for the next decision.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// The sequence number of the last event, queued ones included.
    pub sequence: i64,
    /// The newest by depth come last.
    pub extremities: Vec<Extremity>,
    pub state: StateMap,
    /// The number of the state, and how it is stored; nothing for a room without events.
    pub stored_state: Option<(StateNid, i16)>,
    /// Who may send what that isn't state: permissions that were checked against this very state.
    pub permitted: HashSet<(UserNid, TypeNid)>,
}

impl Head {
    /// The head of a room without events.
    pub fn of_new_room() -> Self {
        Self {
            sequence: 0,
            extremities: Vec::new(),
            state: StateMap::default(),
            stored_state: None,
            permitted: HashSet::new(),
        }
    }

    /// Remembers that `sender` may send events of a type, until the state changes.
    pub fn permit(&mut self, sender: UserNid, event_type: TypeNid) {
        if self.permitted.len() < PERMISSIONS {
            self.permitted.insert((sender, event_type));
        }
    }
}

/// Holds the head of a room while there is one in memory.
#[derive(Debug, Default)]
pub(super) struct HeadCell(Mutex<Holder>);

#[derive(Debug, Default)]
struct Holder {
    head: Option<Head>,
    /// Counts the heads there have been, so that a failed change drops the head it was decided on and no later one.
    incarnation: u64,
    /// Changes decided and not yet settled.
    under_way: usize,
}

/// What was decided on a head: a change, or that nothing changes, or that it can't be said.
type OnHead<T, N, E> = Result<Result<(T, Incarnation), N>, E>;

/// Names the head that a change was decided on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Incarnation(u64);

impl HeadCell {
    /// Whether there is a head.
    pub fn is_loaded(&self) -> bool {
        self.0.lock().head.is_some()
    }

    /// Puts a loaded head in place, unless there is one.
    pub fn offer(&self, head: Head) {
        let mut holder = self.0.lock();
        if holder.head.is_none() {
            holder.head = Some(head);
            holder.incarnation += 1;
        }
    }

    /// Looks at the state of the head.
    pub fn state(&self) -> Option<StateMap> {
        self.0.lock().head.as_ref().map(|head| head.state.clone())
    }

    /// Looks at the head, if there is one.
    pub fn look<T>(&self, look: impl FnOnce(&Head) -> T) -> Option<T> {
        self.0.lock().head.as_ref().map(look)
    }

    /// The forward extremities, as far as there is a head.
    pub fn extremities(&self) -> Vec<Extremity> {
        let holder = self.0.lock();
        holder
            .head
            .as_ref()
            .map(|head| head.extremities.clone())
            .unwrap_or_default()
    }

    /// The current state with its number and how it is stored, as far as there is a head.
    pub fn state_as_stored(&self) -> Option<(StateMap, Option<(StateNid, i16)>)> {
        let holder = self.0.lock();
        holder
            .head
            .as_ref()
            .map(|head| (head.state.clone(), head.stored_state))
    }

    /// Decides on the head: `decide` moves it and queues the change, or changes nothing and fails. Nothing when there
    /// is no head.
    pub fn decide<T, E>(
        &self,
        decide: impl FnOnce(&mut Head) -> Result<T, E>,
    ) -> Option<Result<(T, Incarnation), E>> {
        let mut holder = self.0.lock();
        let decided = decide(holder.head.as_mut()?);
        Some(decided.map(|decided| {
            holder.under_way += 1;
            (decided, Incarnation(holder.incarnation))
        }))
    }

    /// The same, where deciding may also come to the result that nothing is to be changed.
    pub fn decide_on<T, N, E>(
        &self,
        decide: impl FnOnce(&mut Head) -> Result<Result<T, N>, E>,
    ) -> Option<OnHead<T, N, E>> {
        let mut holder = self.0.lock();
        let decided = decide(holder.head.as_mut()?);
        Some(decided.map(|decided| {
            decided.map(|decided| {
                holder.under_way += 1;
                (decided, Incarnation(holder.incarnation))
            })
        }))
    }

    /// A change decided on `incarnation` was committed, or not: then what was built on it is void.
    pub fn settled(&self, incarnation: Incarnation, committed: bool) {
        let mut holder = self.0.lock();
        holder.under_way = holder.under_way.saturating_sub(1);
        if !committed && holder.incarnation == incarnation.0 {
            holder.head = None;
        }
    }

    /// Whether changes are under way.
    pub fn is_busy(&self) -> bool {
        self.0.lock().under_way > 0
    }

    pub fn weight(&self) -> u64 {
        // The state is shared with the view but for its latest changes.
        self.0
            .lock()
            .head
            .as_ref()
            .map_or(0, |head| (head.permitted.len() * 24 + 256) as u64)
    }
}
