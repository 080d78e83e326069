//! The past of rooms.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::MatrixError;
use hearth_engine::{Engine, federation};
use ruma::api::federation::{
    authorization::get_event_authorization::v1 as get_event_authorization,
    backfill::get_backfill::v1 as get_backfill,
    event::{
        get_event::v1 as get_event, get_missing_events::v1 as get_missing_events,
        get_room_state::v1 as get_room_state, get_room_state_ids::v1 as get_room_state_ids,
    },
};

use crate::Federated;

/// `GET /_matrix/federation/v1/event/{eventId}`
pub(super) async fn get_event(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<get_event::Request>,
) -> Result<get_event::Response, MatrixError> {
    Ok(federation::event(&engine, &origin, request).await?)
}

/// `GET /_matrix/federation/v1/state/{roomId}`
pub(super) async fn get_room_state(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<get_room_state::Request>,
) -> Result<get_room_state::Response, MatrixError> {
    Ok(federation::state(&engine, &origin, request).await?)
}

/// `GET /_matrix/federation/v1/state_ids/{roomId}`
pub(super) async fn get_room_state_ids(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<get_room_state_ids::Request>,
) -> Result<get_room_state_ids::Response, MatrixError> {
    Ok(federation::state_ids(&engine, &origin, request).await?)
}

/// `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`
pub(super) async fn get_event_authorization(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<get_event_authorization::Request>,
) -> Result<get_event_authorization::Response, MatrixError> {
    Ok(federation::event_auth(&engine, &origin, request).await?)
}

/// `GET /_matrix/federation/v1/backfill/{roomId}`
pub(super) async fn get_backfill(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<get_backfill::Request>,
) -> Result<get_backfill::Response, MatrixError> {
    Ok(federation::backfill(&engine, &origin, request).await?)
}

/// `POST /_matrix/federation/v1/get_missing_events/{roomId}`
pub(super) async fn get_missing_events(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<get_missing_events::Request>,
) -> Result<get_missing_events::Response, MatrixError> {
    Ok(federation::missing_events(&engine, &origin, request).await?)
}
