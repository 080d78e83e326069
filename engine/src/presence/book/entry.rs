//! One user in the book: what was told of them, where they are, and what is due of them.

use std::sync::Arc;

use hearth_storage::{RoomNid, UserNid, presence::LastSeen};

use super::super::person::{Local, Remote, Shown, State, Times};

/// How long it may take until it is known that a user of another server shares a room with one here.
const STRAY_MS: i64 = 2 * 60_000;
/// Other servers believe for half an hour what they were told.
const REPEAT_MS: i64 = 25 * 60_000;

#[derive(Debug)]
pub(super) enum Of {
    Local(Local),
    Remote(Remote),
}

#[derive(Debug)]
pub(super) struct Person {
    pub of: Of,
    /// What was told last.
    pub told: Shown,
    /// The version of that; 0 before anything was.
    pub version: u64,
    /// The version of what the user themselves was to hear of it.
    pub own_version: u64,
    /// The rooms that the user is in, in order; nothing before they are known.
    pub rooms: Option<Box<[RoomNid]>>,
    /// The rooms have to be looked up, since this changed.
    pub lookup: Option<u32>,
    /// The version up to which there may be news for the user.
    pub latest: u64,
    /// Connections.
    pub listeners: u32,
    pub is_queued: bool,
    /// Is told again, to whom came into view.
    pub is_due_again: bool,
    /// When the clock is to look at it next.
    pub due: Option<i64>,
    /// When it is to be stored next.
    pub store_due: Option<i64>,
    pub stored: Option<(i64, Option<Arc<str>>, bool)>,
    pub stored_at: i64,
    /// When other servers were told last.
    pub sent_at: i64,
}

impl Person {
    pub fn new(of: Of) -> Self {
        Self {
            of,
            told: Shown::default(),
            version: 0,
            own_version: 0,
            rooms: None,
            lookup: Some(0),
            latest: 0,
            listeners: 0,
            is_queued: false,
            is_due_again: false,
            due: None,
            store_due: None,
            stored: None,
            stored_at: 0,
            sent_at: 0,
        }
    }

    pub fn shown(&self, now: i64, times: Times) -> Shown {
        match &self.of {
            Of::Local(local) => local.shown(now, times),
            Of::Remote(remote) => remote.shown(now),
        }
    }

    pub fn shown_to(&self, is_self: bool, now: i64, times: Times) -> Shown {
        match &self.of {
            Of::Local(local) if is_self => local.shown_to_self(now, times),
            _ => self.shown(now, times),
        }
    }

    pub fn to_store(&self, now: i64, times: Times) -> Option<(i64, Option<Arc<str>>, bool)> {
        match &self.of {
            Of::Local(local) if local.is_read => local.to_store(now, times),
            _ => None,
        }
    }

    /// When something comes by itself: the next change, or that other servers are told again.
    pub fn due(&self, now: i64, times: Times) -> Option<i64> {
        match &self.of {
            Of::Local(local) => {
                let is_seen = self.told.state != State::Offline && !self.is_queued;
                let repeat = is_seen.then(|| self.sent_at.saturating_add(REPEAT_MS));
                local.due(now, times).into_iter().chain(repeat).min()
            }
            Of::Remote(remote) => remote.due(),
        }
    }

    /// Whether nobody here is to know of the user, who is of another server.
    pub fn is_stray(&self, now: i64) -> bool {
        let is_alone = self.rooms.as_ref().is_some_and(|rooms| rooms.is_empty());
        matches!(&self.of, Of::Remote(remote) if is_alone && now.saturating_sub(remote.heard_at()) >= STRAY_MS)
    }

    /// Whether there is nothing to remember of the user but that they are offline.
    pub fn is_quiet(&self) -> bool {
        let is_gone = match &self.of {
            Of::Local(local) => local.is_gone(),
            Of::Remote(_) => true,
        };
        is_gone
            && self.told.state == State::Offline
            && self.listeners == 0
            && !self.is_queued
            && self.store_due.is_none()
    }

    pub fn is_in_any(&self, is_wanted: impl Fn(RoomNid) -> bool) -> bool {
        self.rooms.iter().flatten().any(|room_nid| is_wanted(*room_nid))
    }

    pub fn is_to_be_repeated(&self, now: i64) -> bool {
        matches!(self.of, Of::Local(_)) && now.saturating_sub(self.sent_at) >= REPEAT_MS
    }

    pub fn store(&mut self, user_nid: UserNid, now: i64, times: Times) -> Option<LastSeen> {
        let to_store = self.to_store(now, times)?;
        if self.stored.as_ref() == Some(&to_store) {
            return None;
        }
        self.stored_at = now;
        let (last_active_at, status_msg, is_present) = self.stored.insert(to_store).clone();
        Some(LastSeen {
            user_nid,
            last_active_at,
            status_msg,
            is_present,
        })
    }
}
