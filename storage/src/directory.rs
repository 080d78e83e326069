//! The directory of published rooms, and what is counted of rooms that aren't loaded.

use crate::{Connection, Result, RoomNid};

/// A published room.
#[derive(Debug, Clone)]
pub struct PublishedRoom {
    /// Its number.
    pub room_nid: RoomNid,
    /// Its ID.
    pub room_id: String,
    /// How many users have joined it.
    pub joined: i64,
}

/// The published rooms that somebody is in, those with most joined users first, then by ID; up to `limit`.
pub async fn published(connection: &mut Connection, limit: i64) -> Result<Vec<PublishedRoom>> {
    let rows = sqlx::query!(
        r#"SELECT r.room_nid, r.room_id, count(*) AS "joined!"
           FROM rooms r JOIN memberships m ON m.room_nid = r.room_nid AND m.membership = 1
           WHERE r.published GROUP BY r.room_nid ORDER BY count(*) DESC, r.room_id COLLATE "C" LIMIT $1"#,
        limit
    )
    .fetch_all(connection)
    .await?;
    let rooms = rows.into_iter().map(|row| PublishedRoom {
        room_nid: RoomNid(row.room_nid),
        room_id: row.room_id,
        joined: row.joined,
    });
    Ok(rooms.collect())
}

/// Whether a room is published; false for one that isn't known.
pub async fn is_published(connection: &mut Connection, room_nid: RoomNid) -> Result<bool> {
    let published = sqlx::query_scalar!("SELECT published FROM rooms WHERE room_nid = $1", room_nid.0)
        .fetch_optional(connection)
        .await?;
    Ok(published.unwrap_or(false))
}

/// Publishes a room, or no longer.
pub async fn set_published(connection: &mut Connection, room_nid: RoomNid, published: bool) -> Result<()> {
    sqlx::query!(
        "UPDATE rooms SET published = $2 WHERE room_nid = $1 AND published <> $2",
        room_nid.0,
        published
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Who is in a room, counted.
#[derive(Debug, Clone, Copy)]
pub struct Occupancy {
    /// The room.
    pub room_nid: RoomNid,
    /// How many users have joined it.
    pub joined: i64,
    /// Whether one of them is of this server.
    pub has_local: bool,
}

/// The occupancy of rooms, in no order; a room that nobody is in is left out.
pub async fn occupancy(connection: &mut Connection, room_nids: &[RoomNid]) -> Result<Vec<Occupancy>> {
    let nids: Vec<i64> = room_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        r#"SELECT m.room_nid, count(*) AS "joined!", bool_or(a.user_nid IS NOT NULL) AS "has_local!"
           FROM memberships m LEFT JOIN accounts a ON a.user_nid = m.user_nid
           WHERE m.room_nid = ANY($1) AND m.membership = 1 GROUP BY m.room_nid"#,
        &nids
    )
    .fetch_all(connection)
    .await?;
    let occupancy = rows.into_iter().map(|row| Occupancy {
        room_nid: RoomNid(row.room_nid),
        joined: row.joined,
        has_local: row.has_local,
    });
    Ok(occupancy.collect())
}

/// The numbers of rooms by ID, in no order; those that aren't known are left out.
pub async fn nids(connection: &mut Connection, room_ids: &[&str]) -> Result<Vec<(String, RoomNid)>> {
    let ids: Vec<String> = room_ids.iter().map(|id| (*id).to_owned()).collect();
    let rows = sqlx::query!(
        "SELECT room_id, room_nid FROM rooms WHERE room_id = ANY($1)",
        &ids
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.room_id, RoomNid(row.room_nid)))
        .collect())
}
