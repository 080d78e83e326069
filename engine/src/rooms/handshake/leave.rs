//! Leaving a room that this server is not in: refusing an invite, taking back a knock.

use std::sync::Arc;

use hearth_storage::log::Membership;
use ruma::{
    CanonicalJsonObject, OwnedServerName,
    api::federation::membership::{create_leave_event, prepare_leave_event},
};

use super::{
    HandshakeError,
    outsider::{note_membership, set_membership},
    propose::{Completed, complete},
};
use crate::{
    Engine, Error,
    accounts::Requester,
    rooms::{
        Room,
        receive::{fetch, outliers},
    },
    users,
};

/// Servers that are told, one after another until one answers.
const SERVERS: usize = 5;

/// Tells a server that is in the room, and has the user leave here whatever it answers: nobody is held in a room by a
/// server that went away.
pub(in crate::rooms) async fn leave_through(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    requester: &Requester,
    content: CanonicalJsonObject,
    servers: Vec<OwnedServerName>,
) -> Result<(), HandshakeError> {
    for server in servers.iter().take(SERVERS) {
        match leave_through_one(engine, room, requester, content.clone(), server).await {
            Ok(()) => return Ok(()),
            Err(error @ HandshakeError::Failed(_)) => return Err(error),
            Err(error) => {
                tracing::info!(%error, %server, room_id = %room.id, "could not tell a server that a user leaves");
            }
        }
    }
    let user = users::load(engine, requester.user_nid).await?;
    let known = user.rooms.get(&room.nid).ok_or(HandshakeError::NoServers)?;
    let left = (&requester.user_id, Membership::Leave);
    Ok(note_membership(engine, room, known.event_nid, left, None).await?)
}

async fn leave_through_one(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    requester: &Requester,
    content: CanonicalJsonObject,
    server: &OwnedServerName,
) -> Result<(), HandshakeError> {
    let user_id = &requester.user_id;
    let request = prepare_leave_event::v1::Request::new(room.id.clone(), user_id.clone());
    let made = engine.remote.make_leave(server, request).await;
    let made = made.map_err(|error| HandshakeError::said(server, error))?;
    let completed = complete(engine, &made.event, &room.id, user_id, content, &room.rules);
    let Completed { event_id, json } =
        completed.map_err(|error| HandshakeError::bad(server, error.to_string()))?;
    let json = serde_json::value::RawValue::from_string(json)
        .map_err(|error| HandshakeError::bad(server, error.to_string()))?;
    let request = create_leave_event::v2::Request::new(room.id.clone(), event_id, json.clone());
    let sent = engine.remote.send_leave(server, request).await;
    sent.map_err(|error| HandshakeError::said(server, error))?;
    let pdus = fetch::verified(engine, room, &[json]).await;
    let own = outliers::unjudged(engine, room, pdus).await?.pop();
    let own = own.ok_or_else(|| Error::Damaged("a leave of ours can't be read".to_owned()))?;
    set_membership(engine, room, &own, (user_id, Membership::Leave), None).await?;
    Ok(())
}
