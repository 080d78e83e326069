//! Profiles of this server's users, and which of them are yet to be told to rooms.

use std::sync::Arc;

use crate::{Connection, Result, UserNid, text};

/// Keeps others from changing the profile of a user until the transaction ends.
pub async fn lock(connection: &mut Connection, user_nid: UserNid) -> Result<()> {
    // The weakest lock that excludes itself: rows that refer to the user are not held up.
    sqlx::query!(
        "SELECT user_nid FROM users WHERE user_nid = $1 FOR NO KEY UPDATE",
        user_nid.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(())
}

/// The fields of a user's profile and their values, JSON, sorted by name.
pub async fn fields(connection: &mut Connection, user_nid: UserNid) -> Result<Vec<(String, Arc<str>)>> {
    let rows = sqlx::query!(
        r#"SELECT field, value FROM profile_fields WHERE user_nid = $1 ORDER BY field COLLATE "C""#,
        user_nid.0
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.field, text(row.value))).collect())
}

/// The value of one field, JSON.
pub async fn field(connection: &mut Connection, user_nid: UserNid, field: &str) -> Result<Option<Arc<str>>> {
    let value = sqlx::query_scalar!(
        "SELECT value FROM profile_fields WHERE user_nid = $1 AND field = $2",
        user_nid.0,
        field
    )
    .fetch_optional(connection)
    .await?;
    Ok(value.map(text))
}

/// The display name and the avatar, JSON.
pub async fn name_and_avatar(
    connection: &mut Connection,
    user_nid: UserNid,
) -> Result<(Option<Arc<str>>, Option<Arc<str>>)> {
    let rows = sqlx::query!(
        "SELECT field, value FROM profile_fields WHERE user_nid = $1 AND field IN ('displayname', 'avatar_url')",
        user_nid.0
    )
    .fetch_all(connection)
    .await?;
    let mut found = (None, None);
    for row in rows {
        match row.field.as_str() {
            "displayname" => found.0 = Some(text(row.value)),
            _ => found.1 = Some(text(row.value)),
        }
    }
    Ok(found)
}

/// Sets a field to a value, JSON.
pub async fn set_field(
    connection: &mut Connection,
    user_nid: UserNid,
    field: &str,
    value: &str,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO profile_fields (user_nid, field, value) VALUES ($1, $2, $3)
         ON CONFLICT ON CONSTRAINT profile_fields_pkey DO UPDATE SET value = excluded.value",
        user_nid.0,
        field,
        value.as_bytes()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes a field; the answer is whether there was one.
pub async fn delete_field(connection: &mut Connection, user_nid: UserNid, field: &str) -> Result<bool> {
    let done = sqlx::query!(
        "DELETE FROM profile_fields WHERE user_nid = $1 AND field = $2",
        user_nid.0,
        field
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Notes that a user's rooms are to be told of a change.
pub async fn note_propagation(connection: &mut Connection, user_nid: UserNid) -> Result<()> {
    sqlx::query!(
        "INSERT INTO profile_propagations (user_nid, version) VALUES ($1, nextval('profile_versions'))
         ON CONFLICT ON CONSTRAINT profile_propagations_pkey DO UPDATE SET version = excluded.version",
        user_nid.0
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The version of what a user's rooms are to be told; nothing when they have been told all.
pub async fn propagation(connection: &mut Connection, user_nid: UserNid) -> Result<Option<i64>> {
    let version = sqlx::query_scalar!(
        "SELECT version FROM profile_propagations WHERE user_nid = $1",
        user_nid.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(version)
}

/// The users whose rooms are yet to be told something.
pub async fn propagations(connection: &mut Connection) -> Result<Vec<UserNid>> {
    let nids = sqlx::query_scalar!("SELECT user_nid FROM profile_propagations")
        .fetch_all(connection)
        .await?;
    Ok(nids.into_iter().map(UserNid).collect())
}

/// Notes that a user's rooms have been told everything up to `version`. `false`: there was a later change.
pub async fn propagated(connection: &mut Connection, user_nid: UserNid, version: i64) -> Result<bool> {
    let done = sqlx::query!(
        "DELETE FROM profile_propagations WHERE user_nid = $1 AND version = $2",
        user_nid.0,
        version
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Deletes all that a user said of themselves; their rooms are not told of it.
pub async fn delete_all(connection: &mut Connection, user_nid: UserNid) -> Result<()> {
    sqlx::query!(
        "WITH propagations AS (DELETE FROM profile_propagations WHERE user_nid = $1)
         DELETE FROM profile_fields WHERE user_nid = $1",
        user_nid.0
    )
    .execute(connection)
    .await?;
    Ok(())
}
