//! Joining, leaving, and what members do to each other's membership.

use std::sync::Arc;

use hearth_storage::{
    UserNid,
    log::{Change, Fact, Membership, MembershipChange},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedServerName, RoomAliasId, RoomId,
    RoomOrAliasId, UserId,
};

use super::{
    Room, SendError, View, by_id,
    commit::commit_one,
    decide::DecideError,
    draft::Draft,
    handshake::{
        HandshakeError, InviteError, RemoteJoin, invite_remote, inviting_servers, join_through,
        knock_through, leave_through,
    },
    partial,
    restricted::{Authorising, authorising_user},
    upgrade,
};
use crate::{
    Engine, Error,
    accounts::Requester,
    aliases::{self, AliasError},
    profiles, users,
};

/// Why a membership did not change.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// There is no such room here, or nothing that the user could know of.
    #[error("this server knows no such room")]
    UnknownRoom,
    /// The rules of the room don't allow it.
    #[error("{0}")]
    Forbidden(String),
    /// Other servers had their say, and it was no.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// Only a room that was left can be forgotten.
    #[error("you have not left this room")]
    NotLeft,
    /// The server failed, or the event is too large.
    #[error(transparent)]
    Send(SendError),
}

impl From<SendError> for MembershipError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Decided(DecideError::Forbidden(reason)) => Self::Forbidden(reason),
            error => Self::Send(error),
        }
    }
}

impl From<InviteError> for MembershipError {
    fn from(error: InviteError) -> Self {
        match error {
            InviteError::Decided(error) => SendError::Decided(error).into(),
            InviteError::Handshake(error) => Self::Handshake(error),
        }
    }
}

impl From<Error> for MembershipError {
    fn from(error: Error) -> Self {
        Self::Send(error.into())
    }
}

/// Joins a room; where this server is not in it, through one of `via` or of those that an invite leads to. Joining again
/// is no error and changes nothing.
pub async fn join(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    via: &[OwnedServerName],
    reason: Option<String>,
) -> Result<OwnedRoomId, MembershipError> {
    let mut known = by_id(engine, room_id).await?;
    let mut turn = None;
    if !known.as_deref().is_some_and(|room| is_here(engine, room)) {
        turn = Some(engine.joining.of(room_id).await);
        known = by_id(engine, room_id).await?;
    }
    let is_here = known.as_deref().is_some_and(|room| is_here(engine, room));
    let room = match known {
        Some(room) if is_here => room,
        room => {
            join_elsewhere(engine, requester, room_id, room.as_deref(), via, reason).await?;
            drop(turn);
            upgrade::to_who_joined(engine, requester, room_id, true).await;
            return Ok(room_id.to_owned());
        }
    };
    if membership_of(&room, requester.user_nid) == Some(Membership::Join) {
        return Ok(room.id.clone());
    }
    join_here(engine, requester, &room, via, reason).await?;
    upgrade::to_who_joined(engine, requester, room_id, false).await;
    Ok(room.id.clone())
}

/// Joins a room that this server is in.
async fn join_here(
    engine: &Arc<Engine>,
    requester: &Requester,
    room: &Arc<Room>,
    via: &[OwnedServerName],
    reason: Option<String>,
) -> Result<(), MembershipError> {
    // Whoever was banned, or invited, before this server came, is known once all of the state is.
    let room = &partial::knows(engine, Arc::clone(room), &[&requester.user_id]).await?;
    let mut content = member_content(engine, requester.user_nid, "join").await?;
    if membership_of(room, requester.user_nid) != Some(Membership::Invite) {
        match authorising_user(engine, room, requester.user_nid).await? {
            Authorising::Nobody => {}
            Authorising::Member(user_id) => {
                let vouches = CanonicalJsonValue::String(user_id.to_string());
                content.insert("join_authorised_via_users_server".to_owned(), vouches);
            }
            Authorising::NobodyHere => {
                return join_elsewhere(engine, requester, &room.id, Some(room), via, reason).await;
            }
        }
    }
    change(
        engine,
        room,
        requester,
        &requester.user_id,
        with_reason(content, reason),
    )
    .await
}

/// [`join`], by the ID or an alias of the room.
pub async fn join_by_id_or_alias(
    engine: &Arc<Engine>,
    requester: &Requester,
    room: &RoomOrAliasId,
    via: &[OwnedServerName],
    reason: Option<String>,
) -> Result<OwnedRoomId, MembershipError> {
    let (room_id, via) = located(engine, room, via).await?;
    join(engine, requester, &room_id, &via, reason).await
}

/// The room of an ID or alias, and the servers to be asked about it.
pub(super) async fn located(
    engine: &Engine,
    room: &RoomOrAliasId,
    via: &[OwnedServerName],
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), MembershipError> {
    let mut via = via.to_vec();
    let Ok(alias) = <&RoomAliasId>::try_from(room) else {
        let room_id = RoomId::parse(room.as_str()).map_err(|_| MembershipError::UnknownRoom)?;
        return Ok((room_id, via));
    };
    match aliases::get(engine, alias).await {
        Ok((room_id, servers)) => {
            via.extend(servers);
            Ok((room_id, via))
        }
        Err(AliasError::Elsewhere(server, error)) => Err(HandshakeError::said(&server, error).into()),
        Err(AliasError::Failed(error)) => Err(error.into()),
        Err(_) => Err(MembershipError::UnknownRoom),
    }
}

/// Whether a room's membership is decided here: this server is in it, or knows it and nobody is.
fn is_here(engine: &Engine, room: &Room) -> bool {
    // Whose state is not all here, others may be in.
    let is_known = !room.is_partial();
    let is_deserted = |view: &View| is_known && view.sequence > 0 && view.members.joined() == 0;
    room.has_server(&engine.config.server_name) || room.read(is_deserted).unwrap_or(false)
}

/// The other servers that may be in a room, those most likely to help in front.
async fn servers_for(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
    room: Option<&Room>,
    via: &[OwnedServerName],
) -> Result<Vec<OwnedServerName>, Error> {
    let mut all = via.to_vec();
    if let Some(room) = room {
        all.extend(inviting_servers(engine, room, requester.user_nid).await?);
        all.extend(room.servers());
    }
    all.extend(room_id.server_name().map(ToOwned::to_owned));
    let mut servers: Vec<OwnedServerName> = Vec::new();
    for server in all {
        if server != engine.config.server_name && !servers.contains(&server) {
            servers.push(server);
        }
    }
    Ok(servers)
}

async fn join_elsewhere(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    room: Option<&Room>,
    via: &[OwnedServerName],
    reason: Option<String>,
) -> Result<(), MembershipError> {
    let servers = servers_for(engine, requester, room_id, room, via).await?;
    if servers.is_empty() {
        return Err(MembershipError::UnknownRoom);
    }
    let content = member_content(engine, requester.user_nid, "join").await?;
    let join = RemoteJoin {
        room_id,
        requester,
        content: with_reason(content, reason),
        servers,
    };
    join_through(engine, join).await?;
    Ok(())
}

/// Knocks on a room, by its ID or an alias. Knocking again is no error and changes nothing.
pub async fn knock(
    engine: &Arc<Engine>,
    requester: &Requester,
    room: &RoomOrAliasId,
    via: &[OwnedServerName],
    reason: Option<String>,
) -> Result<OwnedRoomId, MembershipError> {
    let (room_id, via) = located(engine, room, via).await?;
    let room = by_id(engine, &room_id).await?;
    let content = with_reason(member_content(engine, requester.user_nid, "knock").await?, reason);
    match room {
        Some(room) if is_here(engine, &room) => {
            change(engine, &room, requester, &requester.user_id, content).await?;
        }
        room => {
            let known = room
                .as_deref()
                .and_then(|room| membership_of(room, requester.user_nid));
            if known == Some(Membership::Knock) {
                return Ok(room_id);
            }
            let servers = servers_for(engine, requester, &room_id, room.as_deref(), &via).await?;
            if servers.is_empty() {
                return Err(MembershipError::UnknownRoom);
            }
            knock_through(engine, &room_id, requester, content, servers).await?;
        }
    }
    Ok(room_id)
}

/// Leaves a room, rejects an invite or takes back a knock. Leaving again is no error and changes nothing.
pub async fn leave(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    reason: Option<String>,
) -> Result<(), MembershipError> {
    let room = by_id(engine, room_id)
        .await?
        .ok_or(MembershipError::UnknownRoom)?;
    match membership_of(&room, requester.user_nid) {
        Some(Membership::Leave) => Ok(()),
        Some(_) if !is_here(engine, &room) => {
            let servers = servers_for(engine, requester, room_id, Some(&room), &[]).await?;
            leave_through(engine, &room, requester, content("leave", reason), servers).await?;
            Ok(())
        }
        None => Err(MembershipError::Forbidden("you are not in this room".to_owned())),
        Some(_) => {
            change(
                engine,
                &room,
                requester,
                &requester.user_id,
                content("leave", reason),
            )
            .await
        }
    }
}

/// Leaves every room that the user is in or invited to; for an account that is closed. One that can't be left doesn't
/// keep the user in the others. An error says that trying again may get the user out of more.
pub async fn leave_all(engine: &Arc<Engine>, requester: &Requester) -> Result<(), Error> {
    let user = users::load(engine, requester.user_nid).await?;
    let there = [Membership::Join, Membership::Invite, Membership::Knock];
    let rooms: Vec<_> = there
        .into_iter()
        .flat_map(|membership| user.rooms_with(membership).collect::<Vec<_>>())
        .collect();
    let mut failed = None;
    for room_id in super::ids(engine, &rooms).await?.into_values() {
        match leave(engine, requester, &room_id, None).await {
            Ok(()) => {}
            Err(MembershipError::Send(SendError::Decided(DecideError::Failed(error)))) => {
                failed = Some(error)
            }
            Err(error) => tracing::warn!(%error, %room_id, "a closed account could not leave a room"),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Invites a user.
pub async fn invite(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    user_id: &UserId,
    reason: Option<String>,
) -> Result<(), MembershipError> {
    let room = known_to(engine, requester, room_id).await?;
    let room = partial::knows(engine, room, &[user_id]).await?;
    let user_nid = engine.interner.user(user_id).await.map_err(Error::from)?;
    if membership_of(&room, user_nid) == Some(Membership::Join) {
        return Err(MembershipError::Forbidden(format!(
            "{user_id} is in the room already"
        )));
    }
    if user_id.server_name() != engine.config.server_name {
        let content = with_reason(member_content_for("invite"), reason);
        invite_remote(engine, &room, requester, user_id, content).await?;
        return Ok(());
    }
    let content = member_content(engine, user_nid, "invite").await?;
    change(engine, &room, requester, user_id, with_reason(content, reason)).await
}

/// Puts a user out of the room, or takes back their invite.
pub async fn kick(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    user_id: &UserId,
    reason: Option<String>,
) -> Result<(), MembershipError> {
    let room = known_to(engine, requester, room_id).await?;
    let room = partial::knows(engine, room, &[user_id]).await?;
    match target_of(engine, &room, user_id).await? {
        Some(Membership::Join | Membership::Invite | Membership::Knock) => {}
        _ => {
            return Err(MembershipError::Forbidden(format!(
                "{user_id} is not in the room"
            )));
        }
    }
    change(engine, &room, requester, user_id, content("leave", reason)).await
}

/// Bans a user.
pub async fn ban(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    user_id: &UserId,
    reason: Option<String>,
) -> Result<(), MembershipError> {
    let room = known_to(engine, requester, room_id).await?;
    let room = partial::knows(engine, room, &[user_id]).await?;
    change(engine, &room, requester, user_id, content("ban", reason)).await
}

/// Takes back a ban.
pub async fn unban(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    user_id: &UserId,
    reason: Option<String>,
) -> Result<(), MembershipError> {
    let room = known_to(engine, requester, room_id).await?;
    let room = partial::knows(engine, room, &[user_id]).await?;
    if target_of(engine, &room, user_id).await? != Some(Membership::Ban) {
        return Err(MembershipError::Forbidden(format!("{user_id} is not banned")));
    }
    change(engine, &room, requester, user_id, content("leave", reason)).await
}

/// Forgets a room that was left. Forgetting again is no error.
pub async fn forget(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
) -> Result<(), MembershipError> {
    let room = by_id(engine, room_id)
        .await?
        .ok_or(MembershipError::UnknownRoom)?;
    let user = users::load(engine, requester.user_nid).await?;
    let known = user.rooms.get(&room.nid).ok_or(MembershipError::UnknownRoom)?;
    match known.membership {
        Membership::Leave | Membership::Ban if known.forgotten => Ok(()),
        Membership::Leave | Membership::Ban => {
            let forgotten = MembershipChange {
                room_nid: room.nid,
                user_nid: requester.user_nid,
                event_nid: known.event_nid,
                membership: known.membership,
                continues: false,
                joined_at: None,
                forgotten: true,
                stripped_state: None,
            };
            engine
                .log
                .commit(Change::of(Fact::Membership(forgotten)))
                .await
                .map_err(Error::from)?;
            Ok(())
        }
        _ => Err(MembershipError::NotLeft),
    }
}

/// The room, for one who has some membership in it: to others it is no different from one that isn't there.
async fn known_to(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
) -> Result<Arc<Room>, MembershipError> {
    let not_in_room = || MembershipError::Forbidden("you are not in this room".to_owned());
    let room = by_id(engine, room_id).await?.ok_or_else(not_in_room)?;
    match membership_of(&room, requester.user_nid) {
        Some(Membership::Join) => Ok(room),
        _ => Err(not_in_room()),
    }
}

fn membership_of(room: &Room, user_nid: UserNid) -> Option<Membership> {
    room.read(|view| view.members.get(user_nid)).flatten()
}

async fn target_of(
    engine: &Engine,
    room: &Room,
    user_id: &UserId,
) -> Result<Option<Membership>, MembershipError> {
    let user_nid = engine.interner.find_user(user_id).await.map_err(Error::from)?;
    Ok(user_nid.and_then(|user_nid| membership_of(room, user_nid)))
}

async fn change(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    requester: &Requester,
    target: &UserId,
    content: CanonicalJsonObject,
) -> Result<(), MembershipError> {
    let sender = (requester.user_id.clone(), requester.user_nid);
    let mut draft = Draft::state(sender, "m.room.member", target.as_str(), content);
    // The same request twice at once is one event.
    draft.unless_already = target == requester.user_id;
    match commit_one(engine, room, draft).await {
        Ok(_) | Err(SendError::Decided(DecideError::AlreadySo)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The content of a member event that carries a user's profile.
pub(super) async fn member_content(
    engine: &Engine,
    user_nid: UserNid,
    membership: &str,
) -> Result<CanonicalJsonObject, Error> {
    let profile = profiles::of(engine, user_nid).await?;
    let mut content = content(membership, None);
    let named = [
        ("displayname", profile.displayname.map(|name| name.to_string())),
        ("avatar_url", profile.avatar_url.map(|url| url.to_string())),
    ];
    for (key, value) in named {
        if let Some(value) = value {
            content.insert(key.to_owned(), CanonicalJsonValue::String(value));
        }
    }
    Ok(content)
}

/// The content of a member event that says nothing but the membership.
pub(super) fn member_content_for(membership: &str) -> CanonicalJsonObject {
    content(membership, None)
}

fn content(membership: &str, reason: Option<String>) -> CanonicalJsonObject {
    let membership = (
        "membership".to_owned(),
        CanonicalJsonValue::String(membership.to_owned()),
    );
    with_reason([membership].into(), reason)
}

fn with_reason(mut content: CanonicalJsonObject, reason: Option<String>) -> CanonicalJsonObject {
    if let Some(reason) = reason {
        content.insert("reason".to_owned(), CanonicalJsonValue::String(reason));
    }
    content
}
