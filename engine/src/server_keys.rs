//! The signing keys of other servers, kept. Whether a key may be believed is decided before it comes here.

use hearth_storage::{Database, server_keys};
use ruma::OwnedServerName;

pub use hearth_storage::server_keys::ServerKey;

use crate::Error;

/// Keeps keys in the database. Apart from the engine, because an engine is given who fetches them when it starts.
#[derive(Debug, Clone)]
pub struct ServerKeyStore(Database);

impl ServerKeyStore {
    /// In this database.
    pub fn new(db: Database) -> Self {
        Self(db)
    }

    /// Keeps keys, each server's once, in place of what was known of the same ones.
    pub async fn keep(&self, keys: &[ServerKey]) -> Result<(), Error> {
        let mut connection = self.0.acquire().await?;
        Ok(server_keys::store(&mut connection, keys).await?)
    }

    /// What was kept of some servers.
    pub async fn of_servers(&self, servers: &[OwnedServerName]) -> Result<Vec<ServerKey>, Error> {
        let names: Vec<_> = servers.iter().map(ToString::to_string).collect();
        let mut connection = self.0.acquire().await?;
        Ok(server_keys::of_servers(&mut connection, &names).await?)
    }
}
