//! Inviting a user of another server.

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedServerName, UserId,
    api::federation::membership::{RawStrippedState, create_invite},
};
use serde_json::value::RawValue;

use super::{HandshakeError, propose::propose, serve::STRIPPED_TYPES};
use crate::{
    Engine, Error,
    accounts::Requester,
    rooms::{
        DecideError, Draft, Room,
        read::current_state_event,
        receive::{fetch, inbox::judge_now, judge::Judgement},
    },
};

/// Why a user of another server was not invited.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// The rules of the room don't allow it.
    #[error(transparent)]
    Decided(#[from] DecideError),
    /// The user's server did not take it.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// Invites a user of another server: the server has its say, and signs the invite, before the room hears of it.
pub(in crate::rooms) async fn invite_remote(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    requester: &Requester,
    user_id: &UserId,
    content: CanonicalJsonObject,
) -> Result<OwnedEventId, InviteError> {
    let sender = (requester.user_id.clone(), requester.user_nid);
    let draft = Draft::state(sender, "m.room.member", user_id.as_str(), content);
    let proposal = propose(engine, room, draft).await?;
    let server = user_id.server_name().to_owned();
    let event_id = proposal.event.event_id.clone();
    let json = RawValue::from_string(proposal.event.pdu.to_string()).map_err(damaged)?;
    let request = create_invite::v2::Request::new(
        room.id.clone(),
        event_id.clone(),
        room.version.clone(),
        json,
        invite_room_state(engine, room, requester)
            .await
            .map_err(HandshakeError::from)?,
    );
    let answered = engine.remote.invite(&server, request).await;
    let answered = answered.map_err(|error| HandshakeError::said(&server, error))?;
    let signed = signed_by_both(engine, room, &server, &answered.event).await?;
    if signed.event_id != event_id {
        return Err(HandshakeError::bad(&server, "the invite came back as another event").into());
    }
    let own = &engine.config.server_name;
    let judged = judge_now(engine, room, own, vec![signed])
        .await
        .map_err(HandshakeError::from)?;
    match judged.first() {
        Some((_, Judgement::Accepted | Judgement::Known(_))) => Ok(event_id),
        // The room changed while the other server was asked.
        _ => Err(DecideError::Forbidden("the room no longer allows this invite".to_owned()).into()),
    }
}

async fn signed_by_both(
    engine: &Engine,
    room: &Room,
    server: &OwnedServerName,
    event: &RawValue,
) -> Result<crate::rooms::receive::pdu::ReceivedPdu, HandshakeError> {
    let mut verified = fetch::verified(engine, room, &[event.to_owned()]).await;
    verified
        .pop()
        .ok_or_else(|| HandshakeError::bad(server, "the invite came back without a valid signature"))
}

/// The state that goes with an invite, as PDUs.
async fn invite_room_state(
    engine: &Engine,
    room: &Room,
    requester: &Requester,
) -> Result<Vec<RawStrippedState>, Error> {
    let mut state = Vec::new();
    let names = STRIPPED_TYPES.iter().map(|event_type| (*event_type, ""));
    for (event_type, state_key) in names.chain([("m.room.member", requester.user_id.as_str())]) {
        if let Some(event) = current_state_event(engine, room, event_type, state_key).await? {
            let json = RawValue::from_string(event.pdu.to_string());
            state.push(RawStrippedState::Pdu(
                json.map_err(|error| Error::Damaged(format!("a state event: {error}")))?,
            ));
        }
    }
    Ok(state)
}

fn damaged(error: serde_json::Error) -> DecideError {
    Error::Damaged(format!("an event of ours: {error}")).into()
}
