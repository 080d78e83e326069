//! The table `dehydrated_devices`: devices that nobody is logged in to, one for a user at most.

use std::sync::Arc;

use crate::{Connection, DeviceNid, Result, UserNid, text};

/// A device that waits to be revived.
#[derive(Debug, Clone)]
pub struct DehydratedDevice {
    /// Stands for the device.
    pub device_nid: DeviceNid,
    /// The device ID.
    pub device_id: String,
    /// Its private keys, encrypted by a client, a JSON object.
    pub device_data: Arc<str>,
}

/// The one of a user.
pub async fn find(connection: &mut Connection, user_nid: UserNid) -> Result<Option<DehydratedDevice>> {
    let row = sqlx::query!(
        "SELECT device_nid, device_id, device_data FROM dehydrated_devices JOIN devices USING (device_nid)
         WHERE dehydrated_devices.user_nid = $1",
        user_nid.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| DehydratedDevice {
        device_nid: DeviceNid(row.device_nid),
        device_id: row.device_id,
        device_data: text(row.device_data),
    }))
}

/// Makes a device the one of a user, who has none. It goes with the device.
pub async fn insert(
    connection: &mut Connection,
    user_nid: UserNid,
    device_nid: DeviceNid,
    device_data: &str,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO dehydrated_devices (user_nid, device_nid, device_data) VALUES ($1, $2, $3)",
        user_nid.0,
        device_nid.0,
        device_data.as_bytes()
    )
    .execute(connection)
    .await?;
    Ok(())
}
