//! The table `registration_nonces`: what a registration by shared secret must include, once each.

use crate::{Connection, Result};

/// How many void rows are cleared away when one is added. More than one, so that the table shrinks after a rush.
const CLEARED_AT_ONCE: i64 = 10;

/// Adds a nonce, and clears away a few that expired before `now`.
pub async fn insert(
    connection: &mut Connection,
    nonce_hash: &[u8; 32],
    now: i64,
    expires_at: i64,
) -> Result<()> {
    sqlx::query!(
        "WITH void AS (
             DELETE FROM registration_nonces WHERE nonce_hash IN (
                 SELECT nonce_hash FROM registration_nonces WHERE expires_at <= $2
                 ORDER BY expires_at LIMIT $4 FOR UPDATE SKIP LOCKED
             )
         )
         INSERT INTO registration_nonces (nonce_hash, expires_at) VALUES ($1, $3)",
        nonce_hash.as_slice(),
        now,
        expires_at,
        CLEARED_AT_ONCE
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Uses a nonce up. `false`: it was never given out, was used before, or expired before `now`.
pub async fn take(connection: &mut Connection, nonce_hash: &[u8; 32], now: i64) -> Result<bool> {
    let expires_at = sqlx::query_scalar!(
        "DELETE FROM registration_nonces WHERE nonce_hash = $1 RETURNING expires_at",
        nonce_hash.as_slice()
    )
    .fetch_optional(connection)
    .await?;
    Ok(expires_at.is_some_and(|expires_at| expires_at > now))
}
