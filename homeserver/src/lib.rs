//! The homeserver: configuration, command line, listeners, wiring, shutdown.
//!
//! Knows nothing of the rules of Matrix. [`Server`] is a whole server as a value, so that tests can run several
//! in one process; the binary `hearth` is [`cli::run`].

mod causes;
pub mod cli;
pub mod config;
mod control;
mod database;
mod health;
pub mod key_file;
mod listener;
mod logging;
pub mod metrics;
mod operator;
mod parts;
mod server;
mod signals;
mod tls;

pub use control::ControlError;
pub use database::DatabaseError;
pub use listener::BindError;
pub use parts::PartsError;
pub use server::{Server, StartError};
pub use tls::CertificateError;
