//! `GET /_matrix/federation/v1/version`

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::Engine;
use ruma::api::federation::discovery::get_server_version::v1 as get_server_version;

/// `GET /_matrix/federation/v1/version`
pub(super) async fn get_server_version(
    State(_): State<Arc<Engine>>,
    Ruma { .. }: Ruma<get_server_version::Request>,
) -> Result<get_server_version::Response, MatrixError> {
    let mut server = get_server_version::Server::new();
    server.name = Some("Hearth".to_owned());
    server.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let mut response = get_server_version::Response::new();
    response.server = Some(server);
    Ok(response)
}
