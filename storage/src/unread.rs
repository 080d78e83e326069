//! What is needed to tell how much of many rooms a user has not read: receipts, and events after them.

use std::collections::HashMap;

use crate::{Connection, EventNid, Position, Result, RoomNid, UserNid, event_ids, text};

/// How far a user has read in a room, or in a thread of it.
#[derive(Debug, Clone)]
pub struct Mark {
    /// The room.
    pub room_nid: RoomNid,
    /// The thread, as in receipts: empty for the whole room.
    pub thread: String,
    /// The sequence number of the event that was read last.
    pub sequence: i64,
}

/// The marks of a user's receipts of `receipt_types` in rooms, in no order. A receipt for an event that isn't here is
/// none.
pub async fn marks(
    connection: &mut Connection,
    user_nid: UserNid,
    room_nids: &[RoomNid],
    receipt_types: &[&str],
) -> Result<Vec<Mark>> {
    let nids: Vec<i64> = room_nids.iter().map(|nid| nid.0).collect();
    let receipt_types: Vec<String> = receipt_types.iter().map(|name| (*name).to_owned()).collect();
    let receipts = sqlx::query!(
        "SELECT room_nid, thread, event_id FROM receipts
         WHERE user_nid = $1 AND room_nid = ANY($2) AND receipt_type = ANY($3)",
        user_nid.0,
        &nids,
        &receipt_types
    )
    .fetch_all(&mut *connection)
    .await?;
    if receipts.is_empty() {
        return Ok(Vec::new());
    }
    let packed: Vec<Vec<u8>> = receipts
        .iter()
        .map(|row| event_ids::pack(&row.event_id))
        .collect();
    let events = sqlx::query!(
        r#"SELECT event_id, room_nid, sequence AS "sequence!" FROM events
           WHERE event_id = ANY($1) AND sequence IS NOT NULL"#,
        &packed
    )
    .fetch_all(connection)
    .await?;
    let sequences: HashMap<Vec<u8>, (i64, i64)> = events
        .into_iter()
        .map(|row| (row.event_id, (row.room_nid, row.sequence)))
        .collect();
    let marks = receipts.into_iter().zip(packed).filter_map(|(row, packed)| {
        let (room_nid, sequence) = *sequences.get(&packed)?;
        let thread = text(row.thread).to_string();
        (room_nid == row.room_nid).then_some(Mark {
            room_nid: RoomNid(room_nid),
            thread,
            sequence,
        })
    });
    Ok(marks.collect())
}

/// A part of a room's history.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// The room.
    pub room_nid: RoomNid,
    /// After the event with this sequence number,
    pub after: i64,
    /// and after this position of the log,
    pub since: Position,
    /// up to this one.
    pub upto: Position,
}

/// An event that may count as unread, or that says how far its sender has read.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// The room.
    pub room_nid: RoomNid,
    /// The event.
    pub event_nid: EventNid,
    /// Its sequence number.
    pub sequence: i64,
    /// Its sender.
    pub sender_nid: UserNid,
    /// See `events.push_class`.
    pub push_class: i16,
}

/// Which events are candidates.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Others' events whose class has one of these bits; nothing for all of them.
    pub classes: Option<i16>,
    /// The user's own whose class has one of these.
    pub own_classes: i16,
}

/// Of the newest `limit` events of each range those that are wanted, oldest first within a room. Redacted ones are
/// passed over.
pub async fn candidates(
    connection: &mut Connection,
    user_nid: UserNid,
    ranges: &[Range],
    wanted: Wanted,
    limit: i64,
) -> Result<Vec<Candidate>> {
    let nids: Vec<i64> = ranges.iter().map(|range| range.room_nid.0).collect();
    let after: Vec<i64> = ranges.iter().map(|range| range.after).collect();
    let since: Vec<i64> = ranges.iter().map(|range| range.since.0).collect();
    let upto: Vec<i64> = ranges.iter().map(|range| range.upto.0).collect();
    let rows = sqlx::query!(
        r#"SELECT x.event_nid AS "event_nid!", x.room_nid AS "room_nid!", x.sequence AS "sequence!",
                  x.sender_nid AS "sender_nid!", x.push_class AS "push_class!"
           FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS range (room_nid, after, since, upto)
           CROSS JOIN LATERAL (
               SELECT e.event_nid, e.room_nid, e.sequence, e.sender_nid, e.push_class FROM events e
               WHERE e.room_nid = range.room_nid AND e.sub = 0
                   AND e.sequence > greatest(range.after, sequence_at(range.room_nid, range.since))
                   AND e.sequence <= sequence_at(range.room_nid, range.upto)
               ORDER BY e.sequence DESC LIMIT $5
           ) x
           WHERE CASE WHEN x.sender_nid = $6 THEN x.push_class & $7 <> 0
                      ELSE $8::smallint IS NULL OR x.push_class & $8 <> 0 END
               AND NOT EXISTS (SELECT 1 FROM redactions r WHERE r.event_nid = x.event_nid)
           ORDER BY x.room_nid, x.sequence"#,
        &nids,
        &after,
        &since,
        &upto,
        limit,
        user_nid.0,
        wanted.own_classes,
        wanted.classes
    )
    .fetch_all(connection)
    .await?;
    let candidates = rows.into_iter().map(|row| Candidate {
        room_nid: RoomNid(row.room_nid),
        event_nid: EventNid(row.event_nid),
        sequence: row.sequence,
        sender_nid: UserNid(row.sender_nid),
        push_class: row.push_class,
    });
    Ok(candidates.collect())
}
