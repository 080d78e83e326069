//! Invites of this server's users by those of others (server-server API, "Inviting to a room"): signed here, and shown to
//! the invited.

use std::sync::Arc;

use hearth_storage::log::Membership;
use ruma::{
    OwnedEventId, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::membership::{RawStrippedState, create_invite},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    HandshakeError,
    outsider::{known_or_new, set_membership},
    serve::{ServeError, raw, signed_here, stripped_json},
};
use crate::{
    Engine,
    federation::acl,
    remote::invite_v1,
    rooms::{
        Room, by_id,
        receive::{
            fetch, outliers,
            pdu::{self, ReceivedPdu},
        },
    },
};

/// `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`
pub async fn invite(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: create_invite::v2::Request,
) -> Result<create_invite::v2::Response, ServeError> {
    let invite = Invite {
        room_id: &request.room_id,
        event_id: &request.event_id,
        version: request.room_version,
        event: &request.event,
        room_state: &request.invite_room_state,
    };
    Ok(create_invite::v2::Response::new(
        invite.take(engine, origin).await?,
    ))
}

/// `PUT /_matrix/federation/v1/invite/{roomId}/{eventId}`: to a room of version 1 or 2, which it doesn't say. The two
/// differ in nothing that an invite shows.
pub async fn invite_v1(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: invite_v1::Request,
) -> Result<invite_v1::Response, ServeError> {
    #[derive(Default, Deserialize)]
    struct Event {
        #[serde(default)]
        unsigned: Unsigned,
    }
    #[derive(Default, Deserialize)]
    struct Unsigned {
        #[serde(default)]
        invite_room_state: Vec<RawStrippedState>,
    }
    // Without it the invited only sees less of what they are invited to.
    let event: Event = serde_json::from_str(request.event.get()).unwrap_or_default();
    let known = by_id(engine, &request.room_id).await?;
    let is_second = known.is_some_and(|room| room.version == RoomVersionId::V2);
    let invite = Invite {
        room_id: &request.room_id,
        event_id: &request.event_id,
        version: if is_second {
            RoomVersionId::V2
        } else {
            RoomVersionId::V1
        },
        event: &request.event,
        room_state: &event.unsigned.invite_room_state,
    };
    let event = invite.take(engine, origin).await?;
    Ok(invite_v1::Response { event })
}

struct Invite<'a> {
    room_id: &'a RoomId,
    event_id: &'a OwnedEventId,
    version: RoomVersionId,
    event: &'a RawValue,
    room_state: &'a [RawStrippedState],
}

impl Invite<'_> {
    /// Signs the invite and shows it to the invited: the signed event.
    async fn take(self, engine: &Arc<Engine>, origin: &ServerName) -> Result<Box<RawValue>, ServeError> {
        let known = known_or_new(engine, self.room_id, &self.version).await;
        let room = known.map_err(|error| match error {
            HandshakeError::UnsupportedVersion(_) => ServeError::IncompatibleVersion(self.version.clone()),
            error => error.into(),
        })?;
        let (pdu, invited) = self.read(origin, &room)?;
        check_invited(engine, &invited).await?;
        if !acl::allows(engine, &room, origin).await? {
            return Err(ServeError::Forbidden(
                "the room's server ACL denies your server".to_owned(),
            ));
        }
        let verified = fetch::verify_all(engine, &room, vec![pdu]).await.pop();
        let pdu = verified.ok_or_else(|| ServeError::Bad("the event's signature is not valid".to_owned()))?;
        let signed = signed_here(engine, &room, &pdu.json)?;
        let event = raw(&signed.json)?;
        if room.has_server(&engine.config.server_name) {
            // The room tells of it itself.
            return Ok(event);
        }
        let own = outliers::unjudged(engine, &room, vec![signed]).await?.pop();
        let own = own.ok_or_else(|| ServeError::Bad("the event is of another room".to_owned()))?;
        let stripped = stripped_json(self.room_state, &own.event)?;
        let invited = (&invited, Membership::Invite);
        set_membership(engine, &room, &own, invited, Some(stripped)).await?;
        Ok(event)
    }

    /// The event, and whom it invites: nothing is signed that is no invite by a user of `origin`.
    fn read(&self, origin: &ServerName, room: &Room) -> Result<(ReceivedPdu, OwnedUserId), ServeError> {
        let bad = |reason: &str| ServeError::Bad(reason.to_owned());
        let pdu = pdu::read(self.event.get(), &room.rules)
            .map_err(|dropped| ServeError::Bad(dropped.to_string()))?;
        let invited = pdu.state_key.as_deref().map(<&UserId>::try_from);
        let Some(Ok(invited)) = invited else {
            return Err(bad("the event invites nobody"));
        };
        let invited = invited.to_owned();
        if pdu.event_id != *self.event_id || pdu.room_id != *self.room_id {
            return Err(bad("the event is not the one that the path names"));
        }
        if pdu.event_type != "m.room.member" || pdu.membership() != Some("invite") {
            return Err(bad("the event is no invite"));
        }
        if pdu.sender.server_name() != origin {
            return Err(bad("the event is not by a user of yours"));
        }
        Ok((pdu, invited))
    }
}

/// The invited is an active user of this server.
async fn check_invited(engine: &Engine, user_id: &UserId) -> Result<(), ServeError> {
    if user_id.server_name() != engine.config.server_name {
        return Err(ServeError::Bad(format!("{user_id} is not a user of this server")));
    }
    match crate::accounts::is_active(engine, user_id).await? {
        true => Ok(()),
        false => Err(ServeError::Forbidden(format!("{user_id} takes no invites"))),
    }
}
