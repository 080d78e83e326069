//! The signing keys of other servers.

use crate::{Connection, Result};

/// A key of another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerKey {
    /// Whose it is.
    pub server_name: String,
    /// Algorithm and version: `ed25519:a_1`.
    pub key_id: String,
    /// The key itself.
    pub public_key: Vec<u8>,
    /// Until when it signs, in milliseconds.
    pub valid_until: i64,
    /// When this was learnt, in milliseconds.
    pub fetched_at: i64,
    /// The JSON in which the server said so.
    pub response: Vec<u8>,
}

/// Stores keys. What was known of the same ones is replaced: whoever calls this knows better.
pub async fn store(connection: &mut Connection, keys: &[ServerKey]) -> Result<()> {
    let column = |of: fn(&ServerKey) -> &str| keys.iter().map(|key| of(key).to_owned()).collect::<Vec<_>>();
    let bytes = |of: fn(&ServerKey) -> &[u8]| keys.iter().map(|key| of(key).to_vec()).collect::<Vec<_>>();
    let number = |of: fn(&ServerKey) -> i64| keys.iter().map(of).collect::<Vec<_>>();
    sqlx::query!(
        "INSERT INTO server_keys (server_name, key_id, public_key, valid_until, fetched_at, response)
         SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bytea[])
         ON CONFLICT ON CONSTRAINT server_keys_pkey DO UPDATE SET
             public_key = excluded.public_key,
             valid_until = excluded.valid_until,
             fetched_at = excluded.fetched_at,
             response = excluded.response",
        &column(|key| &key.server_name),
        &column(|key| &key.key_id),
        &bytes(|key| &key.public_key),
        &number(|key| key.valid_until),
        &number(|key| key.fetched_at),
        &bytes(|key| &key.response)
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// All that is known of the keys of some servers.
pub async fn of_servers(connection: &mut Connection, servers: &[String]) -> Result<Vec<ServerKey>> {
    let keys = sqlx::query_as!(
        ServerKey,
        "SELECT server_name, key_id, public_key, valid_until, fetched_at, response
         FROM server_keys WHERE server_name = ANY ($1)",
        servers
    )
    .fetch_all(connection)
    .await?;
    Ok(keys)
}
