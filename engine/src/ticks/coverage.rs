//! Which parts of a room's order were delivered to a user. Pure.
//!
//! A part has no holes: of what others said between its first and its last message everything was delivered. What was
//! skipped, or kept back by a filter, is between two parts.

use std::sync::Arc;

use hearth_storage::EventNid;

/// Parts that are known of a user in a room, at most: of what is further back nothing is said any more.
pub(super) const MOST_PARTS: usize = 16;

/// What somebody else said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    /// Its sequence number.
    pub sequence: i64,
    pub event_nid: EventNid,
}

/// A part of a room's order that one response told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// Nobody else said anything after this sequence number and before `first`,
    pub after: i64,
    pub first: Message,
    pub last: Message,
    /// nor after `last` and up to this one.
    pub upto: i64,
}

/// What a response told of a room that accounts for the sequence numbers after `after` up to `upto`: everything that
/// others said, `messages`, but for what was `withheld`. Both in order; the newest stretches.
pub(crate) fn stretches(
    (after, upto): (i64, i64),
    messages: impl IntoIterator<Item = Message>,
    withheld: impl IntoIterator<Item = i64>,
) -> Vec<Stretch> {
    let mut withheld = withheld
        .into_iter()
        .filter(|sequence| *sequence > after)
        .peekable();
    let mut stretches: Vec<Stretch> = Vec::new();
    // Where the stretch under way began, or is to begin.
    let mut begins = after;
    let mut is_broken = true;
    for message in messages.into_iter().filter(|message| message.sequence > after) {
        while let Some(sequence) = withheld.next_if(|sequence| *sequence < message.sequence) {
            if let Some(last) = stretches.last_mut().filter(|_| !is_broken) {
                last.upto = sequence - 1;
            }
            (begins, is_broken) = (sequence, true);
        }
        match stretches.last_mut() {
            Some(stretch) if !is_broken => stretch.last = message,
            _ => stretches.push(Stretch {
                after: begins,
                first: message,
                last: message,
                upto,
            }),
        }
        is_broken = false;
    }
    if let (Some(last), Some(sequence)) = (stretches.last_mut(), withheld.next()) {
        last.upto = last.upto.min(sequence - 1);
    }
    let surplus = stretches.len().saturating_sub(MOST_PARTS);
    stretches.drain(..surplus);
    stretches
}

/// An event at the end of a part: its sequence number and ID.
pub(super) type End = (i64, Arc<str>);

/// A part that was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// See [`Stretch`].
    pub after: i64,
    pub first: End,
    pub last: End,
    pub upto: i64,
}

impl Part {
    fn and(self, other: Self) -> Self {
        Self {
            after: self.after.min(other.after),
            first: std::cmp::min_by_key(self.first, other.first, |end| end.0),
            last: std::cmp::max_by_key(self.last, other.last, |end| end.0),
            upto: self.upto.max(other.upto),
        }
    }
}

/// What was delivered to a user of a room: parts in order, apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Coverage(Vec<Part>);

/// Sequence numbers between a part and its neighbours, exclusive, where it does not touch them: if nobody else said
/// anything there, they are one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Between {
    pub before: Option<(i64, i64)>,
    pub after: Option<(i64, i64)>,
}

impl Coverage {
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// What lies between a part that comes and its neighbours.
    pub fn between(&self, part: &Part) -> Between {
        let index = self.index_of(part);
        let before = index.checked_sub(1).map(|before| &self.0[before]);
        let after = self.0.get(index);
        Between {
            before: before
                .filter(|before| before.upto < part.after)
                .map(|before| (before.upto, part.first.0)),
            after: after
                .filter(|after| after.after > part.upto)
                .map(|after| (part.upto, after.first.0)),
        }
    }

    /// Where a part would stand: after those that begin no later.
    fn index_of(&self, part: &Part) -> usize {
        self.0.partition_point(|other| other.first.0 <= part.first.0)
    }

    /// Adds a part; `joins_before` and `joins_after` say that nobody else spoke between it and its neighbours.
    pub fn add(&mut self, part: Part, joins_before: bool, mut joins_after: bool) {
        let mut index = self.index_of(&part);
        let mut joined = part;
        if let Some(before) = index.checked_sub(1)
            && (joins_before || self.0[before].upto >= joined.after)
        {
            joined = self.0.remove(before).and(joined);
            index = before;
        }
        while self
            .0
            .get(index)
            .is_some_and(|next| next.after <= joined.upto || std::mem::take(&mut joins_after))
        {
            joined = joined.and(self.0.remove(index));
        }
        self.0.insert(index, joined);
        let surplus = self.0.len().saturating_sub(MOST_PARTS);
        self.0.drain(..surplus);
    }

    /// The parts that `before` did not have, or not as they are.
    pub fn news<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a Part> {
        self.0.iter().filter(|part| {
            let same = |known: &&Part| known.first == part.first && known.last == part.last;
            !before.0.iter().any(|known| same(&known))
        })
    }

    /// Whether a part begins with this event.
    pub fn begins_with(&self, event_id: &str) -> bool {
        self.0.iter().any(|part| &*part.first.1 == event_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sequence: i64) -> Message {
        Message {
            sequence,
            event_nid: EventNid::from(sequence),
        }
    }

    fn told(range: (i64, i64), messages: &[i64], withheld: &[i64]) -> Vec<(i64, i64, i64, i64)> {
        let messages = messages.iter().copied().map(message);
        stretches(range, messages, withheld.iter().copied())
            .into_iter()
            .map(|one| (one.after, one.first.sequence, one.last.sequence, one.upto))
            .collect()
    }

    #[test]
    fn a_response_without_holes_is_one_stretch() {
        assert_eq!(told((4, 9), &[5, 6, 8], &[]), [(4, 5, 8, 9)]);
        assert_eq!(told((4, 9), &[], &[]), []);
        assert_eq!(
            told((4, 9), &[3, 4, 7], &[2]),
            [(4, 7, 7, 9)],
            "what is not accounted for is not told"
        );
    }

    #[test]
    fn what_is_withheld_ends_a_stretch_and_begins_another() {
        assert_eq!(told((0, 9), &[2, 6, 7], &[4]), [(0, 2, 2, 3), (4, 6, 7, 9)]);
        assert_eq!(told((0, 9), &[5], &[1, 2, 7, 8]), [(2, 5, 5, 6)]);
        assert_eq!(told((0, 9), &[], &[3]), []);
        let odd: Vec<i64> = (1..100).step_by(2).collect();
        let even: Vec<i64> = (2..100).step_by(2).collect();
        let newest = told((0, 100), &odd, &even);
        assert_eq!((newest.len(), newest[15]), (MOST_PARTS, (98, 99, 99, 100)));
    }

    fn part(first: i64, last: i64) -> Part {
        let end = |sequence: i64| (sequence, Arc::from(format!("${sequence}")));
        Part {
            after: first - 1,
            first: end(first),
            last: end(last),
            upto: last,
        }
    }

    fn ends(coverage: &Coverage) -> Vec<(i64, i64)> {
        let ends = |part: &Part| (part.first.0, part.last.0);
        coverage.parts().iter().map(ends).collect()
    }

    #[test]
    fn parts_that_touch_are_one_and_others_stay_apart() {
        let mut coverage = Coverage::default();
        coverage.add(part(5, 9), false, false);
        coverage.add(part(10, 12), false, false);
        assert_eq!(ends(&coverage), [(5, 12)]);
        coverage.add(part(20, 25), false, false);
        coverage.add(part(1, 2), false, false);
        assert_eq!(ends(&coverage), [(1, 2), (5, 12), (20, 25)]);
        coverage.add(part(11, 22), false, false);
        assert_eq!(ends(&coverage), [(1, 2), (5, 25)]);
        coverage.add(part(7, 8), false, false);
        assert_eq!(ends(&coverage), [(1, 2), (5, 25)], "it was known");
    }

    #[test]
    fn a_silence_of_others_is_no_hole() {
        let mut coverage = Coverage::default();
        coverage.add(part(1, 4), false, false);
        coverage.add(part(20, 21), false, false);
        let between = coverage.between(&part(8, 10));
        assert_eq!((between.before, between.after), (Some((4, 8)), Some((10, 20))));
        assert_eq!(coverage.between(&part(5, 19)), Between::default());
        let mut both = coverage.clone();
        both.add(part(8, 10), true, true);
        assert_eq!(ends(&both), [(1, 21)]);
        coverage.add(part(8, 10), true, false);
        assert_eq!(ends(&coverage), [(1, 10), (20, 21)]);
    }

    #[test]
    fn only_what_changed_is_news() {
        let mut before = Coverage::default();
        before.add(part(1, 4), false, false);
        before.add(part(8, 9), false, false);
        let mut coverage = before.clone();
        coverage.add(part(2, 3), false, false);
        assert_eq!(coverage.news(&before).count(), 0);
        coverage.add(part(10, 11), false, false);
        let news: Vec<&Part> = coverage.news(&before).collect();
        assert_eq!(news, [&part(8, 11)]);
        assert!(before.begins_with("$8") && !before.begins_with("$9"));
    }

    #[test]
    fn the_parts_furthest_back_are_given_up() {
        let mut coverage = Coverage::default();
        for number in 0..40 {
            coverage.add(part(number * 10, number * 10 + 1), false, false);
        }
        assert_eq!(coverage.parts().len(), MOST_PARTS);
        assert_eq!(ends(&coverage).last(), Some(&(390, 391)));
    }
}
