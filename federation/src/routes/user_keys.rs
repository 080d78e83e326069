//! The keys of this server's users and their devices.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::MatrixError;
use hearth_engine::{Engine, federation};
use ruma::api::federation::{
    device::get_devices::v1 as get_devices,
    keys::{claim_keys::v1 as claim_keys, get_keys::v1 as get_keys},
};

use crate::Federated;

/// `POST /_matrix/federation/v1/user/keys/query`
pub(super) async fn get_keys(
    State(engine): State<Arc<Engine>>,
    Federated { request, .. }: Federated<get_keys::Request>,
) -> Result<get_keys::Response, MatrixError> {
    Ok(federation::user_keys(&engine, request).await?)
}

/// `POST /_matrix/federation/v1/user/keys/claim`
pub(super) async fn claim_keys(
    State(engine): State<Arc<Engine>>,
    Federated { request, .. }: Federated<claim_keys::Request>,
) -> Result<claim_keys::Response, MatrixError> {
    Ok(federation::claim_user_keys(&engine, request).await?)
}

/// `GET /_matrix/federation/v1/user/devices/{userId}`
pub(super) async fn get_devices(
    State(engine): State<Arc<Engine>>,
    Federated { request, .. }: Federated<get_devices::Request>,
) -> Result<get_devices::Response, MatrixError> {
    Ok(federation::devices(&engine, request).await?)
}
