//! Interned user IDs.

use crate::{Connection, Result, StorageError, UserNid};

/// The number of `user_id`, given now if it has none.
pub async fn intern(connection: &mut Connection, user_id: &str) -> Result<UserNid> {
    if let Some(user_nid) = find(connection, user_id).await? {
        return Ok(user_nid);
    }
    // An update that changes nothing would make RETURNING answer when another transaction was first, but its lock would
    // hold up the committer, whose rows refer to this one, for as long as this transaction goes on.
    sqlx::query!(
        "INSERT INTO users (user_id) VALUES ($1) ON CONFLICT ON CONSTRAINT users_user_id_key DO NOTHING",
        user_id
    )
    .execute(&mut *connection)
    .await?;
    find(connection, user_id)
        .await?
        .ok_or_else(|| StorageError::Damaged(format!("{user_id} has no number")))
}

/// The number of `user_id`, if it has one.
pub async fn find(connection: &mut Connection, user_id: &str) -> Result<Option<UserNid>> {
    let row = sqlx::query!("SELECT user_nid FROM users WHERE user_id = $1", user_id)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|row| UserNid(row.user_nid)))
}

/// The numbers of those of some users that have one, with their IDs, in no order.
pub async fn find_many(connection: &mut Connection, user_ids: &[&str]) -> Result<Vec<(UserNid, String)>> {
    let ids: Vec<String> = user_ids.iter().map(|id| (*id).to_owned()).collect();
    let rows = sqlx::query!(
        "SELECT user_nid, user_id FROM users WHERE user_id = ANY($1)",
        &ids
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (UserNid(row.user_nid), row.user_id))
        .collect())
}

/// The user IDs of `user_nids`, in no order.
pub async fn by_nids(connection: &mut Connection, user_nids: &[UserNid]) -> Result<Vec<(UserNid, String)>> {
    let nids: Vec<i64> = user_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        "SELECT user_nid, user_id FROM users WHERE user_nid = ANY($1)",
        &nids
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (UserNid(row.user_nid), row.user_id))
        .collect())
}

/// The numbers of users, given now to those that have none, in their order.
pub async fn intern_many(connection: &mut Connection, user_ids: &[&str]) -> Result<Vec<UserNid>> {
    let ids: Vec<String> = user_ids.iter().map(|id| (*id).to_owned()).collect();
    sqlx::query!(
        "INSERT INTO users (user_id) SELECT DISTINCT n.user_id FROM unnest($1::text[]) AS n (user_id)
         WHERE NOT EXISTS (SELECT FROM users u WHERE u.user_id = n.user_id) ORDER BY n.user_id
         ON CONFLICT ON CONSTRAINT users_user_id_key DO NOTHING",
        &ids
    )
    .execute(&mut *connection)
    .await?;
    let nids = sqlx::query_scalar!(
        r#"SELECT u.user_nid AS "user_nid!" FROM unnest($1::text[]) WITH ORDINALITY AS n (user_id, place)
           JOIN users u USING (user_id) ORDER BY n.place"#,
        &ids
    )
    .fetch_all(connection)
    .await?;
    Ok(nids.into_iter().map(UserNid).collect())
}
