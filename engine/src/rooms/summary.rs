//! What a room looks like from outside (client-server API, `GET /room_summary/{roomIdOrAlias}`), and who may know.

use std::time::Duration;

use hearth_storage::{RoomNid, directory, log::Membership};
use ruma::{
    OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, RoomOrAliasId,
    room::{JoinRuleSummary, RoomSummary},
};
use tokio::time::Instant;

use super::{by_id, descriptions, descriptions::is_open, elsewhere, handshake::inviting_servers, serve};
use crate::{
    Engine, Error,
    accounts::Requester,
    aliases::{self, AliasError},
    users::{self, User},
};

/// How long other servers are waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// Rooms whose members a restricted room lets in, at most; more are not looked at.
const MOST_ALLOWED: usize = 50;

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

impl From<hearth_storage::StorageError> for SummaryError {
    fn from(error: hearth_storage::StorageError) -> Self {
        Self::Failed(error.into())
    }
}

/// A room, and what who asks is to it.
#[derive(Debug)]
pub struct Summary {
    /// The room.
    pub room: RoomSummary,
    /// The membership of who asks; nothing for who isn't logged in.
    pub membership: Option<&'static str>,
}

/// The summary of a room, for who is in it or invited, might join or knock, or may read it; logged in or not. Of a room
/// that this server is not in, others are asked, those of `via` first: on behalf of its users alone.
pub async fn summary(
    engine: &Engine,
    requester: Option<&Requester>,
    room: &RoomOrAliasId,
    via: &[OwnedServerName],
) -> Result<Summary, SummaryError> {
    let (room_id, servers) = match <&RoomId>::try_from(room) {
        Ok(room_id) => (room_id.to_owned(), via.to_vec()),
        Err(alias) => resolve(engine, requester, alias, via).await?,
    };
    let room_nid = nid_of(engine, &room_id).await?;
    let description = match room_nid {
        Some(room_nid) => descriptions::of_room(engine, room_nid).await?,
        None => None,
    };
    let Some(requester) = requester else {
        // What is open is open to all; for strangers nobody else is asked.
        let room = description.filter(|room| room.is_here && is_open(&room.summary));
        let room = room.ok_or(SummaryError::NotFound)?.summary.clone();
        return Ok(Summary {
            room,
            membership: None,
        });
    };
    let user = users::load(engine, requester.user_nid).await?;
    let membership = membership_in(&user, room_nid);
    let room = match description.filter(|room| room.is_here) {
        Some(room) => room.summary.clone(),
        None => {
            let via = ways_to(engine, requester, &room_id, servers).await?;
            let (is_invited, deadline) = (is_invited(membership), Instant::now() + PATIENCE);
            let told = elsewhere::ask(engine, &room_id, &via, is_invited, deadline).await;
            told.ok_or(SummaryError::NotFound)?.summary.clone()
        }
    };
    if !may_know(engine, &user, membership, &room).await? {
        return Err(SummaryError::NotFound);
    }
    Ok(Summary {
        room,
        membership: Some(membership.map_or("leave", serve::name_of)),
    })
}

/// The room of an alias, and servers that may be in it.
async fn resolve(
    engine: &Engine,
    requester: Option<&Requester>,
    alias: &RoomAliasId,
    via: &[OwnedServerName],
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), SummaryError> {
    if requester.is_none() {
        let room_id = aliases::resolve(engine, alias).await?;
        return Ok((room_id.ok_or(SummaryError::NotFound)?, Vec::new()));
    }
    match aliases::get(engine, alias).await {
        Ok((room_id, servers)) => Ok((room_id, via.iter().cloned().chain(servers).collect())),
        Err(AliasError::Failed(error)) => Err(error.into()),
        Err(_) => Err(SummaryError::NotFound),
    }
}

/// The number of a room, if it is known here.
pub(super) async fn nid_of(engine: &Engine, room_id: &RoomId) -> Result<Option<RoomNid>, Error> {
    if let Some(room_nid) = engine.rooms.nid(room_id) {
        return Ok(Some(room_nid));
    }
    let mut connection = engine.db.acquire().await?;
    let found = directory::nids(&mut connection, &[room_id.as_str()]).await?.pop();
    Ok(found.map(|(_, room_nid)| room_nid))
}

/// The servers to ask about a room that this one is not in: those given, of who invited the user, and that of its ID.
pub(super) async fn ways_to(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
    mut via: Vec<OwnedServerName>,
) -> Result<Vec<OwnedServerName>, Error> {
    if let Some(room) = by_id(engine, room_id).await? {
        via.extend(inviting_servers(engine, &room, requester.user_nid).await?);
    }
    via.extend(room_id.server_name().map(ToOwned::to_owned));
    Ok(via)
}

/// What a user is in a room, if anything.
pub(super) fn membership_in(user: &User, room_nid: Option<RoomNid>) -> Option<Membership> {
    user.rooms.get(&room_nid?).map(|room| room.membership)
}

/// Whether another server may tell of a room because of what a user is to it.
pub(super) fn is_invited(membership: Option<Membership>) -> bool {
    matches!(membership, Some(Membership::Invite | Membership::Knock))
}

/// Whether a user may know of a room: one who is in it, is invited or knocked, or could come or read it as it is
/// (client-server API, `GET …/hierarchy`).
pub(super) async fn may_know(
    engine: &Engine,
    user: &User,
    membership: Option<Membership>,
    room: &RoomSummary,
) -> Result<bool, Error> {
    use Membership::{Ban, Invite, Join, Knock};
    if matches!(membership, Some(Join | Invite | Knock)) || is_open(room) {
        return Ok(true);
    }
    match &room.join_rule {
        JoinRuleSummary::Restricted(rule) if membership != Some(Ban) => {
            is_in_one_of(engine, user, &rule.allowed_room_ids).await
        }
        _ => Ok(false),
    }
}

async fn is_in_one_of(engine: &Engine, user: &User, room_ids: &[OwnedRoomId]) -> Result<bool, Error> {
    let wanted: Vec<&str> = room_ids.iter().take(MOST_ALLOWED).map(|id| id.as_str()).collect();
    if wanted.is_empty() {
        return Ok(false);
    }
    let mut connection = engine.db.acquire().await?;
    let known = directory::nids(&mut connection, &wanted).await?;
    let is_in = |room_nid| membership_in(user, Some(room_nid)) == Some(Membership::Join);
    Ok(known.into_iter().any(|(_, room_nid)| is_in(room_nid)))
}
