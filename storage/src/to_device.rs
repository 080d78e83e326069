//! The tables `to_device_messages`, `outgoing_to_device` and `to_device_requests`: messages from device to device that
//! were not yet handed over, and which were accepted. The committer inserts.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use crate::{
    Connection, DeviceNid, Position, Result, UserNid,
    log::{OutgoingToDevice, ToDevice, ToDeviceMessage},
    text,
};

/// What was sent after `from` up to `to` and waits still, by position.
pub async fn by_position(
    connection: &mut Connection,
    from: Position,
    to: Position,
) -> Result<BTreeMap<Position, ToDevice>> {
    let mut sent: BTreeMap<Position, ToDevice> = BTreeMap::new();
    let messages = sqlx::query!(
        "SELECT d.user_nid, m.device_nid, m.position, m.sender, m.event_type, m.content
         FROM to_device_messages m JOIN devices d USING (device_nid)
         WHERE m.position > $1 AND m.position <= $2 ORDER BY m.position, m.ordinal",
        from.0,
        to.0
    )
    .fetch_all(&mut *connection)
    .await?;
    for row in messages {
        let message = ToDeviceMessage {
            user_nid: UserNid(row.user_nid),
            device_nid: DeviceNid(row.device_nid),
            sender: row.sender.into(),
            event_type: text(row.event_type),
            content: text(row.content),
        };
        sent.entry(Position(row.position))
            .or_default()
            .messages
            .push(message);
    }
    let outgoing = sqlx::query!(
        "SELECT destination, position, content FROM outgoing_to_device
         WHERE position > $1 AND position <= $2 ORDER BY position, ordinal",
        from.0,
        to.0
    )
    .fetch_all(connection)
    .await?;
    for row in outgoing {
        let message = OutgoingToDevice {
            destination: row.destination.into(),
            content: text(row.content),
        };
        sent.entry(Position(row.position))
            .or_default()
            .outgoing
            .push(message);
    }
    Ok(sent)
}

/// A message that waits for a device.
#[derive(Debug, Clone)]
pub struct WaitingMessage {
    /// Its position in the log.
    pub position: Position,
    /// The user ID of who sent it.
    pub sender: String,
    /// Its type.
    pub event_type: Arc<str>,
    /// Its content, a JSON object.
    pub content: Arc<str>,
}

/// A message that waits for another server.
#[derive(Debug, Clone)]
pub struct OutgoingMessage {
    /// Its place among those for that server.
    pub place: OutgoingPlace,
    /// The content of the EDU `m.direct_to_device`, a JSON object.
    pub content: Arc<str>,
}

/// The place of a message among those for one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutgoingPlace {
    /// Its position in the log.
    pub position: Position,
    /// Orders the messages of one position.
    pub ordinal: i32,
}

/// A device that messages can be sent to.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// The user ID of its user.
    pub user_id: String,
    /// Stands for the user.
    pub user_nid: UserNid,
    /// The device ID.
    pub device_id: String,
    /// Stands for the device.
    pub device_nid: DeviceNid,
}

/// The devices of users of this server, without U+0000 in their IDs.
pub async fn recipients(connection: &mut Connection, user_ids: &[&str]) -> Result<Vec<Recipient>> {
    let recipients = sqlx::query_as!(
        Recipient,
        "SELECT u.user_id, u.user_nid, d.device_id, d.device_nid FROM users u JOIN devices d USING (user_nid)
         WHERE u.user_id = ANY($1) ORDER BY d.device_nid",
        user_ids as &[&str]
    )
    .fetch_all(connection)
    .await?;
    Ok(recipients)
}

/// Those of some requests that were accepted before.
pub async fn accepted(connection: &mut Connection, request_keys: &[[u8; 16]]) -> Result<HashSet<[u8; 16]>> {
    let request_keys: Vec<&[u8]> = request_keys.iter().map(<[u8; 16]>::as_slice).collect();
    let accepted = sqlx::query_scalar!(
        "SELECT request_key FROM to_device_requests WHERE request_key = ANY($1)",
        &request_keys as &[&[u8]]
    )
    .fetch_all(connection)
    .await?;
    Ok(accepted
        .into_iter()
        .filter_map(|key| key.try_into().ok())
        .collect())
}

/// Forgets what was accepted before a time, in milliseconds since the Unix epoch.
pub async fn forget_accepted(connection: &mut Connection, before: i64) -> Result<()> {
    sqlx::query!("DELETE FROM to_device_requests WHERE created_at < $1", before)
        .execute(connection)
        .await?;
    Ok(())
}

/// The positions of the oldest and the newest message that wait for a device.
pub async fn range_waiting(
    connection: &mut Connection,
    device_nid: DeviceNid,
) -> Result<Option<(Position, Position)>> {
    // Two steps into the index each, however many there are.
    let row = sqlx::query!(
        "SELECT min(position) AS oldest, max(position) AS newest FROM to_device_messages WHERE device_nid = $1",
        device_nid.0
    )
    .fetch_one(connection)
    .await?;
    Ok(row
        .oldest
        .zip(row.newest)
        .map(|(oldest, newest)| (Position(oldest), Position(newest))))
}

/// The first `limit` messages that wait for a device, after `since` up to `upto`, in order.
pub async fn waiting(
    connection: &mut Connection,
    device_nid: DeviceNid,
    since: Position,
    upto: Position,
    limit: i64,
) -> Result<Vec<WaitingMessage>> {
    let rows = sqlx::query!(
        "SELECT position, sender, event_type, content FROM to_device_messages
         WHERE device_nid = $1 AND position > $2 AND position <= $3 ORDER BY position, ordinal LIMIT $4",
        device_nid.0,
        since.0,
        upto.0,
        limit
    )
    .fetch_all(connection)
    .await?;
    let messages = rows.into_iter().map(|row| WaitingMessage {
        position: Position(row.position),
        sender: row.sender,
        event_type: text(row.event_type),
        content: text(row.content),
    });
    Ok(messages.collect())
}

/// Lets go of what devices have, each up to a position.
pub async fn delete(connection: &mut Connection, confirmed: &[(DeviceNid, Position)]) -> Result<()> {
    let device_nids: Vec<i64> = confirmed.iter().map(|(device_nid, _)| device_nid.0).collect();
    let positions: Vec<i64> = confirmed.iter().map(|(_, position)| position.0).collect();
    sqlx::query!(
        "DELETE FROM to_device_messages m USING unnest($1::bigint[], $2::bigint[]) AS c (device_nid, position)
         WHERE m.device_nid = c.device_nid AND m.position <= c.position",
        &device_nids,
        &positions
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Lets go of messages to devices that are gone, which were on their way when the device was deleted.
pub async fn delete_orphans(connection: &mut Connection) -> Result<()> {
    sqlx::query!(
        "DELETE FROM to_device_messages WHERE device_nid IN (
             SELECT device_nid FROM to_device_messages EXCEPT SELECT device_nid FROM devices
         )"
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The servers that messages wait for, each with the position of the newest.
pub async fn destinations(connection: &mut Connection) -> Result<Vec<(String, Position)>> {
    let rows = sqlx::query!(
        r#"SELECT destination, max(position) AS "newest!" FROM outgoing_to_device GROUP BY destination"#
    )
    .fetch_all(connection)
    .await?;
    let destinations = rows
        .into_iter()
        .map(|row| (row.destination, Position(row.newest)));
    Ok(destinations.collect())
}

/// The first `limit` messages that wait for a server.
pub async fn outgoing(
    connection: &mut Connection,
    destination: &str,
    limit: i64,
) -> Result<Vec<OutgoingMessage>> {
    let rows = sqlx::query!(
        "SELECT position, ordinal, content FROM outgoing_to_device
         WHERE destination = $1 ORDER BY position, ordinal LIMIT $2",
        destination,
        limit
    )
    .fetch_all(connection)
    .await?;
    let messages = rows.into_iter().map(|row| OutgoingMessage {
        place: OutgoingPlace {
            position: Position(row.position),
            ordinal: row.ordinal,
        },
        content: text(row.content),
    });
    Ok(messages.collect())
}

/// Lets go of the messages that a server has: those up to a place.
pub async fn delete_outgoing(
    connection: &mut Connection,
    destination: &str,
    upto: OutgoingPlace,
) -> Result<()> {
    sqlx::query!(
        "DELETE FROM outgoing_to_device WHERE destination = $1 AND (position, ordinal) <= ($2, $3)",
        destination,
        upto.position.0,
        upto.ordinal
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Lets go of what waits for servers that have failed since before a time, in milliseconds since the Unix epoch.
pub async fn give_up_on_destinations(connection: &mut Connection, failing_before: i64) -> Result<u64> {
    let done = sqlx::query!(
        "DELETE FROM outgoing_to_device m USING destinations d
         WHERE m.destination = d.server_name AND d.failing_since < $1",
        failing_before
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
