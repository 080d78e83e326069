//! Refuses, before the database has to, changes that do not follow what is before them in their rooms.

use std::collections::{HashMap, HashSet};

use super::change::{Change, Fact, HeadMove};
use crate::{RoomNid, StateNid};

/// Where rooms will stand once what was let through so far is committed.
#[derive(Debug, Default)]
pub(super) struct Sequences(HashMap<RoomNid, (i64, StateNid)>);

impl Sequences {
    /// Whether `change` builds on what was let through before it; if so, it is let through. The first change in a
    /// room always is: what it builds on is for the database to say.
    pub fn admit(&mut self, change: &Change) -> bool {
        let follows = change.heads.iter().all(|head| self.is_next(head));
        if follows {
            let heads = change.heads.iter();
            self.0
                .extend(heads.map(|head| (head.room_nid, (head.sequence, head.state_nid))));
        }
        follows
    }

    fn is_next(&self, head: &HeadMove) -> bool {
        self.0.get(&head.room_nid).is_none_or(|(sequence, state_nid)| {
            *sequence == head.sequence_before && head.state_before.is_none_or(|before| before == *state_nid)
        })
    }
}

/// What is wrong with the numbers in `change` itself, if anything is: that is a bug of whoever decided it.
///
/// It moves a head at most once, and its events in a room, where it has any, are numbered without gap up to the
/// head's new sequence: from the old one on, unless the room had no head and its past was written beforehand.
pub(super) fn flaw(change: &Change) -> Option<&'static str> {
    let mut moved = HashSet::new();
    for head in &change.heads {
        if !moved.insert(head.room_nid) {
            return Some("it moves the head of a room twice");
        }
        let numbers: Vec<i64> = live_events(change, head.room_nid).collect();
        let consecutive = numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        let fits = match (numbers.first(), numbers.last()) {
            (Some(first), Some(last)) => {
                *last == head.sequence && (head.sequence_before == 0 || *first == head.sequence_before + 1)
            }
            _ => head.sequence_before == 0 || head.sequence == head.sequence_before,
        };
        if !consecutive || !fits {
            return Some("its events are not those between the old head of their room and the new");
        }
    }
    let headless = change
        .facts
        .iter()
        .any(|fact| matches!(fact, Fact::Event(event, _) if !moved.contains(&event.room_nid)));
    headless.then_some("it adds an event to a room without moving the room's head")
}

fn live_events(change: &Change, room_nid: RoomNid) -> impl Iterator<Item = i64> + '_ {
    change.facts.iter().filter_map(move |fact| match fact {
        Fact::Event(event, _) if event.room_nid == room_nid => Some(event.sequence),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Sequences, flaw};
    use crate::{
        EventNid, RoomNid, StateNid, TypeNid, UserNid,
        log::{Change, Fact, HeadMove, NewEvent},
    };

    fn head(room: i64, sequence_before: i64, sequence: i64) -> HeadMove {
        let (room_nid, state_nid) = (RoomNid(room), StateNid(1));
        HeadMove {
            room_nid,
            sequence_before,
            state_before: None,
            sequence,
            forward_extremities: Vec::new(),
            state_nid,
        }
    }

    fn event(room: i64, sequence: i64) -> Fact {
        let event = NewEvent {
            event_nid: EventNid(sequence),
            event_id: format!("$event{sequence}:example.org"),
            room_nid: RoomNid(room),
            sequence,
            type_nid: TypeNid(1),
            key_nid: None,
            replaces: None,
            sender_nid: UserNid(1),
            state_after: StateNid(1),
            origin_server_ts: 0,
            pdu: "{}".into(),
            push_class: 0,
            transaction: None,
            auth_nids: Vec::new(),
            is_stored: false,
            after_gap: false,
        };
        Fact::Event(Arc::new(event), Vec::new())
    }

    fn change(heads: &[HeadMove], facts: &[Fact]) -> Change {
        Change {
            heads: heads.to_vec(),
            facts: facts.to_vec(),
            ..Change::default()
        }
    }

    #[test]
    fn a_change_is_let_through_when_it_builds_on_the_one_before_it_in_each_of_its_rooms() {
        let mut sequences = Sequences::default();
        assert!(
            sequences.admit(&change(&[head(1, 7, 8)], &[])),
            "the first in a room"
        );
        assert!(
            !sequences.admit(&change(&[head(1, 7, 8)], &[])),
            "decided before the first was queued"
        );
        assert!(
            !sequences.admit(&change(&[head(1, 9, 10)], &[])),
            "decided on one that is not here"
        );
        assert!(
            !sequences.admit(&change(&[head(2, 1, 2), head(1, 7, 8)], &[])),
            "one of its rooms has moved on"
        );
        assert!(
            sequences.admit(&change(&[head(2, 3, 4), head(1, 8, 9)], &[])),
            "a refused one has left no trace"
        );
        assert!(sequences.admit(&change(&[], &[])), "it moves no head");
    }

    #[test]
    fn the_events_of_a_change_lead_from_the_old_head_to_the_new() {
        let sound = [
            change(
                &[head(1, 7, 9), head(2, 1, 2)],
                &[event(1, 8), event(2, 2), event(1, 9)],
            ),
            change(&[head(1, 7, 7)], &[]),
            change(&[head(1, 0, 900)], &[]),
            change(&[head(1, 0, 901)], &[event(1, 900), event(1, 901)]),
        ];
        for change in sound {
            assert_eq!(flaw(&change), None, "{change:?}");
        }
        let flawed = [
            change(&[head(1, 7, 9)], &[event(1, 8)]),
            change(&[head(1, 7, 9)], &[event(1, 9)]),
            change(&[head(1, 7, 9)], &[event(1, 9), event(1, 8)]),
            change(&[head(1, 7, 8)], &[event(1, 8), event(1, 8)]),
            change(&[head(1, 7, 8)], &[]),
            change(&[head(1, 7, 8), head(1, 8, 9)], &[event(1, 8), event(1, 9)]),
            change(&[head(1, 7, 8)], &[event(1, 8), event(2, 8)]),
            change(&[], &[event(1, 8)]),
        ];
        for change in flawed {
            assert!(flaw(&change).is_some(), "{change:?}");
        }
    }
}
