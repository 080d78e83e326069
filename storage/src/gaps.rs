//! Where the history of rooms is missing, and what fills it.

use crate::{Connection, Result, RoomNid, event_ids};

/// A live event before which history is missing.
#[derive(Debug, Clone)]
pub struct StoredGap {
    /// The room.
    pub room_nid: RoomNid,
    /// The sequence number of the event.
    pub sequence: i64,
    /// The least `sub` given so far to an event fetched for it; 0 before the first.
    pub min_sub: i32,
    /// The events to ask for next.
    pub missing: Vec<String>,
}

/// The gaps of rooms, in no order.
pub async fn of_rooms(connection: &mut Connection, room_nids: &[RoomNid]) -> Result<Vec<StoredGap>> {
    let nids: Vec<i64> = room_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        "SELECT room_nid, sequence, min_sub, missing FROM gaps WHERE room_nid = ANY($1)",
        &nids
    )
    .fetch_all(connection)
    .await?;
    let gaps = rows.into_iter().map(|row| StoredGap {
        room_nid: RoomNid(row.room_nid),
        sequence: row.sequence,
        min_sub: row.min_sub,
        missing: row.missing.iter().map(|id| event_ids::unpack(id)).collect(),
    });
    Ok(gaps.collect())
}

/// Notes what is missing after more was fetched; a gap with nothing missing is none any more. False when somebody else
/// filled it meanwhile: then nothing is changed, and `min_sub_before` is no longer what is stored.
pub async fn move_on(connection: &mut Connection, gap: &StoredGap, min_sub_before: i32) -> Result<bool> {
    let missing: Vec<Vec<u8>> = gap.missing.iter().map(|id| event_ids::pack(id)).collect();
    let moved = if missing.is_empty() {
        sqlx::query!(
            "DELETE FROM gaps WHERE room_nid = $1 AND sequence = $2 AND min_sub = $3",
            gap.room_nid.0,
            gap.sequence,
            min_sub_before
        )
        .execute(connection)
        .await?
    } else {
        sqlx::query!(
            "UPDATE gaps SET min_sub = $4, missing = $5 WHERE room_nid = $1 AND sequence = $2 AND min_sub = $3",
            gap.room_nid.0,
            gap.sequence,
            min_sub_before,
            gap.min_sub,
            &missing
        )
        .execute(connection)
        .await?
    };
    Ok(moved.rows_affected() == 1)
}
