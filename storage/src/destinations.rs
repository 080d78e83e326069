//! How far the log has been served to other servers, and how those do that fail.

use crate::{Connection, Position, Result};

/// A server that is behind, or that fails. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The server.
    pub server_name: String,
    /// How far in the log it has been served; nothing where it is owed nothing.
    pub behind_since: Option<Position>,
    /// Since when deliveries fail.
    pub failing_since: Option<i64>,
    /// When it is tried again.
    pub retry_at: Option<i64>,
    /// When it last took something, as far as that is remembered.
    pub last_success: Option<i64>,
    /// Failures in a row.
    pub failures: i32,
    /// Why the last delivery failed.
    pub last_error: Option<String>,
}

/// Every server that is behind, or that fails.
pub async fn all(connection: &mut Connection) -> Result<Vec<Destination>> {
    let rows = sqlx::query!(
        "SELECT server_name, behind_since, failing_since, retry_at, last_success, failures, last_error
         FROM destinations"
    )
    .fetch_all(connection)
    .await?;
    let destinations = rows.into_iter().map(|row| Destination {
        server_name: row.server_name,
        behind_since: row.behind_since.map(Position),
        failing_since: row.failing_since,
        retry_at: row.retry_at,
        last_success: row.last_success,
        failures: row.failures,
        last_error: row
            .last_error
            .map(|error| String::from_utf8_lossy(&error).into_owned()),
    });
    Ok(destinations.collect())
}

/// Stores how servers stand.
pub async fn store(connection: &mut Connection, destinations: &[Destination]) -> Result<()> {
    let names: Vec<String> = destinations.iter().map(|one| one.server_name.clone()).collect();
    let column = |of: fn(&Destination) -> Option<i64>| destinations.iter().map(of).collect::<Vec<_>>();
    let failures: Vec<i32> = destinations.iter().map(|one| one.failures).collect();
    let errors: Vec<Option<Vec<u8>>> = destinations
        .iter()
        .map(|one| one.last_error.as_ref().map(|error| error.as_bytes().to_vec()))
        .collect();
    sqlx::query!(
        "INSERT INTO destinations (server_name, behind_since, failing_since, retry_at, last_success, failures, last_error)
         SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::integer[], $7::bytea[])
         ON CONFLICT ON CONSTRAINT destinations_pkey DO UPDATE SET
             behind_since = excluded.behind_since,
             failing_since = excluded.failing_since,
             retry_at = excluded.retry_at,
             last_success = excluded.last_success,
             failures = excluded.failures,
             last_error = excluded.last_error",
        &names,
        &column(|one| one.behind_since.map(|position| position.0)) as &[Option<i64>],
        &column(|one| one.failing_since) as &[Option<i64>],
        &column(|one| one.retry_at) as &[Option<i64>],
        &column(|one| one.last_success) as &[Option<i64>],
        &failures,
        &errors as &[Option<Vec<u8>>]
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets servers that are owed nothing and do not fail: what [`served`] says holds for them.
pub async fn forget(connection: &mut Connection, server_names: &[String]) -> Result<()> {
    sqlx::query!(
        "DELETE FROM destinations WHERE server_name = ANY($1)",
        server_names
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// How far all servers without a row have been served.
pub async fn served(connection: &mut Connection) -> Result<Position> {
    let served = sqlx::query_scalar!("SELECT served FROM outbound WHERE id = 1")
        .fetch_one(connection)
        .await?;
    Ok(Position(served))
}

/// Sets [`served`].
pub async fn set_served(connection: &mut Connection, served: Position) -> Result<()> {
    sqlx::query!("UPDATE outbound SET served = $1 WHERE id = 1", served.0)
        .execute(connection)
        .await?;
    Ok(())
}
