//! The client-server API: one line a route, one thin handler an endpoint.
//!
//! A handler has its ruma endpoint's name, is given the decoded request, makes one engine call and encodes the
//! outcome. Rules are the engine's; which of its refusals has which of the spec's codes is in `endpoint/src/refusals.rs`.

mod account;
mod account_data;
mod admin_register;
mod alias;
mod at_time;
mod device;
mod directory;
mod filter;
mod message;
mod openid;
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
mod space;
mod state;
mod sync;
mod tag;
mod typing;
mod upgrade;

use std::sync::Arc;

use axum::Router;
use hearth_engine::Engine;

pub use routes::routes;

/// All of the client-server API as a service, with what holds for each route: limits, CORS, request log, standard
/// errors. To serve other routes beside it, merge them with [`routes`] and finish both with
/// [`hearth_endpoint::serve`].
pub fn router(engine: Arc<Engine>) -> Router {
    hearth_endpoint::serve(routes(), engine)
}
