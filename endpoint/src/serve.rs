//! What holds for every route: request log, CORS, panics, limits, and answers for what isn't a route.

use std::{any::Any, sync::Arc};

use axum::{
    Extension, Router,
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use hearth_engine::Engine;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    MatrixError, cors,
    limits::Limits,
    request_log::{self, RequestLog},
};

/// Finishes `routes`, all of a listener's: after this none can be added.
///
/// A listener passes the address of each connection as a request extension `ConnectInfo<SocketAddr>`, and none for
/// a Unix socket.
pub fn serve(routes: Router<Arc<Engine>>, engine: Arc<Engine>) -> Router {
    let limits = Arc::new(Limits::new(&engine.config.rate_limits));
    let log = Arc::new(RequestLog::new(&*engine.entropy));
    routes
        .fallback(async || MatrixError::unrecognized())
        .method_not_allowed_fallback(async || MatrixError::method_not_allowed())
        .layer(Extension(limits))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(cors::cors))
        .layer(from_fn_with_state(log, request_log::log))
        .with_state(engine)
}

/// Finishes routes that stand beside those of [`serve`]: request log, CORS, panics, and no limits.
pub fn serve_beside(routes: Router, engine: &Engine) -> Router {
    let log = Arc::new(RequestLog::new(&*engine.entropy));
    routes
        .method_not_allowed_fallback(async || MatrixError::method_not_allowed())
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(cors::cors))
        .layer(from_fn_with_state(log, request_log::log))
}

/// A panic's message may hold what a client sent, and the panic hook has reported where it was.
fn panicked(_payload: Box<dyn Any + Send + 'static>) -> Response {
    MatrixError::internal("a handler panicked").into_response()
}
