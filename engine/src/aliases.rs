//! Room aliases of this server (client-server API, "Room aliases").

use std::{collections::BTreeSet, sync::Arc};

use hearth_storage::{
    UserNid,
    aliases::{self, StoredAlias},
    log::Membership,
};
use ruma::{
    CanonicalJsonValue, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, UserId,
    api::federation::query::get_room_information,
    events::TimelineEventType,
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent},
};

use crate::{
    Engine, Error,
    accounts::Requester,
    remote::RemoteError,
    rooms::{self, Draft, Room, visibility},
};

const CANONICAL_ALIAS: &str = "m.room.canonical_alias";
/// Servers named to who asks for an alias, at most.
const MAX_SERVERS: usize = 50;

/// Why an alias was not found, made or deleted.
#[derive(Debug, thiserror::Error)]
pub enum AliasError {
    /// It points nowhere that this server knows of.
    #[error("the alias {0} points to no room")]
    Unknown(OwnedRoomAliasId),
    /// It can't be an alias of this server.
    #[error("{0}")]
    Invalid(&'static str),
    /// It points to a room already.
    #[error("the alias {0} is taken")]
    Taken(OwnedRoomAliasId),
    /// The user isn't in the room, which may not exist.
    #[error("you are not in this room")]
    NotInRoom,
    /// The alias is another's.
    #[error("an alias is deleted by who made it, or by who may set the room's aliases")]
    NotAllowed,
    /// The server of the alias gave no answer.
    #[error("{0}: {1}")]
    Elsewhere(OwnedServerName, RemoteError),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<hearth_storage::StorageError> for AliasError {
    fn from(error: hearth_storage::StorageError) -> Self {
        Self::Failed(error.into())
    }
}

/// The room that an alias points to.
pub async fn resolve(engine: &Engine, alias: &RoomAliasId) -> Result<Option<OwnedRoomId>, Error> {
    match find(engine, alias).await? {
        Some(stored) => room_id_of(&stored).map(Some),
        None => Ok(None),
    }
}

/// The room that an alias points to, of this server or another, and servers that are in it, that of the alias first.
pub async fn get(
    engine: &Engine,
    alias: &RoomAliasId,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), AliasError> {
    if alias.server_name() != engine.config.server_name {
        return get_elsewhere(engine, alias).await;
    }
    let stored = find(engine, alias)
        .await?
        .ok_or_else(|| AliasError::Unknown(alias.to_owned()))?;
    let room = rooms::by_nid(engine, stored.room_nid).await?;
    let mut servers = vec![engine.config.server_name.clone()];
    if let Some(room) = room {
        servers.extend(other_servers(engine, &room).await?);
    }
    Ok((room_id_of(&stored)?, servers))
}

async fn get_elsewhere(
    engine: &Engine,
    alias: &RoomAliasId,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), AliasError> {
    let server = alias.server_name().to_owned();
    let request = get_room_information::v1::Request::new(alias.to_owned());
    match engine.remote.directory(&server, request).await {
        Ok(answered) => {
            let others = answered.servers.into_iter().filter(|other| *other != server);
            let others: Vec<OwnedServerName> = others.take(MAX_SERVERS).collect();
            Ok((answered.room_id, [server].into_iter().chain(others).collect()))
        }
        Err(RemoteError::NotAllowed(_) | RemoteError::Refused { status: 404, .. }) => {
            Err(AliasError::Unknown(alias.to_owned()))
        }
        Err(error) => Err(AliasError::Elsewhere(server, error)),
    }
}

/// Makes an alias for a room that the requester is in.
pub async fn create(
    engine: &Engine,
    requester: &Requester,
    alias: &RoomAliasId,
    room_id: &RoomId,
) -> Result<(), AliasError> {
    if alias.server_name() != engine.config.server_name {
        return Err(AliasError::Invalid(
            "an alias made here ends in the name of this server",
        ));
    }
    if alias.alias().is_empty() {
        return Err(AliasError::Invalid("an alias has a name before its colon"));
    }
    if alias.as_str().len() > 255 || alias.alias().chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(AliasError::Invalid(
            "an alias is at most 255 bytes long and has no white space in it",
        ));
    }
    let room = rooms::by_id(engine, room_id)
        .await?
        .ok_or(AliasError::NotInRoom)?;
    if !is_joined(&room, requester.user_nid) {
        return Err(AliasError::NotInRoom);
    }
    let mut connection = engine.db.acquire().await?;
    let now = engine.clock.now_ms();
    match aliases::insert(&mut connection, alias.as_str(), room.nid, requester.user_nid, now).await {
        Ok(()) => Ok(()),
        Err(error) if error.constraint() == Some("aliases_pkey") => Err(AliasError::Taken(alias.to_owned())),
        Err(error) => Err(error.into()),
    }
}

/// Deletes an alias. Where the room's `m.room.canonical_alias` names it, and the requester has the power to change
/// that, it no longer does afterwards.
pub async fn delete(
    engine: &Arc<Engine>,
    requester: &Requester,
    alias: &RoomAliasId,
) -> Result<(), AliasError> {
    let stored = find(engine, alias)
        .await?
        .ok_or_else(|| AliasError::Unknown(alias.to_owned()))?;
    let room = rooms::by_nid(engine, stored.room_nid).await?;
    let has_power = match &room {
        Some(room) => {
            is_joined(room, requester.user_nid) && may_set_aliases(engine, room, &requester.user_id).await?
        }
        None => false,
    };
    if !has_power && !requester.is_admin && stored.creator_nid != requester.user_nid {
        return Err(AliasError::NotAllowed);
    }
    let deleted = {
        let mut connection = engine.db.acquire().await?;
        aliases::delete(&mut connection, alias.as_str()).await?
    };
    if !deleted {
        return Err(AliasError::Unknown(alias.to_owned()));
    }
    // The alias is gone, whatever becomes of the event (client-server API, `DELETE …/directory/room/{roomAlias}`).
    if let Some(room) = room.filter(|_| has_power)
        && let Err(error) = withdraw(engine, requester, &room, alias).await
    {
        tracing::debug!(%error, room_id = %room.id, "a deleted alias is still named by its room");
    }
    Ok(())
}

/// This server's aliases of a room, for its members; for anyone where the room is readable to the world.
pub async fn of_room(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
) -> Result<Vec<OwnedRoomAliasId>, AliasError> {
    let room = rooms::by_id(engine, room_id)
        .await?
        .ok_or(AliasError::NotInRoom)?;
    if visibility::access(engine, &room, requester.user_nid).await? != visibility::Access::Current {
        return Err(AliasError::NotInRoom);
    }
    let mut connection = engine.db.acquire().await?;
    let aliases = aliases::of_room(&mut connection, room.nid).await?;
    Ok(aliases
        .into_iter()
        .filter_map(|alias| alias.try_into().ok())
        .collect())
}

async fn find(engine: &Engine, alias: &RoomAliasId) -> Result<Option<StoredAlias>, Error> {
    if alias.server_name() != engine.config.server_name {
        return Ok(None);
    }
    let mut connection = engine.db.acquire().await?;
    Ok(aliases::find(&mut connection, alias.as_str()).await?)
}

fn room_id_of(stored: &StoredAlias) -> Result<OwnedRoomId, Error> {
    <&RoomId>::try_from(stored.room_id.as_str())
        .map(ToOwned::to_owned)
        .map_err(|error| Error::Damaged(format!("the room of an alias: {error}")))
}

fn is_joined(room: &Room, user_nid: UserNid) -> bool {
    room.read(|view| view.members.get(user_nid)).flatten() == Some(Membership::Join)
}

async fn other_servers(engine: &Engine, room: &Room) -> Result<Vec<OwnedServerName>, Error> {
    let remote: Option<Vec<UserNid>> = room.read(|view| {
        let joined = view
            .members
            .iter()
            .filter(|(_, member)| !member.is_local && member.membership == Membership::Join);
        joined.map(|(user_nid, _)| user_nid).collect()
    });
    let user_ids = engine.interner.user_ids(&remote.unwrap_or_default()).await?;
    let servers: BTreeSet<OwnedServerName> = user_ids
        .into_values()
        .map(|user_id| user_id.server_name().to_owned())
        .collect();
    Ok(servers.into_iter().take(MAX_SERVERS).collect())
}

/// Whether a member has the power to send `m.room.canonical_alias`.
pub(crate) async fn may_set_aliases(engine: &Engine, room: &Room, user_id: &UserId) -> Result<bool, Error> {
    let rules = &room.rules.authorization;
    let create = rooms::read::current_state_event(engine, room, "m.room.create", "").await?;
    let Some(create) = create else { return Ok(false) };
    let is_creator = RoomCreateEvent::new(create)
        .creators(rules)
        .map_err(Error::Damaged)?
        .contains(user_id);
    if is_creator && rules.explicitly_privilege_room_creators {
        return Ok(true);
    }
    // A room without power levels has its creator at 100, others and what state takes at 0.
    let levels = rooms::read::current_state_event(engine, room, "m.room.power_levels", "").await?;
    let Some(levels) = levels.map(RoomPowerLevelsEvent::new) else {
        return Ok(true);
    };
    let own = levels.user_power_level(user_id, rules).map_err(Error::Damaged)?;
    let event_type = TimelineEventType::RoomCanonicalAlias;
    let needed = levels
        .event_power_level(&event_type, Some(""), rules)
        .map_err(Error::Damaged)?;
    Ok(own >= needed)
}

/// Takes an alias out of the room's `m.room.canonical_alias`.
async fn withdraw(
    engine: &Arc<Engine>,
    requester: &Requester,
    room: &Arc<Room>,
    alias: &RoomAliasId,
) -> Result<(), rooms::SendError> {
    let Some(current) = rooms::read::current_state_event(engine, room, CANONICAL_ALIAS, "").await? else {
        return Ok(());
    };
    let Ok(mut content) = rooms::content_from_json(current.content().get()) else {
        return Ok(());
    };
    let is_it = |value: &CanonicalJsonValue| value.as_str() == Some(alias.as_str());
    let is_canonical = content.get("alias").is_some_and(is_it);
    if is_canonical {
        content.remove("alias");
    }
    let mut is_alternative = false;
    if let Some(CanonicalJsonValue::Array(alternatives)) = content.get_mut("alt_aliases") {
        let before = alternatives.len();
        alternatives.retain(|value| !is_it(value));
        is_alternative = alternatives.len() != before;
    }
    if is_canonical || is_alternative {
        let sender = (requester.user_id.clone(), requester.user_nid);
        let draft = Draft::state(sender, CANONICAL_ALIAS, "", content).replacing(current.nid);
        rooms::commit_one(engine, room, draft).await?;
    }
    Ok(())
}
