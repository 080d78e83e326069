//! Which devices have messages waiting: a few bytes for each device that asked lately, which follow the log, so that a
//! sync of a device that has none asks nobody. And what devices have confirmed, until it is let go.

use std::{collections::HashMap, sync::Arc};

use hearth_storage::{DeviceNid, Position, to_device};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::sync::{Notify, OnceCell};

use crate::{Engine, Error};

/// Devices that are known; some 150 bytes each.
const DEVICES: usize = 100_000;

/// The queues of the devices that asked lately.
#[derive(Debug)]
pub(crate) struct Queues {
    devices: Cache<DeviceNid, Arc<Queue>>,
    /// What devices have, and is to be let go: up to these positions.
    confirmed: Mutex<HashMap<DeviceNid, Position>>,
    news: Notify,
}

/// What waits for one device.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    loaded: OnceCell<()>,
    range: Mutex<Range>,
}

/// Where there may be messages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Range {
    /// The oldest and the newest; nothing where none wait.
    ends: Option<(Position, Position)>,
    /// The device has all up to here.
    confirmed: Position,
}

impl Range {
    fn add(&mut self, oldest: Position, newest: Position) {
        self.ends = Some(match self.ends {
            Some((from, to)) => (from.min(oldest), to.max(newest)),
            None => (oldest, newest),
        });
    }

    /// Whether there may be something to let go.
    fn confirm(&mut self, upto: Position) -> bool {
        self.confirmed = self.confirmed.max(upto);
        match self.ends {
            Some((oldest, newest)) if oldest <= upto => {
                self.ends = (newest > upto).then_some((Position(upto.0 + 1), newest));
                true
            }
            _ => false,
        }
    }

    /// The first position after `since` from which on there may be something up to `upto`, less one.
    fn unread(&self, since: Position, upto: Position) -> Option<Position> {
        let (oldest, newest) = self.ends?;
        let since = since.max(self.confirmed);
        (newest > since && oldest <= upto).then_some(since)
    }
}

impl Queue {
    /// After which position there may be messages that the device was not told, up to `upto`; nothing where there are
    /// none.
    pub fn unread(&self, since: Position, upto: Position) -> Option<Position> {
        self.range.lock().unread(since, upto)
    }
}

impl Queues {
    pub fn new() -> Self {
        Self {
            devices: Cache::new(DEVICES),
            confirmed: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// The log tells of a message to a device.
    pub fn note(&self, device_nid: DeviceNid, position: Position) {
        if let Some(queue) = self.devices.peek(&device_nid) {
            queue.range.lock().add(position, position);
        }
    }

    /// What waits for a device. To be asked for anew each time: one that was dropped follows the log no more.
    pub async fn of(&self, engine: &Engine, device_nid: DeviceNid) -> Result<Arc<Queue>, Error> {
        // In its place before the database is read: what is sent from here on is noted, and what was before is read.
        let Ok(queue) = self
            .devices
            .get_or_insert_with(&device_nid, || Ok::<_, std::convert::Infallible>(Arc::default()));
        let load = || async {
            let mut connection = engine.db.acquire().await?;
            if let Some((oldest, newest)) = to_device::range_waiting(&mut connection, device_nid).await? {
                queue.range.lock().add(oldest, newest);
            }
            Ok::<_, Error>(())
        };
        queue.loaded.get_or_try_init(load).await?;
        Ok(queue)
    }

    /// A device has all messages up to a position: they are let go soon.
    pub fn confirm(&self, device_nid: DeviceNid, upto: Position) {
        let is_due = match self.devices.peek(&device_nid) {
            Some(queue) => {
                let may_have_any = queue.range.lock().confirm(upto);
                may_have_any || !queue.loaded.initialized()
            }
            None => true,
        };
        if is_due {
            self.give_back(vec![(device_nid, upto)]);
        }
    }

    /// Waits until something was confirmed.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// What was confirmed, to be let go now.
    pub fn take_confirmed(&self) -> Vec<(DeviceNid, Position)> {
        std::mem::take(&mut *self.confirmed.lock()).into_iter().collect()
    }

    /// What was confirmed and is still to be let go.
    pub fn give_back(&self, confirmed: Vec<(DeviceNid, Position)>) {
        {
            let mut waiting = self.confirmed.lock();
            for (device_nid, upto) in confirmed {
                let known = waiting.entry(device_nid).or_insert(upto);
                *known = (*known).max(upto);
            }
        }
        self.news.notify_one();
    }

    /// The log lost its end: positions stand for other messages now.
    pub fn clear(&self) {
        self.devices.clear();
        self.confirmed.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(position: i64) -> Position {
        Position(position)
    }

    #[test]
    fn a_device_without_messages_has_nothing_unread_and_nothing_to_let_go() {
        let mut range = Range::default();
        assert_eq!(range.unread(position(0), position(9)), None);
        assert!(!range.confirm(position(9)));
    }

    #[test]
    fn messages_are_unread_after_what_was_told_and_until_they_are_confirmed() {
        let mut range = Range::default();
        range.add(position(5), position(5));
        range.add(position(8), position(8));
        assert_eq!(range.unread(position(0), position(4)), None, "none that old");
        assert_eq!(range.unread(position(0), position(5)), Some(position(0)));
        assert_eq!(range.unread(position(5), position(9)), Some(position(5)));
        assert_eq!(range.unread(position(8), position(9)), None);
        assert!(range.confirm(position(5)));
        // A client that begins anew is not told again what its device has.
        assert_eq!(range.unread(position(0), position(9)), Some(position(5)));
        assert!(!range.confirm(position(5)), "it was let go");
        assert!(range.confirm(position(9)));
        assert_eq!(range.ends, None);
        range.add(position(10), position(10));
        assert_eq!(range.unread(position(0), position(10)), Some(position(9)));
    }
}
