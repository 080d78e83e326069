//! Rooms that were joined with a part of their state, and since when those that were are whole.

use crate::{
    Connection, EventNid, Position, Result, RoomNid, StateNid, events::EventStatus, log::PartialRoom,
};

/// How much of a room's state is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completeness {
    /// A part: the rest is being asked for.
    Partial(PartialRoom),
    /// All of it, from a position of the log on.
    WholeAt(Position),
}

/// Every room that was ever joined with a part of its state, in no order.
pub async fn all(connection: &mut Connection) -> Result<Vec<(RoomNid, Completeness)>> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT room_nid, join_nid, state_before, since, via, servers, whole_at FROM partial_rooms"
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Row::into_completeness).collect())
}

/// One of them.
pub async fn of_room(connection: &mut Connection, room_nid: RoomNid) -> Result<Option<Completeness>> {
    let row = sqlx::query_as!(
        Row,
        "SELECT room_nid, join_nid, state_before, since, via, servers, whole_at FROM partial_rooms
         WHERE room_nid = $1",
        room_nid.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| row.into_completeness().1))
}

struct Row {
    room_nid: i64,
    join_nid: i64,
    state_before: i64,
    since: i64,
    via: String,
    servers: Vec<String>,
    whole_at: Option<i64>,
}

impl Row {
    fn into_completeness(self) -> (RoomNid, Completeness) {
        let room_nid = RoomNid(self.room_nid);
        let completeness = match self.whole_at {
            Some(position) => Completeness::WholeAt(Position(position)),
            None => Completeness::Partial(PartialRoom {
                room_nid,
                join_nid: EventNid(self.join_nid),
                state_before: StateNid(self.state_before),
                since: self.since,
                via: self.via,
                servers: self.servers,
            }),
        };
        (room_nid, completeness)
    }
}

/// An event that came after a join, or was found wanting since.
#[derive(Debug, Clone)]
pub struct EventSince {
    /// Its number.
    pub event_nid: EventNid,
    /// Its place in the order of the room; nothing for one that clients don't see.
    pub sequence: Option<i64>,
    /// Whether it counts.
    pub status: EventStatus,
    /// The state after it.
    pub state_after: StateNid,
}

/// The live events of a room from `sequence` on, and those soft-failed or rejected of which a state is known, whenever
/// they came; in no order.
pub async fn events_since(
    connection: &mut Connection,
    room_nid: RoomNid,
    sequence: i64,
) -> Result<Vec<EventSince>> {
    let rows = sqlx::query!(
        r#"SELECT event_nid AS "event_nid!", sequence, status AS "status!", state_after AS "state_after!" FROM events
           WHERE room_nid = $1 AND sequence >= $2 AND sub = 0 AND state_after IS NOT NULL
           UNION ALL
           SELECT event_nid, sequence, status, state_after FROM events
           WHERE room_nid = $1 AND sequence IS NULL AND status IN (1, 2) AND state_after IS NOT NULL"#,
        room_nid.0,
        sequence
    )
    .fetch_all(connection)
    .await?;
    let events = rows.into_iter().map(|row| EventSince {
        event_nid: EventNid(row.event_nid),
        sequence: row.sequence,
        status: EventStatus::from_number(row.status),
        state_after: StateNid(row.state_after),
    });
    Ok(events.collect())
}
