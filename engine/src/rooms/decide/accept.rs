//! Accepting an event of another server, whose own past allows it, into the room as it stands: whether it is
//! soft-failed, which events are the forward extremities then, and what the current state becomes (server-server API,
//! "Checks performed on receipt of a PDU" and "Soft failure"). Pure.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use hearth_storage::{
    EventNid, KeyNid, StateNid, UserNid,
    log::{
        Change, Fact, Gap, HeadMove, Membership, MembershipChange, NewEvent, NewState, StateChange,
        UnmatchedRedaction,
    },
    states,
};
use ruma::events::StateEventType;

use super::{Target, facts};
use crate::{
    Error,
    events::{Event, json::readable},
    rooms::{
        StateMap,
        checks::check_auth_rules_by_state,
        gather::Names,
        head::{Extremity, Head},
        partial::Vouched,
        power::Power,
    },
    unread::class,
};

/// An event that may be accepted.
#[derive(Debug)]
pub(in crate::rooms) struct Candidate<'a> {
    /// Without a place in the room.
    pub event: &'a Arc<Event>,
    pub stored: &'a NewEvent,
    pub names: &'a Names,
    /// Its predecessors, as far as they are known.
    pub prev_nids: &'a [EventNid],
    /// The state after it, and how many deltas it is stored in.
    pub after: (StateNid, i16),
    pub state_after: &'a StateMap,
    /// Predecessors that could not be had.
    pub missing: &'a [String],
    /// In a room of whose state a part is here: member events that it lacks, and by which the candidate is allowed.
    pub vouched: &'a Vouched,
}

/// What accepting needs besides.
#[derive(Debug, Default)]
pub(in crate::rooms) struct Known {
    /// State events by number.
    pub events: HashMap<EventNid, Arc<Event>>,
    /// The users that member events among them are of.
    pub members: HashMap<EventNid, UserNid>,
    /// What the states after several events come to together.
    pub resolved: HashMap<BTreeSet<StateNid>, StateMap>,
    /// The event that the candidate redacts.
    pub redacted: Option<Arc<Event>>,
    /// Events that redact the candidate, and came before it.
    pub redactions: Vec<Arc<Event>>,
}

/// What became of a candidate.
#[derive(Debug)]
pub(in crate::rooms) enum Accepted {
    /// It is an event of the room.
    Yes(Box<Change>, Arc<Event>),
    /// The room's current state doesn't allow it: it is kept, and not shown.
    SoftFailed(String),
}

/// Why it can't be said.
#[derive(Debug, thiserror::Error)]
pub(in crate::rooms) enum AcceptError {
    /// Events of the state are needed that aren't known.
    #[error("events are needed")]
    Missing(Vec<EventNid>),
    /// It must be known what these states come to together.
    #[error("states are to be resolved")]
    Unresolved(BTreeSet<StateNid>),
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Accepts `candidate`, or soft-fails it. `state_nid` is the number of the room's state, should it be a new one.
pub(in crate::rooms) fn accept(
    head: &mut Head,
    target: Target<'_>,
    candidate: &Candidate<'_>,
    known: &Known,
    (create_key, power_levels_key): (KeyNid, KeyNid),
    state_nid: StateNid,
) -> Result<Accepted, AcceptError> {
    let accepting = Accepting {
        head: &*head,
        target,
        candidate,
        known,
        create_key,
        power_levels_key,
    };
    if let Err(reason) = accepting.check_current_state()? {
        return Ok(Accepted::SoftFailed(reason));
    }
    let extremities = accepting.extremities();
    let (state, stored_state, new_state) = accepting.next_state(&extremities, state_nid)?;
    let state_changes = difference(&head.state, &state, candidate.names.key_nid);
    let memberships = accepting.memberships(&state_changes)?;
    let redactions = accepting.redactions()?;
    let sequence = head.sequence + 1;
    let stored = Arc::new(NewEvent {
        sequence,
        state_after: candidate.after.0,
        replaces: state_changes
            .iter()
            .find(|change| change.new == Some(candidate.event.nid))
            .and_then(|change| change.old),
        push_class: accepting.push_class()?,
        after_gap: !candidate.missing.is_empty(),
        ..candidate.stored.clone()
    });
    let room_id = &candidate.event.room_id;
    let event = Arc::new(Event::parse(&stored, 0, room_id, target.rules).map_err(Error::from)?);

    let mut change = Change::default();
    change.states.extend(new_state);
    change.heads.push(HeadMove {
        room_nid: target.room_nid,
        sequence_before: head.sequence,
        state_before: head.stored_state.map(|(state_nid, _)| state_nid),
        sequence,
        forward_extremities: extremities.iter().map(|extremity| extremity.nid).collect(),
        state_nid: stored_state.0,
    });
    change.relations.extend(facts::relation(&event));
    if !candidate.missing.is_empty() {
        change.gaps.push(Gap {
            room_nid: target.room_nid,
            sequence,
            missing: candidate.missing.to_vec(),
        });
    }
    if let Some(redacts) = event.redacts().filter(|_| known.redacted.is_none()) {
        change.unmatched_redactions.push(UnmatchedRedaction {
            redacts: redacts.to_string(),
            redaction_nid: event.nid,
        });
    }
    let changed_state = !state_changes.is_empty();
    change.facts.push(Fact::Event(stored, state_changes));
    change.facts.extend(memberships.into_iter().map(Fact::Membership));
    change.facts.extend(redactions);

    (head.sequence, head.extremities) = (sequence, extremities);
    (head.state, head.stored_state) = (state, Some(stored_state));
    if changed_state {
        head.permitted.clear();
    }
    Ok(Accepted::Yes(Box::new(change), event))
}

struct Accepting<'a> {
    head: &'a Head,
    target: Target<'a>,
    candidate: &'a Candidate<'a>,
    known: &'a Known,
    create_key: KeyNid,
    power_levels_key: KeyNid,
}

type NextState = (StateMap, (StateNid, i16), Option<NewState>);

impl Accepting<'_> {
    fn event(&self, event_nid: EventNid) -> Result<Arc<Event>, AcceptError> {
        if event_nid == self.candidate.event.nid {
            return Ok(Arc::clone(self.candidate.event));
        }
        let event = self.known.events.get(&event_nid);
        event
            .cloned()
            .ok_or_else(|| AcceptError::Missing(vec![event_nid]))
    }

    fn current(&self, key_nid: KeyNid) -> Result<Option<Arc<Event>>, AcceptError> {
        let vouched = || self.candidate.vouched.get(&key_nid).copied();
        let event_nid = self.head.state.get(key_nid).or_else(vouched);
        event_nid.map(|event_nid| self.event(event_nid)).transpose()
    }

    /// "Passes authorisation rules based on the current state of the room", or else why not.
    fn check_current_state(&self) -> Result<Result<(), String>, AcceptError> {
        let auth_keys = &self.candidate.names.auth_keys;
        let mut wanted = HashMap::with_capacity(auth_keys.len() + 1);
        let mut missing = Vec::new();
        let create = (StateEventType::RoomCreate, String::new(), self.create_key);
        for (event_type, state_key, key_nid) in auth_keys.iter().chain([&create]) {
            match self.current(*key_nid) {
                Ok(event) => drop(wanted.insert((event_type.clone(), state_key.clone()), event)),
                Err(AcceptError::Missing(event_nids)) => missing.extend(event_nids),
                Err(error) => return Err(error),
            }
        }
        if !missing.is_empty() {
            return Err(AcceptError::Missing(missing));
        }
        let state = |event_type: &StateEventType, state_key: &str| {
            wanted
                .get(&(event_type.clone(), state_key.to_owned()))
                .cloned()
                .flatten()
        };
        let rules = &self.target.rules.authorization;
        Ok(check_auth_rules_by_state(self.candidate.event, rules, state).map_err(|error| error.to_string()))
    }

    /// The forward extremities with the candidate among them.
    fn extremities(&self) -> Vec<Extremity> {
        let passed = |extremity: &&Extremity| !self.candidate.prev_nids.contains(&extremity.nid);
        let mut extremities: Vec<Extremity> = self.head.extremities.iter().filter(passed).cloned().collect();
        extremities.push(Extremity::of(self.candidate.event, self.candidate.after.0));
        extremities
    }

    /// The current state when these are the forward extremities: what the states after them come to.
    fn next_state(&self, extremities: &[Extremity], state_nid: StateNid) -> Result<NextState, AcceptError> {
        let states: BTreeSet<StateNid> = extremities.iter().map(|extremity| extremity.state_nid).collect();
        if states.len() == 1 {
            return Ok((self.candidate.state_after.clone(), self.candidate.after, None));
        }
        let state = self.known.resolved.get(&states);
        let state = state
            .ok_or_else(|| AcceptError::Unresolved(states.clone()))?
            .clone();
        let changes = difference(&self.head.state, &state, None);
        if let Some(stored_state) = self.head.stored_state.filter(|_| changes.is_empty()) {
            return Ok((state, stored_state, None));
        }
        let delta: Vec<_> = changes
            .iter()
            .map(|change| (change.key_nid, change.new))
            .collect();
        let packed = states::pack(state_nid, self.head.stored_state, &delta, || {
            state.iter().collect::<Vec<_>>()
        })
        .map_err(Error::from)?;
        Ok((state, (state_nid, packed.depth), Some(packed)))
    }

    fn memberships(&self, changes: &[StateChange]) -> Result<Vec<MembershipChange>, AcceptError> {
        let mut memberships = Vec::new();
        let mut missing = Vec::new();
        for change in changes {
            match self.membership(change) {
                Ok(membership) => memberships.extend(membership),
                Err(AcceptError::Missing(event_nids)) => missing.extend(event_nids),
                Err(error) => return Err(error),
            }
        }
        // The candidate's own first: it takes the position of the event.
        memberships.sort_by_key(|membership| membership.event_nid != self.candidate.event.nid);
        if missing.is_empty() {
            Ok(memberships)
        } else {
            Err(AcceptError::Missing(missing))
        }
    }

    /// The membership that a change of state gives somebody. Who has no member event any more has left.
    fn membership(&self, change: &StateChange) -> Result<Option<MembershipChange>, AcceptError> {
        let new = change.new.map(|event_nid| self.event(event_nid)).transpose()?;
        let old = change.old.map(|event_nid| self.event(event_nid)).transpose()?;
        let before = old.as_ref().and_then(|event| event.membership());
        let Some(subject) = new.as_ref().or(old.as_ref()) else {
            return Ok(None);
        };
        if subject.membership().is_none() {
            return Ok(None);
        }
        let Some(user_nid) = self.known.members.get(&subject.nid).copied() else {
            // Of somebody who can't be: no user ID.
            return Ok(None);
        };
        let Some(new) = new else {
            return Ok(Some(MembershipChange {
                room_nid: self.target.room_nid,
                user_nid,
                event_nid: subject.nid,
                membership: Membership::Leave,
                continues: false,
                joined_at: None,
                forgotten: false,
                stripped_state: None,
            }));
        };
        let stripped_state = match new.nid == self.candidate.event.nid {
            true => self.stripped_state()?,
            false => None,
        };
        Ok(facts::membership(&new, user_nid, before, stripped_state))
    }

    /// The state that goes with an invite of a user of this server.
    fn stripped_state(&self) -> Result<Option<Arc<str>>, AcceptError> {
        if self.candidate.names.stripped_keys.is_empty() {
            return Ok(None);
        }
        let mut stripped = Vec::new();
        for key_nid in &self.candidate.names.stripped_keys {
            stripped.extend(self.current(*key_nid)?.map(|event| event.to_stripped()));
        }
        stripped.push(self.candidate.event.to_stripped());
        let json = serde_json::to_string(&stripped)
            .map_err(|error| Error::Damaged(format!("stripped state: {error}")))?;
        Ok(Some(json.into()))
    }

    fn power(&self) -> Result<Option<Power<'_>>, AcceptError> {
        let Some(create) = self.current(self.create_key)? else {
            return Ok(None);
        };
        let levels = self.current(self.power_levels_key)?;
        // A room whose power levels can't be read gives nobody any.
        Ok(Power::by(create, levels, &self.target.rules.authorization).ok())
    }

    /// What the candidate redacts, and what redacts it.
    fn redactions(&self) -> Result<Vec<Fact>, AcceptError> {
        if self.known.redacted.is_none() && self.known.redactions.is_empty() {
            return Ok(Vec::new());
        }
        let Some(power) = self.power()? else {
            return Ok(Vec::new());
        };
        let candidate = self.candidate.event;
        let own = self.known.redacted.iter().map(|redacted| (candidate, redacted));
        let earlier = self
            .known
            .redactions
            .iter()
            .map(|redaction| (redaction, candidate));
        let allowed = own
            .chain(earlier)
            .filter(|(event, redacted)| facts::may_redact(event, redacted, &power).unwrap_or(false));
        let facts = allowed.map(|(event, redacted)| Fact::Redaction(facts::redaction(event, redacted)));
        Ok(facts.collect())
    }

    fn push_class(&self) -> Result<i16, AcceptError> {
        let event = self.candidate.event;
        let content = readable(event.content().get());
        class::class_of(
            &event.event_type().to_string(),
            event.state_key(),
            &content,
            || {
                let power = self.power()?;
                Ok(power.is_some_and(|power| power.may_notify_room(event.sender()).unwrap_or(false)))
            },
        )
    }
}

/// What changes from one state to another; the change of `first` comes first.
fn difference(old: &StateMap, new: &StateMap, first: Option<KeyNid>) -> Vec<StateChange> {
    let mut changes: Vec<StateChange> = new
        .iter()
        .filter_map(|(key_nid, event_nid)| {
            let before = old.get(key_nid);
            (before != Some(event_nid)).then_some(StateChange {
                key_nid,
                old: before,
                new: Some(event_nid),
            })
        })
        .collect();
    let added = changes.iter().filter(|change| change.old.is_none()).count();
    if new.len() - added != old.len() {
        let removed = old.iter().filter(|(key_nid, _)| new.get(*key_nid).is_none());
        changes.extend(removed.map(|(key_nid, event_nid)| StateChange {
            key_nid,
            old: Some(event_nid),
            new: None,
        }));
    }
    changes.sort_by_key(|change| (Some(change.key_nid) != first, change.key_nid));
    changes
}
