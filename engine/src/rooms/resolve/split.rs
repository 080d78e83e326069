//! Where states differ. What they share is looked up where it is, never listed.

use std::collections::{BTreeMap, BTreeSet};

use hearth_storage::{EventNid, KeyNid};

use crate::rooms::StateMap;

/// Several states of a room, and where they differ.
#[derive(Debug)]
pub(super) struct Split<'a> {
    /// The distinct ones. Whether one is given twice makes no difference to what they resolve to.
    pub states: Vec<&'a StateMap>,
    /// The keys at which they don't all have the same event, with the events there. Of one event, some states have
    /// none.
    pub differing: BTreeMap<KeyNid, BTreeSet<EventNid>>,
}

impl<'a> Split<'a> {
    pub fn of(states: &'a [StateMap]) -> Self {
        let Some((first, others)) = states.split_first() else {
            return Self {
                states: Vec::new(),
                differing: BTreeMap::new(),
            };
        };
        let mut distinct = BTreeMap::from([(BTreeMap::new(), first)]);
        for other in others {
            distinct.entry(changes(first, other)).or_insert(other);
        }
        let keys: BTreeSet<KeyNid> = distinct
            .keys()
            .flat_map(|changes| changes.keys().copied())
            .collect();
        let states: Vec<&StateMap> = distinct.into_values().collect();
        let events_at = |key_nid| states.iter().filter_map(|state| state.get(key_nid)).collect();
        let differing = keys
            .into_iter()
            .map(|key_nid| (key_nid, events_at(key_nid)))
            .collect();
        Self { states, differing }
    }

    /// The event that all states have at a key.
    pub fn common(&self, key_nid: KeyNid) -> Option<EventNid> {
        match self.differing.contains_key(&key_nid) {
            true => None,
            false => self.states.first()?.get(key_nid),
        }
    }

    /// All events that all states have, with their keys.
    pub fn all_common(&self) -> impl Iterator<Item = (KeyNid, EventNid)> + '_ {
        let first = self.states.first().into_iter().flat_map(|state| state.iter());
        first.filter(|(key_nid, _)| !self.differing.contains_key(key_nid))
    }

    /// The conflicted state set: the events at keys at which the states differ.
    pub fn conflicted(&self) -> BTreeSet<EventNid> {
        self.differing.values().flatten().copied().collect()
    }
}

/// What makes `other` of `base`.
fn changes(base: &StateMap, other: &StateMap) -> BTreeMap<KeyNid, Option<EventNid>> {
    let mut changes = BTreeMap::new();
    let mut gone = 0;
    for (key_nid, event_nid) in base.iter() {
        let there = other.get(key_nid);
        if there != Some(event_nid) {
            changes.insert(key_nid, there);
        }
        gone += usize::from(there.is_none());
    }
    if other.len() > base.len() - gone {
        let added = other.iter().filter(|(key_nid, _)| base.get(*key_nid).is_none());
        changes.extend(added.map(|(key_nid, event_nid)| (key_nid, Some(event_nid))));
    }
    changes
}
