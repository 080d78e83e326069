//! What one user has not read of one room, kept for those who are looking.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use hearth_storage::Position;
use serde::Serialize;

/// Unread events kept of a room, at most: the newest. Nobody reads a larger number as another.
pub(super) const MAX_UNREAD: usize = 1000;
/// The thread of what is in none, as receipts name it.
const MAIN: &str = "main";

/// Unread notifications (client-server API, `unread_notifications`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Those that are highlighted.
    pub highlight_count: u64,
    /// All of them.
    pub notification_count: u64,
}

/// What is unread of a room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// What is in no thread.
    pub main: Count,
    /// What is in a thread, by the ID of its root.
    pub threads: BTreeMap<Arc<str>, Count>,
}

impl Count {
    fn add(&mut self, unread: &Unread) {
        self.notification_count += 1;
        self.highlight_count += u64::from(unread.highlights);
    }
}

impl Counts {
    /// All of the room.
    pub fn total(&self) -> Count {
        let sum = |sum: Count, count: &Count| Count {
            highlight_count: sum.highlight_count + count.highlight_count,
            notification_count: sum.notification_count + count.notification_count,
        };
        self.threads.values().fold(self.main, sum)
    }
}

/// How far a user has read, by sequence numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Marks {
    whole_room: i64,
    threads: HashMap<Arc<str>, i64>,
}

impl Marks {
    /// Moves the mark of a thread, as receipts name it: empty for the whole room. Marks never move back.
    pub fn raise(&mut self, thread: &str, sequence: i64) {
        if thread.is_empty() {
            self.whole_room = self.whole_room.max(sequence);
            return;
        }
        match self.threads.get_mut(thread) {
            Some(mark) => *mark = sequence.max(*mark),
            None => drop(self.threads.insert(thread.into(), sequence)),
        }
    }

    /// Everything up to here is read, whatever thread it is in.
    pub fn whole_room(&self) -> i64 {
        self.whole_room
    }

    fn have_read(&self, unread: &Unread) -> bool {
        let thread = unread.thread.as_deref().unwrap_or(MAIN);
        unread.sequence <= self.whole_room
            || self
                .threads
                .get(thread)
                .is_some_and(|mark| unread.sequence <= *mark)
    }
}

/// An event that notifies the user.
#[derive(Debug, Clone)]
pub(super) struct Unread {
    pub sequence: i64,
    /// The root of its thread; nothing for one in none.
    pub thread: Option<Arc<str>>,
    pub highlights: bool,
}

/// What was counted of a room for a user.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    /// The end of what was counted.
    pub upto: Position,
    /// What it was counted by: when either is another, it counts for nothing.
    pub basis: Basis,
    marks: Marks,
    /// In the order of the room.
    unread: VecDeque<Unread>,
}

/// What a tally depends on beside the room's events and the user's receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Basis {
    /// The position of the user's preferences.
    pub preferences: Position,
    /// Where the user's time in the room began: nothing before it is unread.
    pub joined_at: Position,
}

impl Tally {
    pub fn new(upto: Position, basis: Basis, marks: Marks) -> Self {
        Self {
            upto,
            basis,
            marks,
            unread: VecDeque::new(),
        }
    }

    /// An event that notifies.
    pub fn push(&mut self, unread: Unread) {
        if !self.marks.have_read(&unread) {
            self.unread.push_back(unread);
        }
        if self.unread.len() > MAX_UNREAD {
            self.unread.pop_front();
        }
    }

    /// The user has read a thread, as receipts name it, up to here.
    pub fn read(&mut self, thread: &str, sequence: i64) {
        self.marks.raise(thread, sequence);
        let marks = &self.marks;
        self.unread.retain(|unread| !marks.have_read(unread));
    }

    /// The user said something, in a thread or in none.
    pub fn said(&mut self, thread: Option<&str>, sequence: i64) {
        self.read(thread.unwrap_or(MAIN), sequence);
    }

    /// Nobody is notified of what is redacted.
    pub fn redacted(&mut self, sequence: i64) {
        self.unread.retain(|unread| unread.sequence != sequence);
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for unread in &self.unread {
            match &unread.thread {
                Some(root) => counts.threads.entry(Arc::clone(root)).or_default().add(unread),
                None => counts.main.add(unread),
            }
        }
        counts
    }

    /// Roughly the bytes it takes.
    pub fn weight(&self) -> u64 {
        (size_of::<Self>() + self.unread.len() * size_of::<Unread>() + self.marks.threads.len() * 128) as u64
    }
}

#[cfg(test)]
mod tests {
    use hearth_storage::Position;

    use super::{Basis, Count, MAX_UNREAD, Marks, Tally, Unread};

    fn tally() -> Tally {
        let basis = Basis {
            preferences: Position(0),
            joined_at: Position(0),
        };
        Tally::new(Position(0), basis, Marks::default())
    }

    fn unread(sequence: i64, thread: Option<&str>) -> Unread {
        Unread {
            sequence,
            thread: thread.map(Into::into),
            highlights: sequence % 2 == 0,
        }
    }

    fn count(notification_count: u64, highlight_count: u64) -> Count {
        Count {
            highlight_count,
            notification_count,
        }
    }

    #[test]
    fn receipts_of_threads_read_their_own_and_those_of_the_room_read_all() {
        let mut tally = tally();
        for (sequence, thread) in [
            (1, None),
            (2, Some("$a")),
            (3, Some("$b")),
            (4, None),
            (5, Some("$a")),
            (6, None),
        ] {
            tally.push(unread(sequence, thread));
        }
        assert_eq!(tally.counts().total(), count(6, 3));
        tally.read("$a", 4);
        assert_eq!(tally.counts().threads["$a"], count(1, 0));
        tally.said(None, 4);
        assert_eq!(tally.counts().main, count(1, 1));
        tally.said(Some("$b"), 7);
        assert!(!tally.counts().threads.contains_key("$b"));
        tally.read("", 5);
        assert_eq!(tally.counts().total(), count(1, 1));
        // None of them moves back.
        tally.read("", 1);
        tally.push(unread(5, Some("$c")));
        assert_eq!(tally.counts().total(), count(1, 1));
    }

    #[test]
    fn the_newest_are_kept() {
        let mut tally = tally();
        for sequence in 1..=i64::try_from(MAX_UNREAD).unwrap() + 10 {
            tally.push(unread(sequence, None));
        }
        assert_eq!(tally.counts().main.notification_count, MAX_UNREAD as u64);
        tally.read("", 20);
        assert_eq!(tally.counts().main.notification_count, MAX_UNREAD as u64 - 10);
    }
}
