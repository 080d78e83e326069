//! Who is typing.

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{
    Engine,
    typing::{self, DEFAULT_TIMEOUT},
};
use ruma::{
    OwnedRoomId, OwnedUserId,
    api::{
        IncomingRequest, client::typing::create_typing_event::v3 as create_typing_event_request,
        error::DeserializationError,
    },
};
use serde::Deserialize;

use crate::requests::{path, served_as};

/// `PUT /_matrix/client/*/rooms/{roomId}/typing/{userId}`
pub(crate) async fn create_typing_event(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<CreateTypingEvent>,
) -> Result<create_typing_event_request::Response, MatrixError> {
    typing::set(
        &engine,
        &requester,
        &request.room_id,
        &request.user_id,
        request.timeout,
    )
    .await?;
    Ok(create_typing_event_request::Response::new())
}

/// The request of `create_typing_event`. ruma's own insists on a `timeout`, which the specification doesn't require.
#[derive(Debug)]
pub(crate) struct CreateTypingEvent {
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    /// Nothing when the user stopped typing.
    timeout: Option<Duration>,
}

#[derive(Deserialize)]
struct Body {
    typing: bool,
    timeout: Option<u64>,
}

served_as!(CreateTypingEvent, create_typing_event_request);

impl IncomingRequest for CreateTypingEvent {
    type EndpointError = <create_typing_event_request::Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = create_typing_event_request::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let (room_id, user_id) = path(path_args)?;
        let body: Body = serde_json::from_slice(request.body())?;
        let timeout = body.timeout.map_or(DEFAULT_TIMEOUT, Duration::from_millis);
        Ok(Self {
            room_id,
            user_id,
            timeout: body.typing.then_some(timeout),
        })
    }
}
