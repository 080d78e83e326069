//! The changes of device lists that the log told of lately, so that a sync looks for them in memory.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use hearth_storage::{Position, RoomNid, UserNid};
use parking_lot::RwLock;

/// Changes remembered.
const CAPACITY: usize = 1 << 14;

/// A change, as it is remembered.
#[derive(Debug)]
pub(crate) struct RecentChange {
    pub position: Position,
    pub user_nid: UserNid,
    /// The one user who sees a difference.
    pub only_for: Option<UserNid>,
    /// The rooms that the user was in then or, at most, a little later; once somebody asked.
    pub rooms: OnceLock<Arc<[RoomNid]>>,
}

#[derive(Debug)]
pub(crate) struct RecentChanges(RwLock<Recent>);

#[derive(Debug)]
struct Recent {
    /// Every change after this position is here.
    since: Position,
    changes: VecDeque<Arc<RecentChange>>,
}

impl RecentChanges {
    pub fn new(since: Position) -> Self {
        Self(RwLock::new(Recent {
            since,
            changes: VecDeque::new(),
        }))
    }

    /// Nothing up to `since` is remembered, nor what was after it.
    pub fn reset(&self, since: Position) {
        *self.0.write() = Recent {
            since,
            changes: VecDeque::new(),
        };
    }

    pub fn push(&self, position: Position, user_nid: UserNid, only_for: Option<UserNid>) -> Arc<RecentChange> {
        let change = Arc::new(RecentChange {
            position,
            user_nid,
            only_for,
            rooms: OnceLock::new(),
        });
        let mut recent = self.0.write();
        if recent.changes.len() >= CAPACITY
            && let Some(dropped) = recent.changes.pop_front()
        {
            recent.since = dropped.position;
        }
        recent.changes.push_back(Arc::clone(&change));
        change
    }

    /// The changes after `since` up to `upto`; nothing when memory doesn't reach back that far.
    pub fn range(&self, since: Position, upto: Position) -> Option<Vec<Arc<RecentChange>>> {
        let recent = self.0.read();
        if since < recent.since {
            return None;
        }
        let start = recent.changes.partition_point(|change| change.position <= since);
        let range = recent
            .changes
            .range(start..)
            .take_while(|change| change.position <= upto);
        Some(range.cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use hearth_storage::{Position, UserNid};

    use super::{CAPACITY, RecentChanges};

    fn positions(changes: &RecentChanges, since: i64, upto: i64) -> Option<Vec<i64>> {
        let range = changes.range(Position(since), Position(upto))?;
        Some(range.iter().map(|change| change.position.0).collect())
    }

    #[test]
    fn what_was_dropped_is_not_claimed() {
        let changes = RecentChanges::new(Position(10));
        for position in 11..=14 {
            changes.push(Position(position), UserNid::from(1), None);
        }
        assert_eq!(positions(&changes, 11, 13), Some(vec![12, 13]));
        assert_eq!(positions(&changes, 9, 13), None);
        let many = i64::try_from(CAPACITY).expect("it fits");
        for position in 15..15 + many {
            changes.push(Position(position), UserNid::from(1), None);
        }
        assert_eq!(positions(&changes, 13, 15), None);
        assert_eq!(positions(&changes, 14, 15), Some(vec![15]));
    }
}
