//! Version 1 of state resolution, of rooms of version 1 (rooms specification, version 1, "State resolution").

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hearth_storage::{EventNid, KeyNid};
use ruma::{
    events::StateEventType,
    room_version_rules::AuthorizationRules,
    state_res::{Event as _, check_state_dependent_auth_rules},
};
use sha1::{Digest as _, Sha1};

use super::{
    Resolved,
    event::{StateEvent, auth_types},
    source::Source,
    split::Split,
    v2::load,
};
use crate::Error;

type Key = (StateEventType, String);

/// What version 1 decides on.
#[derive(Debug)]
pub(super) struct Gathered {
    rules: AuthorizationRules,
    /// Where states have different events. Unlike in later versions there is no conflict where some states have none.
    conflicts: Vec<Vec<StateEvent>>,
    /// Keys with one event that only some states have.
    undisputed: Resolved,
    /// What the states agree on, as far as it is read.
    agreed: HashMap<Key, StateEvent>,
}

/// Gathers what resolving states that differ reads: the conflicting events, and what they agree on at these' auth types.
pub(super) async fn gather<S: Source>(
    source: &S,
    rules: &AuthorizationRules,
    split: &Split<'_>,
) -> Result<Gathered, Error> {
    let mut conflicts: Vec<Vec<StateEvent>> = Vec::new();
    let mut undisputed: BTreeMap<KeyNid, EventNid> = BTreeMap::new();
    let mut events = load(source, &split.conflicted()).await?;
    for (key_nid, event_nids) in &split.differing {
        match (event_nids.first(), event_nids.len()) {
            (Some(only), 1) => drop(undisputed.insert(*key_nid, *only)),
            // An event that was rejected is no choice: only later versions may find that it stands after all.
            _ => conflicts.push(
                event_nids
                    .iter()
                    .filter_map(|event_nid| events.remove(event_nid))
                    .filter(|event| !event.rejected())
                    .collect(),
            ),
        }
    }
    let names: BTreeSet<(String, String)> = conflicts
        .iter()
        .flatten()
        .flat_map(|event| auth_types(event, rules))
        .map(|(event_type, state_key)| (event_type.to_string(), state_key))
        .collect();
    let names: Vec<(String, String)> = names.into_iter().collect();
    let read = source.keys(&names).await?.into_iter().flatten();
    let read = read.filter_map(|key_nid| {
        split
            .common(key_nid)
            .or_else(|| undisputed.get(&key_nid).copied())
    });
    let agreed = load(source, &read.collect()).await?;
    Ok(Gathered {
        rules: rules.clone(),
        conflicts,
        undisputed: undisputed.into_iter().collect(),
        agreed: agreed.into_values().map(|event| (event.key(), event)).collect(),
    })
}

impl Gathered {
    /// What is at the differing keys.
    pub fn decide(self) -> Resolved {
        let mut state: HashMap<Key, &StateEvent> = self
            .agreed
            .iter()
            .filter(|(_, event)| !event.rejected())
            .map(|(key, event)| (key.clone(), event))
            .collect();
        let mut resolved = self.undisputed;
        let passes = [
            Some(StateEventType::RoomPowerLevels),
            Some(StateEventType::RoomJoinRules),
            Some(StateEventType::RoomMember),
            None,
        ];
        let is_in_pass = |pass: &Option<StateEventType>, event_type: &StateEventType| match pass {
            Some(pass) => pass == event_type,
            None => !passes.iter().flatten().any(|pass| pass == event_type),
        };
        for pass in &passes {
            // Those of one pass don't see each other.
            let mut chosen: Vec<&StateEvent> = Vec::new();
            for events in &self.conflicts {
                let mut events: Vec<&StateEvent> = events.iter().collect();
                // "ascending `depth` then descending `sha1(event_id)`"
                events.sort_by_cached_key(|event| {
                    (
                        event.depth,
                        std::cmp::Reverse(Sha1::digest(event.event_id.as_bytes())),
                    )
                });
                let Some(first) = events.first() else {
                    continue;
                };
                if is_in_pass(pass, &first.key().0) {
                    chosen.push(match pass {
                        Some(_) => last_in_a_row(first, &events, &state, &self.rules),
                        None => last_allowed(first, &events, &state, &self.rules),
                    });
                }
            }
            for event in chosen {
                state.insert(event.key(), event);
                resolved.push((event.key_nid, event.nid));
            }
        }
        resolved
    }
}

/// "For each subsequent event in the list, check that the event would be allowed … If it would not be allowed, stop".
fn last_in_a_row<'a>(
    first: &'a StateEvent,
    events: &[&'a StateEvent],
    state: &HashMap<Key, &'a StateEvent>,
    rules: &AuthorizationRules,
) -> &'a StateEvent {
    let mut last = first;
    for event in events.iter().skip(1) {
        let before = |key: &Key| match *key == last.key() {
            true => Some(last),
            false => state.get(key).copied(),
        };
        if !is_allowed(event, before, rules) {
            break;
        }
        last = event;
    }
    last
}

/// "Pick the event with the highest depth and lowest `sha1(event_id)` that passes authentication". Where none does the
/// specification is silent, and servers take the lowest.
fn last_allowed<'a>(
    first: &'a StateEvent,
    events: &[&'a StateEvent],
    state: &HashMap<Key, &'a StateEvent>,
    rules: &AuthorizationRules,
) -> &'a StateEvent {
    let allowed = events
        .iter()
        .rev()
        .find(|event| is_allowed(event, |key| state.get(key).copied(), rules));
    allowed.copied().unwrap_or(first)
}

fn is_allowed<'a>(
    event: &StateEvent,
    state: impl Fn(&Key) -> Option<&'a StateEvent>,
    rules: &AuthorizationRules,
) -> bool {
    check_state_dependent_auth_rules(rules, event, |event_type, state_key| {
        state(&(event_type.clone(), state_key.to_owned()))
    })
    .is_ok()
}
