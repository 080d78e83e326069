//! Events by the time they claim to be of.

use crate::{Connection, Position, Result, RoomNid, event_ids};

/// Events looked at for one answer, at most.
const MOST_LOOKED_AT: i64 = 50_000;

/// An event that has a place in its room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimedEvent {
    /// Its ID.
    pub event_id: String,
    /// `origin_server_ts`, milliseconds.
    pub origin_server_ts: i64,
}

/// Which events of a room are looked for.
#[derive(Debug, Clone, Copy)]
pub struct Within<'a> {
    /// The room.
    pub room_nid: RoomNid,
    /// Those whose position in the log is in one of these ranges, ends included. The position of one that was fetched
    /// later is just before that of the live event it comes before.
    pub ranges: &'a [(Position, Position)],
}

impl Within<'_> {
    fn bounds(&self) -> (Vec<i64>, Vec<i64>) {
        self.ranges.iter().map(|(low, high)| (low.0, high.0)).unzip()
    }
}

/// The earliest event at or after `ts`.
pub async fn first_since(
    connection: &mut Connection,
    within: Within<'_>,
    ts: i64,
) -> Result<Option<TimedEvent>> {
    let (low, high) = within.bounds();
    let row = sqlx::query!(
        "SELECT f.event_id, f.origin_server_ts FROM (
             SELECT e.event_id, e.origin_server_ts, e.sequence, e.sub,
                    CASE WHEN e.sub < 0 THEN (SELECT l.position - 1 FROM events l
                        WHERE l.room_nid = e.room_nid AND l.sequence = e.sequence AND l.sub = 0)
                    ELSE e.position END AS position
             FROM events e WHERE e.room_nid = $1 AND e.sequence IS NOT NULL AND e.origin_server_ts >= $2
             ORDER BY e.origin_server_ts, e.sequence, e.sub LIMIT $5
         ) f
         WHERE EXISTS (SELECT FROM unnest($3::bigint[], $4::bigint[]) AS seen (low, high)
             WHERE f.position BETWEEN seen.low AND seen.high)
         ORDER BY f.origin_server_ts, f.sequence, f.sub LIMIT 1",
        within.room_nid.0,
        ts,
        &low,
        &high,
        MOST_LOOKED_AT
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| TimedEvent {
        event_id: event_ids::unpack(&row.event_id),
        origin_server_ts: row.origin_server_ts,
    }))
}

/// The latest event at or before `ts`.
pub async fn last_until(
    connection: &mut Connection,
    within: Within<'_>,
    ts: i64,
) -> Result<Option<TimedEvent>> {
    let (low, high) = within.bounds();
    let row = sqlx::query!(
        "SELECT f.event_id, f.origin_server_ts FROM (
             SELECT e.event_id, e.origin_server_ts, e.sequence, e.sub,
                    CASE WHEN e.sub < 0 THEN (SELECT l.position - 1 FROM events l
                        WHERE l.room_nid = e.room_nid AND l.sequence = e.sequence AND l.sub = 0)
                    ELSE e.position END AS position
             FROM events e WHERE e.room_nid = $1 AND e.sequence IS NOT NULL AND e.origin_server_ts <= $2
             ORDER BY e.origin_server_ts DESC, e.sequence DESC, e.sub DESC LIMIT $5
         ) f
         WHERE EXISTS (SELECT FROM unnest($3::bigint[], $4::bigint[]) AS seen (low, high)
             WHERE f.position BETWEEN seen.low AND seen.high)
         ORDER BY f.origin_server_ts DESC, f.sequence DESC, f.sub DESC LIMIT 1",
        within.room_nid.0,
        ts,
        &low,
        &high,
        MOST_LOOKED_AT
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| TimedEvent {
        event_id: event_ids::unpack(&row.event_id),
        origin_server_ts: row.origin_server_ts,
    }))
}

/// Where history is missing, and the times around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GapTimes {
    /// The sequence number of the live event that it is missing before.
    pub sequence: i64,
    /// The position in the log of that event.
    pub position: Position,
    /// The time of the last event before the gap; nothing where the beginning of the room is missing.
    pub before: Option<i64>,
    /// The time of the first event after the gap.
    pub after: i64,
}

/// The gaps in the history of a room, latest first, up to `limit`.
pub async fn gaps(connection: &mut Connection, room_nid: RoomNid, limit: i64) -> Result<Vec<GapTimes>> {
    let rows = sqlx::query!(
        r#"SELECT g.sequence, l.position AS "position!", a.origin_server_ts AS "after!",
                  b.origin_server_ts AS "before?"
           FROM gaps g
           JOIN events l ON l.room_nid = g.room_nid AND l.sequence = g.sequence AND l.sub = 0
           CROSS JOIN LATERAL (SELECT e.origin_server_ts FROM events e
               WHERE e.room_nid = g.room_nid AND e.sequence = g.sequence ORDER BY e.sub LIMIT 1) a
           LEFT JOIN LATERAL (SELECT e.origin_server_ts FROM events e
               WHERE e.room_nid = g.room_nid AND e.sequence < g.sequence
               ORDER BY e.sequence DESC, e.sub DESC LIMIT 1) b ON true
           WHERE g.room_nid = $1 ORDER BY g.sequence DESC LIMIT $2"#,
        room_nid.0,
        limit
    )
    .fetch_all(connection)
    .await?;
    let gaps = rows.into_iter().map(|row| GapTimes {
        sequence: row.sequence,
        position: Position(row.position),
        before: row.before,
        after: row.after,
    });
    Ok(gaps.collect())
}
