//! Joins to restricted rooms: those who are in another room may join, and a member vouches for them (client-server
//! API, "Restricted rooms"; room version 8).

use hearth_storage::{UserNid, log::Membership};
use ruma::{OwnedRoomId, OwnedUserId, state_res::events::RoomPowerLevelsIntField};
use serde::Deserialize;

use super::{Room, by_id, power::Power, read};
use crate::{Engine, Error, users};

/// Rooms looked at for one join, at most.
const MAX_ALLOWED: usize = 50;

#[derive(Deserialize)]
struct JoinRules {
    join_rule: String,
    #[serde(default)]
    allow: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Allow {
    #[serde(rename = "type")]
    kind: String,
    room_id: OwnedRoomId,
}

/// Who vouches for a join of `user_nid`: a local member who may invite, where the room is restricted to members of
/// rooms that the user is in one of. Nothing where nobody needs to, or nobody can.
pub(super) async fn authorising_user(
    engine: &Engine,
    room: &Room,
    user_nid: UserNid,
) -> Result<Option<OwnedUserId>, Error> {
    match lets_in(engine, room, user_nid).await? {
        true => member_who_may_invite(engine, room).await,
        false => Ok(None),
    }
}

/// Whether the room is restricted to members of rooms that the user is in one of.
pub(super) async fn lets_in(engine: &Engine, room: &Room, user_nid: UserNid) -> Result<bool, Error> {
    if !room.rules.authorization.restricted_join_rule {
        return Ok(false);
    }
    let Some(event) = read::current_state_event(engine, room, "m.room.join_rules", "").await? else {
        return Ok(false);
    };
    let Ok(rules) = serde_json::from_str::<JoinRules>(event.content().get()) else {
        return Ok(false);
    };
    let is_restricted = rules.join_rule == "restricted"
        || (rules.join_rule == "knock_restricted" && room.rules.authorization.knock_restricted_join_rule);
    Ok(is_restricted && is_allowed(engine, user_nid, &rules).await?)
}

async fn is_allowed(engine: &Engine, user_nid: UserNid, rules: &JoinRules) -> Result<bool, Error> {
    let user = users::load(engine, user_nid).await?;
    // What is no condition of a kind known here lets nobody in.
    let rooms = rules
        .allow
        .iter()
        .filter_map(|allow| serde_json::from_value::<Allow>(allow.clone()).ok());
    for allow in rooms
        .filter(|allow| allow.kind == "m.room_membership")
        .take(MAX_ALLOWED)
    {
        let allowed = by_id(engine, &allow.room_id).await?;
        let is_in = allowed
            .and_then(|room| user.rooms.get(&room.nid))
            .is_some_and(|room| room.membership == Membership::Join);
        if is_in {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn member_who_may_invite(engine: &Engine, room: &Room) -> Result<Option<OwnedUserId>, Error> {
    let rules = &room.rules.authorization;
    let create = read::current_state_event(engine, room, "m.room.create", "").await?;
    let levels = read::current_state_event(engine, room, "m.room.power_levels", "").await?;
    let Some(Ok(power)) = create.map(|create| Power::by(create, levels, rules)) else {
        return Ok(None);
    };
    let members = room.local_members().unwrap_or_default();
    let ids = engine.interner.user_ids(&members).await?;
    let may_invite = |user_id: &&OwnedUserId| {
        let may = power.may(user_id, RoomPowerLevelsIntField::Invite);
        may.unwrap_or(false)
    };
    // In the order of their numbers: the same one each time.
    Ok(members
        .iter()
        .filter_map(|user_nid| ids.get(user_nid))
        .find(may_invite)
        .cloned())
}
