//! Graphs of events for tests, made in few lines, and what they resolve to: by the code under test, and by ruma given
//! everything there is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures_util::FutureExt as _;
use hearth_storage::{
    EventNid, KeyNid,
    event_auth::{AuthEdges, AuthEvent},
};
use ruma::{
    OwnedEventId, RoomVersionId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::{RoomVersionRules, StateResolutionVersion},
    state_res::{self, Event as _, check_state_dependent_auth_rules, utils::event_id_set::EventIdSet},
};
use serde_json::{Value, json};

use super::{auth_chain::AuthGraph, event::StateEvent, merged, source::Source, split::Split, v1, v2};
use crate::{Error, rooms::StateMap};

/// All events of a room, on all sides of its forks. Only state events.
pub(super) struct TestGraph {
    pub rules: RoomVersionRules,
    pub events: HashMap<EventNid, TestEvent>,
    keys: HashMap<(String, String), KeyNid>,
    version: RoomVersionId,
    /// The number of the next event, by default one more than the last.
    pub next_nid: Box<dyn FnMut() -> i64 + Send + Sync>,
    /// `origin_server_ts` of the next event.
    pub now: Box<dyn FnMut() -> i64 + Send + Sync>,
}

pub(super) struct TestEvent {
    pub event_id: OwnedEventId,
    pub key_nid: KeyNid,
    pub auth_nids: Vec<EventNid>,
    pub pdu: Value,
    pub is_rejected: bool,
}

/// One side of a fork: the state there, and the last event. A copy is another side.
#[derive(Clone)]
pub(super) struct Branch {
    pub state: StateMap,
    last: Vec<OwnedEventId>,
    depth: i64,
}

pub(super) const ALICE: &str = "@alice:a";
pub(super) const BOB: &str = "@bob:b";
pub(super) const CAROL: &str = "@carol:c";

impl TestGraph {
    /// A room that Alice has created and joined, public, with Alice at power level 100.
    pub fn new(version: RoomVersionId) -> (Self, Branch) {
        let (mut graph, mut branch) = Self::created(version);
        let levels = match graph.rules.authorization.explicitly_privilege_room_creators {
            true => json!({"users": {}}),
            false => json!({"users": {ALICE: 100}}),
        };
        graph.send(&mut branch, ALICE, "m.room.power_levels", "", levels);
        graph.send(
            &mut branch,
            ALICE,
            "m.room.join_rules",
            "",
            json!({"join_rule": "public"}),
        );
        (graph, branch)
    }

    /// A room that Alice has created and joined, and no more.
    fn created(version: RoomVersionId) -> (Self, Branch) {
        let mut clock = 0;
        let mut nids = 0;
        let mut graph = Self {
            rules: version.rules().expect("the version is known"),
            events: HashMap::new(),
            keys: HashMap::new(),
            next_nid: Box::new(move || {
                nids += 1;
                nids
            }),
            now: Box::new(move || {
                clock += 1;
                clock
            }),
            version,
        };
        let mut branch = Branch {
            state: StateMap::default(),
            last: Vec::new(),
            depth: 0,
        };
        let content = json!({"creator": ALICE, "room_version": graph.version});
        graph.send(&mut branch, ALICE, "m.room.create", "", content);
        graph.member(&mut branch, ALICE, ALICE, "join");
        (graph, branch)
    }

    /// Sends an event that the rules allow.
    pub fn send(
        &mut self,
        branch: &mut Branch,
        sender: &str,
        event_type: &str,
        state_key: &str,
        content: Value,
    ) -> EventNid {
        self.try_send(branch, sender, event_type, state_key, content)
            .expect("the event is allowed")
    }

    /// Sends an event, if the rules allow it in the state of `branch`.
    pub fn try_send(
        &mut self,
        branch: &mut Branch,
        sender: &str,
        event_type: &str,
        state_key: &str,
        content: Value,
    ) -> Option<EventNid> {
        let nid = EventNid::from((self.next_nid)());
        let event_id = self.event_id(event_type, i64::from(nid));
        let mut pdu = json!({
            "room_id": self.room_id(),
            "sender": sender,
            "type": event_type,
            "state_key": state_key,
            "content": content,
            "origin_server_ts": (self.now)(),
            "depth": branch.depth + 1,
            "prev_events": self.references(&branch.last),
            "auth_events": [],
        });
        let is_create = event_type == "m.room.create";
        if is_create && self.rules.authorization.room_create_event_id_as_room_id {
            pdu.as_object_mut().expect("it is an object").remove("room_id");
        }
        let key_nid = self.key(event_type, state_key);
        let event = TestEvent {
            event_id,
            key_nid,
            auth_nids: Vec::new(),
            pdu,
            is_rejected: false,
        };
        let parsed = parse(nid, &event);
        let auth_nids: Vec<EventNid> = super::event::auth_types(&parsed, &self.rules.authorization)
            .into_iter()
            .filter_map(|(event_type, state_key)| {
                branch
                    .state
                    .get(self.find_key(&event_type.to_string(), &state_key)?)
            })
            .collect();
        let state = |event_type: &StateEventType, state_key: &str| {
            let event_nid = branch
                .state
                .get(self.find_key(&event_type.to_string(), state_key)?)?;
            Some(self.event(event_nid))
        };
        if !is_create {
            check_state_dependent_auth_rules(&self.rules.authorization, &parsed, state).ok()?;
        }
        let mut event = event;
        let auth_ids: Vec<OwnedEventId> = auth_nids
            .iter()
            .map(|auth_nid| self.events[auth_nid].event_id.clone())
            .collect();
        event.pdu["auth_events"] = self.references(&auth_ids);
        event.auth_nids = auth_nids;
        branch.state.set(key_nid, Some(nid));
        branch.last = vec![event.event_id.clone()];
        branch.depth += 1;
        self.events.insert(nid, event);
        Some(nid)
    }

    pub fn member(&mut self, branch: &mut Branch, sender: &str, target: &str, membership: &str) -> EventNid {
        self.send(
            branch,
            sender,
            "m.room.member",
            target,
            json!({"membership": membership}),
        )
    }

    pub fn power_levels(&mut self, branch: &mut Branch, sender: &str, users: Value) -> EventNid {
        self.send(branch, sender, "m.room.power_levels", "", json!({"users": users}))
    }

    pub fn topic(&mut self, branch: &mut Branch, sender: &str, topic: &str) -> EventNid {
        self.send(branch, sender, "m.room.topic", "", json!({"topic": topic}))
    }

    /// A branch on which the next event follows all of `branches`.
    pub fn merge(&self, branches: &[&Branch]) -> Branch {
        Branch {
            state: self.resolve(branches),
            last: branches
                .iter()
                .flat_map(|branch| branch.last.iter().cloned())
                .collect(),
            depth: branches.iter().map(|branch| branch.depth).max().unwrap_or(0),
        }
    }

    /// What stands at a key of a state.
    pub fn at(&self, state: &StateMap, event_type: &str, state_key: &str) -> Option<EventNid> {
        state.get(self.find_key(event_type, state_key)?)
    }

    pub fn event(&self, event_nid: EventNid) -> StateEvent {
        parse(event_nid, &self.events[&event_nid])
    }

    /// What the states of `branches` resolve to, by the code under test.
    pub fn resolve(&self, branches: &[&Branch]) -> StateMap {
        let states: Vec<StateMap> = branches.iter().map(|branch| branch.state.clone()).collect();
        self.resolve_states(&states)
    }

    pub fn resolve_states(&self, states: &[StateMap]) -> StateMap {
        let split = Split::of(states);
        if split.differing.is_empty() {
            return states.first().cloned().unwrap_or_default();
        }
        let auth_rules = &self.rules.authorization;
        let resolved = match &self.rules.state_res {
            StateResolutionVersion::V2(rules) => at_once(v2::gather(self, auth_rules, rules, &split))
                .decide()
                .expect("it resolves"),
            _ => at_once(v1::gather(self, auth_rules, &split)).decide(),
        };
        merged(&split, resolved)
    }

    /// What states resolve to by ruma, given all of every state and every auth chain.
    pub fn resolve_whole(&self, states: &[StateMap]) -> StateMap {
        let StateResolutionVersion::V2(rules) = &self.rules.state_res else {
            panic!("ruma does not resolve this version");
        };
        let whole = |state: &StateMap| -> state_res::StateMap<OwnedEventId> {
            state
                .iter()
                .map(|(_, event_nid)| {
                    let event = self.event(event_nid);
                    (event.key(), event.event_id)
                })
                .collect()
        };
        let events: HashMap<OwnedEventId, StateEvent> = self
            .events
            .keys()
            .map(|nid| (self.events[nid].event_id.clone(), self.event(*nid)))
            .collect();
        let ids = |nids: HashSet<EventNid>| -> EventIdSet<OwnedEventId> {
            nids.iter().map(|nid| self.events[nid].event_id.clone()).collect()
        };
        let maps: Vec<_> = states.iter().map(whole).collect();
        let chains = states.iter().map(|state| ids(self.full_chain(state))).collect();
        let resolved = state_res::resolve(
            &self.rules.authorization,
            rules,
            &maps,
            chains,
            |event_id| events.get(event_id),
            |conflicted| {
                let conflicted = conflicted
                    .values()
                    .flatten()
                    .map(|event_id| events[event_id].nid)
                    .collect();
                Some(ids(self.subgraph_by_paths(&conflicted)))
            },
        );
        let resolved = resolved.expect("ruma resolves it");
        resolved
            .into_values()
            .map(|event_id| (events[&event_id].key_nid, events[&event_id].nid))
            .collect()
    }

    /// All events that authorise an event, and the event.
    pub fn chain_of(&self, event_nid: EventNid) -> HashSet<EventNid> {
        let mut chain = HashSet::new();
        let mut stack = vec![event_nid];
        while let Some(event_nid) = stack.pop() {
            if chain.insert(event_nid) {
                stack.extend(&self.events[&event_nid].auth_nids);
            }
        }
        chain
    }

    pub fn full_chain(&self, state: &StateMap) -> HashSet<EventNid> {
        state
            .iter()
            .flat_map(|(_, event_nid)| self.chain_of(event_nid))
            .collect()
    }

    /// The auth difference, by its definition.
    pub fn difference_by_sets(&self, states: &[StateMap]) -> HashSet<EventNid> {
        let chains: Vec<HashSet<EventNid>> = states.iter().map(|state| self.full_chain(state)).collect();
        let union: HashSet<EventNid> = chains.iter().flatten().copied().collect();
        union
            .into_iter()
            .filter(|nid| !chains.iter().all(|chain| chain.contains(nid)))
            .collect()
    }

    /// The conflicted state subgraph, by its definition: what a conflicted event leads to and what leads to another.
    pub fn subgraph_by_paths(&self, conflicted: &HashSet<EventNid>) -> HashSet<EventNid> {
        let reachable: HashSet<EventNid> = conflicted.iter().flat_map(|nid| self.chain_of(*nid)).collect();
        let leads = |nid: &EventNid| {
            self.chain_of(*nid)
                .iter()
                .any(|reached| conflicted.contains(reached))
        };
        reachable.into_iter().filter(leads).collect()
    }

    /// The auth difference that the code under test finds, with the conflicted events.
    pub fn difference(&self, states: &[StateMap]) -> HashSet<EventNid> {
        let split = Split::of(states);
        let mut found: HashSet<EventNid> = at_once(AuthGraph::new(self).difference(&split))
            .into_iter()
            .collect();
        // Those of them that all states' chains have are conflicted nevertheless.
        found.extend(split.conflicted());
        found
    }

    /// The conflicted state subgraph that the code under test finds.
    pub fn subgraph(&self, conflicted: &BTreeSet<EventNid>) -> BTreeSet<EventNid> {
        at_once(AuthGraph::new(self).subgraph(conflicted))
    }

    fn key(&mut self, event_type: &str, state_key: &str) -> KeyNid {
        let next = KeyNid::from(self.keys.len() as i64 + 1);
        *self
            .keys
            .entry((event_type.to_owned(), state_key.to_owned()))
            .or_insert(next)
    }

    fn find_key(&self, event_type: &str, state_key: &str) -> Option<KeyNid> {
        self.keys
            .get(&(event_type.to_owned(), state_key.to_owned()))
            .copied()
    }

    fn event_id(&self, event_type: &str, number: i64) -> OwnedEventId {
        let short = event_type.trim_start_matches("m.room.");
        let text = match self.version {
            RoomVersionId::V1 | RoomVersionId::V2 => format!("${short}-{number}:a"),
            _ => format!("${short}-{number}"),
        };
        OwnedEventId::try_from(text).expect("it is an event ID")
    }

    fn room_id(&self) -> String {
        match self.rules.authorization.room_create_event_id_as_room_id {
            true => {
                let create = self
                    .events
                    .values()
                    .find(|event| event.pdu["type"] == "m.room.create");
                create.map_or_else(String::new, |create| create.event_id.as_str().replace('$', "!"))
            }
            false => "!room:a".to_owned(),
        }
    }

    /// Events as this room version names them.
    fn references(&self, event_ids: &[OwnedEventId]) -> Value {
        match self.version {
            RoomVersionId::V1 | RoomVersionId::V2 => event_ids
                .iter()
                .map(|event_id| json!([event_id, {"sha256": "-"}]))
                .collect(),
            _ => json!(event_ids),
        }
    }
}

fn parse(event_nid: EventNid, event: &TestEvent) -> StateEvent {
    let stored = AuthEvent {
        event_nid,
        event_id: event.event_id.to_string(),
        key_nid: event.key_nid,
        is_rejected: event.is_rejected,
        pdu: event.pdu.to_string().into(),
    };
    StateEvent::parse(stored).expect("it can be read")
}

/// A graph in memory answers at once.
fn at_once<T>(future: impl Future<Output = Result<T, Error>>) -> T {
    future
        .now_or_never()
        .expect("nothing is waited for")
        .expect("the graph is whole")
}

impl Source for TestGraph {
    async fn edges(&self, from: &[EventNid], floor: EventNid, ahead: usize) -> Result<Vec<AuthEdges>, Error> {
        let mut order = from.to_vec();
        let mut seen: HashSet<EventNid> = from.iter().copied().collect();
        let mut index = 0;
        while index < order.len() && order.len() < from.len() + ahead {
            for auth_nid in self.events[&order[index]]
                .auth_nids
                .iter()
                .filter(|nid| **nid >= floor)
            {
                if seen.insert(*auth_nid) {
                    order.push(*auth_nid);
                }
            }
            index += 1;
        }
        let edges = order.into_iter().map(|event_nid| {
            let event = &self.events[&event_nid];
            AuthEdges {
                event_nid,
                key_nid: event.key_nid,
                auth_nids: event.auth_nids.clone(),
            }
        });
        Ok(edges.collect())
    }

    async fn reaching_across(&self, floor: EventNid) -> Result<Option<EventNid>, Error> {
        let across = self.events.iter().filter(|(event_nid, event)| {
            **event_nid < floor && event.auth_nids.iter().any(|auth_nid| *auth_nid >= floor)
        });
        Ok(across.map(|(event_nid, _)| *event_nid).min())
    }

    async fn power_levels(
        &self,
        heads: &[EventNid],
        power_levels_key: KeyNid,
    ) -> Result<Vec<(EventNid, Option<EventNid>)>, Error> {
        let mut lines = BTreeMap::new();
        let mut stack = heads.to_vec();
        while let Some(event_nid) = stack.pop() {
            let auth_nids = &self.events[&event_nid].auth_nids;
            let next = auth_nids
                .iter()
                .find(|auth_nid| self.events[auth_nid].key_nid == power_levels_key)
                .copied();
            if lines.insert(event_nid, next).is_none() {
                stack.extend(next);
            }
        }
        Ok(lines.into_iter().collect())
    }

    async fn events(&self, event_nids: &[EventNid]) -> Result<Vec<StateEvent>, Error> {
        Ok(event_nids
            .iter()
            .map(|event_nid| self.event(*event_nid))
            .collect())
    }

    async fn keys(&self, keys: &[(String, String)]) -> Result<Vec<Option<KeyNid>>, Error> {
        Ok(keys.iter().map(|key| self.keys.get(key).copied()).collect())
    }
}

/// Says which event types stand for which numbers; for messages of tests that fail.
impl std::fmt::Debug for TestGraph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut events: Vec<_> = self.events.iter().collect();
        events.sort_by_key(|(event_nid, _)| **event_nid);
        for (event_nid, event) in events {
            let event_type: TimelineEventType = self.event(*event_nid).event_type().clone();
            writeln!(f, "{:?} {event_type} {}", event_nid, event.pdu)?;
        }
        Ok(())
    }
}
