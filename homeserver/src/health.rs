//! `GET /health`: whether the server can do its work, for load balancers and watchdogs.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse, Response},
    routing::get,
};
use hearth_engine::Engine;
use serde::Serialize;
use tokio::time::timeout;

/// A database that takes longer to answer is of no use to anyone.
const PATIENCE: Duration = Duration::from_secs(2);

/// The body of the answer.
#[derive(Debug, Serialize)]
struct Health {
    /// `ok`, or `unavailable` with status 503.
    status: &'static str,
    /// The database answers.
    database: bool,
    /// This server may write the log, and did when it last tried.
    log: bool,
}

/// `GET /health`. Needs no token and tells nothing but the state.
pub fn route(engine: Arc<Engine>) -> Router {
    Router::new().route("/health", get(health)).with_state(engine)
}

async fn health(State(engine): State<Arc<Engine>>) -> Response {
    // The pool tries a connection before it lends it.
    let database = matches!(timeout(PATIENCE, engine.db.acquire()).await, Ok(Ok(_)));
    let log = engine.log.is_writable();
    let (code, status) = if database && log {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    };
    (
        code,
        [(CACHE_CONTROL, "no-store")],
        Json(Health {
            status,
            database,
            log,
        }),
    )
        .into_response()
}
