//! What a room looks like from outside (client-server API, `GET /room_summary/{roomIdOrAlias}`).

use std::{collections::HashMap, sync::Arc};

use hearth_storage::log::Membership;
use ruma::{
    RoomOrAliasId, UInt,
    room::{JoinRuleSummary, RoomSummary},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Room, by_id, read, restricted, serve, visibility::HistoryVisibility};
use crate::{Engine, Error, accounts::Requester, aliases, events::Event, users};

/// What a summary is made of, all with an empty state key.
const TYPES: [&str; 9] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.canonical_alias",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.encryption",
];

/// Why there is no summary.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    /// There is no such room, or who asks may not know of it.
    #[error("there is no such room, or you may not see it")]
    NotFound,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// A room, and what who asks is to it.
#[derive(Debug)]
pub struct Summary {
    /// The room.
    pub room: RoomSummary,
    /// The membership of who asks; nothing for who isn't logged in.
    pub membership: Option<&'static str>,
}

/// The summary of a room, for who is in it or invited, might join or knock, or may read it; logged in or not.
pub async fn summary(
    engine: &Engine,
    requester: Option<&Requester>,
    room: &RoomOrAliasId,
) -> Result<Summary, SummaryError> {
    let room_id = match <&ruma::RoomId>::try_from(room) {
        Ok(room_id) => room_id.to_owned(),
        Err(alias) => aliases::resolve(engine, alias)
            .await?
            .ok_or(SummaryError::NotFound)?,
    };
    let room = by_id(engine, &room_id).await?.ok_or(SummaryError::NotFound)?;
    let state = current(engine, &room).await?;
    let summary = describe(&room, &state);
    let known = match requester {
        Some(requester) => users::load(engine, requester.user_nid)
            .await?
            .rooms
            .get(&room.nid)
            .map(|room| room.membership),
        None => None,
    };
    let is_close = matches!(
        known,
        Some(Membership::Join | Membership::Invite | Membership::Knock)
    );
    if !is_close && !is_open(&summary) {
        // Who could join it because of another room they are in.
        let may_join = match requester {
            Some(requester) => {
                restricted::lets_in(engine, &room, requester.user_nid).await? == restricted::LetsIn::Yes
            }
            None => false,
        };
        if !may_join {
            return Err(SummaryError::NotFound);
        }
    }
    let membership = requester.map(|_| known.map_or("leave", serve::name_of));
    Ok(Summary {
        room: summary,
        membership,
    })
}

/// Whether anyone may know of the room.
fn is_open(summary: &RoomSummary) -> bool {
    let may_come = matches!(
        summary.join_rule,
        JoinRuleSummary::Public | JoinRuleSummary::Knock | JoinRuleSummary::KnockRestricted(_)
    );
    may_come || summary.world_readable
}

type Current = HashMap<&'static str, Arc<Event>>;

/// The current state events of [`TYPES`], with one query if any is not in memory.
async fn current(engine: &Engine, room: &Room) -> Result<Current, Error> {
    let keys = engine
        .interner
        .keys(&TYPES.map(|event_type| (event_type, "")))
        .await?;
    let nids = room.read(|view| {
        keys.iter()
            .map(|key_nid| view.state.get(*key_nid))
            .collect::<Vec<_>>()
    });
    let nids = nids.unwrap_or_default();
    let events = read::events(engine, room, nids.iter().flatten().copied()).await?;
    let found = TYPES
        .iter()
        .zip(&nids)
        .filter_map(|(event_type, event_nid)| Some((*event_type, Arc::clone(events.get(&(*event_nid)?)?))));
    Ok(found.collect())
}

fn describe(room: &Room, state: &Current) -> RoomSummary {
    let content = |event_type: &str| {
        let event = state.get(event_type)?;
        serde_json::from_str::<Value>(event.content().get()).ok()
    };
    let is = |event_type: &str, key: &str, value: &str| {
        content(event_type).is_some_and(|content| content.get(key).and_then(Value::as_str) == Some(value))
    };
    let visibility = state
        .get("m.room.history_visibility")
        .map(|event| HistoryVisibility::of(event));
    let joined = room.read(|view| view.members.joined()).unwrap_or(0);
    let mut summary = RoomSummary::new(
        room.id.clone(),
        // A room without readable join rules lets in who is invited.
        content("m.room.join_rules")
            .and_then(|content| serde_json::from_value::<ruma::room::JoinRule>(content).ok())
            .map_or(JoinRuleSummary::Invite, JoinRuleSummary::from),
        is("m.room.guest_access", "guest_access", "can_join"),
        UInt::try_from(joined).unwrap_or(UInt::MAX),
        visibility == Some(HistoryVisibility::WorldReadable),
    );
    summary.canonical_alias = content("m.room.canonical_alias").and_then(|content| field(&content, "alias"));
    summary.name = content("m.room.name").and_then(|content| text(&content, "name"));
    summary.topic = content("m.room.topic").and_then(|content| text(&content, "topic"));
    summary.avatar_url = content("m.room.avatar")
        .and_then(|content| text(&content, "url"))
        .map(Into::into);
    summary.room_type = content("m.room.create").and_then(|content| field(&content, "type"));
    summary.encryption = content("m.room.encryption").and_then(|content| field(&content, "algorithm"));
    summary.room_version = Some(room.version.clone());
    summary
}

fn text(content: &Value, key: &str) -> Option<String> {
    field::<String>(content, key).filter(|text| !text.is_empty())
}

fn field<T: DeserializeOwned>(content: &Value, key: &str) -> Option<T> {
    serde_json::from_value(content.get(key)?.clone()).ok()
}
