//! Who authorises whom: auth chains over numbers, and what state resolution reads of events.

use crate::{Connection, EventNid, KeyNid, Result, RoomNid, event_ids, text};

/// The events that authorise a state event.
#[derive(Debug, Clone)]
pub struct AuthEdges {
    /// The state event.
    pub event_nid: EventNid,
    /// Its key.
    pub key_nid: KeyNid,
    /// Its `auth_events`, but for those that were never had.
    pub auth_nids: Vec<EventNid>,
}

/// An event as authorisation and state resolution read it, whatever its status.
#[derive(Debug, Clone)]
pub struct AuthEvent {
    /// Its number.
    pub event_nid: EventNid,
    /// Its ID.
    pub event_id: String,
    /// Its key.
    pub key_nid: KeyNid,
    /// Whether it was rejected.
    pub is_rejected: bool,
    /// Its stored form. It is the redacted one if that is what was received, or if a redaction has taken effect.
    pub pdu: std::sync::Arc<str>,
}

/// The edges of `from`, and of up to `ahead` more events of their auth chains, nearest first. Of the chains nothing below
/// `floor` is read. `from` holds no number twice.
pub async fn chain(
    connection: &mut Connection,
    from: &[EventNid],
    floor: EventNid,
    ahead: usize,
) -> Result<Vec<AuthEdges>> {
    let nids: Vec<i64> = from.iter().map(|nid| nid.0).collect();
    let limit = i64::try_from(from.len().saturating_add(ahead)).unwrap_or(i64::MAX);
    // The limit stands within: no more of the chain is walked than it asks for.
    let rows = sqlx::query!(
        r#"WITH RECURSIVE chain (event_nid) AS (
               SELECT f.event_nid FROM unnest($1::bigint[]) AS f (event_nid)
               UNION
               SELECT n.auth_nid FROM chain c JOIN event_auth a ON a.event_nid = c.event_nid
               CROSS JOIN LATERAL unnest(a.auth_nids) AS n (auth_nid) WHERE n.auth_nid >= $2
           )
           SELECT a.event_nid, a.auth_nids, e.key_nid AS "key_nid!"
           FROM (SELECT event_nid FROM chain LIMIT $3) c
           JOIN event_auth a ON a.event_nid = c.event_nid
           JOIN events e ON e.event_nid = c.event_nid"#,
        &nids,
        floor.0,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| AuthEdges {
            event_nid: EventNid(row.event_nid),
            key_nid: KeyNid(row.key_nid),
            auth_nids: row.auth_nids.into_iter().map(EventNid).collect(),
        })
        .collect())
}

/// The lowest event of a room below `floor` that is authorised by one at or above it. Numbers hardly ever run so: this
/// is answered from an index of those that do.
pub async fn reaching_across(
    connection: &mut Connection,
    room_nid: RoomNid,
    floor: EventNid,
) -> Result<Option<EventNid>> {
    let lowest = sqlx::query_scalar!(
        "SELECT min(a.event_nid) FROM event_auth a JOIN events e ON e.event_nid = a.event_nid
         WHERE a.event_nid <= ANY (a.auth_nids) AND a.event_nid < $2 AND $2 <= ANY (a.auth_nids) AND e.room_nid = $1",
        room_nid.0,
        floor.0
    )
    .fetch_one(connection)
    .await?;
    Ok(lowest.map(EventNid))
}

/// The events that come from `heads` by going, as often as there is one, to the event of key `key_nid` among those that
/// authorise: each with the next. `heads` are of that key too. Up to `limit`.
pub async fn lineage(
    connection: &mut Connection,
    heads: &[EventNid],
    key_nid: KeyNid,
    limit: i64,
) -> Result<Vec<(EventNid, Option<EventNid>)>> {
    let nids: Vec<i64> = heads.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        r#"WITH RECURSIVE line (event_nid, next_nid) AS (
               SELECT h.event_nid, next.event_nid FROM unnest($1::bigint[]) AS h (event_nid)
               LEFT JOIN LATERAL (
                   SELECT e.event_nid FROM event_auth a CROSS JOIN LATERAL unnest(a.auth_nids) AS n (auth_nid)
                   JOIN events e ON e.event_nid = n.auth_nid AND e.key_nid = $2
                   WHERE a.event_nid = h.event_nid ORDER BY e.event_nid LIMIT 1
               ) next ON true
               UNION
               SELECT l.next_nid, next.event_nid FROM line l
               LEFT JOIN LATERAL (
                   SELECT e.event_nid FROM event_auth a CROSS JOIN LATERAL unnest(a.auth_nids) AS n (auth_nid)
                   JOIN events e ON e.event_nid = n.auth_nid AND e.key_nid = $2
                   WHERE a.event_nid = l.next_nid ORDER BY e.event_nid LIMIT 1
               ) next ON true
               WHERE l.next_nid IS NOT NULL
           )
           SELECT event_nid AS "event_nid!", next_nid FROM line LIMIT $3"#,
        &nids,
        key_nid.0,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (EventNid(row.event_nid), row.next_nid.map(EventNid)))
        .collect())
}

/// State events by number, in no order; numbers that stand for none are passed over.
pub async fn events(connection: &mut Connection, event_nids: &[EventNid]) -> Result<Vec<AuthEvent>> {
    let nids: Vec<i64> = event_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        r#"SELECT e.event_nid, e.event_id, e.key_nid AS "key_nid!", e.status = 2 AS "is_rejected!", e.pdu
           FROM events e WHERE e.event_nid = ANY($1) AND e.key_nid IS NOT NULL"#,
        &nids
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| AuthEvent {
            event_nid: EventNid(row.event_nid),
            event_id: event_ids::unpack(&row.event_id),
            key_nid: KeyNid(row.key_nid),
            is_rejected: row.is_rejected,
            pdu: text(row.pdu),
        })
        .collect())
}
