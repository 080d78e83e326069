//! The state of rooms and their members.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{
    Engine,
    rooms::{
        read::{self, MembersRequest},
        send,
    },
};
use ruma::{
    OwnedMxcUri,
    api::client::{
        membership::{
            get_member_events::v3 as get_member_events_request,
            joined_members::v3::{self as joined_members_request, RoomMember},
        },
        state::{
            get_state_event_for_key::v3::{self as get_state_event_for_key_request, StateEventFormat},
            get_state_events::v3 as get_state_events_request,
            send_state_event::v3 as send_state_event_request,
        },
    },
    serde::Raw,
};

/// `PUT /_matrix/client/*/rooms/{roomId}/state/{eventType}/{stateKey}`
pub(crate) async fn send_state_event(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<send_state_event_request::Request>,
) -> Result<send_state_event_request::Response, MatrixError> {
    let (event_type, content) = (request.event_type, request.body.json().get());
    let state_key = &request.state_key;
    let event_id = send::send_state(
        &engine,
        &requester,
        &request.room_id,
        event_type,
        state_key,
        content,
    )
    .await?;
    Ok(send_state_event_request::Response::new(event_id))
}

/// `GET /_matrix/client/*/rooms/{roomId}/state/{eventType}/{stateKey}`
pub(crate) async fn get_state_event_for_key(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_state_event_for_key_request::Request>,
) -> Result<get_state_event_for_key_request::Response, MatrixError> {
    let event_type = request.event_type.to_string();
    let found = read::state_event(
        &engine,
        &requester,
        &request.room_id,
        &event_type,
        &request.state_key,
    )
    .await?;
    let event_or_content = match request.format {
        StateEventFormat::Event => found.event,
        _ => found.content,
    };
    Ok(get_state_event_for_key_request::Response::new(event_or_content))
}

/// `GET /_matrix/client/*/rooms/{roomId}/state`
pub(crate) async fn get_state_events(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_state_events_request::Request>,
) -> Result<get_state_events_request::Response, MatrixError> {
    let state = read::state(&engine, &requester, &request.room_id).await?;
    Ok(get_state_events_request::Response::new(
        state.into_iter().map(Raw::from_json).collect(),
    ))
}

/// `GET /_matrix/client/*/rooms/{roomId}/members`
pub(crate) async fn get_member_events(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_member_events_request::Request>,
) -> Result<get_member_events_request::Response, MatrixError> {
    let wanted = MembersRequest {
        at: request.at.as_deref(),
        membership: request.membership.as_ref().map(|membership| membership.as_str()),
        not_membership: request
            .not_membership
            .as_ref()
            .map(|membership| membership.as_str()),
    };
    let members = read::members(&engine, &requester, &request.room_id, wanted).await?;
    Ok(get_member_events_request::Response::new(
        members.into_iter().map(Raw::from_json).collect(),
    ))
}

/// `GET /_matrix/client/*/rooms/{roomId}/joined_members`
pub(crate) async fn joined_members(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<joined_members_request::Request>,
) -> Result<joined_members_request::Response, MatrixError> {
    let members = read::joined_members(&engine, &requester, &request.room_id).await?;
    let joined = members.into_iter().map(|(user_id, member)| {
        let mut shown = RoomMember::new();
        shown.display_name = member.displayname;
        shown.avatar_url = member.avatar_url.map(OwnedMxcUri::from);
        (user_id, shown)
    });
    Ok(joined_members_request::Response::new(joined.collect()))
}
