//! The table `uia_sessions`: user-interactive authentications under way.

use crate::{Connection, Result};

/// How many void rows are cleared away when one is added. More than one, so that the table shrinks after a rush.
const CLEARED_AT_ONCE: i64 = 10;

/// A stored session.
#[derive(Debug, Clone)]
pub struct UiaSession {
    /// SHA-256 of what is being authorised.
    pub operation: Vec<u8>,
    /// The stages completed so far, in order.
    pub completed: Vec<String>,
}

/// Adds a session without completed stages, and clears away a few that expired before `now`.
pub async fn insert(
    connection: &mut Connection,
    session_hash: &[u8; 32],
    operation: &[u8; 32],
    now: i64,
    expires_at: i64,
) -> Result<()> {
    sqlx::query!(
        "WITH void AS (
             DELETE FROM uia_sessions WHERE session_hash IN (
                 SELECT session_hash FROM uia_sessions WHERE expires_at <= $3
                 ORDER BY expires_at LIMIT $5 FOR UPDATE SKIP LOCKED
             )
         )
         INSERT INTO uia_sessions (session_hash, operation, completed, failures, expires_at)
         VALUES ($1, $2, '{}', 0, $4)",
        session_hash.as_slice(),
        operation.as_slice(),
        now,
        expires_at,
        CLEARED_AT_ONCE
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The session with this hash, unless it expired before `now`.
pub async fn find(
    connection: &mut Connection,
    session_hash: &[u8; 32],
    now: i64,
) -> Result<Option<UiaSession>> {
    let session = sqlx::query_as!(
        UiaSession,
        "SELECT operation, completed FROM uia_sessions WHERE session_hash = $1 AND expires_at > $2",
        session_hash.as_slice(),
        now
    )
    .fetch_optional(connection)
    .await?;
    Ok(session)
}

/// Adds a completed stage, once, and gives the completed stages. `None`: the session is gone.
pub async fn complete(
    connection: &mut Connection,
    session_hash: &[u8; 32],
    stage: &str,
) -> Result<Option<Vec<String>>> {
    let completed = sqlx::query_scalar!(
        "UPDATE uia_sessions
         SET completed = CASE WHEN $2 = ANY(completed) THEN completed ELSE array_append(completed, $2) END
         WHERE session_hash = $1 RETURNING completed",
        session_hash.as_slice(),
        stage
    )
    .fetch_optional(connection)
    .await?;
    Ok(completed)
}

/// Counts a failed attempt, and gives their number. `None`: the session is gone.
pub async fn count_failure(connection: &mut Connection, session_hash: &[u8; 32]) -> Result<Option<i32>> {
    let failures = sqlx::query_scalar!(
        "UPDATE uia_sessions SET failures = failures + 1 WHERE session_hash = $1 RETURNING failures",
        session_hash.as_slice()
    )
    .fetch_optional(connection)
    .await?;
    Ok(failures)
}

/// Deletes a session. `false`: it was gone.
pub async fn delete(connection: &mut Connection, session_hash: &[u8; 32]) -> Result<bool> {
    let done = sqlx::query!(
        "DELETE FROM uia_sessions WHERE session_hash = $1",
        session_hash.as_slice()
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
