//! Sync.

use std::sync::Arc;

use axum::{
    Json,
    extract::{self, FromRequest, Request},
};
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{
    Engine,
    accounts::Requester,
    presence::State,
    sync::{self, SyncRequest},
};
use ruma::api::client::sync::sync_events::v3 as sync_events_request;

/// `GET /_matrix/client/*/sync`
pub(crate) async fn sync_events(
    extract::State(engine): extract::State<Arc<Engine>>,
    request: Request,
) -> Result<Json<sync::Response>, MatrixError> {
    // Boxed, and apart from the rest: reading a request takes more memory than waiting for something to tell.
    let (requester, request) = Box::pin(read(&engine, request)).await?;
    Ok(Json(sync::sync(&engine, &requester, request).await?))
}

async fn read(engine: &Arc<Engine>, request: Request) -> Result<(Requester, SyncRequest), MatrixError> {
    let Ruma {
        request, requester, ..
    } = Ruma::<sync_events_request::Request>::from_request(request, engine).await?;
    let request = SyncRequest {
        since: request.since,
        filter: request.filter,
        full_state: request.full_state,
        use_state_after: request.use_state_after,
        timeout: request.timeout.unwrap_or_default(),
        // Some clients know further ways to be there.
        set_presence: State::of(&request.set_presence).unwrap_or(State::Online),
    };
    Ok((requester, request))
}
