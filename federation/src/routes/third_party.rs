//! Invites by e-mail or telephone number, of which another server's user or one of this server's may make use.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, federation};
use ruma::api::federation::thirdparty::{
    bind_callback::v1 as bind_callback, exchange_invite::v1 as exchange_invite,
};

use crate::Federated;

/// `PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`
pub(super) async fn exchange_invite(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<exchange_invite::Request>,
) -> Result<exchange_invite::Response, MatrixError> {
    Ok(federation::exchange_third_party_invite(&engine, &origin, request).await?)
}

/// `PUT /_matrix/federation/v1/3pid/onbind`
pub(super) async fn bind_callback(
    State(engine): State<Arc<Engine>>,
    Ruma { request, .. }: Ruma<bind_callback::Request>,
) -> Result<bind_callback::Response, MatrixError> {
    Ok(federation::bind_third_party_id(&engine, request).await?)
}
