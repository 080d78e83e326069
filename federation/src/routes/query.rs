//! Queries about this server's users and aliases.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::MatrixError;
use hearth_engine::{Engine, federation};
use ruma::api::federation::query::{
    get_profile_information::v1 as get_profile_information, get_room_information::v1 as get_room_information,
};

use crate::Federated;

/// `GET /_matrix/federation/v1/query/directory`
pub(super) async fn get_room_information(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<get_room_information::Request>,
) -> Result<get_room_information::Response, MatrixError> {
    Ok(federation::directory(&engine, &origin, request).await?)
}

/// `GET /_matrix/federation/v1/query/profile`
pub(super) async fn get_profile_information(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<get_profile_information::Request>,
) -> Result<get_profile_information::Response, MatrixError> {
    Ok(federation::profile(&engine, &origin, request).await?)
}
