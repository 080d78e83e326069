//! The WebSocket: the whole client API and what sync pushes, on one connection (docs/websocket.md).
//!
//! Knows no endpoint: what a client requests goes through the router that HTTP has, and what it is sent is the engine's
//! to say. Each connection is one task ([`connection`]), which reads frames ([`frames`]), has requests answered
//! ([`requests`]), sends what is new ([`pushes`]) and sees to it that both sides are still there and may be
//! ([`line`], [`session`]).

mod connection;
mod end;
mod frames;
mod handshake;
mod limits;
mod line;
mod pushes;
mod requests;
mod session;

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get};
use hearth_engine::Engine;

use limits::Limits;

/// Where it is.
pub(crate) const PATH: &str = "/_matrix/client/unstable/chat.hearth.socket";

/// The subprotocol, which a client must offer.
const SUBPROTOCOL: &str = "chat.hearth.v1";

/// What holds for every connection.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How often a peer is asked whether it is there. One that was silent since the last time is gone.
    pub ping_interval: Duration,
    /// Connections that one user may have open.
    pub max_per_user: usize,
    /// Connections that one address may have open; of IPv6, the 64 bits of its network.
    pub max_per_address: usize,
    /// How long a client has to say who it is.
    pub authentication: Duration,
    /// How long before its token expires a client is told.
    pub warning: Duration,
    /// How long after that it may stay without a fresh one.
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(30),
            max_per_user: 100,
            max_per_address: 1000,
            authentication: Duration::from_secs(10),
            warning: Duration::from_secs(30),
            grace: Duration::from_secs(60),
        }
    }
}

/// What the connections share.
#[derive(Debug)]
struct Sockets {
    engine: Arc<Engine>,
    /// What a client may request.
    router: Router,
    settings: Settings,
    limits: Arc<Limits>,
}

/// Adds the WebSocket to a finished router, which serves what clients request by it.
pub fn with_socket(router: Router, engine: &Arc<Engine>, settings: Settings) -> Router {
    let sockets = Arc::new(Sockets {
        engine: Arc::clone(engine),
        router: router.clone(),
        limits: Arc::new(Limits::new(engine.config.rate_limits.enabled, &settings)),
        settings,
    });
    let route = Router::new()
        .route(PATH, get(handshake::chat_hearth_socket))
        .with_state(sockets);
    router.merge(hearth_endpoint::serve_beside(route, engine))
}
