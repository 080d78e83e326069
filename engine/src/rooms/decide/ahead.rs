//! A room ahead of its head: where it stands after the events that were decided on so far.

use std::{cell::RefCell, collections::HashMap, iter::Copied, slice, sync::Arc};

use hearth_storage::{
    EventNid, KeyNid, RoomNid, StateNid,
    log::{HeadMove, NewState, StateChange},
    states,
};
use ruma::{events::StateEventType, room_version_rules::AuthorizationRules};

use super::DecideError;
use crate::{
    Error,
    events::Event,
    rooms::{
        StateMap,
        checks::check_auth_rules_by_state,
        gather::{Gathered, Names},
        head::{Extremity, Head},
        power::Power,
    },
};

/// Depths are canonical JSON integers.
const MAX_DEPTH: i64 = (1 << 53) - 1;
/// Events that one may name as its predecessors (server-server API, "PDUs").
const MAX_PREV_EVENTS: usize = 20;

/// Where the room stands, and the events that are known of its state.
pub(super) struct Ahead<'a> {
    gathered: &'a Gathered,
    sequence: i64,
    extremities: Vec<Extremity>,
    state: StateMap,
    stored_state: Option<(StateNid, i16)>,
    state_nids: Copied<slice::Iter<'a, StateNid>>,
    /// The events made so far.
    made: HashMap<EventNid, Arc<Event>>,
}

/// The state that an event leaves.
pub(super) struct StateAfter {
    pub state_nid: StateNid,
    /// What it changes, if it is a state event.
    pub change: Option<StateChange>,
    /// How it is stored, if it is a new one.
    pub stored: Option<NewState>,
}

impl<'a> Ahead<'a> {
    pub fn of(head: &Head, gathered: &'a Gathered) -> Self {
        Self {
            gathered,
            sequence: head.sequence,
            extremities: head.extremities.clone(),
            state: head.state.clone(),
            stored_state: head.stored_state,
            state_nids: gathered.state_nids.iter().copied(),
            made: HashMap::new(),
        }
    }

    /// The sequence number of the next event.
    pub fn next_sequence(&self) -> i64 {
        self.sequence + 1
    }

    /// The depth of the next event.
    pub fn next_depth(&self) -> i64 {
        let depths = self.extremities.iter().map(|extremity| extremity.depth);
        depths.max().unwrap_or(0).saturating_add(1).min(MAX_DEPTH)
    }

    /// What the next event names as its predecessors: no more than an event may.
    pub fn extremities(&self) -> &[Extremity] {
        &self.extremities[self.extremities.len().saturating_sub(MAX_PREV_EVENTS)..]
    }

    /// The number of the event at a key of the state.
    pub fn at(&self, key_nid: KeyNid) -> Option<EventNid> {
        self.state.get(key_nid)
    }

    /// The event at a key of the state.
    pub fn current(&self, key_nid: KeyNid) -> Result<Option<Arc<Event>>, DecideError> {
        let Some(event_nid) = self.state.get(key_nid) else {
            return Ok(None);
        };
        let event = self
            .made
            .get(&event_nid)
            .or_else(|| self.gathered.events.get(&event_nid));
        event
            .map(|event| Some(Arc::clone(event)))
            .ok_or_else(|| DecideError::Missing(vec![event_nid]))
    }

    /// The events that authorise the one that `names` is of.
    pub fn auth_events(&self, names: &Names) -> Result<Vec<Arc<Event>>, DecideError> {
        let mut auth = Vec::with_capacity(names.auth_keys.len());
        let mut missing = Vec::new();
        for (_, _, key_nid) in &names.auth_keys {
            match self.current(*key_nid) {
                Ok(event) => auth.extend(event),
                Err(DecideError::Missing(event_nids)) => missing.extend(event_nids),
                Err(error) => return Err(error),
            }
        }
        if missing.is_empty() {
            Ok(auth)
        } else {
            Err(DecideError::Missing(missing))
        }
    }

    /// The numbers of the events that authorise the one that `names` is of.
    pub fn auth_nids(&self, names: &Names) -> Vec<EventNid> {
        let keys = names.auth_keys.iter().map(|(_, _, key_nid)| *key_nid);
        keys.filter_map(|key_nid| self.state.get(key_nid)).collect()
    }

    /// The power of the room's users; nothing before its create event.
    pub fn power<'r>(&self, rules: &'r AuthorizationRules) -> Result<Option<Power<'r>>, DecideError> {
        let Some(create) = self.current(self.gathered.create_key)? else {
            return Ok(None);
        };
        let levels = self.current(self.gathered.power_levels_key)?;
        Ok(Some(Power::by(create, levels, rules)?))
    }

    /// Whether the rules allow the next event.
    pub fn check_auth_rules(
        &self,
        event: &Arc<Event>,
        rules: &AuthorizationRules,
    ) -> Result<(), DecideError> {
        let missing = RefCell::new(Vec::new());
        let state = |event_type: &StateEventType, state_key: &str| {
            let key_nid = self.key_of(event_type, state_key)?;
            match self.current(key_nid) {
                Ok(event) => event,
                Err(DecideError::Missing(event_nids)) => {
                    missing.borrow_mut().extend(event_nids);
                    None
                }
                Err(_) => None,
            }
        };
        let checked = check_auth_rules_by_state(event, rules, state);
        let missing = missing.into_inner();
        if missing.is_empty() {
            checked.map_err(Into::into)
        } else {
            Err(DecideError::Missing(missing))
        }
    }

    /// The number of a state key among those that authorise the drafts.
    fn key_of(&self, event_type: &StateEventType, state_key: &str) -> Option<KeyNid> {
        if *event_type == StateEventType::RoomCreate && state_key.is_empty() {
            return Some(self.gathered.create_key);
        }
        let mut auth_keys = self.gathered.names.iter().flat_map(|names| &names.auth_keys);
        auth_keys
            .find(|(other_type, other_key, _)| other_type == event_type && other_key == state_key)
            .map(|(_, _, key_nid)| *key_nid)
    }

    /// The state that the event `names` is of would leave, stored as a change of the one before it.
    pub fn state_after(&mut self, names: &Names) -> Result<StateAfter, DecideError> {
        let Some(key_nid) = names.key_nid else {
            let (state_nid, _) = self
                .stored_state
                .ok_or_else(|| DecideError::Forbidden("a room begins with its create event".to_owned()))?;
            return Ok(StateAfter {
                state_nid,
                change: None,
                stored: None,
            });
        };
        let state_nid = self
            .state_nids
            .next()
            .ok_or_else(|| Error::Damaged("too few state numbers were gathered".to_owned()))?;
        let (old, new) = (self.state.get(key_nid), Some(names.event_nid));
        let stored = states::pack(state_nid, self.stored_state, &[(key_nid, new)], || {
            let mut after = self.state.clone();
            after.set(key_nid, new);
            after.iter().collect::<Vec<_>>()
        })
        .map_err(Error::from)?;
        Ok(StateAfter {
            state_nid,
            change: Some(StateChange { key_nid, old, new }),
            stored: Some(stored),
        })
    }

    /// Goes on past an event.
    pub fn advance(&mut self, event: &Arc<Event>, after: &StateAfter) {
        if let Some(change) = &after.change {
            self.state.set(change.key_nid, change.new);
        }
        if let Some(stored) = &after.stored {
            self.stored_state = Some((after.state_nid, stored.depth));
        }
        self.sequence += 1;
        let named = self.extremities().len();
        self.extremities.truncate(self.extremities.len() - named);
        self.extremities.push(Extremity::of(event, after.state_nid));
        self.made.insert(event.nid, Arc::clone(event));
    }

    /// Moves `head` here.
    pub fn reach(self, head: &mut Head, room_nid: RoomNid) -> Result<HeadMove, DecideError> {
        let (state_nid, _) = self
            .stored_state
            .ok_or_else(|| Error::Damaged("a room without state".to_owned()))?;
        let moved = HeadMove {
            room_nid,
            sequence_before: head.sequence,
            state_before: head.stored_state.map(|(state_nid, _)| state_nid),
            sequence: self.sequence,
            forward_extremities: self.extremities.iter().map(|extremity| extremity.nid).collect(),
            state_nid,
        };
        (head.sequence, head.extremities) = (self.sequence, self.extremities);
        (head.state, head.stored_state) = (self.state, self.stored_state);
        Ok(moved)
    }
}
