//! What the log told of lately, so that a sync looks for it in memory.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use hearth_storage::{Position, RoomNid, UserNid};
use parking_lot::RwLock;

/// A change of a device list, as it is remembered.
#[derive(Debug)]
pub(crate) struct RecentChange {
    pub user_nid: UserNid,
    /// The one user who sees a difference.
    pub only_for: Option<UserNid>,
    /// The rooms that the user was in then or, at most, a little later; once somebody asked.
    pub rooms: OnceLock<Arc<[RoomNid]>>,
}

/// The latest entries of one kind, up to a number of them.
#[derive(Debug)]
pub(crate) struct Recent<T> {
    capacity: usize,
    entries: RwLock<Entries<T>>,
}

#[derive(Debug)]
struct Entries<T> {
    /// Everything after this position is here.
    since: Position,
    latest: VecDeque<(Position, T)>,
}

impl<T: Clone> Recent<T> {
    pub fn new(capacity: usize, since: Position) -> Self {
        let latest = VecDeque::new();
        Self {
            capacity,
            entries: RwLock::new(Entries { since, latest }),
        }
    }

    /// Nothing up to `since` is remembered, nor what was after it.
    pub fn reset(&self, since: Position) {
        let latest = VecDeque::new();
        *self.entries.write() = Entries { since, latest };
    }

    pub fn push(&self, position: Position, entry: T) {
        let mut entries = self.entries.write();
        if entries.latest.len() >= self.capacity
            && let Some((dropped, _)) = entries.latest.pop_front()
        {
            entries.since = dropped;
        }
        entries.latest.push_back((position, entry));
    }

    /// The entries after `since` up to `upto`; nothing when memory doesn't reach back that far.
    pub fn range(&self, since: Position, upto: Position) -> Option<Vec<(Position, T)>> {
        let entries = self.entries.read();
        if since < entries.since {
            return None;
        }
        let start = entries.latest.partition_point(|(position, _)| *position <= since);
        let range = entries.latest.range(start..);
        Some(
            range
                .take_while(|(position, _)| *position <= upto)
                .cloned()
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use hearth_storage::Position;

    use super::Recent;

    fn positions(recent: &Recent<()>, since: i64, upto: i64) -> Option<Vec<i64>> {
        let range = recent.range(Position(since), Position(upto))?;
        Some(range.iter().map(|(position, ())| position.0).collect())
    }

    #[test]
    fn what_was_dropped_is_not_claimed() {
        let recent = Recent::new(4, Position(10));
        (11..=14).for_each(|position| recent.push(Position(position), ()));
        assert_eq!(positions(&recent, 11, 13), Some(vec![12, 13]));
        assert_eq!(positions(&recent, 10, 11), Some(vec![11]));
        assert_eq!(positions(&recent, 9, 13), None);
        recent.push(Position(15), ());
        assert_eq!(positions(&recent, 10, 15), None);
        assert_eq!(positions(&recent, 11, 15), Some(vec![12, 13, 14, 15]));
        recent.reset(Position(12));
        assert_eq!(positions(&recent, 12, 15), Some(vec![]));
    }
}
