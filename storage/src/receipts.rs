//! Receipts of rooms.

use std::{collections::HashMap, sync::Arc};

use crate::{Connection, Position, Result, RoomNid, UserNid, event_ids, log::Receipt, text};

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

/// What a receipt of a type that stands for a part of a room's order stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The room.
    pub room_nid: RoomNid,
    /// Whose it is.
    pub user_nid: UserNid,
    /// The first event, and its sequence number.
    pub first: (Arc<str>, i64),
    /// The last event, and its sequence number.
    pub last: (Arc<str>, i64),
}

/// What the receipts of a type stand for of some users, each in a room; in no order. One whose events are not here is
/// passed over.
pub async fn stretches(
    connection: &mut Connection,
    receipt_type: &str,
    users: &[(RoomNid, UserNid)],
) -> Result<Vec<Stretch>> {
    let rooms: Vec<i64> = users.iter().map(|(room_nid, _)| room_nid.0).collect();
    let nids: Vec<i64> = users.iter().map(|(_, user_nid)| user_nid.0).collect();
    let rows = sqlx::query!(
        "SELECT r.room_nid, r.user_nid, r.thread, r.event_id FROM receipts r
         JOIN unnest($1::bigint[], $2::bigint[]) AS wanted (room_nid, user_nid) USING (room_nid, user_nid)
         WHERE r.receipt_type = $3",
        &rooms,
        &nids,
        receipt_type
    )
    .fetch_all(&mut *connection)
    .await?;
    let ends = rows.iter().flat_map(|row| {
        let first = String::from_utf8_lossy(&row.thread).into_owned();
        [first, row.event_id.clone()]
    });
    let ends: Vec<String> = ends.collect();
    let sequences = sequences(connection, ends.iter().map(String::as_str)).await?;
    let stretches = rows.into_iter().filter_map(|row| {
        let end = |event_id: Arc<str>| {
            let (room_nid, sequence) = *sequences.get(&*event_id)?;
            (room_nid.0 == row.room_nid).then_some((event_id, sequence))
        };
        Some(Stretch {
            room_nid: RoomNid(row.room_nid),
            user_nid: UserNid(row.user_nid),
            first: end(text(row.thread))?,
            last: end(row.event_id.as_str().into())?,
        })
    });
    Ok(stretches.collect())
}

/// The rooms and sequence numbers of events, by their IDs, as far as they have a place in a room.
pub async fn sequences<'a>(
    connection: &mut Connection,
    event_ids: impl IntoIterator<Item = &'a str>,
) -> Result<HashMap<String, (RoomNid, i64)>> {
    let packed: Vec<Vec<u8>> = event_ids.into_iter().map(event_ids::pack).collect();
    if packed.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"SELECT event_id, room_nid, sequence AS "sequence!" FROM events
           WHERE event_id = ANY($1) AND sequence IS NOT NULL"#,
        &packed
    )
    .fetch_all(connection)
    .await?;
    let sequences = rows.into_iter().map(|row| {
        let place = (RoomNid(row.room_nid), row.sequence);
        (event_ids::unpack(&row.event_id), place)
    });
    Ok(sequences.collect())
}

/// The receipts of a room, of some types, that took their place in the log after `since`: the newest `limit`, newest
/// first.
pub async fn of_room_since(
    connection: &mut Connection,
    room_nid: RoomNid,
    receipt_types: &[&str],
    since: Position,
    limit: i64,
) -> Result<Vec<Receipt>> {
    let receipt_types: Vec<String> = receipt_types.iter().map(|name| (*name).to_owned()).collect();
    let rows = sqlx::query!(
        "SELECT user_nid, receipt_type, thread, event_id, ts FROM receipts
         WHERE room_nid = $1 AND receipt_type = ANY($2) AND position > $3 ORDER BY position DESC LIMIT $4",
        room_nid.0,
        &receipt_types,
        since.0,
        limit
    )
    .fetch_all(connection)
    .await?;
    let receipts = rows.into_iter().map(|row| Receipt {
        room_nid,
        user_nid: UserNid(row.user_nid),
        receipt_type: row.receipt_type.into(),
        thread: text(row.thread),
        event_id: row.event_id.into(),
        ts: row.ts,
    });
    Ok(receipts.collect())
}

/// Deletes a user's receipts of a type in a room, but for the `kept` that moved last. Nobody is told: others stand for
/// what they stood for, or nobody needs them any more.
pub async fn thin_out(
    connection: &mut Connection,
    room_nid: RoomNid,
    user_nid: UserNid,
    receipt_type: &str,
    kept: i64,
) -> Result<()> {
    sqlx::query!(
        "DELETE FROM receipts WHERE room_nid = $1 AND user_nid = $2 AND receipt_type = $3 AND thread IN (
             SELECT thread FROM receipts WHERE room_nid = $1 AND user_nid = $2 AND receipt_type = $3
             ORDER BY position DESC OFFSET $4)",
        room_nid.0,
        user_nid.0,
        receipt_type,
        kept
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes a user's receipts of a type in a room, but for those of some threads. Nobody is told, as by [`thin_out`].
pub async fn keep_threads(
    connection: &mut Connection,
    room_nid: RoomNid,
    user_nid: UserNid,
    receipt_type: &str,
    threads: &[&str],
) -> Result<()> {
    let threads: Vec<Vec<u8>> = threads.iter().map(|thread| thread.as_bytes().to_vec()).collect();
    sqlx::query!(
        "DELETE FROM receipts
         WHERE room_nid = $1 AND user_nid = $2 AND receipt_type = $3 AND thread <> ALL($4)",
        room_nid.0,
        user_nid.0,
        receipt_type,
        &threads
    )
    .execute(connection)
    .await?;
    Ok(())
}
