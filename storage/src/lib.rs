//! PostgreSQL, through sqlx: migrations, the committer, one module of queries per concept, and the private
//! PostgreSQL.
//!
//! Owns every SQL statement of the server. Knows nothing of HTTP or of the rules of Matrix: it stores what the
//! engine decided, and says in [`StorageError`] what the database refused.
//!
//! Queries are functions on a [`Connection`], so that callers compose them in one [`Transaction`]. Absence is
//! `Ok(None)`.

pub mod account_data;
pub mod accounts;
pub mod aliases;
pub mod cross_signing;
mod database;
pub mod dehydrated_devices;
pub mod destinations;
pub mod device_keys;
pub mod device_lists;
pub mod devices;
pub mod directory;
mod error;
pub mod event_auth;
mod event_ids;
pub mod event_times;
pub mod events;
pub mod filters;
pub mod gaps;
pub mod inbound;
pub mod interned;
pub mod key_backup;
pub mod log;
pub mod memberships;
pub mod notices;
mod numbers;
pub mod one_time_keys;
pub mod openid_tokens;
pub mod outgoing;
pub mod partial_rooms;
pub mod presence;
pub mod private_postgres;
pub mod profiles;
pub mod receipts;
pub mod registration_nonces;
pub mod relations;
pub mod remote_devices;
pub mod reports;
pub mod room_upgrades;
pub mod rooms;
pub mod server_keys;
pub mod state_changes;
pub mod states;
#[cfg(feature = "test-database")]
pub mod test_database;
pub mod to_device;
pub mod tokens;
pub mod uia_sessions;
pub mod unread;
pub mod users;

pub use database::{Connection, Database, DatabaseOptions, Pooled, Transaction};
pub use error::StorageError;
pub use numbers::{DeviceNid, EventNid, KeyNid, NumberSource, Position, RoomNid, StateNid, TypeNid, UserNid};

/// A result of this crate.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// Text that is stored as bytes because it may hold U+0000. Only text is ever put there.
pub(crate) fn text(bytes: Vec<u8>) -> std::sync::Arc<str> {
    match String::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into(),
    }
}
