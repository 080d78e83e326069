//! The tables `remote_device_lists` and `remote_devices`: what is known of the devices of other servers' users.

use std::sync::Arc;

use crate::{Connection, Position, Result, UserNid, text};

/// What is known of a user's list as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// The user.
    pub user_nid: UserNid,
    /// How new it is, as the user's server numbers it; nothing where it did not say.
    pub stream_id: Option<i64>,
    /// Where the log was when it was asked for.
    pub position: Position,
    /// Counts what the user's server told by itself.
    pub revision: i64,
    /// It is known to be out of date.
    pub is_stale: bool,
    /// How often asking for it anew failed in a row.
    pub failures: i32,
}

/// A device of another server's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteDevice {
    /// The user.
    pub user_nid: UserNid,
    /// Its ID.
    pub device_id: Arc<str>,
    /// The device key object, JSON.
    pub keys: Arc<str>,
    /// The name that its server tells.
    pub display_name: Option<Arc<str>>,
}

/// What is known of the lists of users. Locks nothing.
pub async fn lists(connection: &mut Connection, user_nids: &[UserNid]) -> Result<Vec<List>> {
    let nids: Vec<i64> = user_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        r#"SELECT user_nid, stream_id, position, revision, stale_since IS NOT NULL AS "is_stale!", failures
           FROM remote_device_lists WHERE user_nid = ANY($1)"#,
        &nids
    )
    .fetch_all(connection)
    .await?;
    let lists = rows.into_iter().map(|row| List {
        user_nid: UserNid(row.user_nid),
        stream_id: row.stream_id,
        position: Position(row.position),
        revision: row.revision,
        is_stale: row.is_stale,
        failures: row.failures,
    });
    Ok(lists.collect())
}

/// The list of a user, locked until the transaction ends, and made as one that is out of date if there is none.
pub async fn lock(
    connection: &mut Connection,
    user_nid: UserNid,
    position: Position,
    now: i64,
) -> Result<List> {
    let row = sqlx::query!(
        r#"INSERT INTO remote_device_lists AS old (user_nid, position, stale_since, retry_at) VALUES ($1, $2, $3, $3)
           ON CONFLICT ON CONSTRAINT remote_device_lists_pkey DO UPDATE SET revision = old.revision + 1
           RETURNING stream_id, position, revision, stale_since IS NOT NULL AS "is_stale!", failures"#,
        user_nid.0,
        position.0,
        now
    )
    .fetch_one(connection)
    .await?;
    Ok(List {
        user_nid,
        stream_id: row.stream_id,
        position: Position(row.position),
        revision: row.revision,
        is_stale: row.is_stale,
        failures: row.failures,
    })
}

/// Takes a list that is locked to be as new as `stream_id`.
pub async fn set_stream_id(connection: &mut Connection, user_nid: UserNid, stream_id: i64) -> Result<()> {
    sqlx::query!(
        "UPDATE remote_device_lists SET stream_id = $2 WHERE user_nid = $1",
        user_nid.0,
        stream_id
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes a list to be out of date.
pub async fn mark_stale(connection: &mut Connection, user_nid: UserNid, now: i64) -> Result<()> {
    sqlx::query!(
        "UPDATE remote_device_lists SET stale_since = coalesce(stale_since, $2), retry_at = coalesce(retry_at, $2)
         WHERE user_nid = $1",
        user_nid.0,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes asking for a list to have failed: it is tried again at `retry_at`, milliseconds.
pub async fn mark_failed(connection: &mut Connection, user_nid: UserNid, retry_at: i64) -> Result<()> {
    sqlx::query!(
        "UPDATE remote_device_lists SET failures = failures + 1, retry_at = $2
         WHERE user_nid = $1 AND stale_since IS NOT NULL",
        user_nid.0,
        retry_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Begins the list of a user that was asked for when the log was at `position`. False if what is known is not
/// `before` any more: then it changed while it was asked for, and what came is not stored.
pub async fn begin(
    connection: &mut Connection,
    user_nid: UserNid,
    before: Option<i64>,
    (stream_id, position): (Option<i64>, Position),
) -> Result<bool> {
    let done = match before {
        None => {
            sqlx::query!(
                "INSERT INTO remote_device_lists (user_nid, stream_id, position) VALUES ($1, $2, $3)
                 ON CONFLICT ON CONSTRAINT remote_device_lists_pkey DO NOTHING",
                user_nid.0,
                stream_id,
                position.0
            )
            .execute(&mut *connection)
            .await?
        }
        Some(revision) => {
            sqlx::query!(
            "UPDATE remote_device_lists SET stream_id = $3, position = $4, stale_since = NULL, failures = 0,
                     retry_at = NULL, revision = revision + 1
                 WHERE user_nid = $1 AND revision = $2",
            user_nid.0,
            revision,
            stream_id,
            position.0
        )
            .execute(&mut *connection)
            .await?
        }
    };
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query!("DELETE FROM remote_devices WHERE user_nid = $1", user_nid.0)
        .execute(connection)
        .await?;
    Ok(true)
}

/// Forgets the list of a user.
pub async fn forget(connection: &mut Connection, user_nid: UserNid) -> Result<()> {
    sqlx::query!("DELETE FROM remote_devices WHERE user_nid = $1", user_nid.0)
        .execute(&mut *connection)
        .await?;
    sqlx::query!("DELETE FROM remote_device_lists WHERE user_nid = $1", user_nid.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// Stores devices of users whose lists are locked.
pub async fn set(connection: &mut Connection, devices: &[RemoteDevice]) -> Result<()> {
    let user_nids: Vec<i64> = devices.iter().map(|device| device.user_nid.0).collect();
    let device_ids: Vec<&[u8]> = devices.iter().map(|device| device.device_id.as_bytes()).collect();
    let keys: Vec<&[u8]> = devices.iter().map(|device| device.keys.as_bytes()).collect();
    let names: Vec<Option<&[u8]>> = devices
        .iter()
        .map(|device| device.display_name.as_ref().map(|name| name.as_bytes()))
        .collect();
    sqlx::query!(
        "INSERT INTO remote_devices (user_nid, device_id, keys, display_name)
         SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bytea[])
         ON CONFLICT ON CONSTRAINT remote_devices_pkey DO UPDATE SET keys = excluded.keys,
             display_name = excluded.display_name",
        &user_nids,
        &device_ids as &[&[u8]],
        &keys as &[&[u8]],
        &names as &[Option<&[u8]>]
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// How many devices of a user are known.
pub async fn count(connection: &mut Connection, user_nid: UserNid) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM remote_devices WHERE user_nid = $1"#,
        user_nid.0
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// Drops a device of a user whose list is locked.
pub async fn delete(connection: &mut Connection, user_nid: UserNid, device_id: &str) -> Result<()> {
    sqlx::query!(
        "DELETE FROM remote_devices WHERE user_nid = $1 AND device_id = $2",
        user_nid.0,
        device_id.as_bytes()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The devices of users, by their IDs.
pub async fn of_users(connection: &mut Connection, user_nids: &[UserNid]) -> Result<Vec<RemoteDevice>> {
    let nids: Vec<i64> = user_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        "SELECT user_nid, device_id, keys, display_name FROM remote_devices WHERE user_nid = ANY($1)
         ORDER BY user_nid, device_id",
        &nids
    )
    .fetch_all(connection)
    .await?;
    let devices = rows.into_iter().map(|row| RemoteDevice {
        user_nid: UserNid(row.user_nid),
        device_id: text(row.device_id),
        keys: text(row.keys),
        display_name: row.display_name.map(text),
    });
    Ok(devices.collect())
}

/// Since when each of these users, if now, has shared a room with a user of this server without a break.
pub async fn shared_since(
    connection: &mut Connection,
    user_nids: &[UserNid],
) -> Result<Vec<(UserNid, Position)>> {
    let nids: Vec<i64> = user_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        r#"WITH theirs AS MATERIALIZED (
               SELECT user_nid, room_nid, coalesce(joined_at, position) AS since FROM memberships
               WHERE user_nid = ANY($1) AND membership = 1
           ), ours AS (
               SELECT m.room_nid, min(coalesce(m.joined_at, m.position)) AS since
               FROM memberships m JOIN accounts USING (user_nid)
               WHERE m.membership = 1 AND m.room_nid IN (SELECT room_nid FROM theirs) GROUP BY m.room_nid
           )
           SELECT theirs.user_nid AS "user_nid!", min(greatest(theirs.since, ours.since)) AS "since!"
           FROM theirs JOIN ours USING (room_nid) GROUP BY theirs.user_nid"#,
        &nids
    )
    .fetch_all(connection)
    .await?;
    let users = rows
        .into_iter()
        .map(|row| (UserNid(row.user_nid), Position(row.since)));
    Ok(users.collect())
}

/// The lists that are out of date and due to be asked for, those that have waited longest first: user, their ID, and
/// how often it failed.
pub async fn due(connection: &mut Connection, now: i64, limit: i64) -> Result<Vec<(UserNid, String, i32)>> {
    let rows = sqlx::query!(
        "SELECT l.user_nid, u.user_id, l.failures FROM remote_device_lists l JOIN users u USING (user_nid)
         WHERE l.stale_since IS NOT NULL AND l.retry_at <= $1 ORDER BY l.retry_at LIMIT $2",
        now,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (UserNid(row.user_nid), row.user_id, row.failures))
        .collect())
}
