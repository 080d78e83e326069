//! Sending events to rooms, and reading their history.

use std::sync::Arc;

use axum::{Json, extract::State};
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{
    Engine,
    rooms::{
        context::{self, Context},
        messages::{self, PageRequest},
        send,
    },
};
use ruma::{
    api::client::{
        context::get_context::v3 as get_context_request,
        message::{
            get_message_events::v3 as get_message_events_request,
            send_message_event::v3 as send_message_event_request,
        },
        redact::redact_event::v3 as redact_event_request,
        room::get_room_event::v3 as get_room_event_request,
    },
    serde::Raw,
};

/// `PUT /_matrix/client/*/rooms/{roomId}/send/{eventType}/{txnId}`
pub(crate) async fn send_message_event(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<send_message_event_request::Request>,
) -> Result<send_message_event_request::Response, MatrixError> {
    let event_type = request.event_type.to_string().into();
    let (txn_id, content) = (request.txn_id.as_str(), request.body.json().get());
    let event_id =
        send::send_message(&engine, &requester, &request.room_id, event_type, txn_id, content).await?;
    Ok(send_message_event_request::Response::new(event_id))
}

/// `PUT /_matrix/client/*/rooms/{roomId}/redact/{eventId}/{txnId}`
pub(crate) async fn redact_event(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<redact_event_request::Request>,
) -> Result<redact_event_request::Response, MatrixError> {
    let (event_id, txn_id, reason) = (
        &request.event_id,
        request.txn_id.as_str(),
        request.reason.as_deref(),
    );
    let event_id = send::redact(&engine, &requester, &request.room_id, event_id, txn_id, reason).await?;
    Ok(redact_event_request::Response::new(event_id))
}

/// `GET /_matrix/client/*/rooms/{roomId}/messages`
pub(crate) async fn get_message_events(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_message_events_request::Request>,
) -> Result<get_message_events_request::Response, MatrixError> {
    let page = PageRequest {
        from: request.from.as_deref(),
        to: request.to.as_deref(),
        direction: request.dir,
        limit: usize::try_from(u64::from(request.limit)).unwrap_or(usize::MAX),
        filter: &request.filter,
    };
    let page = messages::messages(&engine, &requester, &request.room_id, page).await?;
    let mut response = get_message_events_request::Response::new();
    response.start = page.start.to_string();
    response.end = page.end.map(|end| end.to_string());
    response.chunk = page.chunk.into_iter().map(Raw::from_json).collect();
    response.state = page.state.into_iter().map(Raw::from_json).collect();
    Ok(response)
}

/// `GET /_matrix/client/*/rooms/{roomId}/event/{eventId}`
pub(crate) async fn get_room_event(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_room_event_request::Request>,
) -> Result<get_room_event_request::Response, MatrixError> {
    let event = messages::event(&engine, &requester, &request.room_id, &request.event_id).await?;
    Ok(get_room_event_request::Response::new(Raw::from_json(event)))
}

/// `GET /_matrix/client/*/rooms/{roomId}/context/{eventId}`
pub(crate) async fn get_context(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_context_request::Request>,
) -> Result<Json<Context>, MatrixError> {
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(usize::MAX);
    let (room_id, event_id) = (&request.room_id, &request.event_id);
    Ok(Json(
        context::context(&engine, &requester, room_id, event_id, limit, &request.filter).await?,
    ))
}
