//! How events relate to each other, and threads.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{
    Engine,
    rooms::relations::{self, RelationsPage, RelationsRequest, ThreadsRequest},
};
use ruma::{
    UInt,
    api::client::{
        relations::{
            get_relating_events::v1 as get_relating_events_request,
            get_relating_events_with_rel_type::v1 as get_relating_events_with_rel_type_request,
            get_relating_events_with_rel_type_and_event_type::v1 as get_relating_events_with_rel_type_and_event_type_request,
        },
        threads::get_threads::v1::{self as get_threads_request, IncludeThreads},
    },
    serde::Raw,
};

fn limit_of(limit: Option<UInt>) -> Option<usize> {
    limit.map(|limit| usize::try_from(u64::from(limit)).unwrap_or(usize::MAX))
}

/// What the three endpoints for relations have in common, whose requests and answers are of three types.
macro_rules! relations {
    ($endpoint:ident, $engine:ident, $requester:ident, $request:ident, $rel_type:expr, $event_type:expr) => {{
        let wanted = RelationsRequest {
            from: $request.from.as_deref(),
            to: $request.to.as_deref(),
            direction: $request.dir,
            limit: limit_of($request.limit),
            rel_type: $rel_type,
            event_type: $event_type,
            recurse: $request.recurse,
        };
        let (room_id, event_id) = (&$request.room_id, &$request.event_id);
        let page = relations::relations(&$engine, &$requester, room_id, event_id, wanted).await?;
        let RelationsPage { chunk, next, depth } = page;
        let mut response = $endpoint::Response::new(chunk.into_iter().map(Raw::from_json).collect());
        response.next_batch = next.map(|next| next.to_string());
        response.prev_batch = $request.from;
        response.recursion_depth = depth.map(UInt::from);
        Ok(response)
    }};
}

/// `GET /_matrix/client/*/rooms/{roomId}/relations/{eventId}`
pub(crate) async fn get_relating_events(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_relating_events_request::Request>,
) -> Result<get_relating_events_request::Response, MatrixError> {
    relations!(
        get_relating_events_request,
        engine,
        requester,
        request,
        None,
        None
    )
}

/// `GET /_matrix/client/*/rooms/{roomId}/relations/{eventId}/{relType}`
pub(crate) async fn get_relating_events_with_rel_type(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_relating_events_with_rel_type_request::Request>,
) -> Result<get_relating_events_with_rel_type_request::Response, MatrixError> {
    let rel_type = Some(request.rel_type.as_str());
    relations!(
        get_relating_events_with_rel_type_request,
        engine,
        requester,
        request,
        rel_type,
        None
    )
}

/// `GET /_matrix/client/*/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}`
pub(crate) async fn get_relating_events_with_rel_type_and_event_type(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_relating_events_with_rel_type_and_event_type_request::Request>,
) -> Result<get_relating_events_with_rel_type_and_event_type_request::Response, MatrixError> {
    let (rel_type, event_type) = (Some(request.rel_type.as_str()), request.event_type.to_string());
    relations!(
        get_relating_events_with_rel_type_and_event_type_request,
        engine,
        requester,
        request,
        rel_type,
        Some(&event_type)
    )
}

/// `GET /_matrix/client/*/rooms/{roomId}/threads`
pub(crate) async fn get_threads(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_threads_request::Request>,
) -> Result<get_threads_request::Response, MatrixError> {
    let participated = match request.include {
        IncludeThreads::All => false,
        IncludeThreads::Participated => true,
        _ => {
            return Err(MatrixError::invalid_param(
                "`include` is `all` or `participated`.",
            ));
        }
    };
    let wanted = ThreadsRequest {
        from: request.from.as_deref(),
        limit: limit_of(request.limit),
        participated,
    };
    let page = relations::threads(&engine, &requester, &request.room_id, wanted).await?;
    let mut response =
        get_threads_request::Response::new(page.chunk.into_iter().map(Raw::from_json).collect());
    response.next_batch = page.next.map(|next| next.to_string());
    Ok(response)
}
