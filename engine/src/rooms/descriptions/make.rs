//! Reading what a description is made of: from memory where rooms are there, else without bringing them there.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hearth_storage::{
    Connection, EventNid, KeyNid, RoomNid, directory,
    rooms::{self, StoredHead},
    states,
};
use ruma::{
    OwnedRoomId, RoomVersionId, ServerName, UInt,
    room::{JoinRule, JoinRuleSummary, RoomSummary, RoomType},
    room_version_rules::{AuthorizationRules, RoomVersionRules},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Description;
use crate::{
    Engine, Error,
    events::{Event, InRoom},
    rooms::{Room, StateMap, space_children::Child, visibility::HistoryVisibility},
};

/// Children of a space that are looked at, and those that are told.
const MOST_CHILDREN_READ: usize = 5_000;
const MOST_CHILDREN: usize = 1_000;

/// What a description is made of, all with an empty state key.
const TYPES: [&str; 10] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.canonical_alias",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.encryption",
    "m.room.server_acl",
];
/// The current state of a room: shared with the room in memory, or as it was read.
enum State {
    Loaded(StateMap),
    Read(BTreeMap<KeyNid, EventNid>),
}

impl State {
    fn get(&self, key_nid: KeyNid) -> Option<EventNid> {
        match self {
            Self::Loaded(map) => map.get(key_nid),
            Self::Read(map) => map.get(&key_nid).copied(),
        }
    }

    fn pairs(&self) -> Vec<(KeyNid, EventNid)> {
        match self {
            Self::Loaded(map) => map.iter().collect(),
            Self::Read(map) => map
                .iter()
                .map(|(key_nid, event_nid)| (*key_nid, *event_nid))
                .collect(),
        }
    }
}

/// A room as it is, with as much of it as a description needs.
struct Basis {
    room_id: OwnedRoomId,
    version: RoomVersionId,
    rules: RoomVersionRules,
    state: State,
    joined: u64,
    is_here: bool,
}

impl Basis {
    fn of_loaded(room: &Room, own: &ServerName) -> Option<Self> {
        let (state, joined, is_here) = room.read(|view| {
            let members = &view.members;
            let state = State::Loaded(view.state.clone());
            (state, members.joined(), members.has_server(own))
        })?;
        Some(Self {
            room_id: room.id.clone(),
            version: room.version.clone(),
            rules: room.rules.clone(),
            state,
            joined: joined as u64,
            is_here,
        })
    }

    fn in_room(&self) -> InRoom<'_> {
        InRoom {
            room_id: &self.room_id,
            rules: &self.rules,
        }
    }
}

type Bases = HashMap<RoomNid, Basis>;

/// Describes rooms; numbers that stand for nothing are passed over.
pub(super) async fn describe(
    engine: &Engine,
    room_nids: &[RoomNid],
) -> Result<HashMap<RoomNid, Arc<Description>>, Error> {
    let bases = bases(engine, room_nids).await?;
    let keys = engine
        .interner
        .keys(&TYPES.map(|event_type| (event_type, "")))
        .await?;
    let wanted = bases
        .values()
        .flat_map(|basis| keys.iter().filter_map(|key_nid| basis.state.get(*key_nid)));
    let events = events(engine, &bases, wanted.collect()).await?;
    let mut spaces: Vec<RoomNid> = Vec::new();
    let mut described = HashMap::with_capacity(bases.len());
    for (room_nid, basis) in &bases {
        let state = Current::of(basis, &keys, &events);
        let description = state.describe(*room_nid, basis);
        if description.summary.room_type == Some(RoomType::Space) {
            spaces.push(*room_nid);
        }
        described.insert(*room_nid, description);
    }
    for room_nid in spaces {
        if let (Some(basis), Some(description)) = (bases.get(&room_nid), described.get_mut(&room_nid)) {
            description.children = children(engine, &bases, basis).await?;
        }
    }
    Ok(described
        .into_iter()
        .map(|(room_nid, description)| (room_nid, Arc::new(description)))
        .collect())
}

/// From memory where rooms are there; the others are read with three queries and not kept.
async fn bases(engine: &Engine, room_nids: &[RoomNid]) -> Result<Bases, Error> {
    let own = &engine.config.server_name;
    let mut bases = Bases::with_capacity(room_nids.len());
    let mut missing = Vec::new();
    for room_nid in room_nids {
        let loaded = engine.rooms.get(*room_nid);
        match loaded.and_then(|room| Basis::of_loaded(&room, own)) {
            Some(basis) => drop(bases.insert(*room_nid, basis)),
            None => missing.push(*room_nid),
        }
    }
    if !missing.is_empty() {
        let mut connection = engine.db.acquire().await?;
        bases.extend(read_bases(&mut connection, &missing).await?);
    }
    Ok(bases)
}

async fn read_bases(connection: &mut Connection, room_nids: &[RoomNid]) -> Result<Bases, Error> {
    let heads = rooms::heads(connection, room_nids).await?;
    let state_nids: Vec<_> = heads.iter().map(|head| head.state_nid).collect();
    let mut states: HashMap<_, BTreeMap<KeyNid, EventNid>> = states::load(connection, &state_nids)
        .await?
        .into_iter()
        .map(|state| (state.state_nid, state.map))
        .collect();
    let occupancy: HashMap<RoomNid, directory::Occupancy> = directory::occupancy(connection, room_nids)
        .await?
        .into_iter()
        .map(|occupancy| (occupancy.room_nid, occupancy))
        .collect();
    let basis = |head: StoredHead| {
        let version = RoomVersionId::try_from(head.room.room_version.as_str()).ok()?;
        let occupancy = occupancy.get(&head.room.room_nid);
        // A state is one room's, but for the empty one.
        let state = states.remove(&head.state_nid).unwrap_or_default();
        let basis = Basis {
            room_id: OwnedRoomId::try_from(head.room.room_id.as_str()).ok()?,
            rules: version.rules()?,
            version,
            state: State::Read(state),
            joined: occupancy.map_or(0, |occupancy| occupancy.joined.unsigned_abs()),
            is_here: occupancy.is_some_and(|occupancy| occupancy.has_local),
        };
        Some((head.room.room_nid, basis))
    };
    Ok(heads.into_iter().filter_map(basis).collect())
}

/// Events of several rooms, with one query if any is not in memory.
async fn events(
    engine: &Engine,
    bases: &Bases,
    event_nids: Vec<EventNid>,
) -> Result<HashMap<EventNid, Arc<Event>>, Error> {
    let (mut found, missing) = engine.events.partition(event_nids);
    if !missing.is_empty() {
        let mut connection = engine.db.acquire().await?;
        let room_of = |room_nid| Some(bases.get(&room_nid)?.in_room());
        found.extend(
            engine
                .events
                .load_of_rooms(&mut connection, missing, room_of)
                .await?,
        );
    }
    Ok(found)
}

async fn children(engine: &Engine, bases: &Bases, space: &Basis) -> Result<Vec<Child>, Error> {
    let state = space.state.pairs();
    let keys: Vec<KeyNid> = state.iter().map(|(key_nid, _)| *key_nid).collect();
    let names = engine.interner.key_names(&keys).await?;
    let is_child = |key_nid: &KeyNid| {
        names
            .get(key_nid)
            .is_some_and(|(event_type, _)| &**event_type == "m.space.child")
    };
    let wanted = state.iter().filter(|(key_nid, _)| is_child(key_nid));
    let wanted = wanted.map(|(_, event_nid)| *event_nid).take(MOST_CHILDREN_READ);
    let events = events(engine, bases, wanted.collect()).await?;
    let mut children: Vec<Child> = events.values().filter_map(|event| Child::of(event)).collect();
    children.sort_by(Child::compare);
    children.truncate(MOST_CHILDREN);
    Ok(children)
}

/// The contents of the current state events of [`TYPES`], as far as they are JSON.
struct Current(HashMap<&'static str, (Arc<Event>, Value)>);

impl Current {
    fn of(basis: &Basis, keys: &[KeyNid], events: &HashMap<EventNid, Arc<Event>>) -> Self {
        let found = TYPES.into_iter().zip(keys).filter_map(|(event_type, key_nid)| {
            let event = events.get(&basis.state.get(*key_nid)?)?;
            let content = serde_json::from_str(event.content().get()).ok()?;
            Some((event_type, (Arc::clone(event), content)))
        });
        Self(found.collect())
    }

    fn content(&self, event_type: &str) -> Option<&Value> {
        self.0.get(event_type).map(|(_, content)| content)
    }

    fn describe(&self, room_nid: RoomNid, basis: &Basis) -> Description {
        let federates = self
            .content("m.room.create")
            .and_then(|content| content.get("m.federate")?.as_bool());
        let acl = self.content("m.room.server_acl").cloned();
        Description {
            room_nid,
            summary: self.summary(basis),
            is_here: basis.is_here,
            children: Vec::new(),
            federates: federates.unwrap_or(true),
            acl: acl.and_then(|content| serde_json::from_value(content).ok()),
        }
    }

    fn summary(&self, basis: &Basis) -> RoomSummary {
        let visibility = self.0.get("m.room.history_visibility");
        let visibility = visibility.map(|(event, _)| HistoryVisibility::of(event));
        let guests = self
            .content("m.room.guest_access")
            .and_then(|content| text(content, "guest_access"));
        let rule = self.content("m.room.join_rules").cloned();
        let rule = rule.and_then(|content| serde_json::from_value::<JoinRule>(content).ok());
        let mut summary = RoomSummary::new(
            basis.room_id.clone(),
            // A room without readable join rules lets in who is invited.
            rule.map_or(JoinRuleSummary::Invite, |rule| {
                in_effect(rule.into(), &basis.rules.authorization)
            }),
            guests.as_deref() == Some("can_join"),
            UInt::try_from(basis.joined).unwrap_or(UInt::MAX),
            visibility == Some(HistoryVisibility::WorldReadable),
        );
        let content = |event_type| self.content(event_type);
        summary.canonical_alias =
            content("m.room.canonical_alias").and_then(|content| field(content, "alias"));
        summary.name = content("m.room.name").and_then(|content| text(content, "name"));
        summary.topic = content("m.room.topic").and_then(|content| text(content, "topic"));
        summary.avatar_url = content("m.room.avatar")
            .and_then(|content| text(content, "url"))
            .map(Into::into);
        summary.room_type = content("m.room.create").and_then(|content| field(content, "type"));
        summary.encryption = content("m.room.encryption").and_then(|content| field(content, "algorithm"));
        summary.room_version = Some(basis.version.clone());
        summary
    }
}

/// What a join rule comes to in a room version: one that it does not have lets in who is invited.
fn in_effect(rule: JoinRuleSummary, rules: &AuthorizationRules) -> JoinRuleSummary {
    let is_known = match rule {
        JoinRuleSummary::Public | JoinRuleSummary::Invite | JoinRuleSummary::Private => true,
        JoinRuleSummary::Knock => rules.knocking,
        JoinRuleSummary::Restricted(_) => rules.restricted_join_rule,
        JoinRuleSummary::KnockRestricted(_) => rules.knock_restricted_join_rule,
        _ => false,
    };
    if is_known { rule } else { JoinRuleSummary::Invite }
}

fn text(content: &Value, key: &str) -> Option<String> {
    field::<String>(content, key).filter(|text| !text.is_empty())
}

fn field<T: DeserializeOwned>(content: &Value, key: &str) -> Option<T> {
    serde_json::from_value(content.get(key)?.clone()).ok()
}
#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, room::JoinRuleSummary};

    use super::in_effect;

    #[test]
    fn a_join_rule_that_the_version_does_not_have_lets_in_who_is_invited() {
        let rules = |version: RoomVersionId| version.rules().unwrap().authorization;
        let restricted = JoinRuleSummary::Restricted(Default::default());
        assert_eq!(
            in_effect(JoinRuleSummary::Knock, &rules(RoomVersionId::V6)),
            JoinRuleSummary::Invite
        );
        assert_eq!(
            in_effect(JoinRuleSummary::Knock, &rules(RoomVersionId::V7)),
            JoinRuleSummary::Knock
        );
        assert_eq!(
            in_effect(restricted.clone(), &rules(RoomVersionId::V7)),
            JoinRuleSummary::Invite
        );
        assert_eq!(
            in_effect(restricted.clone(), &rules(RoomVersionId::V10)),
            restricted
        );
        let strange: JoinRuleSummary =
            serde_json::from_str(r#"{"join_rule":"org.example.coin_toss"}"#).unwrap();
        assert_eq!(
            in_effect(strange, &rules(RoomVersionId::V12)),
            JoinRuleSummary::Invite
        );
    }
}
