//! Joining a room that this server is not in.

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, OwnedServerName, RoomId, RoomVersionId,
    api::federation::membership::{create_join_event, prepare_join_event},
};

use super::{
    HandshakeError,
    arrive::{Arrival, arrive},
    outsider::known_or_new,
    propose::{Completed, complete},
};
use crate::{
    Engine,
    accounts::Requester,
    remote::{Large, RemoteError},
    rooms::{
        create::SUPPORTED_VERSIONS,
        receive::{fetch, pdu::ReceivedPdu},
    },
};

/// Servers that are asked to let a user in, one after another.
const SERVERS: usize = 10;
/// Servers in a room that are believed to be in it without a member event of theirs.
const MOST_SERVERS: usize = 20_000;

/// A join to be made through other servers.
#[derive(Debug)]
pub(in crate::rooms) struct RemoteJoin<'a> {
    pub room_id: &'a RoomId,
    pub requester: &'a Requester,
    /// The content of the member event.
    pub content: CanonicalJsonObject,
    /// Who may be in the room, those to be asked first in front.
    pub servers: Vec<OwnedServerName>,
}

/// Joins through the first of the servers that lets the user in.
pub(in crate::rooms) async fn join_through(
    engine: &Arc<Engine>,
    join: RemoteJoin<'_>,
) -> Result<(), HandshakeError> {
    let mut last = HandshakeError::NoServers;
    for server in join.servers.iter().take(SERVERS) {
        match join_through_one(engine, &join, server).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_final() => return Err(error),
            Err(error) => {
                tracing::info!(%error, %server, room_id = %join.room_id, "could not join through a server");
                // A refusal says more than that another could not be reached.
                if !matches!(last, HandshakeError::Forbidden(_)) {
                    last = error;
                }
            }
        }
    }
    Err(last)
}

async fn join_through_one(
    engine: &Arc<Engine>,
    join: &RemoteJoin<'_>,
    server: &OwnedServerName,
) -> Result<(), HandshakeError> {
    let user_id = &join.requester.user_id;
    let mut request = prepare_join_event::v1::Request::new(join.room_id.to_owned(), user_id.clone());
    request.ver = SUPPORTED_VERSIONS.to_vec();
    let made = engine.remote.make_join(server, request).await;
    let made = made.map_err(|error| HandshakeError::said(server, error))?;
    // A server of the first days says no version: its rooms are of version 1.
    let version = made.room_version.unwrap_or(RoomVersionId::V1);
    let room = known_or_new(engine, join.room_id, &version).await?;
    let completed = complete(
        engine,
        &made.event,
        join.room_id,
        user_id,
        join.content.clone(),
        &room.rules,
    );
    let Completed { event_id, json } =
        completed.map_err(|error| HandshakeError::bad(server, error.to_string()))?;
    let json = serde_json::value::RawValue::from_string(json)
        .map_err(|error| HandshakeError::bad(server, error.to_string()))?;
    let mut request =
        create_join_event::v2::Request::new(join.room_id.to_owned(), event_id.clone(), json.clone());
    // Who is in the room already has its state, and would lose what is left out of it.
    request.omit_members = !room.has_server(&engine.config.server_name);
    let may_omit = request.omit_members;
    // From here on the others send this server what happens in the room.
    let _arriving = engine.inbox.arriving(join.room_id);
    let sent = engine.remote.send_join(server, request).await;
    let Large {
        answer,
        place: _place,
    } = sent.map_err(|error| HandshakeError::said(server, error))?;
    let sent = answer.room_state;

    // In a restricted room the server adds its signature to the event.
    let own = [sent.event.unwrap_or(json)];
    let event = fetch::verified(engine, &room, &own).await.pop();
    let event: ReceivedPdu = event
        .filter(|event| event.event_id == event_id)
        .ok_or_else(|| HandshakeError::bad(server, "the join event came back as another one"))?;
    if sent.members_omitted && !may_omit {
        let error = RemoteError::Malformed("it left out members, which it was not asked to".to_owned());
        return Err(HandshakeError::said(server, error));
    }
    let servers_in_room = sent.members_omitted.then(|| {
        let servers = sent.servers_in_room.unwrap_or_default();
        let servers = servers.into_iter().take(MOST_SERVERS);
        servers
            .filter_map(|name| OwnedServerName::try_from(name).ok())
            .collect()
    });
    let arrival = Arrival {
        server,
        event,
        state: sent.state,
        auth_chain: sent.auth_chain,
        servers_in_room,
    };
    arrive(engine, &room, arrival).await
}
