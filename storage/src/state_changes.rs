//! The history of the current state: what a room's state was at a position, and what changed since.

use crate::{Connection, EventNid, KeyNid, Position, Result, RoomNid, log::StateChange};

/// A change of a room's current state, and its position in the log.
pub type Placed = (RoomNid, Position, StateChange);

struct Row {
    room_nid: i64,
    position: i64,
    key_nid: i64,
    old_event_nid: Option<i64>,
    new_event_nid: Option<i64>,
}

impl From<Row> for Placed {
    fn from(row: Row) -> Self {
        let change = StateChange {
            key_nid: KeyNid(row.key_nid),
            old: row.old_event_nid.map(EventNid),
            new: row.new_event_nid.map(EventNid),
        };
        (RoomNid(row.room_nid), Position(row.position), change)
    }
}

/// All that some keys have been in some rooms, up to `upto`: room, position and change, oldest first.
pub async fn of_keys(
    connection: &mut Connection,
    room_nids: &[RoomNid],
    key_nids: &[KeyNid],
    upto: Position,
) -> Result<Vec<Placed>> {
    let rooms: Vec<i64> = room_nids.iter().map(|nid| nid.0).collect();
    let keys: Vec<i64> = key_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query_as!(
        Row,
        "SELECT room_nid, position, key_nid, old_event_nid, new_event_nid FROM state_changes
         WHERE room_nid = ANY($1) AND key_nid = ANY($2) AND position <= $3 ORDER BY position",
        &rooms,
        &keys,
        upto.0
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Placed::from).collect())
}

/// For many rooms, the last change of each key after `since` and up to `upto`.
pub async fn between(
    connection: &mut Connection,
    rooms: &[(RoomNid, Position, Position)],
) -> Result<Vec<(RoomNid, StateChange)>> {
    let nids: Vec<i64> = rooms.iter().map(|room| room.0.0).collect();
    let since: Vec<i64> = rooms.iter().map(|room| room.1.0).collect();
    let upto: Vec<i64> = rooms.iter().map(|room| room.2.0).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT DISTINCT ON (c.room_nid, c.key_nid)
                  c.room_nid AS "room_nid!", c.position AS "position!", c.key_nid AS "key_nid!",
                  c.old_event_nid AS "old_event_nid?", c.new_event_nid AS "new_event_nid?"
           FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS room (room_nid, since, upto)
           JOIN state_changes c ON c.room_nid = room.room_nid AND c.position > room.since AND c.position <= room.upto
           ORDER BY c.room_nid, c.key_nid, c.position DESC"#,
        &nids,
        &since,
        &upto
    )
    .fetch_all(connection)
    .await?;
    let changes = rows.into_iter().map(|row| {
        let (room_nid, _, change) = Placed::from(row);
        (room_nid, change)
    });
    Ok(changes.collect())
}

/// For many rooms, every change at its position or later, oldest first.
pub async fn onwards(connection: &mut Connection, rooms: &[(RoomNid, Position)]) -> Result<Vec<Placed>> {
    let nids: Vec<i64> = rooms.iter().map(|room| room.0.0).collect();
    let from: Vec<i64> = rooms.iter().map(|room| room.1.0).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT c.room_nid AS "room_nid!", c.position AS "position!", c.key_nid AS "key_nid!",
                  c.old_event_nid AS "old_event_nid?", c.new_event_nid AS "new_event_nid?"
           FROM unnest($1::bigint[], $2::bigint[]) AS room (room_nid, from_position)
           JOIN state_changes c ON c.room_nid = room.room_nid AND c.position >= room.from_position
           ORDER BY c.position"#,
        &nids,
        &from
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Placed::from).collect())
}

/// Every change of any room after `from` up to `to`, in no order.
pub(crate) async fn in_range(
    connection: &mut Connection,
    from: Position,
    to: Position,
) -> Result<Vec<Placed>> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT room_nid, position, key_nid, old_event_nid, new_event_nid FROM state_changes
         WHERE position > $1 AND position <= $2",
        from.0,
        to.0
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Placed::from).collect())
}

/// The rooms among `room_nids` about which the log says something after `since` up to `upto`: an event, a change of
/// state, or a receipt.
pub async fn rooms_that_changed(
    connection: &mut Connection,
    room_nids: &[RoomNid],
    since: Position,
    upto: Position,
) -> Result<Vec<RoomNid>> {
    let nids: Vec<i64> = room_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query_scalar!(
        r#"SELECT room_nid AS "room_nid!" FROM events
               WHERE position > $2 AND position <= $3 AND room_nid = ANY($1)
           UNION SELECT room_nid FROM state_changes WHERE position > $2 AND position <= $3 AND room_nid = ANY($1)
           UNION SELECT room_nid FROM receipts WHERE position > $2 AND position <= $3 AND room_nid = ANY($1)"#,
        &nids,
        since.0,
        upto.0
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(RoomNid).collect())
}
