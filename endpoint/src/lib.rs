//! What all HTTP of this server shares: the ruma extractor, [`MatrixError`], limits, CORS and the request log.
//!
//! Knows no particular route and no rule of Matrix. A handler takes a [`Ruma`] request, which is already decoded,
//! authenticated and limited, makes one call of the engine, and returns the ruma response or a [`MatrixError`];
//! [`RumaRoutes::ruma`] registers it under every path that ruma knows for it, and [`serve`] wraps the finished
//! routes in what holds for each of them.

mod body;
pub mod bulk;
mod client;
mod cors;
pub mod decoding;
mod error;
mod guests;
mod identify;
mod limits;
mod nesting;
pub mod outgoing;
mod refusals;
mod request_log;
mod routes;
mod ruma_request;
mod serve;

pub use body::Json;
pub use client::Client;
pub use error::MatrixError;
pub use identify::{Identify, Identity};
pub use limits::CredentialsGuard;
pub use refusals::signature_failures;
pub use routes::{RumaRoutes, encode, encode_held};
pub use ruma_request::Ruma;
pub use serve::{serve, serve_beside};
