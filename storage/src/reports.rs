//! What users report to the administrator.

use crate::{Connection, EventNid, Result, RoomNid, UserNid};

/// What is reported.
#[derive(Debug, Clone, Copy)]
pub enum Reported<'a> {
    /// An event of a room, with its PDU as it is now.
    Event(RoomNid, EventNid, &'a str),
    /// A room.
    Room(RoomNid),
    /// A user.
    User(UserNid),
}

/// Keeps a report of `reporter_nid` that came at `received_at` (milliseconds).
pub async fn insert(
    connection: &mut Connection,
    reporter_nid: UserNid,
    reported: Reported<'_>,
    reason: &str,
    received_at: i64,
) -> Result<()> {
    let (room_nid, event_nid, user_nid, pdu) = match reported {
        Reported::Event(room_nid, event_nid, pdu) => {
            (Some(room_nid.0), Some(event_nid.0), None, Some(pdu.as_bytes()))
        }
        Reported::Room(room_nid) => (Some(room_nid.0), None, None, None),
        Reported::User(user_nid) => (None, None, Some(user_nid.0), None),
    };
    sqlx::query!(
        "INSERT INTO reports (reporter_nid, room_nid, event_nid, user_nid, pdu, reason, received_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        reporter_nid.0,
        room_nid,
        event_nid,
        user_nid,
        pdu,
        reason.as_bytes(),
        received_at
    )
    .execute(connection)
    .await?;
    Ok(())
}
