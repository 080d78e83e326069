//! Versions 2 and 2.1: what ruma is asked, and what its answer means.
//!
//! ruma reads whole states and whole auth chains. It is given less, such that nothing it reads is missing:
//!
//! - *The unconflicted state* is read in the iterative auth checks and when the mainline begins. An auth check of an event
//!   reads the state at that event's auth types (`state_res::auth_types_for_event`), and the events that are checked are
//!   those of the full conflicted set: so the keys given are the auth types of all these, and that of the power levels.
//!   Version 2.1 begins with an empty state and reads none. In the end ruma puts the unconflicted state it was given over
//!   what it found; what it wasn't given, [`super::merged`] does.
//! - *The auth chains* are read for their difference alone. It is found over numbers, and given as one chain that has all
//!   of it beside another that has nothing.
//! - *Events* are read whole in the full conflicted set. Those that authorise one of these are read for what they say,
//!   and power levels also for the power levels before them, in search of the mainline. Where lines of power levels
//!   neither begin nor join nothing is decided: such events are left out of the line ([`short_lines`]). All others are
//!   not asked what authorises them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hearth_storage::{EventNid, KeyNid};
use ruma::{
    OwnedEventId,
    events::StateEventType,
    room_version_rules::{AuthorizationRules, StateResolutionV2Rules},
    state_res::{self, utils::event_id_set::EventIdSet},
};

use super::{
    Resolved,
    auth_chain::AuthGraph,
    event::{StateEvent, auth_types, find},
    source::Source,
    split::Split,
};
use crate::Error;

type RumaState = state_res::StateMap<OwnedEventId>;

/// What ruma is asked.
#[derive(Debug)]
pub(super) struct Gathered {
    auth_rules: AuthorizationRules,
    rules: StateResolutionV2Rules,
    states: Vec<RumaState>,
    auth_difference: EventIdSet<OwnedEventId>,
    subgraph: EventIdSet<OwnedEventId>,
    events: HashMap<OwnedEventId, StateEvent>,
}

impl Gathered {
    /// What is at the keys that ruma speaks of; the others of the differing ones are empty.
    pub fn decide(self) -> Result<Resolved, Error> {
        let resolved = state_res::resolve(
            &self.auth_rules,
            &self.rules,
            &self.states,
            vec![self.auth_difference, EventIdSet::new()],
            find(&self.events),
            |_| Some(self.subgraph.clone()),
        );
        let resolved =
            resolved.map_err(|error| Error::Damaged(format!("states can't be resolved: {error}")))?;
        let events = resolved.values().filter_map(|event_id| self.events.get(event_id));
        Ok(events.map(|event| (event.key_nid, event.nid)).collect())
    }
}

/// The numbers of keys that are always asked for.
struct Keys {
    power_levels: Option<KeyNid>,
    create: Option<KeyNid>,
}

/// Gathers what resolving states that differ reads.
pub(super) async fn gather<S: Source>(
    source: &S,
    auth_rules: &AuthorizationRules,
    rules: &StateResolutionV2Rules,
    split: &Split<'_>,
) -> Result<Gathered, Error> {
    let conflicted = split.conflicted();
    let mut graph = AuthGraph::new(source);
    let auth_difference = graph.difference(split).await?;
    let subgraph = match rules.consider_conflicted_state_subgraph {
        true => graph.subgraph(&conflicted).await?,
        false => BTreeSet::new(),
    };
    let full_conflicted: BTreeSet<EventNid> = conflicted
        .iter()
        .chain(&auth_difference)
        .chain(&subgraph)
        .copied()
        .collect();
    let authorising = graph.auth_events_of(&full_conflicted).await?;
    drop(graph);

    let keys = fixed_keys(source).await?;
    let mut wanted: BTreeSet<EventNid> = full_conflicted.union(&authorising).copied().collect();
    if auth_rules.room_create_event_id_as_room_id {
        // Not among the auth events, and looked up by the ID of the room.
        wanted.extend(
            keys.create
                .and_then(|key_nid| split.states.iter().find_map(|state| state.get(key_nid))),
        );
    }
    let mut events = load(source, &wanted).await?;
    let read = match rules.begin_iterative_auth_checks_with_empty_state_map {
        true => BTreeMap::new(),
        false => unconflicted_read(source, auth_rules, split, &full_conflicted, &events, &keys).await?,
    };
    let more: BTreeSet<EventNid> = read
        .values()
        .filter(|nid| !events.contains_key(nid))
        .copied()
        .collect();
    events.extend(load(source, &more).await?);
    shorten(source, &mut events, &full_conflicted, &keys).await?;

    let id_of = |event_nid: &EventNid| events.get(event_nid).map(|event| event.event_id.clone());
    Ok(Gathered {
        auth_rules: auth_rules.clone(),
        rules: *rules,
        states: states_for_ruma(split, &read, &events),
        auth_difference: auth_difference.iter().filter_map(id_of).collect(),
        subgraph: subgraph.iter().filter_map(id_of).collect(),
        events: events
            .into_values()
            .map(|event| (event.event_id.clone(), event))
            .collect(),
    })
}

async fn fixed_keys<S: Source>(source: &S) -> Result<Keys, Error> {
    let names =
        ["m.room.power_levels", "m.room.create"].map(|event_type| (event_type.to_owned(), String::new()));
    let mut keys = source.keys(&names).await?.into_iter();
    Ok(Keys {
        power_levels: keys.next().flatten(),
        create: keys.next().flatten(),
    })
}

/// State events by number; all of `wanted` are stored.
pub(super) async fn load<S: Source>(
    source: &S,
    wanted: &BTreeSet<EventNid>,
) -> Result<HashMap<EventNid, StateEvent>, Error> {
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let nids: Vec<EventNid> = wanted.iter().copied().collect();
    let events: HashMap<EventNid, StateEvent> = source
        .events(&nids)
        .await?
        .into_iter()
        .map(|event| (event.nid, event))
        .collect();
    match wanted.iter().find(|event_nid| !events.contains_key(event_nid)) {
        Some(absent) => Err(Error::Damaged(format!("state event {absent:?} is not stored"))),
        None => Ok(events),
    }
}

/// The unconflicted state that is read when the events of `full_conflicted` are checked.
async fn unconflicted_read<S: Source>(
    source: &S,
    auth_rules: &AuthorizationRules,
    split: &Split<'_>,
    full_conflicted: &BTreeSet<EventNid>,
    events: &HashMap<EventNid, StateEvent>,
    keys: &Keys,
) -> Result<BTreeMap<KeyNid, EventNid>, Error> {
    let checked = full_conflicted
        .iter()
        .filter_map(|event_nid| events.get(event_nid));
    let names: BTreeSet<(String, String)> = checked
        .flat_map(|event| auth_types(event, auth_rules))
        .map(|(event_type, state_key)| (event_type.to_string(), state_key))
        .collect();
    let names: Vec<(String, String)> = names.into_iter().collect();
    let read = source
        .keys(&names)
        .await?
        .into_iter()
        .chain([keys.power_levels])
        .flatten();
    Ok(read
        .filter_map(|key_nid| Some((key_nid, split.common(key_nid)?)))
        .collect())
}

/// The states as ruma has them: where they differ, and where they are read.
fn states_for_ruma(
    split: &Split<'_>,
    read: &BTreeMap<KeyNid, EventNid>,
    events: &HashMap<EventNid, StateEvent>,
) -> Vec<RumaState> {
    let entry = |event_nid: EventNid| {
        let event = events.get(&event_nid)?;
        Some((event.key(), event.event_id.clone()))
    };
    let shared: Vec<((StateEventType, String), OwnedEventId)> =
        read.values().filter_map(|nid| entry(*nid)).collect();
    let states = split.states.iter().map(|state| {
        let own = split
            .differing
            .keys()
            .filter_map(|key_nid| entry(state.get(*key_nid)?));
        own.chain(shared.iter().cloned()).collect()
    });
    states.collect()
}

/// Leaves of the auth events of each event those that are asked for.
async fn shorten<S: Source>(
    source: &S,
    events: &mut HashMap<EventNid, StateEvent>,
    full_conflicted: &BTreeSet<EventNid>,
    keys: &Keys,
) -> Result<(), Error> {
    let heads: BTreeSet<EventNid> = events
        .values()
        .filter(|event| Some(event.key_nid) == keys.power_levels)
        .map(|event| event.nid)
        .collect();
    let next = match keys.power_levels.filter(|_| !heads.is_empty()) {
        Some(power_levels) => {
            let heads: Vec<EventNid> = heads.iter().copied().collect();
            source
                .power_levels(&heads, power_levels)
                .await?
                .into_iter()
                .collect()
        }
        None => HashMap::new(),
    };
    let next = short_lines(&heads, &next);
    let joints: BTreeSet<EventNid> = next
        .iter()
        .flat_map(|(event_nid, next)| [Some(*event_nid), *next])
        .flatten()
        .collect();
    let joints: BTreeSet<EventNid> = joints
        .into_iter()
        .filter(|nid| !events.contains_key(nid))
        .collect();
    events.extend(load(source, &joints).await?);
    let ids: HashMap<EventNid, OwnedEventId> = next
        .values()
        .flatten()
        .filter_map(|nid| Some((*nid, events.get(nid)?.event_id.clone())))
        .collect();
    for event in events
        .values_mut()
        .filter(|event| !full_conflicted.contains(&event.nid))
    {
        let next = next.get(&event.nid).copied().flatten();
        event.auth_events = next
            .and_then(|next| ids.get(&next))
            .cloned()
            .into_iter()
            .collect();
    }
    Ok(())
}

/// Of lines of power levels (`next` leads down each), the events where one begins or two join, each with the next such.
///
/// The mainline is a line that begins at a head, and so is every line that is looked along for the mainline. The first
/// event of one that is in the other is where they join, or where one of them begins; and which of two such events comes
/// first on the mainline does not change when others are left out.
fn short_lines(
    heads: &BTreeSet<EventNid>,
    next: &HashMap<EventNid, Option<EventNid>>,
) -> HashMap<EventNid, Option<EventNid>> {
    let mut above: HashMap<EventNid, usize> = HashMap::new();
    for lower in next.values().flatten() {
        *above.entry(*lower).or_default() += 1;
    }
    let stays = |event_nid: &EventNid| {
        heads.contains(event_nid) || above.get(event_nid).is_some_and(|lines| *lines > 1)
    };
    let staying = next.keys().filter(|event_nid| stays(event_nid));
    staying
        .map(|event_nid| {
            let mut lower = next.get(event_nid).copied().flatten();
            while let Some(passed) = lower.filter(|lower| !stays(lower)) {
                lower = next.get(&passed).copied().flatten();
            }
            (*event_nid, lower)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use hearth_storage::EventNid;

    use super::short_lines;

    #[test]
    fn lines_keep_where_they_begin_and_join() {
        let numbered = |nid: i64| EventNid::from(nid);
        let lines = [
            (10, Some(6)),
            (9, Some(8)),
            (8, Some(6)),
            (6, Some(5)),
            (5, Some(4)),
            (4, None),
            (7, Some(3)),
            (3, None),
        ];
        let lines: HashMap<_, _> = lines
            .map(|(nid, next)| (numbered(nid), next.map(numbered)))
            .into();
        let heads: BTreeSet<EventNid> = [10, 9, 5, 7].map(numbered).into();
        let short = [(10, Some(6)), (9, Some(6)), (6, Some(5)), (5, None), (7, None)];
        let short: HashMap<_, _> = short
            .map(|(nid, next)| (numbered(nid), next.map(numbered)))
            .into();
        assert_eq!(short_lines(&heads, &lines), short);
    }
}
