//! Inviting a user of another server.

use std::sync::Arc;

use hearth_storage::UserNid;
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedServerName, OwnedUserId, RoomVersionId, UserId,
    api::federation::membership::{RawStrippedState, create_invite},
};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{HandshakeError, propose::propose, serve::STRIPPED_TYPES};
use crate::{
    Engine, Error,
    accounts::Requester,
    events::Event,
    remote::invite_v1,
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
    invite_remote_by(engine, room, sender, user_id, content).await
}

/// The same for whoever of this server's users invites.
pub(in crate::rooms) async fn invite_remote_by(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    sender: (OwnedUserId, UserNid),
    user_id: &UserId,
    content: CanonicalJsonObject,
) -> Result<OwnedEventId, InviteError> {
    let inviter = sender.0.clone();
    let draft = Draft::state(sender, "m.room.member", user_id.as_str(), content);
    let proposal = propose(engine, room, draft).await?;
    let server = user_id.server_name().to_owned();
    let event_id = proposal.event.event_id.clone();
    let state = invite_room_state(engine, room, &inviter).await;
    let state = state.map_err(HandshakeError::from)?;
    let answered = ask(engine, room, &server, &proposal.event, state).await?;
    let signed = signed_by_both(engine, room, &server, &answered).await?;
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

/// Has the server of the invited sign the invite. In a room of version 1 or 2 in the old way, where it knows no other.
async fn ask(
    engine: &Engine,
    room: &Room,
    server: &OwnedServerName,
    event: &Event,
    state: Vec<RawStrippedState>,
) -> Result<Box<RawValue>, InviteError> {
    let (room_id, event_id) = (room.id.clone(), event.event_id.clone());
    let json = RawValue::from_string(event.pdu.to_string()).map_err(damaged)?;
    let request = create_invite::v2::Request::new(
        room_id.clone(),
        event_id.clone(),
        room.version.clone(),
        json,
        state.clone(),
    );
    let said = |error| InviteError::from(HandshakeError::said(server, error));
    match engine.remote.invite(server, request).await {
        Ok(answered) => Ok(answered.event),
        Err(error) if error.is_unrecognized() && is_old(&room.version) => {
            tracing::debug!(%error, %server, room_id = %room.id, "an invite is tried in the old way");
            let event = with_room_state(&event.pdu, &state).map_err(damaged)?;
            let request = invite_v1::Request {
                room_id,
                event_id,
                event,
            };
            let answered = engine.remote.invite_v1(server, request).await;
            Ok(answered.map_err(said)?.event)
        }
        Err(error) => Err(said(error)),
    }
}

/// Whether servers may know no invites to a room but those that don't say its version.
fn is_old(version: &RoomVersionId) -> bool {
    [RoomVersionId::V1, RoomVersionId::V2].contains(version)
}

/// An event with the state that goes with it in its `unsigned`.
fn with_room_state(pdu: &str, state: &[RawStrippedState]) -> Result<Box<RawValue>, serde_json::Error> {
    let mut event: serde_json::Map<String, Value> = serde_json::from_str(pdu)?;
    event.insert("unsigned".to_owned(), json!({ "invite_room_state": state }));
    to_raw_value(&event)
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
    inviter: &UserId,
) -> Result<Vec<RawStrippedState>, Error> {
    let mut state = Vec::new();
    let names = STRIPPED_TYPES.iter().map(|event_type| (*event_type, ""));
    for (event_type, state_key) in names.chain([("m.room.member", inviter.as_str())]) {
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
