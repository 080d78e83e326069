//! The table `device_keys`: the identity keys of this server's devices.

use std::sync::Arc;

use crate::{Connection, DeviceNid, Result, UserNid, text};

/// A device that has identity keys.
#[derive(Debug, Clone)]
pub struct KeyedDevice {
    /// Whose it is.
    pub user_nid: UserNid,
    /// Its number.
    pub device_nid: DeviceNid,
    /// Its ID.
    pub device_id: String,
    /// The name that its user gave it.
    pub display_name: Option<String>,
    /// The device key object, JSON as it was uploaded.
    pub keys: Arc<str>,
}

/// The devices of some users that have identity keys, oldest first.
pub async fn of_users(connection: &mut Connection, user_nids: &[UserNid]) -> Result<Vec<KeyedDevice>> {
    let nids: Vec<i64> = user_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        "SELECT d.user_nid, d.device_nid, d.device_id, d.display_name, k.keys
         FROM devices d JOIN device_keys k USING (device_nid) WHERE d.user_nid = ANY($1) ORDER BY d.device_nid",
        &nids
    )
    .fetch_all(connection)
    .await?;
    let devices = rows.into_iter().map(|row| KeyedDevice {
        user_nid: UserNid(row.user_nid),
        device_nid: DeviceNid(row.device_nid),
        device_id: row.device_id,
        display_name: row.display_name,
        keys: text(row.keys),
    });
    Ok(devices.collect())
}

/// Stores the identity keys of a device, which must be locked. `false`: they are the same as before.
pub async fn set(connection: &mut Connection, device_nid: DeviceNid, keys: &str) -> Result<bool> {
    let done = sqlx::query!(
        "INSERT INTO device_keys AS old (device_nid, keys) VALUES ($1, $2)
         ON CONFLICT ON CONSTRAINT device_keys_pkey DO UPDATE SET keys = excluded.keys
             WHERE old.keys <> excluded.keys",
        device_nid.0,
        keys.as_bytes()
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
