//! The table `presence`: when users were last seen, and what they say of themselves. And who shares rooms with whom.

use std::sync::Arc;

use crate::{Connection, Result, RoomNid, UserNid, text};

/// What is kept of a user's presence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastSeen {
    /// Whose it is.
    pub user_nid: UserNid,
    /// When they were last seen, in milliseconds since the Unix epoch.
    pub last_active_at: i64,
    /// What they say of themselves.
    pub status_msg: Option<Arc<str>>,
    /// They were not offline.
    pub is_present: bool,
}

/// What is kept of some users, in no order.
pub async fn of_users(connection: &mut Connection, user_nids: &[UserNid]) -> Result<Vec<LastSeen>> {
    let nids: Vec<i64> = user_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        "SELECT user_nid, last_active_at, status_msg, is_present FROM presence WHERE user_nid = ANY($1)",
        &nids
    )
    .fetch_all(connection)
    .await?;
    let kept = rows.into_iter().map(|row| LastSeen {
        user_nid: UserNid(row.user_nid),
        last_active_at: row.last_active_at,
        status_msg: row.status_msg.map(text),
        is_present: row.is_present,
    });
    Ok(kept.collect())
}

/// The users who were not offline when the server ended; the `limit` seen last.
pub async fn present(connection: &mut Connection, limit: i64) -> Result<Vec<LastSeen>> {
    let rows = sqlx::query!(
        "SELECT user_nid, last_active_at, status_msg FROM presence WHERE is_present
         ORDER BY last_active_at DESC LIMIT $1",
        limit
    )
    .fetch_all(connection)
    .await?;
    let kept = rows.into_iter().map(|row| LastSeen {
        user_nid: UserNid(row.user_nid),
        last_active_at: row.last_active_at,
        status_msg: row.status_msg.map(text),
        is_present: true,
    });
    Ok(kept.collect())
}

/// Keeps the presence of users, each named once.
pub async fn store(connection: &mut Connection, kept: &[LastSeen]) -> Result<()> {
    let nids: Vec<i64> = kept.iter().map(|one| one.user_nid.0).collect();
    let active: Vec<i64> = kept.iter().map(|one| one.last_active_at).collect();
    let status: Vec<Option<Vec<u8>>> = kept
        .iter()
        .map(|one| one.status_msg.as_ref().map(|status| status.as_bytes().to_vec()))
        .collect();
    let present: Vec<bool> = kept.iter().map(|one| one.is_present).collect();
    sqlx::query!(
        "INSERT INTO presence (user_nid, last_active_at, status_msg, is_present)
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::boolean[]) AS kept (user_nid)
         ORDER BY user_nid
         ON CONFLICT ON CONSTRAINT presence_pkey DO UPDATE SET last_active_at = excluded.last_active_at,
             status_msg = excluded.status_msg, is_present = excluded.is_present",
        &nids,
        &active,
        &status as &[Option<Vec<u8>>],
        &present
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets a user.
pub async fn delete(connection: &mut Connection, user_nid: UserNid) -> Result<()> {
    sqlx::query!("DELETE FROM presence WHERE user_nid = $1", user_nid.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// The rooms that some users are in, in no order.
pub async fn rooms_of(connection: &mut Connection, user_nids: &[UserNid]) -> Result<Vec<(UserNid, RoomNid)>> {
    let nids: Vec<i64> = user_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        "SELECT user_nid, room_nid FROM memberships WHERE user_nid = ANY($1) AND membership = 1",
        &nids
    )
    .fetch_all(connection)
    .await?;
    let rooms = rows
        .into_iter()
        .map(|row| (UserNid(row.user_nid), RoomNid(row.room_nid)));
    Ok(rooms.collect())
}

/// Those of some users who are in a room.
pub async fn among(
    connection: &mut Connection,
    room_nid: RoomNid,
    user_nids: &[UserNid],
) -> Result<Vec<UserNid>> {
    let nids: Vec<i64> = user_nids.iter().map(|nid| nid.0).collect();
    let nids = sqlx::query_scalar!(
        "SELECT user_nid FROM memberships WHERE room_nid = $1 AND user_nid = ANY($2) AND membership = 1",
        room_nid.0,
        &nids
    )
    .fetch_all(connection)
    .await?;
    Ok(nids.into_iter().map(UserNid).collect())
}

/// Whether two users are in a room together.
pub async fn share_a_room(connection: &mut Connection, one: UserNid, other: UserNid) -> Result<bool> {
    let shares = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM memberships a JOIN memberships b USING (room_nid)
               WHERE a.user_nid = $1 AND a.membership = 1 AND b.user_nid = $2 AND b.membership = 1
           ) AS "shares!""#,
        one.0,
        other.0
    )
    .fetch_one(connection)
    .await?;
    Ok(shares)
}
