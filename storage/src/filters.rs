//! Filters that clients have stored.

use std::sync::Arc;

use crate::{Connection, Result, UserNid, text};

/// What identifies a filter among those of its user.
pub type FilterHash = [u8; 16];

/// Stores a filter, or makes it the newest if it is stored already; of a user's filters, only the newest `keep` stay.
pub async fn store(
    connection: &mut Connection,
    user_nid: UserNid,
    hash: &FilterHash,
    definition: &str,
    now: i64,
    keep: i64,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO filters (user_nid, filter_hash, definition, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT ON CONSTRAINT filters_pkey DO UPDATE SET created_at = excluded.created_at",
        user_nid.0,
        hash.as_slice(),
        definition.as_bytes(),
        now
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "DELETE FROM filters WHERE user_nid = $1 AND filter_hash IN (
             SELECT filter_hash FROM filters WHERE user_nid = $1
             ORDER BY created_at DESC, filter_hash = $2 DESC, filter_hash OFFSET $3)",
        user_nid.0,
        hash.as_slice(),
        keep
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The definition of a filter, JSON.
pub async fn find(
    connection: &mut Connection,
    user_nid: UserNid,
    hash: &FilterHash,
) -> Result<Option<Arc<str>>> {
    let definition = sqlx::query_scalar!(
        "SELECT definition FROM filters WHERE user_nid = $1 AND filter_hash = $2",
        user_nid.0,
        hash.as_slice()
    )
    .fetch_optional(connection)
    .await?;
    Ok(definition.map(text))
}

/// Deletes all filters of a user.
pub async fn delete_all(connection: &mut Connection, user_nid: UserNid) -> Result<()> {
    sqlx::query!("DELETE FROM filters WHERE user_nid = $1", user_nid.0)
        .execute(connection)
        .await?;
    Ok(())
}
