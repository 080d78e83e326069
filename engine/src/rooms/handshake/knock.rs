//! Knocking on a room that this server is not in.

use std::sync::Arc;

use hearth_storage::log::Membership;
use ruma::{
    CanonicalJsonObject, OwnedServerName, RoomId,
    api::federation::membership::{create_knock_event, prepare_knock_event},
};

use super::{
    HandshakeError,
    outsider::{known_or_new, set_membership},
    propose::{Completed, complete},
    serve::stripped_json,
};
use crate::{
    Engine, Error,
    accounts::Requester,
    rooms::{
        create::SUPPORTED_VERSIONS,
        receive::{fetch, outliers},
    },
};

/// Servers that are asked, one after another.
const SERVERS: usize = 10;

/// Knocks through the first of the servers that takes the knock.
pub(in crate::rooms) async fn knock_through(
    engine: &Arc<Engine>,
    room_id: &RoomId,
    requester: &Requester,
    content: CanonicalJsonObject,
    servers: Vec<OwnedServerName>,
) -> Result<(), HandshakeError> {
    let mut last = HandshakeError::NoServers;
    for server in servers.iter().take(SERVERS) {
        match knock_through_one(engine, room_id, requester, content.clone(), server).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_final() => return Err(error),
            Err(error) => {
                tracing::info!(%error, %server, %room_id, "could not knock through a server");
                if !matches!(last, HandshakeError::Forbidden(_)) {
                    last = error;
                }
            }
        }
    }
    Err(last)
}

async fn knock_through_one(
    engine: &Arc<Engine>,
    room_id: &RoomId,
    requester: &Requester,
    content: CanonicalJsonObject,
    server: &OwnedServerName,
) -> Result<(), HandshakeError> {
    let user_id = &requester.user_id;
    let mut request = prepare_knock_event::v1::Request::new(room_id.to_owned(), user_id.clone());
    request.ver = SUPPORTED_VERSIONS.to_vec();
    let made = engine.remote.make_knock(server, request).await;
    let made = made.map_err(|error| HandshakeError::said(server, error))?;
    let room = known_or_new(engine, room_id, &made.room_version).await?;
    let completed = complete(engine, &made.event, room_id, user_id, content, &room.rules);
    let Completed { event_id, json } =
        completed.map_err(|error| HandshakeError::bad(server, error.to_string()))?;
    let json = serde_json::value::RawValue::from_string(json)
        .map_err(|error| HandshakeError::bad(server, error.to_string()))?;
    let request = create_knock_event::v1::Request::new(room_id.to_owned(), event_id, json.clone());
    let sent = engine.remote.send_knock(server, request).await;
    let sent = sent.map_err(|error| HandshakeError::said(server, error))?;
    let pdus = fetch::verified(engine, &room, &[json]).await;
    let own = outliers::unjudged(engine, &room, pdus).await?.pop();
    let own = own.ok_or_else(|| Error::Damaged("a knock of ours can't be read".to_owned()))?;
    let stripped = stripped_json(&sent.knock_room_state, &own.event)?;
    let knocked = (user_id, Membership::Knock);
    set_membership(engine, &room, &own, knocked, Some(stripped)).await?;
    Ok(())
}
