//! The directory of published rooms.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::MatrixError;
use hearth_engine::{Engine, federation};
use ruma::api::federation::directory::{
    get_public_rooms::v1 as get_public_rooms, get_public_rooms_filtered::v1 as get_public_rooms_filtered,
};

use crate::Federated;

/// `GET /_matrix/federation/v1/publicRooms`
pub(super) async fn get_public_rooms(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<get_public_rooms::Request>,
) -> Result<get_public_rooms::Response, MatrixError> {
    Ok(federation::public_rooms(&engine, &origin, request).await?)
}

/// `POST /_matrix/federation/v1/publicRooms`
pub(super) async fn get_public_rooms_filtered(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<get_public_rooms_filtered::Request>,
) -> Result<get_public_rooms_filtered::Response, MatrixError> {
    Ok(federation::public_rooms_filtered(&engine, &origin, request).await?)
}
