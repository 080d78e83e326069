//! The tables `to_device_messages` and `outgoing_to_device`: messages from device to device that were not yet handed
//! over. The committer inserts.

use std::collections::BTreeMap;

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
