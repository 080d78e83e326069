//! Rooms and where each stands.

use crate::{Connection, EventNid, Result, RoomNid, StateNid};

/// A room known here.
#[derive(Debug, Clone)]
pub struct StoredRoom {
    /// Its number.
    pub room_nid: RoomNid,
    /// Its ID.
    pub room_id: String,
    /// Its version.
    pub room_version: String,
}

/// Where a room stands.
#[derive(Debug, Clone)]
pub struct StoredHead {
    /// The room.
    pub room: StoredRoom,
    /// The sequence number of its last live event.
    pub sequence: i64,
    /// Its forward extremities.
    pub forward_extremities: Vec<EventNid>,
    /// Its current state.
    pub state_nid: StateNid,
    /// That is a part of it: the rest is being asked for.
    pub is_partial: bool,
}

/// A fresh number for a room.
pub async fn next_nid(connection: &mut Connection) -> Result<RoomNid> {
    let nid = sqlx::query_scalar!(r#"SELECT nextval('room_nids') AS "n!""#)
        .fetch_one(connection)
        .await?;
    Ok(RoomNid(nid))
}

/// The room of an ID.
pub async fn by_id(connection: &mut Connection, room_id: &str) -> Result<Option<StoredRoom>> {
    let row = sqlx::query!(
        "SELECT room_nid, room_id, room_version FROM rooms WHERE room_id = $1",
        room_id
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| StoredRoom {
        room_nid: RoomNid(row.room_nid),
        room_id: row.room_id,
        room_version: row.room_version,
    }))
}

/// Says that a room, of which there is no event yet, is of another version than was thought.
pub async fn set_version(connection: &mut Connection, room_nid: RoomNid, room_version: &str) -> Result<()> {
    sqlx::query!(
        "UPDATE rooms SET room_version = $2 WHERE room_nid = $1
         AND NOT EXISTS (SELECT FROM room_heads h WHERE h.room_nid = $1 AND h.sequence > 0)",
        room_nid.0,
        room_version
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Where rooms stand, in no order.
pub async fn heads(connection: &mut Connection, room_nids: &[RoomNid]) -> Result<Vec<StoredHead>> {
    let nids: Vec<i64> = room_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        r#"SELECT r.room_nid, r.room_id, r.room_version, h.sequence, h.forward_extremities, h.state_nid,
                  EXISTS (SELECT FROM partial_rooms p WHERE p.room_nid = r.room_nid AND p.whole_at IS NULL)
                      AS "is_partial!"
           FROM rooms r JOIN room_heads h USING (room_nid) WHERE r.room_nid = ANY($1)"#,
        &nids
    )
    .fetch_all(connection)
    .await?;
    let heads = rows.into_iter().map(|row| StoredHead {
        room: StoredRoom {
            room_nid: RoomNid(row.room_nid),
            room_id: row.room_id,
            room_version: row.room_version,
        },
        sequence: row.sequence,
        forward_extremities: row.forward_extremities.into_iter().map(EventNid).collect(),
        state_nid: StateNid(row.state_nid),
        is_partial: row.is_partial,
    });
    Ok(heads.collect())
}
