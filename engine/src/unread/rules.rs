//! Push rules of a user's own, evaluated over events of their rooms.

use std::collections::HashMap;

use hearth_storage::{EventNid, RoomNid};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedUserId, RoomId, UInt, UserId,
    events::{
        TimelineEventType,
        room::power_levels::{RoomPowerLevels, RoomPowerLevelsEventContent},
    },
    push::{PushConditionRoomCtx, Ruleset},
    serde::Raw,
    state_res::events::RoomCreateEvent,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Counter;
use crate::{Error, events::Event, rooms::Room};

/// The rules of a user, and what their conditions ask of each room.
pub(super) struct Rules<'a> {
    ruleset: &'a Ruleset,
    contexts: HashMap<RoomNid, PushConditionRoomCtx>,
}

impl<'a> Rules<'a> {
    /// With one query at most, for what state of `rooms` is not in memory.
    pub async fn load<'r>(
        counter: &Counter<'_>,
        ruleset: &'a Ruleset,
        rooms: impl Iterator<Item = &'r Room>,
    ) -> Result<Self, Error> {
        let engine = counter.engine;
        let own = counter.requester.user_id.as_str();
        let keys = [
            ("m.room.create", ""),
            ("m.room.power_levels", ""),
            ("m.room.member", own),
        ];
        let keys = engine.interner.keys(&keys).await?;
        let rooms: HashMap<RoomNid, &Room> = rooms.map(|room| (room.nid, room)).collect();
        let mut nids: HashMap<RoomNid, Vec<Option<EventNid>>> = HashMap::with_capacity(rooms.len());
        for room in rooms.values() {
            let state = room.read(|view| keys.iter().map(|key_nid| view.state.get(*key_nid)).collect());
            nids.insert(room.nid, state.unwrap_or_default());
        }
        let (mut events, missing) = engine
            .events
            .partition(nids.values().flatten().flatten().copied());
        if !missing.is_empty() {
            let mut connection = engine.db.acquire().await?;
            let room_of = |room_nid| Some(rooms.get(&room_nid)?.in_room());
            events.extend(
                engine
                    .events
                    .load_of_rooms(&mut connection, missing, room_of)
                    .await?,
            );
        }
        let contexts = rooms.values().map(|room| {
            let at = |index: usize| {
                events
                    .get(&(*nids.get(&room.nid)?.get(index)?)?)
                    .map(|event| &**event)
            };
            (room.nid, context(counter, room, at(0), at(1), at(2)))
        });
        Ok(Self {
            ruleset,
            contexts: contexts.collect(),
        })
    }

    /// Whether an event notifies the user, and if so, whether it is highlighted.
    pub async fn notifies(&self, room: &Room, event: &Event) -> Option<bool> {
        if event.redacted_because.is_some() {
            return None;
        }
        let context = self.contexts.get(&room.nid)?;
        let json: Raw<Matched<'_>> = Raw::new(&Matched::of(event)).ok()?;
        let actions = self.ruleset.get_actions(&json, context).await;
        let notifies = actions.iter().any(|action| action.should_notify());
        notifies.then(|| actions.iter().any(|action| action.is_highlight()))
    }
}

/// An event as conditions look at it.
#[derive(Serialize)]
struct Matched<'a> {
    content: &'a RawValue,
    event_id: &'a EventId,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    room_id: &'a RoomId,
    sender: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    #[serde(rename = "type")]
    event_type: &'a TimelineEventType,
}

impl<'a> Matched<'a> {
    fn of(event: &'a Event) -> Self {
        Self {
            content: event.content(),
            event_id: &event.event_id,
            origin_server_ts: event.origin_server_ts(),
            room_id: &event.room_id,
            sender: event.sender(),
            state_key: event.state_key(),
            event_type: event.event_type(),
        }
    }
}

/// The room as it is now: conditions ask for its present members and powers.
fn context(
    counter: &Counter<'_>,
    room: &Room,
    create: Option<&Event>,
    power_levels: Option<&Event>,
    member: Option<&Event>,
) -> PushConditionRoomCtx {
    #[derive(Deserialize)]
    struct Member {
        displayname: String,
    }
    let own = &counter.requester.user_id;
    let joined = room.read(|view| view.members.joined()).unwrap_or_default();
    let member = member.and_then(|event| serde_json::from_str::<Member>(event.content().get()).ok());
    let name = member
        .map(|member| member.displayname)
        .filter(|name| !name.is_empty());
    let rules = &room.rules.authorization;
    let creators = create.and_then(|create| RoomCreateEvent::new(create).creators(rules).ok());
    let creators: Vec<OwnedUserId> = creators.into_iter().flatten().collect();
    let levels = power_levels
        .and_then(|event| serde_json::from_str::<RoomPowerLevelsEventContent>(event.content().get()).ok());
    let levels = RoomPowerLevels::new(levels.into(), rules, creators);
    PushConditionRoomCtx::new(
        room.id.clone(),
        UInt::try_from(joined).unwrap_or(UInt::MAX),
        own.clone(),
        // A name that is empty would be found in any text.
        name.unwrap_or_else(|| own.to_string()),
    )
    .with_power_levels(levels.into())
}
