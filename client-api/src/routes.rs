//! Every route of the client-server API. Methods and paths are in ruma's metadata.

use std::sync::Arc;

use axum::{Router, routing::get};
use hearth_endpoint::RumaRoutes;
use hearth_engine::Engine;

use crate::server_information;

/// The routes, not yet finished by [`hearth_endpoint::serve`].
pub fn routes() -> Router<Arc<Engine>> {
    Router::new().merge(server())
}

/// What the server is.
fn server() -> Router<Arc<Engine>> {
    Router::new()
        .ruma(server_information::get_supported_versions)
        .ruma(server_information::get_capabilities)
        .ruma(server_information::discover_homeserver)
        .ruma(server_information::discover_support)
        .route(
            "/.well-known/matrix/server",
            get(server_information::discover_server),
        )
}
