//! Lazy loading of members: which member events a device was told already (client-server API, "Lazy-loading room
//! members").
//!
//! What was told counts only once the device comes back with the token of the answer that told it, so an answer that
//! got lost is told again. Bounded and in memory: what is forgotten is told again too.

use std::{collections::HashMap, sync::Arc};

use hearth_storage::{DeviceNid, EventNid, KeyNid, Position, RoomNid};
use parking_lot::Mutex;
use quick_cache::sync::Cache;

/// Rooms of devices, and members of each, that are remembered.
const ROOMS: usize = 50_000;
const MEMBERS: usize = 1000;

/// The member events told to devices.
#[derive(Debug)]
pub(crate) struct ToldMembers {
    rooms: Cache<(DeviceNid, RoomNid), Arc<ToldInRoom>>,
}

/// What one device was told of the members of one room.
type ToldInRoom = Mutex<HashMap<KeyNid, Told>>;

#[derive(Debug, Clone, Copy)]
struct Told {
    event_nid: EventNid,
    /// In the answer whose token is at this position.
    at: Position,
}

impl ToldMembers {
    pub fn new() -> Self {
        Self {
            rooms: Cache::new(ROOMS),
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.rooms.clear();
    }

    /// Those of `members` that a device which is at `since` has not been told; they count as told by the answer at
    /// `upto` from now on. With `again`, all of them.
    pub fn untold(
        &self,
        device: (DeviceNid, RoomNid),
        since: Option<Position>,
        upto: Position,
        members: impl IntoIterator<Item = (KeyNid, EventNid)>,
        again: bool,
    ) -> Vec<KeyNid> {
        let room = self.rooms.get(&device).unwrap_or_else(|| {
            let room = Arc::<ToldInRoom>::default();
            self.rooms.insert(device, Arc::clone(&room));
            room
        });
        let mut told = room.lock();
        if told.len() > MEMBERS {
            told.clear();
        }
        let mut untold = Vec::new();
        for (key_nid, event_nid) in members {
            let known = told.get(&key_nid).is_some_and(|told| {
                told.event_nid == event_nid && since.is_some_and(|since| told.at <= since)
            });
            if again || !known {
                untold.push(key_nid);
                told.insert(key_nid, Told { event_nid, at: upto });
            }
        }
        untold
    }
}

#[cfg(test)]
mod tests {
    use hearth_storage::{DeviceNid, EventNid, KeyNid, Position, RoomNid};

    use super::ToldMembers;

    #[test]
    fn a_member_is_told_once_the_answer_was_received_and_not_again() {
        let told = ToldMembers::new();
        let device = (DeviceNid::from(1), RoomNid::from(1));
        let (key, event, newer) = (KeyNid::from(7), EventNid::from(9), EventNid::from(10));
        let untold = |since: Option<i64>, upto, event, again| {
            told.untold(device, since.map(Position), Position(upto), [(key, event)], again)
                .len()
        };
        assert_eq!(untold(None, 5, event, false), 1);
        // The answer at 5 was lost: the device asks from where it was.
        assert_eq!(untold(Some(4), 6, event, false), 1);
        assert_eq!(untold(Some(6), 7, event, false), 0);
        assert_eq!(untold(Some(7), 8, event, true), 1);
        assert_eq!(untold(Some(8), 9, newer, false), 1);
    }
}
