//! Upgrading a room: a new one of another version takes its place (client-server API, "Room Upgrades").
//!
//! The new room, with all that it begins with, and the tombstone of the old one are one change of the log: there is
//! never one without the other. Aliases and the place in the directory follow in a transaction of their own, and what
//! users keep for the old room when they join the new one ([`hand_over`]). Asked for again, an upgrade that was done
//! is answered by the room that it made, and what was left undone is done.

mod aliases;
mod content;
mod hand_over;
mod levels;

use std::sync::Arc;

use hearth_storage::log::Membership;
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId,
    room_version_rules::RoomVersionRules,
};
use serde_json::json;

use super::{
    Room, SendError, StateMap,
    begin::{Begun, admit, begin},
    by_id,
    commit::commit_with,
    create::SUPPORTED_VERSIONS,
    decide::DecideError,
    draft::{Draft, content_of},
    handshake::propose,
    load::load_head,
    partial,
};
use crate::{Engine, Error, accounts::Requester, events::Event};

pub(super) use hand_over::to_who_joined;

/// How often an upgrade is planned anew because the old room changed meanwhile.
const ATTEMPTS: usize = 5;
const TOMBSTONE: &str = "m.room.tombstone";

/// Why a room was not upgraded.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The version is not one of [`SUPPORTED_VERSIONS`].
    #[error("room version {0} is not supported")]
    UnsupportedVersion(RoomVersionId),
    /// There is no such room here, or the user is not in it.
    #[error("you are not in this room")]
    NotInRoom,
    /// The rules of the room don't allow it.
    #[error("{0}")]
    Forbidden(String),
    /// The new room can't begin with what the old one has, or with those creators.
    #[error("the new room can't be made: {0}")]
    Impossible(String),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// What is wanted.
#[derive(Debug, Clone)]
struct Wanted {
    version: RoomVersionId,
    rules: RoomVersionRules,
    /// Who is to be a creator besides the requester, where the version knows of such.
    additional_creators: Vec<OwnedUserId>,
}

/// Replaces a room by a new one of `version` (`POST …/rooms/{roomId}/upgrade`): the new room's ID.
///
/// Nobody is joined to it but the requester, and nobody invited. The same again, by the same user, is answered by the
/// same room.
pub async fn upgrade_room(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    version: RoomVersionId,
    additional_creators: Vec<OwnedUserId>,
) -> Result<OwnedRoomId, UpgradeError> {
    let rules = version.rules().filter(|_| SUPPORTED_VERSIONS.contains(&version));
    let rules = rules.ok_or_else(|| UpgradeError::UnsupportedVersion(version.clone()))?;
    let room = by_id(engine, room_id).await?.ok_or(UpgradeError::NotInRoom)?;
    let membership = room.read(|view| view.members.get(requester.user_nid)).flatten();
    if membership != Some(Membership::Join) {
        return Err(UpgradeError::NotInRoom);
    }
    // Bans among the state that is still to come are to be known too.
    let room = partial::whole(engine, room).await?;
    let wanted = Wanted {
        additional_creators: content::additional_creators(
            &requester.user_id,
            additional_creators,
            &rules.authorization,
        ),
        version,
        rules,
    };
    let (engine, requester) = (Arc::clone(engine), requester.clone());
    // A task of its own: a caller that goes away must not leave it half done.
    let task = tokio::spawn(async move { upgrade(&engine, &requester, &room, &wanted).await });
    task.await
        .map_err(|error| Error::Damaged(format!("an upgrade panicked: {error}")))?
}

async fn upgrade(
    engine: &Arc<Engine>,
    requester: &Requester,
    old: &Arc<Room>,
    wanted: &Wanted,
) -> Result<OwnedRoomId, UpgradeError> {
    // One upgrade at a time, and none between the events of other servers.
    let _graph = old.graph.lock().await;
    let new = match done_already(engine, requester, old, wanted).await? {
        Some(new) => new,
        None => replace(engine, requester, old, wanted).await?,
    };
    hand_over::aliases_and_publication(engine, old, &new).await?;
    hand_over::settings(engine, requester, old, &new).await;
    Ok(new.id.clone())
}

/// The room by which the requester replaced the old one before, if it is the one that is wanted now.
async fn done_already(
    engine: &Arc<Engine>,
    requester: &Requester,
    old: &Room,
    wanted: &Wanted,
) -> Result<Option<Arc<Room>>, Error> {
    let Some(new) = hand_over::replacement(engine, old).await? else {
        return Ok(None);
    };
    let Some(create) = super::read::current_state_event(engine, &new, "m.room.create", "").await? else {
        return Ok(None);
    };
    let is_it = new.version == wanted.version
        && create.sender() == requester.user_id
        && content::creators_named(&create) == wanted.additional_creators;
    Ok(is_it.then_some(new))
}

async fn replace(
    engine: &Arc<Engine>,
    requester: &Requester,
    old: &Arc<Room>,
    wanted: &Wanted,
) -> Result<Arc<Room>, UpgradeError> {
    let sender = (requester.user_id.clone(), requester.user_nid);
    let state = |event_type: &str, content| Draft::state(sender.clone(), event_type, "", content);
    // Before anything is made: may the requester at all? What the tombstone says is not looked at.
    propose(engine, old, state(TOMBSTONE, tombstone(&old.id)?))
        .await
        .map_err(|error| refused_by_old(error.into()))?;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let past = Past::of(engine, old).await?;
        let plan = content::plan(engine, requester, old, &past, wanted).await?;
        let begun = begin(engine, &wanted.version, &wanted.rules, &plan.first_events, false).await;
        let Begun { room, head, change } = begun.map_err(refused_by_new)?;
        let mut drafts = vec![state(TOMBSTONE, tombstone(&room.id)?)];
        for optional in plan.for_old_room {
            match propose(engine, old, optional.clone()).await {
                Ok(_) => drafts.push(optional),
                Err(DecideError::Failed(error)) => return Err(error.into()),
                Err(error) => {
                    tracing::info!(%error, event_type = %optional.event_type, room_id = %old.id,
                        "a room that is replaced keeps what who upgrades it may not change");
                }
            }
        }
        let new = admit(engine, room, head);
        match commit_with(engine, old, drafts, Some(change)).await {
            Ok(_) => return Ok(new),
            Err(error) => {
                engine.rooms.withdraw(&new);
                match error {
                    // What was allowed a moment ago: the room moved on.
                    SendError::Decided(error @ DecideError::Forbidden(_)) => last = Some(error.into()),
                    error => return Err(refused_by_old(error)),
                }
            }
        }
    }
    Err(last.map_or_else(
        || UpgradeError::Forbidden("the room changes".to_owned()),
        refused_by_old,
    ))
}

/// The old room as it stands.
struct Past {
    state: StateMap,
    /// The newest of its last events.
    last_event: Option<OwnedEventId>,
}

impl Past {
    async fn of(engine: &Engine, old: &Room) -> Result<Self, Error> {
        load_head(engine, old).await?;
        let last = old.head.extremities().pop();
        Ok(Self {
            state: old.head.state().unwrap_or_default(),
            last_event: last.map(|extremity| extremity.event_id),
        })
    }

    /// The state event at a type and key.
    async fn event(
        &self,
        engine: &Engine,
        old: &Room,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<Event>>, Error> {
        let key_nid = engine.interner.find_key(event_type, state_key).await?;
        let Some(event_nid) = key_nid.and_then(|key_nid| self.state.get(key_nid)) else {
            return Ok(None);
        };
        Ok(super::read::events(engine, old, [event_nid])
            .await?
            .remove(&event_nid))
    }
}

fn tombstone(replacement: &RoomId) -> Result<CanonicalJsonObject, Error> {
    content_of(&json!({ "body": "This room has been replaced.", "replacement_room": replacement }))
        .map_err(|error| Error::Damaged(error.to_string()))
}

fn refused_by_old(error: SendError) -> UpgradeError {
    match error {
        SendError::Decided(DecideError::Failed(error)) => error.into(),
        SendError::Decided(error) => UpgradeError::Forbidden(error.to_string()),
        SendError::Constraint(name) => {
            Error::Damaged(format!("an upgrade hurts the constraint {name}")).into()
        }
    }
}

fn refused_by_new(error: DecideError) -> UpgradeError {
    match error {
        DecideError::Failed(error) => error.into(),
        error => UpgradeError::Impossible(error.to_string()),
    }
}
