//! Receipts of rooms.

use crate::{Connection, Position, Result, RoomNid, UserNid, log::Receipt, text};

/// The receipts of many rooms that took their place in the log after `since` and up to `upto`, with their positions,
/// in no order.
pub async fn of_rooms(
    connection: &mut Connection,
    room_nids: &[RoomNid],
    since: Position,
    upto: Position,
) -> Result<Vec<(Position, Receipt)>> {
    let nids: Vec<i64> = room_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        "SELECT room_nid, user_nid, receipt_type, thread, event_id, position, ts FROM receipts
         WHERE room_nid = ANY($1) AND position > $2 AND position <= $3",
        &nids,
        since.0,
        upto.0
    )
    .fetch_all(connection)
    .await?;
    let receipts = rows.into_iter().map(|row| {
        let receipt = Receipt {
            room_nid: RoomNid(row.room_nid),
            user_nid: UserNid(row.user_nid),
            receipt_type: row.receipt_type.into(),
            thread: text(row.thread),
            event_id: row.event_id.into(),
            ts: row.ts,
        };
        (Position(row.position), receipt)
    });
    Ok(receipts.collect())
}

/// One receipt.
pub async fn find(
    connection: &mut Connection,
    room_nid: RoomNid,
    user_nid: UserNid,
    receipt_type: &str,
    thread: &str,
) -> Result<Option<Receipt>> {
    let row = sqlx::query!(
        "SELECT event_id, ts FROM receipts
         WHERE room_nid = $1 AND user_nid = $2 AND receipt_type = $3 AND thread = $4",
        room_nid.0,
        user_nid.0,
        receipt_type,
        thread.as_bytes()
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Receipt {
        room_nid,
        user_nid,
        receipt_type: receipt_type.into(),
        thread: thread.into(),
        event_id: row.event_id.into(),
        ts: row.ts,
    }))
}
