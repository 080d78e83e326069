//! Stored events, by number, ID, position and place in their room.

use std::{collections::HashMap, sync::Arc};

use crate::{
    Connection, DeviceNid, EventNid, KeyNid, Position, Result, RoomNid, StateNid, TypeNid, UserNid,
    event_ids, log::NewEvent, text,
};

/// A stored event.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    /// What was stored, without the request that made it: that is for [`add_transactions`] to say.
    pub event: NewEvent,
    /// Its position in the log; for one that was fetched later, just before the live event it comes before; 0 for one
    /// that has no place in its room.
    pub position: Position,
    /// Second part of its place in the room: 0 for a live event.
    pub sub: i32,
    /// Whether it counts.
    pub status: EventStatus,
    /// The event that redacted it. `event.pdu` may still be the unredacted form.
    pub redacted_by: Option<EventNid>,
}

/// Whether an event counts in its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
pub enum EventStatus {
    /// Accepted: it has a place in the room.
    Accepted = 0,
    /// Allowed where it was made, not by the state that the room had when it came. Clients don't see it.
    SoftFailed = 1,
    /// Not allowed.
    Rejected = 2,
    /// Known for what hangs on it, without a place in the room.
    Outlier = 3,
}

impl EventStatus {
    pub(crate) fn from_number(number: i16) -> Self {
        match number {
            0 => Self::Accepted,
            1 => Self::SoftFailed,
            2 => Self::Rejected,
            _ => Self::Outlier,
        }
    }
}

/// A place in the order of a room, between or at events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The sequence number.
    pub sequence: i64,
    /// 0 for live events, negative for those fetched later.
    pub sub: i32,
}

impl Place {
    /// After every event of a room.
    pub const END: Self = Self {
        sequence: i64::MAX,
        sub: 0,
    };
    /// Before every event of a room.
    pub const START: Self = Self {
        sequence: 0,
        sub: i32::MIN,
    };
}

/// One row of the query that every function here makes; sqlx needs the text of each.
struct Row {
    event_nid: i64,
    event_id: Vec<u8>,
    room_nid: i64,
    sequence: Option<i64>,
    sub: i32,
    position: Option<i64>,
    type_nid: i64,
    key_nid: Option<i64>,
    sender_nid: i64,
    state_after: Option<i64>,
    origin_server_ts: i64,
    replaces: Option<i64>,
    pdu: Vec<u8>,
    push_class: i16,
    status: i16,
    redacted_by: Option<i64>,
}

impl From<Row> for StoredEvent {
    fn from(row: Row) -> Self {
        Self {
            event: NewEvent {
                event_nid: EventNid(row.event_nid),
                event_id: event_ids::unpack(&row.event_id),
                room_nid: RoomNid(row.room_nid),
                sequence: row.sequence.unwrap_or(0),
                type_nid: TypeNid(row.type_nid),
                key_nid: row.key_nid.map(KeyNid),
                sender_nid: UserNid(row.sender_nid),
                state_after: StateNid(row.state_after.unwrap_or(0)),
                origin_server_ts: row.origin_server_ts,
                replaces: row.replaces.map(EventNid),
                pdu: text(row.pdu),
                push_class: row.push_class,
                transaction: None,
                auth_nids: Vec::new(),
                is_stored: true,
                after_gap: false,
            },
            position: Position(row.position.unwrap_or(0)),
            sub: row.sub,
            status: EventStatus::from_number(row.status),
            redacted_by: row.redacted_by.map(EventNid),
        }
    }
}

macro_rules! select_events {
    ($connection:expr, $tail:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"SELECT e.event_nid AS "event_nid!", e.event_id AS "event_id!", e.room_nid AS "room_nid!",
                      e.sequence AS "sequence?", e.sub AS "sub!",
                      CASE WHEN e.sub < 0 THEN (SELECT l.position - 1 FROM events l
                          WHERE l.room_nid = e.room_nid AND l.sequence = e.sequence AND l.sub = 0)
                      ELSE e.position END AS "position?", e.type_nid AS "type_nid!",
                      e.key_nid AS "key_nid?", e.sender_nid AS "sender_nid!", e.state_after AS "state_after?",
                      e.origin_server_ts AS "origin_server_ts!", e.pdu AS "pdu!", e.push_class AS "push_class!",
                      e.status AS "status!",
                      r.redaction_nid AS "redacted_by?", c.old_event_nid AS "replaces?"
               FROM events e
               LEFT JOIN redactions r ON r.event_nid = e.event_nid
               LEFT JOIN state_changes c
                   ON c.room_nid = e.room_nid AND c.key_nid = e.key_nid AND c.position = e.position "# + $tail,
            $($argument),*
        )
        .fetch_all($connection)
        .await
        .map(|rows| rows.into_iter().map(StoredEvent::from).collect::<Vec<_>>())
    };
}

/// Events by number, in no order; numbers that stand for nothing are passed over.
pub async fn by_nids(connection: &mut Connection, event_nids: &[EventNid]) -> Result<Vec<StoredEvent>> {
    let nids: Vec<i64> = event_nids.iter().map(|nid| nid.0).collect();
    Ok(select_events!(connection, "WHERE e.event_nid = ANY($1)", &nids)?)
}

/// An accepted event by its ID.
pub async fn by_id(connection: &mut Connection, event_id: &str) -> Result<Option<StoredEvent>> {
    let packed = event_ids::pack(event_id);
    Ok(select_events!(connection, "WHERE e.event_id = $1 AND e.status = 0", &packed)?.pop())
}

/// Events by ID, whatever their status, in no order.
pub async fn by_ids(connection: &mut Connection, event_ids: &[&str]) -> Result<Vec<StoredEvent>> {
    let packed: Vec<Vec<u8>> = event_ids.iter().map(|id| event_ids::pack(id)).collect();
    Ok(select_events!(connection, "WHERE e.event_id = ANY($1)", &packed)?)
}

/// What is known of an event, short of the event.
#[derive(Debug, Clone)]
pub struct KnownEvent {
    /// Its number.
    pub event_nid: EventNid,
    /// Its ID.
    pub event_id: String,
    /// Its room.
    pub room_nid: RoomNid,
    /// Whether it counts.
    pub status: EventStatus,
    /// The state after it, where that is known.
    pub state_after: Option<StateNid>,
}

/// Which of some events are known, in no order.
pub async fn known(connection: &mut Connection, event_ids: &[&str]) -> Result<Vec<KnownEvent>> {
    let packed: Vec<Vec<u8>> = event_ids.iter().map(|id| event_ids::pack(id)).collect();
    let rows = sqlx::query!(
        "SELECT event_nid, event_id, room_nid, status, state_after FROM events WHERE event_id = ANY($1)",
        &packed
    )
    .fetch_all(connection)
    .await?;
    let known = rows.into_iter().map(|row| KnownEvent {
        event_nid: EventNid(row.event_nid),
        event_id: event_ids::unpack(&row.event_id),
        room_nid: RoomNid(row.room_nid),
        status: EventStatus::from_number(row.status),
        state_after: row.state_after.map(StateNid),
    });
    Ok(known.collect())
}

/// The type and state key of state events among `event_nids`, in no order.
pub async fn keys(connection: &mut Connection, event_nids: &[EventNid]) -> Result<Vec<(EventNid, KeyNid)>> {
    let nids: Vec<i64> = event_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        r#"SELECT event_nid, key_nid AS "key_nid!" FROM events WHERE event_nid = ANY($1) AND key_nid IS NOT NULL"#,
        &nids
    )
    .fetch_all(connection)
    .await?;
    let keys = rows
        .into_iter()
        .map(|row| (EventNid(row.event_nid), KeyNid(row.key_nid)));
    Ok(keys.collect())
}

/// Redactions of an event that came before it.
pub async fn redactions_waiting_for(connection: &mut Connection, event_id: &str) -> Result<Vec<EventNid>> {
    let packed = event_ids::pack(event_id);
    let nids = sqlx::query_scalar!(
        "SELECT redaction_nid FROM unmatched_redactions WHERE redacts = $1",
        &packed
    )
    .fetch_all(connection)
    .await?;
    Ok(nids.into_iter().map(EventNid).collect())
}

/// An event to be stored without a position in the log.
#[derive(Debug, Clone)]
pub struct QuietEvent {
    /// What is stored of it; `sequence`, `state_after` and `replaces` don't count.
    pub event: Arc<NewEvent>,
    /// Whether it counts.
    pub status: EventStatus,
    /// The state after it, where that is known.
    pub state_after: Option<StateNid>,
    /// For one of history that was fetched later: its place.
    pub place: Option<Place>,
}

/// Stores events that no sync tells of: outliers, rejected and soft-failed ones, history fetched later. One that is
/// stored already gets the status, state and place given here, unless it is accepted.
pub async fn store_quietly(connection: &mut Connection, events: &[QuietEvent]) -> Result<()> {
    let (mut nids, mut rooms, mut types, mut keys, mut senders) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut times, mut ids, mut pdus, mut classes) = (vec![], vec![], vec![], vec![]);
    let (mut statuses, mut states, mut sequences, mut subs) = (vec![], vec![], vec![], vec![]);
    for quiet in events {
        let event = &quiet.event;
        nids.push(event.event_nid.0);
        rooms.push(event.room_nid.0);
        types.push(event.type_nid.0);
        keys.push(event.key_nid.map(|nid| nid.0));
        senders.push(event.sender_nid.0);
        times.push(event.origin_server_ts);
        ids.push(event_ids::pack(&event.event_id));
        pdus.push(event.pdu.as_bytes().to_vec());
        classes.push(event.push_class);
        statuses.push(quiet.status as i16);
        states.push(quiet.state_after.map(|nid| nid.0));
        sequences.push(quiet.place.map(|place| place.sequence));
        subs.push(quiet.place.map_or(0, |place| place.sub));
    }
    sqlx::query!(
        r#"INSERT INTO events AS old (event_nid, room_nid, type_nid, key_nid, sender_nid, origin_server_ts, event_id, pdu,
               push_class, status, state_after, sequence, sub)
           SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
               $7::bytea[], $8::bytea[], $9::smallint[], $10::smallint[], $11::bigint[], $12::bigint[], $13::int[])
           ON CONFLICT ON CONSTRAINT events_event_id_key DO UPDATE SET status = least(old.status, excluded.status),
               state_after = coalesce(excluded.state_after, old.state_after),
               sequence = coalesce(excluded.sequence, old.sequence),
               sub = CASE WHEN excluded.sequence IS NULL THEN old.sub ELSE excluded.sub END
               WHERE old.status <> 0"#,
        &nids,
        &rooms,
        &types,
        &keys as &[Option<i64>],
        &senders,
        &times,
        &ids,
        &pdus,
        &classes,
        &statuses,
        &states as &[Option<i64>],
        &sequences as &[Option<i64>],
        &subs
    )
    .execute(&mut *connection)
    .await?;
    store_auth(connection, events.iter().map(|quiet| &*quiet.event)).await
}

async fn store_auth(connection: &mut Connection, events: impl Iterator<Item = &NewEvent>) -> Result<()> {
    let (mut nids, mut auth_nids) = (Vec::new(), Vec::new());
    for event in events.filter(|event| event.key_nid.is_some()) {
        for auth_nid in &event.auth_nids {
            nids.push(event.event_nid.0);
            auth_nids.push(auth_nid.0);
        }
        if event.auth_nids.is_empty() {
            nids.push(event.event_nid.0);
            auth_nids.push(0);
        }
    }
    // Only where the event was stored under the number given: another may have come first.
    sqlx::query!(
        "INSERT INTO event_auth (event_nid, auth_nids)
         SELECT a.event_nid, coalesce(array_agg(a.auth_nid) FILTER (WHERE a.auth_nid <> 0), '{}')
         FROM unnest($1::bigint[], $2::bigint[]) AS a (event_nid, auth_nid) JOIN events e ON e.event_nid = a.event_nid
         GROUP BY a.event_nid
         ON CONFLICT ON CONSTRAINT event_auth_pkey DO NOTHING",
        &nids,
        &auth_nids
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The live events after `from` up to `to`, in order.
pub async fn by_position(
    connection: &mut Connection,
    from: Position,
    to: Position,
) -> Result<Vec<StoredEvent>> {
    Ok(select_events!(
        connection,
        "WHERE e.position > $1 AND e.position <= $2 ORDER BY e.position",
        from.0,
        to.0
    )?)
}

/// Up to `limit` events of a room before `before`, not beyond `after`, newest first; none beyond `upto` in the log.
pub async fn page_backwards(
    connection: &mut Connection,
    room_nid: RoomNid,
    before: Place,
    after: Place,
    upto: Position,
    limit: i64,
) -> Result<Vec<StoredEvent>> {
    Ok(select_events!(
        connection,
        "WHERE e.room_nid = $1 AND (e.sequence, e.sub) < ($2, $3) AND (e.sequence, e.sub) > ($4, $5)
             AND (e.position IS NULL OR e.position <= $6)
         ORDER BY e.sequence DESC, e.sub DESC LIMIT $7",
        room_nid.0,
        before.sequence,
        before.sub,
        after.sequence,
        after.sub,
        upto.0,
        limit
    )?)
}

/// Up to `limit` events of a room after `after`, before `before`, oldest first; none beyond `upto` in the log.
pub async fn page_forwards(
    connection: &mut Connection,
    room_nid: RoomNid,
    after: Place,
    before: Place,
    upto: Position,
    limit: i64,
) -> Result<Vec<StoredEvent>> {
    Ok(select_events!(
        connection,
        "WHERE e.room_nid = $1 AND (e.sequence, e.sub) > ($2, $3) AND (e.sequence, e.sub) < ($4, $5)
             AND (e.position IS NULL OR e.position <= $6)
         ORDER BY e.sequence, e.sub LIMIT $7",
        room_nid.0,
        after.sequence,
        after.sub,
        before.sequence,
        before.sub,
        upto.0,
        limit
    )?)
}

/// The newest events of many rooms: for each room up to `limit` after its `since` and none beyond its `upto` in the
/// log, oldest first within a room.
pub async fn newest_of_rooms(
    connection: &mut Connection,
    rooms: &[(RoomNid, Position, Position)],
    limit: i64,
) -> Result<Vec<StoredEvent>> {
    let nids: Vec<i64> = rooms.iter().map(|room| room.0.0).collect();
    let since: Vec<i64> = rooms.iter().map(|room| room.1.0).collect();
    let upto: Vec<i64> = rooms.iter().map(|room| room.2.0).collect();
    Ok(select_events!(
        connection,
        "JOIN (SELECT n.event_nid FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS room (room_nid, since, upto)
               CROSS JOIN LATERAL (
                   SELECT x.event_nid FROM events x
                   WHERE x.room_nid = room.room_nid AND x.sub = 0
                       AND x.sequence > sequence_at(room.room_nid, room.since)
                       AND x.sequence <= sequence_at(room.room_nid, room.upto)
                   ORDER BY x.sequence DESC LIMIT $4
               ) n) newest ON newest.event_nid = e.event_nid
         ORDER BY e.room_nid, e.sequence",
        &nids,
        &since,
        &upto,
        limit
    )?)
}

/// The place in a room up to which the log had come at `position`: that of its last live event by then.
pub async fn place_at(connection: &mut Connection, room_nid: RoomNid, position: Position) -> Result<Place> {
    let sequence = sqlx::query_scalar!(
        r#"SELECT sequence_at($1, $2) AS "sequence!""#,
        room_nid.0,
        position.0
    )
    .fetch_one(connection)
    .await?;
    Ok(Place { sequence, sub: 0 })
}

/// Whether somebody else than a user said something in a room after a sequence number and before another.
pub async fn others_spoke_between(
    connection: &mut Connection,
    room_nid: RoomNid,
    user_nid: UserNid,
    (after, before): (i64, i64),
) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM events WHERE room_nid = $1 AND sub = 0 AND sequence > $2 AND sequence < $3
               AND key_nid IS NULL AND sender_nid <> $4) AS "spoke!""#,
        room_nid.0,
        after,
        before,
        user_nid.0
    )
    .fetch_one(connection)
    .await?)
}

/// Says of each of `events` which request made it, where that is remembered. A query of its own, since it matters to
/// few who read events: only the device that sent one wants to know, and only for some days.
pub async fn add_transactions<'a>(
    connection: &mut Connection,
    events: impl IntoIterator<Item = &'a mut StoredEvent>,
) -> Result<()> {
    let mut events: HashMap<i64, &mut StoredEvent> = events
        .into_iter()
        .map(|stored| (stored.event.event_nid.0, stored))
        .collect();
    if events.is_empty() {
        return Ok(());
    }
    let nids: Vec<i64> = events.keys().copied().collect();
    let rows = sqlx::query!(
        "SELECT event_nid, device_nid, txn_id FROM client_transactions WHERE event_nid = ANY($1)",
        &nids
    )
    .fetch_all(connection)
    .await?;
    for row in rows {
        if let Some(stored) = events.get_mut(&row.event_nid) {
            stored.event.transaction = Some((DeviceNid(row.device_nid), text(row.txn_id)));
        }
    }
    Ok(())
}

/// The event a request of a device made, if it made one.
pub async fn by_transaction(
    connection: &mut Connection,
    device_nid: DeviceNid,
    request_key: &[u8; 16],
) -> Result<Option<String>> {
    let packed = sqlx::query_scalar!(
        "SELECT e.event_id FROM client_transactions t JOIN events e ON e.event_nid = t.event_nid
         WHERE t.device_nid = $1 AND t.request_key = $2",
        device_nid.0,
        request_key.as_slice()
    )
    .fetch_optional(connection)
    .await?;
    Ok(packed.map(|packed| event_ids::unpack(&packed)))
}

/// A request of a device, and the event it made.
#[derive(Debug, Clone)]
pub struct RecentTransaction {
    /// What identifies the request among those of the device.
    pub request_key: [u8; 16],
    /// The event it made.
    pub event_id: String,
}

/// The requests of a device since `since` (milliseconds), newest first, up to `limit`.
pub async fn recent_transactions(
    connection: &mut Connection,
    device_nid: DeviceNid,
    since: i64,
    limit: i64,
) -> Result<Vec<RecentTransaction>> {
    let rows = sqlx::query!(
        "SELECT t.request_key, e.event_id FROM client_transactions t JOIN events e ON e.event_nid = t.event_nid
         WHERE t.device_nid = $1 AND t.created_at >= $2 ORDER BY t.created_at DESC LIMIT $3",
        device_nid.0,
        since,
        limit
    )
    .fetch_all(connection)
    .await?;
    let recent = rows.into_iter().filter_map(|row| {
        let request_key = row.request_key.try_into().ok()?;
        Some(RecentTransaction {
            request_key,
            event_id: event_ids::unpack(&row.event_id),
        })
    });
    Ok(recent.collect())
}

/// Forgets requests older than `before` (milliseconds); the answer is how many.
pub async fn drop_transactions(connection: &mut Connection, before: i64) -> Result<u64> {
    let done = sqlx::query!("DELETE FROM client_transactions WHERE created_at < $1", before)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// Replaces the stored form of a redacted event.
pub async fn prune(connection: &mut Connection, event_nid: EventNid, redacted: &str) -> Result<()> {
    sqlx::query!(
        "WITH pruned AS (UPDATE events SET pdu = $2 WHERE event_nid = $1)
         UPDATE redactions SET pruned = true WHERE event_nid = $1",
        event_nid.0,
        redacted.as_bytes()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Redacted events whose stored form is still whole, by number, those after `last` and up to `limit`.
pub async fn unpruned(
    connection: &mut Connection,
    last: Option<EventNid>,
    limit: i64,
) -> Result<Vec<EventNid>> {
    let nids = sqlx::query_scalar!(
        "SELECT event_nid FROM redactions WHERE NOT pruned AND ($1::bigint IS NULL OR event_nid > $1)
         ORDER BY event_nid LIMIT $2",
        last.map(|nid| nid.0),
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(nids.into_iter().map(EventNid).collect())
}

impl StoredEvent {
    /// Its place in the room.
    pub fn place(&self) -> Place {
        Place {
            sequence: self.event.sequence,
            sub: self.sub,
        }
    }

    /// The stored event, shared.
    pub fn into_event(self) -> Arc<NewEvent> {
        Arc::new(self.event)
    }
}
