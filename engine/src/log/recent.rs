//! The recent end of the log, a few bytes an entry: which rooms and users it spoke of, and when.

use std::collections::VecDeque;

use hearth_storage::{Position, RoomNid, UserNid};
use parking_lot::RwLock;

/// Entries remembered; 24 bytes each.
const CAPACITY: usize = 1 << 18;

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// A room and everyone in it.
    Room(RoomNid),
    /// One user.
    User(UserNid),
}

#[derive(Debug)]
pub(crate) struct RecentLog(RwLock<Recent>);

#[derive(Debug)]
struct Recent {
    /// Everything after this position is here.
    since: Position,
    entries: VecDeque<(Position, Subject)>,
}

impl RecentLog {
    pub fn new(since: Position) -> Self {
        Self(RwLock::new(Recent {
            since,
            entries: VecDeque::new(),
        }))
    }

    pub fn push(&self, position: Position, subject: Subject) {
        let mut recent = self.0.write();
        if recent.entries.len() == CAPACITY
            && let Some((dropped, _)) = recent.entries.pop_front()
        {
            recent.since = dropped;
        }
        recent.entries.push_back((position, subject));
    }

    /// Starts anew: nothing up to `since` is remembered.
    pub fn reset(&self, since: Position) {
        *self.0.write() = Recent {
            since,
            entries: VecDeque::new(),
        };
    }

    /// The subjects of the entries after `since` up to `upto`, possibly several times each; nothing when the memory
    /// doesn't reach back that far.
    pub fn subjects(&self, since: Position, upto: Position) -> Option<Vec<Subject>> {
        let recent = self.0.read();
        if since < recent.since {
            return None;
        }
        let start = recent.entries.partition_point(|(position, _)| *position <= since);
        let range = recent
            .entries
            .range(start..)
            .take_while(|(position, _)| *position <= upto);
        let mut subjects: Vec<Subject> = Vec::new();
        for (_, subject) in range {
            if subjects.last() != Some(subject) {
                subjects.push(*subject);
            }
        }
        Some(subjects)
    }
}

#[cfg(test)]
mod tests {
    use hearth_storage::{Position, RoomNid};

    use super::{CAPACITY, RecentLog, Subject};

    fn room(number: i64) -> Subject {
        Subject::Room(RoomNid::from(number))
    }

    #[test]
    fn a_range_is_exclusive_of_its_start_and_inclusive_of_its_end() {
        let log = RecentLog::new(Position(10));
        for position in 11..=14 {
            log.push(Position(position), room(position));
        }
        assert_eq!(
            log.subjects(Position(11), Position(13)),
            Some(vec![room(12), room(13)])
        );
        assert_eq!(log.subjects(Position(10), Position(10)), Some(vec![]));
        assert_eq!(log.subjects(Position(9), Position(13)), None);
    }

    #[test]
    fn what_was_dropped_is_not_claimed() {
        let log = RecentLog::new(Position(0));
        for position in 1..=i64::try_from(CAPACITY).expect("it fits") + 1 {
            log.push(Position(position), room(1));
        }
        assert_eq!(log.subjects(Position(0), Position(5)), None);
        assert_eq!(log.subjects(Position(1), Position(5)), Some(vec![room(1)]));
    }
}
