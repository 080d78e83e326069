//! The rooms of spaces, as other servers ask for them: what any of their users could come to or read.

use std::sync::Arc;

use hearth_storage::{directory, log::Membership};
use ruma::api::federation::space::SpaceHierarchyParentSummary;
use ruma::{OwnedRoomId, RoomId, ServerName, api::federation::space::get_hierarchy, room::JoinRuleSummary};

use super::ServeError;
use crate::{
    Engine, Error,
    rooms::{
        by_nid,
        descriptions::{self, Description, is_open},
    },
};

/// Children of a space that are described in one answer.
const MOST_CHILDREN: usize = 200;
/// Rooms whose members a restricted room lets in, at most; more are not looked at.
const MOST_ALLOWED: usize = 50;

/// `GET /_matrix/federation/v1/hierarchy/{roomId}`
pub async fn hierarchy(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: get_hierarchy::v1::Request,
) -> Result<get_hierarchy::v1::Response, ServeError> {
    let space = known(engine, &[&request.room_id]).await?.pop();
    let space = space.ok_or(ServeError::UnknownRoom)?;
    // No different from a room that isn't known.
    if !could_come(engine, origin, &space).await? {
        return Err(ServeError::UnknownRoom);
    }
    let wanted = space.children.iter();
    let wanted = wanted.filter(|child| child.is_suggested || !request.suggested_only);
    let wanted: Vec<_> = wanted.collect();
    let children_state = wanted.iter().map(|child| child.json.clone()).collect();
    let parent = SpaceHierarchyParentSummary::new(space.summary.clone(), children_state);
    let mut response = get_hierarchy::v1::Response::new(parent);
    let ids: Vec<&RoomId> = wanted.iter().map(|child| &*child.room_id).collect();
    for child in known(engine, &ids[..ids.len().min(MOST_CHILDREN)]).await? {
        match could_come(engine, origin, &child).await? {
            true => response.children.push(child.summary.clone()),
            false => response.inaccessible_children.push(child.summary.room_id.clone()),
        }
    }
    Ok(response)
}

/// Those of some rooms that this server is in, in their order.
async fn known(engine: &Engine, room_ids: &[&RoomId]) -> Result<Vec<Arc<Description>>, Error> {
    let ids: Vec<&str> = room_ids.iter().map(|id| id.as_str()).collect();
    let nids: Vec<_> = {
        let mut connection = engine.db.acquire().await?;
        let known = directory::nids(&mut connection, &ids).await?;
        known.into_iter().map(|(_, room_nid)| room_nid).collect()
    };
    let found = descriptions::of_rooms(engine, &nids).await?;
    let mut found: Vec<_> = found.into_values().filter(|room| room.is_here).collect();
    let place = |room: &Arc<Description>| room_ids.iter().position(|id| *id == room.summary.room_id);
    found.sort_by_key(place);
    Ok(found)
}

/// Whether a user of another server could come to a room, or read it as it is: anyone, or one who is there already, is
/// invited, or is in a room whose members may come.
async fn could_come(engine: &Engine, origin: &ServerName, room: &Description) -> Result<bool, Error> {
    if !room.admits(origin) {
        return Ok(false);
    }
    if is_open(&room.summary) || has_way_in(engine, origin, room).await? {
        return Ok(true);
    }
    match &room.summary.join_rule {
        JoinRuleSummary::Restricted(rule) => is_in_one_of(engine, origin, &rule.allowed_room_ids).await,
        _ => Ok(false),
    }
}

/// Whether users of a server are in a room or invited.
async fn has_way_in(engine: &Engine, origin: &ServerName, room: &Description) -> Result<bool, Error> {
    let Some(room) = by_nid(engine, room.room_nid).await? else {
        return Ok(false);
    };
    let is_close = room.read(|view| {
        let members = &view.members;
        let is_invited = |user_nid| members.get(user_nid) == Some(Membership::Invite);
        members.has_server(origin) || members.of_server(origin).into_iter().any(is_invited)
    });
    Ok(is_close.unwrap_or(false))
}

async fn is_in_one_of(engine: &Engine, origin: &ServerName, room_ids: &[OwnedRoomId]) -> Result<bool, Error> {
    let ids: Vec<&RoomId> = room_ids.iter().take(MOST_ALLOWED).map(|id| &**id).collect();
    for room in known(engine, &ids).await? {
        let room = by_nid(engine, room.room_nid).await?;
        if room.is_some_and(|room| room.has_server(origin)) {
            return Ok(true);
        }
    }
    Ok(false)
}
