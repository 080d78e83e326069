//! Spaces.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::MatrixError;
use hearth_engine::{Engine, federation};
use ruma::api::federation::space::get_hierarchy::v1 as get_hierarchy;

use crate::Federated;

/// `GET /_matrix/federation/v1/hierarchy/{roomId}`
pub(super) async fn get_hierarchy(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<get_hierarchy::Request>,
) -> Result<get_hierarchy::Response, MatrixError> {
    Ok(federation::hierarchy(&engine, &origin, request).await?)
}
