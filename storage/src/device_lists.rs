//! The tables `device_list_changes`, which the committer fills, and `pending_device_list_changes`: that devices and
//! cross-signing keys changed.

use std::sync::Arc;

use crate::{Connection, Position, Result, UserNid, log::DeviceListChange};

/// Notes in the transaction that changes keys that the log is to tell of it.
pub async fn announce(
    connection: &mut Connection,
    user_nid: UserNid,
    device_id: &str,
    only_for: Option<UserNid>,
    now: i64,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO pending_device_list_changes (user_nid, only_for, created_at, device_id)
         VALUES ($1, $2, $3, $4)",
        user_nid.0,
        only_for.map_or(0, |nid| nid.0),
        now,
        device_id
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What the log is to tell of and does not yet, of one user or of all, the oldest first.
pub async fn pending(
    connection: &mut Connection,
    user_nid: Option<UserNid>,
    limit: i64,
) -> Result<Vec<DeviceListChange>> {
    let rows = sqlx::query!(
        "SELECT pending_nid, user_nid, only_for, device_id FROM pending_device_list_changes
         WHERE $1::bigint IS NULL OR user_nid = $1 ORDER BY pending_nid LIMIT $2",
        user_nid.map(|nid| nid.0),
        limit
    )
    .fetch_all(connection)
    .await?;
    let changes = rows.into_iter().map(|row| DeviceListChange {
        user_nid: UserNid(row.user_nid),
        device_id: row.device_id.into(),
        only_for: (row.only_for != 0).then_some(UserNid(row.only_for)),
        pending: vec![row.pending_nid],
    });
    Ok(changes.collect())
}

/// The users whose keys changed after `since` up to `upto` and who share a room with `viewer`, who counts as well.
pub async fn changed_for(
    connection: &mut Connection,
    viewer: UserNid,
    since: Position,
    upto: Position,
) -> Result<Vec<UserNid>> {
    let nids = sqlx::query_scalar!(
        "SELECT DISTINCT c.user_nid FROM device_list_changes c
         WHERE c.position > $2 AND c.position <= $3 AND (c.only_for = $1
             OR c.only_for = 0 AND (c.user_nid = $1 OR EXISTS (
                 SELECT FROM memberships mine JOIN memberships theirs USING (room_nid)
                 WHERE mine.user_nid = $1 AND mine.membership = 1
                   AND theirs.user_nid = c.user_nid AND theirs.membership = 1)))",
        viewer.0,
        since.0,
        upto.0
    )
    .fetch_all(connection)
    .await?;
    Ok(nids.into_iter().map(UserNid).collect())
}

/// The position of the last change of a device of a user: the version of the list, as other servers know it.
pub async fn version(connection: &mut Connection, user_nid: UserNid) -> Result<Position> {
    let position = sqlx::query_scalar!(
        "SELECT max(position) FROM device_list_changes WHERE user_nid = $1 AND device_id <> '' AND only_for = 0",
        user_nid.0
    )
    .fetch_one(connection)
    .await?;
    Ok(Position(position.unwrap_or(0)))
}

/// A change that other servers are to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingChange {
    /// Its position.
    pub position: Position,
    /// The user.
    pub user_nid: UserNid,
    /// The device; empty for cross-signing keys.
    pub device_id: Arc<str>,
}

/// The changes after `after` up to `upto` of users of `server`, this one, in order; of all, or of those who share a room
/// with a user of another.
pub async fn outgoing(
    connection: &mut Connection,
    server: &str,
    sharing_with: Option<&str>,
    (after, upto): (Position, Position),
) -> Result<Vec<OutgoingChange>> {
    let rows = sqlx::query!(
        "WITH shared AS MATERIALIZED (
             SELECT DISTINCT m.room_nid FROM users u JOIN memberships m USING (user_nid)
             WHERE server_of(u.user_id) = $2 AND m.membership = 1
         )
         SELECT c.position, c.user_nid, c.device_id FROM device_list_changes c JOIN users u USING (user_nid)
         WHERE c.position > $3 AND c.position <= $4 AND c.only_for = 0 AND server_of(u.user_id) = $1
           AND ($2::text IS NULL OR EXISTS (SELECT FROM memberships m JOIN shared USING (room_nid)
                                            WHERE m.user_nid = c.user_nid AND m.membership = 1))
         ORDER BY c.position",
        server,
        sharing_with,
        after.0,
        upto.0
    )
    .fetch_all(connection)
    .await?;
    let changes = rows.into_iter().map(|row| OutgoingChange {
        position: Position(row.position),
        user_nid: UserNid(row.user_nid),
        device_id: row.device_id.into(),
    });
    Ok(changes.collect())
}

/// The last change of a device, or of the cross-signing keys, of a user.
#[derive(Debug, Clone)]
pub struct LastChange {
    /// The user.
    pub user_nid: UserNid,
    /// The device; empty for cross-signing keys.
    pub device_id: Arc<str>,
    /// Its position.
    pub position: Position,
    /// The position of the change of any of the user's devices before it.
    pub previous: Option<Position>,
}

/// The last change of each of these.
pub async fn last_changes(
    connection: &mut Connection,
    of: &[(UserNid, Arc<str>)],
) -> Result<Vec<LastChange>> {
    let user_nids: Vec<i64> = of.iter().map(|(user_nid, _)| user_nid.0).collect();
    let device_ids: Vec<&str> = of.iter().map(|(_, device_id)| &**device_id).collect();
    let rows = sqlx::query!(
        "SELECT c.user_nid, c.device_id, c.position, c.previous
         FROM unnest($1::bigint[], $2::text[]) AS wanted (user_nid, device_id)
         JOIN device_list_changes c USING (user_nid, device_id) WHERE c.only_for = 0",
        &user_nids,
        &device_ids as &[&str]
    )
    .fetch_all(connection)
    .await?;
    let changes = rows.into_iter().map(|row| LastChange {
        user_nid: UserNid(row.user_nid),
        device_id: row.device_id.into(),
        position: Position(row.position),
        previous: row.previous.map(Position),
    });
    Ok(changes.collect())
}
