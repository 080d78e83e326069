//! What of the log goes to other servers: the events and receipts of this server's users, and what is relayed.

use crate::{Connection, EventNid, Position, Result, RoomNid, UserNid, event_ids, log::Receipt, text};

/// An event that goes to other servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutgoingEvent {
    /// Its position in the log.
    pub position: Position,
    /// Its room.
    pub room_nid: RoomNid,
    /// Its number.
    pub event_nid: EventNid,
}

/// The events after `after` up to `upto` that users of `server`, this one, sent, or that are relayed; the first `limit`
/// of them, in order. A join through another server is not among them: that server sends it on.
pub async fn events(
    connection: &mut Connection,
    server: &str,
    after: Position,
    upto: Position,
    limit: i64,
) -> Result<Vec<OutgoingEvent>> {
    let rows = sqlx::query!(
        r#"SELECT e.position AS "position!", e.room_nid, e.event_nid
           FROM events e JOIN users u ON u.user_nid = e.sender_nid
           WHERE e.position > $1 AND e.position <= $2
             AND (server_of(u.user_id) = $3 OR EXISTS (SELECT FROM relayed_events r WHERE r.event_id = e.event_id))
             AND NOT EXISTS (SELECT FROM gaps g WHERE g.room_nid = e.room_nid AND g.sequence = e.sequence)
           ORDER BY e.position LIMIT $4"#,
        after.0,
        upto.0,
        server,
        limit
    )
    .fetch_all(connection)
    .await?;
    let events = rows.into_iter().map(|row| OutgoingEvent {
        position: Position(row.position),
        room_nid: RoomNid(row.room_nid),
        event_nid: EventNid(row.event_nid),
    });
    Ok(events.collect())
}

/// The same of each of some rooms: the newest `limit` of each, in order.
pub async fn newest_events(
    connection: &mut Connection,
    server: &str,
    room_nids: &[RoomNid],
    (after, upto): (Position, Position),
    limit: i64,
) -> Result<Vec<OutgoingEvent>> {
    let nids: Vec<i64> = room_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        r#"SELECT newest.position AS "position!", room.nid AS "room_nid!", newest.event_nid AS "event_nid!"
           FROM unnest($1::bigint[]) room (nid) CROSS JOIN LATERAL (
               SELECT e.position, e.event_nid FROM events e JOIN users u ON u.user_nid = e.sender_nid
               WHERE e.room_nid = room.nid AND e.sub = 0 AND e.sequence >= sequence_after(room.nid, $2)
                 AND e.position <= $3
                 AND (server_of(u.user_id) = $4 OR EXISTS (SELECT FROM relayed_events r WHERE r.event_id = e.event_id))
                 AND NOT EXISTS (SELECT FROM gaps g WHERE g.room_nid = e.room_nid AND g.sequence = e.sequence)
               ORDER BY e.sequence DESC LIMIT $5
           ) newest ORDER BY newest.position"#,
        &nids,
        after.0,
        upto.0,
        server,
        limit
    )
    .fetch_all(connection)
    .await?;
    let events = rows.into_iter().map(|row| OutgoingEvent {
        position: Position(row.position),
        room_nid: RoomNid(row.room_nid),
        event_nid: EventNid(row.event_nid),
    });
    Ok(events.collect())
}

/// The newest `limit` receipts that others are told of, of what was read and what was delivered, after `after` up to `upto` of users of `server`, this one; of some rooms, or of
/// all.
pub async fn receipts(
    connection: &mut Connection,
    server: &str,
    room_nids: Option<&[RoomNid]>,
    (after, upto): (Position, Position),
    limit: i64,
) -> Result<Vec<(Position, Receipt)>> {
    let nids: Option<Vec<i64>> = room_nids.map(|nids| nids.iter().map(|nid| nid.0).collect());
    let rows = sqlx::query!(
        "SELECT r.room_nid, r.user_nid, r.receipt_type, r.thread, r.event_id, r.position, r.ts
         FROM receipts r JOIN users u USING (user_nid)
         WHERE r.position > $1 AND r.position <= $2 AND r.receipt_type IN ('m.read', 'chat.hearth.delivered')
           AND server_of(u.user_id) = $3
           AND ($4::bigint[] IS NULL OR r.room_nid = ANY($4))
         ORDER BY r.position DESC LIMIT $5",
        after.0,
        upto.0,
        server,
        nids.as_deref(),
        limit
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

/// The rooms in which a server has users, or had users whose membership changed after `after`.
pub async fn rooms_shared(
    connection: &mut Connection,
    server: &str,
    after: Position,
) -> Result<Vec<RoomNid>> {
    let nids = sqlx::query_scalar!(
        "SELECT m.room_nid FROM users u JOIN memberships m USING (user_nid)
         WHERE server_of(u.user_id) = $1 GROUP BY m.room_nid
         HAVING bool_or(m.membership = 1) OR max(m.position) > $2 ORDER BY m.room_nid",
        server,
        after.0
    )
    .fetch_all(connection)
    .await?;
    Ok(nids.into_iter().map(RoomNid).collect())
}

/// The change of the member event of a user in a room.
#[derive(Debug, Clone)]
pub struct MemberChange {
    /// Its position in the log.
    pub position: Position,
    /// The room.
    pub room_nid: RoomNid,
    /// The state key: a user ID, mostly.
    pub user_id: String,
    /// The member event before.
    pub old: Option<EventNid>,
    /// The member event after.
    pub new: Option<EventNid>,
}

/// The changes of memberships in rooms after a position, the latest first.
pub async fn member_changes(
    connection: &mut Connection,
    room_nids: &[RoomNid],
    after: Position,
) -> Result<Vec<MemberChange>> {
    let nids: Vec<i64> = room_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        "SELECT c.position, c.room_nid, k.state_key, c.old_event_nid, c.new_event_nid
         FROM state_changes c JOIN state_keys k USING (key_nid) JOIN event_types t USING (type_nid)
         WHERE c.room_nid = ANY($1) AND c.position > $2 AND t.event_type = 'm.room.member'::bytea
         ORDER BY c.position DESC",
        &nids,
        after.0
    )
    .fetch_all(connection)
    .await?;
    let changes = rows.into_iter().map(|row| MemberChange {
        position: Position(row.position),
        room_nid: RoomNid(row.room_nid),
        user_id: String::from_utf8_lossy(&row.state_key).into_owned(),
        old: row.old_event_nid.map(EventNid),
        new: row.new_event_nid.map(EventNid),
    });
    Ok(changes.collect())
}

/// Notes that an event of another server is to be relayed.
pub async fn relay(connection: &mut Connection, event_id: &str) -> Result<()> {
    sqlx::query!(
        "INSERT INTO relayed_events (event_id) VALUES ($1) ON CONFLICT ON CONSTRAINT relayed_events_pkey DO NOTHING",
        &event_ids::pack(event_id)
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets relayed events up to a position: everybody has them.
pub async fn drop_relayed(connection: &mut Connection, upto: Position) -> Result<u64> {
    let done = sqlx::query!(
        "DELETE FROM relayed_events r USING events e WHERE e.event_id = r.event_id AND e.position <= $1",
        upto.0
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Notes that a server is not sent the events of a room after `after` up to `upto`.
pub async fn skip(
    connection: &mut Connection,
    server: &str,
    room_nid: RoomNid,
    (after, upto): (Position, Position),
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO outbound_skips AS old (server_name, room_nid, after_position, upto_position) VALUES ($1, $2, $3, $4)
         ON CONFLICT ON CONSTRAINT outbound_skips_pkey DO UPDATE SET
             upto_position = greatest(old.upto_position, excluded.upto_position)",
        server,
        room_nid.0,
        after.0,
        upto.0
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The servers that were not sent an event of a room, by its position.
pub async fn skipped(
    connection: &mut Connection,
    room_nid: RoomNid,
    position: Position,
) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar!(
        "SELECT server_name FROM outbound_skips
         WHERE room_nid = $1 AND after_position < $2 AND upto_position >= $2",
        room_nid.0,
        position.0
    )
    .fetch_all(connection)
    .await?)
}
