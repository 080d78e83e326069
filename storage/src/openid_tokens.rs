//! The table `openid_tokens`: by what a user shows another service who they are.

use crate::{Connection, Result, UserNid, tokens::TokenHash};

/// How many void rows are cleared away when one is added. More than one, so that the table shrinks after a rush.
const CLEARED_AT_ONCE: i64 = 10;

/// Adds a token, and clears away a few that expired before `now`.
pub async fn insert(
    connection: &mut Connection,
    hash: &TokenHash,
    user_nid: UserNid,
    now: i64,
    expires_at: i64,
) -> Result<()> {
    sqlx::query!(
        "WITH void AS (
             DELETE FROM openid_tokens WHERE token_hash IN (
                 SELECT token_hash FROM openid_tokens WHERE expires_at <= $3
                 ORDER BY expires_at LIMIT $5 FOR UPDATE SKIP LOCKED
             )
         )
         INSERT INTO openid_tokens (token_hash, user_nid, expires_at) VALUES ($1, $2, $4)",
        hash.as_slice(),
        user_nid.0,
        now,
        expires_at,
        CLEARED_AT_ONCE
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The ID of the user whose token it is, unless it expired before `now` or the account was closed.
pub async fn user_of(connection: &mut Connection, hash: &TokenHash, now: i64) -> Result<Option<String>> {
    let user_id = sqlx::query_scalar!(
        "SELECT u.user_id FROM openid_tokens t JOIN accounts a USING (user_nid) JOIN users u USING (user_nid)
         WHERE t.token_hash = $1 AND t.expires_at > $2 AND a.deactivated_at IS NULL",
        hash.as_slice(),
        now
    )
    .fetch_optional(connection)
    .await?;
    Ok(user_id)
}
