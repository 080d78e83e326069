//! Events by their time.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::MatrixError;
use hearth_engine::{Engine, federation};
use ruma::api::federation::event::get_event_by_timestamp::v1 as get_event_by_timestamp;

use crate::Federated;

/// `GET /_matrix/federation/v1/timestamp_to_event/{roomId}`
pub(super) async fn get_event_by_timestamp(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<get_event_by_timestamp::Request>,
) -> Result<get_event_by_timestamp::Response, MatrixError> {
    Ok(federation::timestamp_to_event(&engine, &origin, request).await?)
}
