//! What other servers sent: events that were acknowledged and wait to be judged, and the transactions they came in.

use std::sync::Arc;

use crate::{Connection, Result, RoomNid, event_ids, text};

/// An event that waits to be judged.
#[derive(Debug, Clone)]
pub struct InboundPdu {
    /// Its place among those that wait.
    pub inbound_nid: i64,
    /// The room.
    pub room_nid: RoomNid,
    /// The server that sent it.
    pub origin: String,
    /// The event ID.
    pub event_id: String,
    /// The event, signatures verified.
    pub pdu: Arc<str>,
    /// When it came, milliseconds.
    pub received_at: i64,
}

/// An event to be kept until it is judged.
#[derive(Debug, Clone)]
pub struct NewInboundPdu<'a> {
    /// The room.
    pub room_nid: RoomNid,
    /// The event ID.
    pub event_id: &'a str,
    /// The event.
    pub pdu: &'a str,
}

/// Keeps events, in their order, and the answer to the transaction they came in. `now` is in milliseconds.
pub async fn stage(
    connection: &mut Connection,
    origin: &str,
    txn_id: &str,
    response: &str,
    pdus: &[NewInboundPdu<'_>],
    now: i64,
) -> Result<()> {
    let room_nids: Vec<i64> = pdus.iter().map(|pdu| pdu.room_nid.0).collect();
    let event_ids: Vec<Vec<u8>> = pdus.iter().map(|pdu| event_ids::pack(pdu.event_id)).collect();
    let bodies: Vec<Vec<u8>> = pdus.iter().map(|pdu| pdu.pdu.as_bytes().to_vec()).collect();
    sqlx::query!(
        "WITH answered AS (
             INSERT INTO inbound_transactions (origin, txn_id, received_at, response) VALUES ($1, $2, $3, $4)
             ON CONFLICT ON CONSTRAINT inbound_transactions_pkey DO NOTHING RETURNING 1
         )
         INSERT INTO inbound_pdus (room_nid, received_at, origin, event_id, pdu)
         SELECT p.room_nid, $3, $1, p.event_id, p.pdu
         FROM unnest($5::bigint[], $6::bytea[], $7::bytea[]) WITH ORDINALITY AS p (room_nid, event_id, pdu, n)
         WHERE EXISTS (SELECT FROM answered) ORDER BY p.n",
        origin,
        txn_id.as_bytes(),
        now,
        response.as_bytes(),
        &room_nids,
        &event_ids,
        &bodies
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The answer that a transaction got.
pub async fn response(connection: &mut Connection, origin: &str, txn_id: &str) -> Result<Option<Arc<str>>> {
    let response = sqlx::query_scalar!(
        "SELECT response FROM inbound_transactions WHERE origin = $1 AND txn_id = $2",
        origin,
        txn_id.as_bytes()
    )
    .fetch_optional(connection)
    .await?;
    Ok(response.map(text))
}

/// Forgets transactions from before `before` (milliseconds).
pub async fn drop_transactions(connection: &mut Connection, before: i64) -> Result<u64> {
    let done = sqlx::query!("DELETE FROM inbound_transactions WHERE received_at < $1", before)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// The events that wait in a room, oldest first, up to `limit`.
pub async fn waiting_in(
    connection: &mut Connection,
    room_nid: RoomNid,
    limit: i64,
) -> Result<Vec<InboundPdu>> {
    let rows = sqlx::query!(
        "SELECT inbound_nid, received_at, origin, event_id, pdu FROM inbound_pdus WHERE room_nid = $1
         ORDER BY inbound_nid LIMIT $2",
        room_nid.0,
        limit
    )
    .fetch_all(connection)
    .await?;
    let waiting = rows.into_iter().map(|row| InboundPdu {
        inbound_nid: row.inbound_nid,
        room_nid,
        origin: row.origin,
        event_id: event_ids::unpack(&row.event_id),
        pdu: text(row.pdu),
        received_at: row.received_at,
    });
    Ok(waiting.collect())
}

/// The rooms in which events wait.
pub async fn rooms_waiting(connection: &mut Connection) -> Result<Vec<RoomNid>> {
    let nids = sqlx::query_scalar!("SELECT DISTINCT room_nid FROM inbound_pdus")
        .fetch_all(connection)
        .await?;
    Ok(nids.into_iter().map(RoomNid).collect())
}

/// How many events of a server wait, counted up to `limit`.
pub async fn count_of(connection: &mut Connection, origin: &str, limit: i64) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "n!" FROM (SELECT FROM inbound_pdus WHERE origin = $1 LIMIT $2) waiting"#,
        origin,
        limit
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// Puts an event behind the others that wait.
pub async fn postpone(connection: &mut Connection, inbound_nid: i64) -> Result<()> {
    sqlx::query!(
        "WITH taken AS (DELETE FROM inbound_pdus WHERE inbound_nid = $1 RETURNING *)
         INSERT INTO inbound_pdus (room_nid, received_at, origin, event_id, pdu)
         SELECT room_nid, received_at, origin, event_id, pdu FROM taken",
        inbound_nid
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Keeps an event that was judged before, so that it is judged anew. `now` is in milliseconds.
pub async fn put_back(
    connection: &mut Connection,
    origin: &str,
    pdu: &NewInboundPdu<'_>,
    now: i64,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO inbound_pdus (room_nid, received_at, origin, event_id, pdu) VALUES ($1, $2, $3, $4, $5)",
        pdu.room_nid.0,
        now,
        origin,
        event_ids::pack(pdu.event_id),
        pdu.pdu.as_bytes()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes out events that were judged.
pub async fn done(connection: &mut Connection, inbound_nids: &[i64]) -> Result<()> {
    sqlx::query!(
        "DELETE FROM inbound_pdus WHERE inbound_nid = ANY($1)",
        inbound_nids
    )
    .execute(connection)
    .await?;
    Ok(())
}
