//! Events by their time.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, rooms::at_time};
use ruma::api::client::room::get_event_by_timestamp::v1 as get_event_by_timestamp_request;

/// `GET /_matrix/client/*/rooms/{roomId}/timestamp_to_event`
pub(crate) async fn get_event_by_timestamp(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_event_by_timestamp_request::Request>,
) -> Result<get_event_by_timestamp_request::Response, MatrixError> {
    let (room_id, ts) = (&request.room_id, request.ts);
    let found = at_time::nearest_event(&engine, &requester, room_id, ts, request.dir).await?;
    Ok(get_event_by_timestamp_request::Response::new(
        found.event_id,
        found.origin_server_ts,
    ))
}
