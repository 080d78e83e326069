//! Auth chains over numbers: the auth difference of states, and the conflicted state subgraph.
//!
//! A large room's auth chains are long, and what is looked for is nearly always near their ends. Numbers are given to
//! events as they become known, and an event is nearly always known after those that authorise it. So chains are walked
//! from the highest number down, and left where everything that is looked for is higher. The exceptions to that order are
//! indexed ([`Source::reaching_across`]), and make no difference to what is found.

use std::collections::{BTreeSet, HashMap, HashSet};

use hearth_storage::{EventNid, KeyNid, event_auth::AuthEdges};

use super::{source::Source, split::Split};
use crate::Error;

/// Events of auth chains that one resolution may look at: some 200 MB.
const MAX_EVENTS: usize = 2_000_000;
/// Numbers in one query.
const BATCH: usize = 10_000;
/// How many events of auth chains a query brings that weren't asked for: at first, and at most. Most conflicts need none.
const AHEAD: (usize, usize) = (32, 4096);

/// The part of a room's auth chains that was looked at.
pub(super) struct AuthGraph<'a, S> {
    source: &'a S,
    known: HashMap<EventNid, Edges>,
    ahead: usize,
}

#[derive(Debug)]
struct Edges {
    key_nid: KeyNid,
    auth_nids: Box<[EventNid]>,
}

impl<'a, S: Source> AuthGraph<'a, S> {
    pub fn new(source: &'a S) -> Self {
        Self {
            source,
            known: HashMap::new(),
            ahead: AHEAD.0,
        }
    }

    /// The events that authorise those of `event_nids`.
    pub async fn auth_events_of(
        &mut self,
        event_nids: &BTreeSet<EventNid>,
    ) -> Result<BTreeSet<EventNid>, Error> {
        self.look_at(event_nids.iter().copied(), EventNid::from(i64::MAX))
            .await?;
        Ok(event_nids
            .iter()
            .flat_map(|event_nid| self.auth_nids(*event_nid))
            .copied()
            .collect())
    }

    /// The conflicted state subgraph (room version 12, "State resolution"): whatever lies on a way along auth events from
    /// an event of `conflicted` to another, ends included.
    pub async fn subgraph(&mut self, conflicted: &BTreeSet<EventNid>) -> Result<BTreeSet<EventNid>, Error> {
        let Some(lowest) = conflicted.first() else {
            return Ok(BTreeSet::new());
        };
        let floor = self.floor_of(*lowest).await?;
        let mut authorised_by: HashMap<EventNid, Vec<EventNid>> = HashMap::new();
        let mut seen: HashSet<EventNid> = conflicted.iter().copied().collect();
        let mut frontier: Vec<EventNid> = conflicted.iter().copied().collect();
        while !frontier.is_empty() {
            self.look_at(frontier.iter().copied(), floor).await?;
            let mut next = Vec::new();
            for event_nid in frontier {
                for auth_nid in self.auth_nids(event_nid).iter().filter(|nid| **nid >= floor) {
                    authorised_by.entry(*auth_nid).or_default().push(event_nid);
                    if seen.insert(*auth_nid) {
                        next.push(*auth_nid);
                    }
                }
            }
            frontier = next;
        }
        // All that was seen can be reached from a conflicted event. What also leads to one is found from the other end.
        let mut subgraph = conflicted.clone();
        let mut leading: Vec<EventNid> = conflicted.iter().copied().collect();
        while let Some(event_nid) = leading.pop() {
            for leads in authorised_by.get(&event_nid).into_iter().flatten() {
                if subgraph.insert(*leads) {
                    leading.push(*leads);
                }
            }
        }
        Ok(subgraph)
    }

    /// The auth difference of states, less those of its events that are conflicted anyway: whatever is in the full auth
    /// chain of one state and not in that of every other.
    ///
    /// The full auth chain of a state holds the state's events too, not only those that authorise them: Synapse takes it
    /// so, and what both of two servers' states have must not be in dispute because only one of them has more that is
    /// authorised by it.
    pub async fn difference(&mut self, split: &Split<'_>) -> Result<BTreeSet<EventNid>, Error> {
        let mut marks = Marks::new(split);
        self.spread(&mut marks, None).await?;
        if let Some(lowest) = marks.partial.first() {
            // Some are left that not all states were found to have. Whether the states have something in common that is
            // authorised by one of these is settled by everything in common from there up.
            let floor = self.floor_of(*lowest).await?;
            marks.add_all_common(floor);
            self.spread(&mut marks, Some(floor)).await?;
        }
        Ok(marks.partial)
    }

    /// Passes marks on from events to what authorises them, until nothing changes. What all states have is only followed
    /// down to `floor`, or else to the lowest event that not all are found to have.
    async fn spread(&mut self, marks: &mut Marks<'_>, floor: Option<EventNid>) -> Result<(), Error> {
        loop {
            let down_to = floor.or_else(|| marks.partial.first().copied());
            let of_all = marks
                .of_all
                .last()
                .copied()
                .filter(|nid| down_to.is_some_and(|down_to| *nid >= down_to));
            let Some(event_nid) = of_all.max(marks.of_some.last().copied()) else {
                return Ok(());
            };
            // What all have interests only where it is not below what is looked for.
            let least = match of_all == Some(event_nid) {
                true => down_to.unwrap_or(event_nid),
                false => EventNid::from(i64::MIN),
            };
            let is_known = |nid: &EventNid| *nid < least || self.known.contains_key(nid);
            if !self
                .known
                .get(&event_nid)
                .is_some_and(|edges| edges.auth_nids.iter().all(is_known))
            {
                self.look_further(marks, down_to).await?;
            }
            let given = marks.take(event_nid);
            for auth_nid in self.auth_nids(event_nid).iter().filter(|nid| **nid >= least) {
                if let Some(edges) = self.known.get(auth_nid) {
                    marks.mark(*auth_nid, edges.key_nid, &given);
                }
            }
        }
    }

    /// Fetches for everything that waits to pass its marks on, not only for what is next: one query instead of many.
    async fn look_further(&mut self, marks: &Marks<'_>, down_to: Option<EventNid>) -> Result<(), Error> {
        let least = down_to.unwrap_or(EventNid::from(i64::MAX));
        let of_all = || marks.of_all.range(least..).copied();
        self.look_at(marks.of_some.iter().copied().chain(of_all()), least)
            .await?;
        let of_some = marks.of_some.iter().flat_map(|nid| self.auth_nids(*nid));
        let of_all = of_all()
            .flat_map(|nid| self.auth_nids(nid))
            .filter(|nid| **nid >= least);
        let wanted: HashSet<EventNid> = of_some.chain(of_all).copied().collect();
        self.look_at(wanted, least).await
    }

    /// A number below which nothing leads to `event_nid`, or to what is above it.
    async fn floor_of(&self, event_nid: EventNid) -> Result<EventNid, Error> {
        let mut floor = event_nid;
        while let Some(lower) = self.source.reaching_across(floor).await? {
            floor = lower;
        }
        Ok(floor)
    }

    fn auth_nids(&self, event_nid: EventNid) -> &[EventNid] {
        self.known.get(&event_nid).map_or(&[], |edges| &edges.auth_nids)
    }

    /// Sees to it that the edges of `wanted` are known.
    async fn look_at(
        &mut self,
        wanted: impl IntoIterator<Item = EventNid>,
        floor: EventNid,
    ) -> Result<(), Error> {
        let missing: BTreeSet<EventNid> = wanted
            .into_iter()
            .filter(|event_nid| !self.known.contains_key(event_nid))
            .collect();
        // The highest first: what they bring with them is often among the rest.
        let missing: Vec<EventNid> = missing.into_iter().rev().collect();
        for batch in missing.chunks(BATCH) {
            let found = self.source.edges(batch, floor, self.ahead).await?;
            self.ahead = (self.ahead * 2).min(AHEAD.1);
            for AuthEdges {
                event_nid,
                key_nid,
                auth_nids,
            } in found
            {
                self.known.insert(
                    event_nid,
                    Edges {
                        key_nid,
                        auth_nids: auth_nids.into(),
                    },
                );
            }
            if let Some(absent) = batch.iter().find(|event_nid| !self.known.contains_key(event_nid)) {
                return Err(Error::Damaged(format!(
                    "what authorises event {absent:?} is not stored"
                )));
            }
            if self.known.len() > MAX_EVENTS {
                return Err(Error::Damaged("an auth chain is too long".to_owned()));
            }
        }
        Ok(())
    }
}

/// Which of the states have an event in their full auth chain.
struct Marks<'a> {
    split: &'a Split<'a>,
    conflicted: BTreeSet<EventNid>,
    marks: HashMap<EventNid, StateSet>,
    every: StateSet,
    /// Events with new marks to pass on, of only some states.
    of_some: BTreeSet<EventNid>,
    /// Events that all states have, and that were not followed further yet.
    of_all: BTreeSet<EventNid>,
    /// All events that only some states were found to have, but for those that are conflicted.
    partial: BTreeSet<EventNid>,
}

impl<'a> Marks<'a> {
    fn new(split: &'a Split<'a>) -> Self {
        let mut marks = Self {
            split,
            conflicted: split.conflicted(),
            marks: HashMap::new(),
            every: StateSet::of((0..split.states.len()).collect()),
            of_some: BTreeSet::new(),
            of_all: BTreeSet::new(),
            partial: BTreeSet::new(),
        };
        for (key_nid, events) in &split.differing {
            for event_nid in events {
                let having = split.states.iter().enumerate();
                let having = having.filter(|(_, state)| state.get(*key_nid) == Some(*event_nid));
                marks.mark(
                    *event_nid,
                    *key_nid,
                    &StateSet::of(having.map(|(index, _)| index).collect()),
                );
            }
        }
        marks
    }

    /// An event is found to be in the auth chains of some states.
    fn mark(&mut self, event_nid: EventNid, key_nid: KeyNid, states: &StateSet) {
        let common = self.split.common(key_nid);
        let states = if common == Some(event_nid) {
            &self.every
        } else {
            states
        };
        let is_new = !self.marks.contains_key(&event_nid);
        let marks = self.marks.entry(event_nid).or_default();
        if !marks.add(states) {
            return;
        }
        if *marks == self.every {
            self.of_some.remove(&event_nid);
            self.partial.remove(&event_nid);
            self.of_all.insert(event_nid);
            return;
        }
        self.of_some.insert(event_nid);
        if self.conflicted.contains(&event_nid) {
            return;
        }
        self.partial.insert(event_nid);
        // The usual case: it was replaced since, by what all states have at its key now, and which goes back to it.
        if let Some(successor) = common.filter(|_| is_new) {
            self.mark(successor, key_nid, &self.every.clone());
        }
    }

    /// What an event passes on.
    fn take(&mut self, event_nid: EventNid) -> StateSet {
        self.of_some.remove(&event_nid);
        self.of_all.remove(&event_nid);
        self.marks.get(&event_nid).cloned().unwrap_or_default()
    }

    /// All that the states have in common may be followed down to `floor`, anew where it was left earlier.
    fn add_all_common(&mut self, floor: EventNid) {
        let of_all = self
            .marks
            .iter()
            .filter(|(_, marks)| **marks == self.every)
            .map(|(nid, _)| *nid);
        self.of_all.extend(of_all.filter(|nid| *nid >= floor));
        for (_, event_nid) in self.split.all_common().filter(|(_, nid)| *nid >= floor) {
            self.marks.insert(event_nid, self.every.clone());
            self.of_all.insert(event_nid);
        }
    }
}

/// A set of the states that are resolved, by index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct StateSet(Vec<u64>);

impl StateSet {
    fn of(indices: Vec<usize>) -> Self {
        let mut words = vec![0; indices.iter().max().map_or(0, |index| index / 64 + 1)];
        for index in indices {
            if let Some(word) = words.get_mut(index / 64) {
                *word |= 1 << (index % 64);
            }
        }
        Self(words)
    }

    /// Adds the members of another; whether there are more now.
    fn add(&mut self, other: &Self) -> bool {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        let mut grew = false;
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            grew |= *more & !*word != 0;
            *word |= more;
        }
        grew
    }
}
