//! The client-server API: one line a route, one thin handler an endpoint.
//!
//! A handler has its ruma endpoint's name, is given the decoded request, makes one engine call and encodes the
//! outcome. Rules are the engine's; which of its refusals has which of the spec's codes is in `endpoint/src/refusals.rs`.

mod account;
mod account_data;
mod admin_register;
mod alias;
mod at_time;
mod backup;
mod dehydrated_device;
mod device;
mod directory;
mod filter;
mod keys;
mod message;
mod openid;
mod presence;
mod profile;
mod push;
mod read_marker;
mod receipt;
mod register;
mod relation;
mod reporting;
mod requests;
mod room;
mod routes;
mod server_information;
mod session;
mod socket;
mod space;
mod state;
mod sync;
mod tag;
mod tick;
mod to_device;
mod typing;
mod upgrade;

use std::sync::Arc;

use axum::Router;
use hearth_engine::Engine;

pub use routes::routes;
pub use socket::{Settings as SocketSettings, with_socket};

/// All of the client-server API as a service, with what holds for each route: limits, CORS, request log, standard
/// errors. To serve other routes beside it, merge them with [`routes`], finish both with [`hearth_endpoint::serve`] and
/// add the WebSocket by [`with_socket`].
pub fn router(engine: Arc<Engine>) -> Router {
    let router = hearth_endpoint::serve(routes(), Arc::clone(&engine));
    with_socket(router, &engine, SocketSettings::default())
}
