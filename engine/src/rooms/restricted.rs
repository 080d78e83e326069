//! Joins to restricted rooms: those who are in another room may join, and a member vouches for them (client-server
//! API, "Restricted rooms"; room version 8).

use hearth_storage::{UserNid, log::Membership};
use ruma::{OwnedRoomId, OwnedUserId, state_res::events::RoomPowerLevelsIntField};
use serde::Deserialize;

use super::{Room, by_id, power::Power, read};
use crate::{Engine, Error};

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

/// Who vouches for a join.
pub(super) enum Authorising {
    /// Nobody needs to, or nobody would.
    Nobody,
    /// A member of this server who may invite.
    Member(OwnedUserId),
    /// Somebody would, and no user of this server can.
    NobodyHere,
}

/// Who vouches for a join of `user_nid`: a local member who may invite, where the room is restricted to members of
/// rooms that the user is in one of.
pub(super) async fn authorising_user(
    engine: &Engine,
    room: &Room,
    user_nid: UserNid,
) -> Result<Authorising, Error> {
    Ok(match lets_in(engine, room, user_nid).await? {
        LetsIn::Yes => match authorising_member(engine, room).await? {
            Some(user_id) => Authorising::Member(user_id),
            None => Authorising::NobodyHere,
        },
        // Another server may know.
        LetsIn::Unknown => Authorising::NobodyHere,
        LetsIn::No | LetsIn::NotRestricted => Authorising::Nobody,
    })
}

/// Whether a restricted room lets somebody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LetsIn {
    /// It is not a restricted room.
    NotRestricted,
    /// It is restricted to members of rooms that the user is in one of.
    Yes,
    /// The user is in none of the rooms.
    No,
    /// The user is in none of those that this server is in, and it can't say of the others.
    Unknown,
}

/// Whether the room is restricted to members of rooms that the user is in one of.
pub(super) async fn lets_in(engine: &Engine, room: &Room, user_nid: UserNid) -> Result<LetsIn, Error> {
    if !room.rules.authorization.restricted_join_rule {
        return Ok(LetsIn::NotRestricted);
    }
    let Some(event) = read::current_state_event(engine, room, "m.room.join_rules", "").await? else {
        return Ok(LetsIn::NotRestricted);
    };
    let Ok(rules) = serde_json::from_str::<JoinRules>(event.content().get()) else {
        return Ok(LetsIn::NotRestricted);
    };
    let is_restricted = rules.join_rule == "restricted"
        || (rules.join_rule == "knock_restricted" && room.rules.authorization.knock_restricted_join_rule);
    match is_restricted {
        true => is_allowed(engine, user_nid, &rules).await,
        false => Ok(LetsIn::NotRestricted),
    }
}

async fn is_allowed(engine: &Engine, user_nid: UserNid, rules: &JoinRules) -> Result<LetsIn, Error> {
    // What is no condition of a kind known here lets nobody in.
    let rooms = rules
        .allow
        .iter()
        .filter_map(|allow| serde_json::from_value::<Allow>(allow.clone()).ok());
    let mut answer = LetsIn::No;
    for allow in rooms
        .filter(|allow| allow.kind == "m.room_membership")
        .take(MAX_ALLOWED)
    {
        let allowed = by_id(engine, &allow.room_id).await?;
        match allowed.filter(|room| room.has_server(&engine.config.server_name)) {
            Some(room) => {
                let membership = room.read(|view| view.members.get(user_nid)).flatten();
                if membership == Some(Membership::Join) {
                    return Ok(LetsIn::Yes);
                }
                // Of a room of whose state a part is here it can't be said who is not in it.
                if membership.is_none() && room.is_partial() {
                    answer = LetsIn::Unknown;
                }
            }
            None => answer = LetsIn::Unknown,
        }
    }
    Ok(answer)
}

/// A member of this server who may invite, and so vouch for who joins a restricted room.
pub(super) async fn authorising_member(engine: &Engine, room: &Room) -> Result<Option<OwnedUserId>, Error> {
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
