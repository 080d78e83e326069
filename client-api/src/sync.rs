//! Sync.

use std::sync::Arc;

use axum::{Json, extract::State};
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{
    Engine,
    sync::{self, SyncRequest},
};
use ruma::api::client::sync::sync_events::v3 as sync_events_request;

/// `GET /_matrix/client/*/sync`
pub(crate) async fn sync_events(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<sync_events_request::Request>,
) -> Result<Json<sync::Response>, MatrixError> {
    let request = SyncRequest {
        since: request.since,
        filter: request.filter,
        full_state: request.full_state,
        use_state_after: request.use_state_after,
        timeout: request.timeout.unwrap_or_default(),
    };
    Ok(Json(sync::sync(&engine, &requester, request).await?))
}
