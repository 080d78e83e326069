//! The rules of Matrix: rooms, sync, accounts, devices, receipts, profiles.
//!
//! The engine gathers, decides and commits. It decides; it asks `hearth-storage` for rows and the few traits
//! that it owns ([`Clock`], [`Entropy`]) for everything outside. It knows nothing of HTTP, routes, SQL or other
//! servers' addresses.
//!
//! Its verbs are free functions over an [`Engine`]: `accounts::login::login(&engine, …)`.

pub mod account_data;
#[macro_use]
pub mod accounts;
pub mod aliases;
mod config;
pub mod encryption;
mod engine;
mod error;
pub mod events;
pub mod federation;
pub mod filters;
mod interner;
pub mod log;
mod notices;
pub mod outgoing;
mod outside;
pub mod presence;
pub mod profiles;
pub mod push_rules;
pub mod receipts;
pub mod remote;
pub mod reports;
pub mod rooms;
pub mod server_keys;
mod signing;
pub mod sync;
pub mod tags;
#[cfg(any(test, feature = "test-engine"))]
pub mod test_engine;
pub mod ticks;
pub mod tokens;
mod transactions;
pub mod typing;
pub mod unread;
pub mod users;
mod waiting;

pub use config::{
    Config, DirectoryAudience, PresenceSettings, RateLimits, Registration, Support, SupportContact, Ticks,
};
pub use engine::{Engine, Outside};
pub use error::Error;
pub use outside::{Clock, Entropy, OsEntropy, SystemClock};
pub use signing::{SigningKey, SigningKeyError};
