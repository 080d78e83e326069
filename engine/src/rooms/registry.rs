//! The rooms in memory, within a budget.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use hearth_storage::{RoomNid, UserNid};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, RoomVersionId, ServerName, room_version_rules::RoomVersionRules,
};

use super::{
    head::HeadCell,
    view::{View, ViewCell},
};

const ROOM_IDS: usize = 200_000;

/// A room that is in memory, or about to be.
#[derive(Debug)]
pub struct Room {
    /// Its number.
    pub nid: RoomNid,
    /// Its ID.
    pub id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// The rules of its version.
    pub rules: RoomVersionRules,
    /// What is decided on: ahead of the log by what is being committed.
    pub(super) head: HeadCell,
    /// What the log says of it.
    pub(super) view: ViewCell,
    /// Held by whoever takes in events of other servers: one after another.
    pub(super) graph: tokio::sync::Mutex<()>,
    last_used: AtomicI64,
}

impl Room {
    pub(super) fn new(
        nid: RoomNid,
        id: OwnedRoomId,
        version: RoomVersionId,
        rules: RoomVersionRules,
    ) -> Self {
        Self {
            nid,
            id,
            version,
            rules,
            head: HeadCell::default(),
            view: ViewCell::default(),
            graph: tokio::sync::Mutex::new(()),
            last_used: AtomicI64::new(0),
        }
    }

    /// Reads what the log says of the room: `read` is called with the view, unless it isn't loaded.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&View) -> T) -> Option<T> {
        self.view.read(read)
    }

    /// The joined users of this server, if the room is loaded.
    pub(crate) fn local_members(&self) -> Option<Arc<[UserNid]>> {
        self.view.read(|view| view.members.local_joined())
    }

    /// The servers that have joined users in the room, as far as it is loaded; those with most users first.
    pub fn servers(&self) -> Vec<OwnedServerName> {
        self.view.read(|view| view.members.servers()).unwrap_or_default()
    }

    /// Whether a server has joined users in the room.
    pub fn has_server(&self, server: &ServerName) -> bool {
        self.view
            .read(|view| view.members.has_server(server))
            .unwrap_or(false)
    }

    /// Whether what is in memory of the room is a part of its state: the rest is being asked for.
    pub(crate) fn is_partial(&self) -> bool {
        self.view.read(|view| view.is_partial).unwrap_or(false)
    }

    fn weight(&self) -> u64 {
        self.view.read(View::weight).unwrap_or(0) + self.head.weight()
    }
}

/// The rooms in memory.
#[derive(Debug)]
pub struct Rooms {
    by_nid: Mutex<HashMap<RoomNid, Arc<Room>>>,
    nids: Cache<OwnedRoomId, RoomNid>,
    clock: AtomicI64,
    /// When the latest room was created, in milliseconds.
    created_at: AtomicI64,
    budget: u64,
}

impl Rooms {
    pub(crate) fn new(budget: u64) -> Self {
        Self {
            by_nid: Mutex::default(),
            nids: Cache::new(ROOM_IDS),
            clock: AtomicI64::new(0),
            created_at: AtomicI64::new(0),
            budget,
        }
    }

    /// A room that is in memory.
    pub(crate) fn get(&self, room_nid: RoomNid) -> Option<Arc<Room>> {
        let room = self.by_nid.lock().get(&room_nid).cloned()?;
        room.last_used
            .store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Some(room)
    }

    /// A room, if it is in memory. Who only looks at it doesn't keep it there.
    pub(crate) fn peek(&self, room_nid: RoomNid) -> Option<Arc<Room>> {
        self.by_nid.lock().get(&room_nid).cloned()
    }

    /// The number of a room seen before.
    pub(crate) fn nid(&self, room_id: &RoomId) -> Option<RoomNid> {
        self.nids.get(room_id)
    }

    /// Puts a room in memory, not loaded, unless it is there.
    pub(super) fn admit(&self, room: Room) -> Arc<Room> {
        self.nids.insert(room.id.clone(), room.nid);
        let room = Arc::clone(
            self.by_nid
                .lock()
                .entry(room.nid)
                .or_insert_with(|| Arc::new(room)),
        );
        room.last_used
            .store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        room
    }

    /// A time for the create event of a room, near `now` (milliseconds) and given only once. Since room version 12 a
    /// room's ID is that of its create event: two events of one user that say the same must not be of the same time.
    pub(super) fn creation_time(&self, now: i64) -> i64 {
        let next = |last: i64| Some(now.max(last.saturating_add(1)));
        let last = self
            .created_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .unwrap_or(now);
        now.max(last.saturating_add(1))
    }

    /// Takes back a room that was never committed.
    pub(super) fn withdraw(&self, room: &Room) {
        self.nids.remove(&room.id);
        self.by_nid.lock().remove(&room.nid);
    }

    /// Forgets everything in memory.
    pub(crate) fn clear(&self) {
        self.by_nid.lock().clear();
        self.nids.clear();
    }

    /// Drops the rooms used longest ago until the rest fits the budget. Rooms in use, or with changes under way, stay.
    pub(crate) fn shrink(&self) {
        self.shrink_to(self.budget);
    }

    /// Drops every room that is not in use and has no changes under way.
    pub(crate) fn drop_idle(&self) {
        self.shrink_to(0);
    }

    fn shrink_to(&self, budget: u64) {
        let mut rooms = self.by_nid.lock();
        let mut total = 0;
        let mut idle: Vec<(i64, RoomNid, u64)> = Vec::new();
        for room in rooms.values() {
            let weight = room.weight();
            total += weight;
            // Only this map knows it: nobody can begin to use it while the map is locked.
            if Arc::strong_count(room) == 1 && !room.head.is_busy() {
                idle.push((room.last_used.load(Ordering::Relaxed), room.nid, weight));
            }
        }
        metrics::gauge!("hearth_rooms_in_memory").set(rooms.len() as f64);
        metrics::gauge!("hearth_rooms_in_memory_bytes").set(total as f64);
        idle.sort_unstable();
        for (_, room_nid, weight) in idle {
            if total <= budget {
                break;
            }
            rooms.remove(&room_nid);
            total -= weight;
        }
    }
}
