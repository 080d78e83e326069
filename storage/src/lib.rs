//! PostgreSQL, through sqlx: migrations, the committer, one module of queries per concept, and the private
//! PostgreSQL.
//!
//! Owns every SQL statement of the server. Knows nothing of HTTP or of the rules of Matrix: it stores what the
//! engine decided, and says in [`StorageError`] what the database refused.
//!
//! Queries are functions on a [`Connection`], so that callers compose them in one [`Transaction`]. Absence is
//! `Ok(None)`.

mod database;
mod error;
mod numbers;
#[cfg(feature = "test-database")]
pub mod test_database;
pub mod users;

pub use database::{Connection, Database, DatabaseOptions, Pooled, Transaction};
pub use error::StorageError;
pub use numbers::{DeviceNid, EventNid, KeyNid, NumberSource, Position, RoomNid, StateNid, TypeNid, UserNid};

/// A result of this crate.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;
