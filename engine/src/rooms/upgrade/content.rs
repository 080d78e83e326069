//! What a room that replaces another begins with, and what changes in the other.

use std::{collections::BTreeSet, sync::Arc};

use hearth_storage::{UserNid, aliases as stored_aliases, log::Membership};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, UserId, room_version_rules::AuthorizationRules,
    state_res::events::RoomCreateEvent,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Past, UpgradeError, Wanted,
    aliases::divide,
    levels::{Creators, for_new_room, for_replaced_room},
};
use crate::{
    Engine, Error,
    accounts::Requester,
    events::Event,
    rooms::{
        Room,
        draft::{Draft, content_from_json, content_of},
        membership::{member_content, member_content_for},
        read,
    },
};

/// State that goes on in the new room as it is: what the specification recommends, without what is made anew.
const TRANSFERRED: [&str; 8] = [
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.encryption",
    "m.room.server_acl",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
];
const CANONICAL_ALIAS: &str = "m.room.canonical_alias";
const POWER_LEVELS: &str = "m.room.power_levels";
const SPACE: &str = "m.space";
const SPACE_CHILD: &str = "m.space.child";
/// Bans that go on in the new room, and rooms of a space that do, at most each.
const MOST_TRANSFERRED: usize = 5_000;

/// What is to be sent.
pub(super) struct Plan {
    /// To the new room.
    pub first_events: Vec<Draft>,
    /// To the old room besides its tombstone, as far as the requester may.
    pub for_old_room: Vec<Draft>,
}

/// Who is to be a creator besides the one who upgrades: in order, each once.
pub(super) fn additional_creators(
    upgrader: &UserId,
    given: Vec<OwnedUserId>,
    rules: &AuthorizationRules,
) -> Vec<OwnedUserId> {
    if !rules.additional_room_creators {
        return Vec::new();
    }
    let others = given.into_iter().filter(|user_id| user_id != upgrader);
    others.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The additional creators that a create event names, in order.
pub(super) fn creators_named(create: &Event) -> Vec<OwnedUserId> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(default)]
        additional_creators: BTreeSet<OwnedUserId>,
    }
    let content = serde_json::from_str::<Content>(create.content().get());
    content.map_or_else(
        |_| Vec::new(),
        |content| content.additional_creators.into_iter().collect(),
    )
}

/// Plans an upgrade of the old room as it stands.
pub(super) async fn plan(
    engine: &Engine,
    requester: &Requester,
    old: &Room,
    past: &Past,
    wanted: &Wanted,
) -> Result<Plan, UpgradeError> {
    let create = past.event(engine, old, "m.room.create", "").await?;
    let create = create.ok_or_else(|| Error::Damaged(format!("room {} has no create event", old.id)))?;
    Ok(Planning {
        engine,
        requester,
        old,
        past,
        wanted,
        create,
    }
    .plan()
    .await?)
}

struct Planning<'a> {
    engine: &'a Engine,
    requester: &'a Requester,
    old: &'a Room,
    past: &'a Past,
    wanted: &'a Wanted,
    /// The create event of the old room.
    create: Arc<Event>,
}

impl Planning<'_> {
    /// The power levels come last: until then the room's creator may do everything, whatever they say.
    async fn plan(&self) -> Result<Plan, Error> {
        let (engine, user_nid) = (self.engine, self.requester.user_nid);
        let mut first = vec![self.state("m.room.create", "", self.create_content()?)];
        let join = member_content(engine, user_nid, "join").await?;
        first.push(self.state("m.room.member", self.requester.user_id.as_str(), join));
        for event_type in TRANSFERRED {
            if let Some(event) = self.event(event_type).await? {
                first.extend(self.copy(&event));
            }
        }
        let mut for_old_room = Vec::new();
        if let Some(event) = self.event(CANONICAL_ALIAS).await? {
            let (here, there) = self.canonical_aliases(&event).await?;
            first.extend(here);
            for_old_room.extend(there);
        }
        first.extend(self.rooms_of_space().await?);
        first.extend(self.bans().await?);
        let levels = self.event(POWER_LEVELS).await?;
        first.push(self.power_levels(levels.as_deref())?);
        for_old_room.extend(levels.and_then(|levels| self.restriction(&levels)));
        Ok(Plan {
            first_events: first,
            for_old_room,
        })
    }

    async fn event(&self, event_type: &str) -> Result<Option<Arc<Event>>, Error> {
        self.past.event(self.engine, self.old, event_type, "").await
    }

    fn state(&self, event_type: &str, state_key: &str, content: CanonicalJsonObject) -> Draft {
        let sender = (self.requester.user_id.clone(), self.requester.user_nid);
        Draft::state(sender, event_type, state_key, content)
    }

    /// An event of the old room, said again. Nothing for one that new rooms can't have: of the oldest rooms numbers need
    /// not be integers.
    fn copy(&self, event: &Event) -> Option<Draft> {
        let content = content_from_json(event.content().get());
        match content {
            Ok(content) => Some(self.state(
                &event.event_type().to_string(),
                event.state_key().unwrap_or_default(),
                content,
            )),
            Err(error) => {
                tracing::info!(%error, event_id = %event.event_id, room_id = %self.old.id,
                    "state of a room that is replaced can't go on in the new one");
                None
            }
        }
    }

    fn create_content(&self) -> Result<CanonicalJsonObject, Error> {
        let old: Value = serde_json::from_str(self.create.content().get()).unwrap_or_default();
        let mut content = json!({
            "room_version": self.wanted.version,
            "predecessor": { "room_id": self.old.id },
        });
        if let Some(event_id) = &self.past.last_event {
            content["predecessor"]["event_id"] = json!(event_id);
        }
        if let Some(room_type) = old["type"].as_str() {
            content["type"] = json!(room_type);
        }
        if old["m.federate"] == false {
            content["m.federate"] = json!(false);
        }
        if !self.wanted.rules.authorization.use_room_create_sender {
            content["creator"] = json!(self.requester.user_id);
        }
        if !self.wanted.additional_creators.is_empty() {
            content["additional_creators"] = json!(self.wanted.additional_creators);
        }
        checked(&content)
    }

    /// What is said of aliases that move, in the new room, and what is left to say in the old one.
    async fn canonical_aliases(&self, event: &Event) -> Result<(Option<Draft>, Option<Draft>), Error> {
        let Ok(content) = content_from_json(event.content().get()) else {
            return Ok((None, None));
        };
        let moving = {
            let mut connection = self.engine.db.acquire().await?;
            stored_aliases::of_room(&mut connection, self.old.nid).await?
        };
        let divided = divide(&content, &moving);
        let draft = |content| self.state(CANONICAL_ALIAS, "", content);
        Ok((
            divided.moved.map(draft),
            divided.left.map(|content| draft(content).replacing(event.nid)),
        ))
    }

    /// Of a space, its rooms.
    async fn rooms_of_space(&self) -> Result<Vec<Draft>, Error> {
        let create: Value = serde_json::from_str(self.create.content().get()).unwrap_or_default();
        if create["type"] != SPACE {
            return Ok(Vec::new());
        }
        let keys: Vec<_> = self.past.state.iter().map(|(key_nid, _)| key_nid).collect();
        let names = self.engine.interner.key_names(&keys).await?;
        let is_child = |key_nid| {
            names
                .get(key_nid)
                .is_some_and(|(event_type, _)| &**event_type == SPACE_CHILD)
        };
        let children = keys.iter().filter(|key_nid| is_child(key_nid));
        let children = children.filter_map(|key_nid| self.past.state.get(*key_nid));
        let events = read::events(self.engine, self.old, children).await?;
        // A room that was taken out of the space is an event that says nothing.
        let mut events: Vec<_> = events
            .into_values()
            .filter(|event| event.content().get() != "{}")
            .collect();
        self.cut(&mut events);
        Ok(events.iter().filter_map(|event| self.copy(event)).collect())
    }

    async fn bans(&self) -> Result<Vec<Draft>, Error> {
        let banned = |(user_nid, membership)| (membership == Membership::Ban).then_some(user_nid);
        let banned: Vec<UserNid> = self
            .old
            .read(|view| {
                let members = view.members.iter();
                members
                    .filter_map(|(user_nid, member)| banned((user_nid, member.membership)))
                    .collect()
            })
            .unwrap_or_default();
        let user_ids = self.engine.interner.user_ids(&banned).await?;
        let names: Vec<(&str, &str)> = user_ids
            .values()
            .filter(|user_id| !self.wanted.additional_creators.contains(user_id))
            .map(|user_id| ("m.room.member", user_id.as_str()))
            .collect();
        let keys = self.engine.interner.keys(&names).await?;
        let nids = keys
            .into_iter()
            .filter_map(|key_nid| self.past.state.get(key_nid));
        let events = read::events(self.engine, self.old, nids).await?;
        let mut events: Vec<_> = events
            .into_values()
            .filter(|event| event.membership() == Some(Membership::Ban))
            .collect();
        self.cut(&mut events);
        Ok(events
            .iter()
            .filter_map(|event| {
                let mut content = member_content_for("ban");
                if let Some(reason) = reason_of(event) {
                    content.insert("reason".to_owned(), CanonicalJsonValue::String(reason));
                }
                Some(self.state("m.room.member", event.state_key()?, content))
            })
            .collect())
    }

    /// Leaves the newest, oldest first.
    fn cut(&self, events: &mut Vec<Arc<Event>>) {
        events.sort_by_key(|event| event.nid);
        if let Some(beyond) = events.len().checked_sub(MOST_TRANSFERRED + 1) {
            events.drain(..=beyond);
            tracing::warn!(
                left_out = beyond + 1,
                room_id = %self.old.id,
                "a room has more bans, or a space more rooms, than go on in the one that replaces it"
            );
        }
    }

    fn power_levels(&self, current: Option<&Event>) -> Result<Draft, Error> {
        let current = current.and_then(|event| serde_json::from_str::<Value>(event.content().get()).ok());
        let old_rules = &self.old.rules.authorization;
        let old_creators = RoomCreateEvent::new(Arc::clone(&self.create))
            .creators(old_rules)
            .map_err(Error::Damaged)?;
        let own = std::iter::once(&self.requester.user_id);
        let new_creators = own.chain(&self.wanted.additional_creators);
        let levels = for_new_room(
            current.as_ref(),
            &Creators {
                users: old_creators.into_iter().collect(),
                privileged: old_rules.explicitly_privilege_room_creators,
            },
            &Creators {
                users: new_creators.cloned().collect(),
                privileged: self.wanted.rules.authorization.explicitly_privilege_room_creators,
            },
        );
        Ok(self.state(POWER_LEVELS, "", checked(&levels)?))
    }

    /// The old room's power levels afterwards, unless they are such already or can't be said again.
    fn restriction(&self, levels: &Event) -> Option<Draft> {
        let current = serde_json::from_str(levels.content().get()).ok()?;
        let restricted = content_of(&for_replaced_room(&current)?).ok()?;
        Some(self.state(POWER_LEVELS, "", restricted).replacing(levels.nid))
    }
}

fn checked(content: &Value) -> Result<CanonicalJsonObject, Error> {
    content_of(content).map_err(|error| Error::Damaged(error.to_string()))
}

fn reason_of(event: &Event) -> Option<String> {
    #[derive(Deserialize)]
    struct Content {
        reason: String,
    }
    let content: Content = serde_json::from_str(event.content().get()).ok()?;
    Some(content.reason)
}
