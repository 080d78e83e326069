//! The table `devices`: the logins of this server's users.

use crate::{Connection, DeviceNid, Result, UserNid};

/// A stored device.
#[derive(Debug, Clone)]
pub struct Device {
    /// Stands for the device.
    pub device_nid: DeviceNid,
    /// The device ID, unique within the user.
    pub device_id: String,
    /// The name that the user knows it by.
    pub display_name: Option<String>,
    /// When it last made a request, in milliseconds since the Unix epoch.
    pub last_seen_at: Option<i64>,
    /// The IP address of that request.
    pub last_seen_address: Option<String>,
}

/// That a device made a request.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// The device.
    pub device_nid: DeviceNid,
    /// Milliseconds since the Unix epoch.
    pub seen_at: i64,
    /// The IP address of the request; `None` keeps what is known.
    pub address: Option<String>,
    /// The User-Agent of the request; `None` keeps what is known.
    pub user_agent: Option<String>,
}

/// The user's device of this ID, made now if there is none, and locked until the transaction ends. The display
/// name is for a new one. The flag says whether it is new.
pub async fn find_or_insert(
    connection: &mut Connection,
    user_nid: UserNid,
    device_id: &str,
    display_name: Option<&str>,
    created_at: i64,
) -> Result<(DeviceNid, bool)> {
    // xmax tells an inserted row (0) from a locked one.
    let row = sqlx::query!(
        r#"INSERT INTO devices (user_nid, device_id, display_name, created_at) VALUES ($1, $2, $3, $4)
           ON CONFLICT ON CONSTRAINT devices_user_nid_device_id_key DO UPDATE SET device_id = excluded.device_id
           RETURNING device_nid, xmax::text = '0' AS "is_new!""#,
        user_nid.0,
        device_id,
        display_name,
        created_at
    )
    .fetch_one(connection)
    .await?;
    Ok((DeviceNid(row.device_nid), row.is_new))
}

/// Locks a device until the transaction ends, so that its tokens change one at a time. `false`: it is gone.
pub async fn lock(connection: &mut Connection, device_nid: DeviceNid) -> Result<bool> {
    let row = sqlx::query!(
        "SELECT device_nid FROM devices WHERE device_nid = $1 FOR UPDATE",
        device_nid.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.is_some())
}

/// The user's devices, oldest first.
pub async fn list(connection: &mut Connection, user_nid: UserNid) -> Result<Vec<Device>> {
    let devices = sqlx::query_as!(
        Device,
        "SELECT device_nid, device_id, display_name, last_seen_at, last_seen_address
         FROM devices WHERE user_nid = $1 ORDER BY device_nid",
        user_nid.0
    )
    .fetch_all(connection)
    .await?;
    Ok(devices)
}

/// The user's device of this ID.
pub async fn find(connection: &mut Connection, user_nid: UserNid, device_id: &str) -> Result<Option<Device>> {
    let device = sqlx::query_as!(
        Device,
        "SELECT device_nid, device_id, display_name, last_seen_at, last_seen_address
         FROM devices WHERE user_nid = $1 AND device_id = $2",
        user_nid.0,
        device_id
    )
    .fetch_optional(connection)
    .await?;
    Ok(device)
}

/// The number of a device.
#[derive(Debug, Clone)]
pub struct DeviceNumber {
    /// Whose it is.
    pub user_nid: UserNid,
    /// The device ID.
    pub device_id: String,
    /// Its number.
    pub device_nid: DeviceNid,
}

/// The numbers of those of these devices that exist.
pub async fn numbers(connection: &mut Connection, named: &[(UserNid, &str)]) -> Result<Vec<DeviceNumber>> {
    let user_nids: Vec<i64> = named.iter().map(|(user_nid, _)| user_nid.0).collect();
    let device_ids: Vec<&str> = named.iter().map(|(_, device_id)| *device_id).collect();
    let devices = sqlx::query_as!(
        DeviceNumber,
        "SELECT d.user_nid, d.device_id, d.device_nid
         FROM unnest($1::bigint[], $2::text[]) AS named (user_nid, device_id)
         JOIN devices d USING (user_nid, device_id)",
        &user_nids,
        &device_ids as &[&str]
    )
    .fetch_all(connection)
    .await?;
    Ok(devices)
}

/// Renames the user's device of this ID. `false`: there is none. If it has keys, the log is to tell.
pub async fn rename(
    connection: &mut Connection,
    user_nid: UserNid,
    device_id: &str,
    display_name: &str,
    now: i64,
) -> Result<bool> {
    let done = sqlx::query!(
        r#"WITH renamed AS (
               UPDATE devices SET display_name = $3 WHERE user_nid = $1 AND device_id = $2 RETURNING device_nid
           ), told AS (
               INSERT INTO pending_device_list_changes (user_nid, only_for, created_at, device_id)
               SELECT $1, 0, $4, $2 FROM renamed WHERE device_nid IN (SELECT device_nid FROM device_keys)
           )
           SELECT count(*) AS "count!" FROM renamed"#,
        user_nid.0,
        device_id,
        display_name,
        now
    )
    .fetch_one(connection)
    .await?;
    Ok(done.count == 1)
}

/// Deletes those of the user's devices that have one of these IDs, with their tokens, keys and messages. Of those that
/// had keys, the log is to tell.
pub async fn delete(
    connection: &mut Connection,
    user_nid: UserNid,
    device_ids: &[String],
    now: i64,
) -> Result<Vec<(DeviceNid, String)>> {
    let rows = sqlx::query!(
        "WITH gone AS (
             DELETE FROM devices WHERE user_nid = $1 AND device_id = ANY($2) RETURNING device_nid, device_id
         ), told AS (
             INSERT INTO pending_device_list_changes (user_nid, only_for, created_at, device_id)
             SELECT $1, 0, $3, device_id FROM gone WHERE device_nid IN (SELECT device_nid FROM device_keys)
         ), signatures AS (
             DELETE FROM key_signatures WHERE target_nid = $1 AND target_key IN (SELECT device_id FROM gone)
         ), messages AS (
             DELETE FROM to_device_messages WHERE device_nid IN (SELECT device_nid FROM gone)
         )
         SELECT device_nid, device_id FROM gone",
        user_nid.0,
        device_ids,
        now
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (DeviceNid(row.device_nid), row.device_id))
        .collect())
}

/// Deletes all of the user's devices but `except`, as [`delete`] does.
pub async fn delete_all(
    connection: &mut Connection,
    user_nid: UserNid,
    except: Option<DeviceNid>,
    now: i64,
) -> Result<Vec<(DeviceNid, String)>> {
    let rows = sqlx::query!(
        "WITH gone AS (
             DELETE FROM devices WHERE user_nid = $1 AND device_nid IS DISTINCT FROM $2
             RETURNING device_nid, device_id
         ), told AS (
             INSERT INTO pending_device_list_changes (user_nid, only_for, created_at, device_id)
             SELECT $1, 0, $3, device_id FROM gone WHERE device_nid IN (SELECT device_nid FROM device_keys)
         ), signatures AS (
             DELETE FROM key_signatures WHERE target_nid = $1 AND target_key IN (SELECT device_id FROM gone)
         ), messages AS (
             DELETE FROM to_device_messages WHERE device_nid IN (SELECT device_nid FROM gone)
         )
         SELECT device_nid, device_id FROM gone",
        user_nid.0,
        except.map(|nid| nid.0),
        now
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (DeviceNid(row.device_nid), row.device_id))
        .collect())
}

/// Writes down when and where devices were seen. A device that is gone is passed over.
pub async fn note_seen(connection: &mut Connection, sightings: &[Sighting]) -> Result<()> {
    let device_nids: Vec<i64> = sightings.iter().map(|sighting| sighting.device_nid.0).collect();
    let seen_at: Vec<i64> = sightings.iter().map(|sighting| sighting.seen_at).collect();
    let addresses: Vec<Option<&str>> = sightings
        .iter()
        .map(|sighting| sighting.address.as_deref())
        .collect();
    let user_agents: Vec<Option<&str>> = sightings
        .iter()
        .map(|sighting| sighting.user_agent.as_deref())
        .collect();
    sqlx::query!(
        "UPDATE devices SET last_seen_at = seen.seen_at,
             last_seen_address = coalesce(seen.address, last_seen_address),
             last_seen_user_agent = coalesce(seen.user_agent, last_seen_user_agent)
         FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[])
             AS seen (device_nid, seen_at, address, user_agent)
         WHERE devices.device_nid = seen.device_nid",
        &device_nids,
        &seen_at,
        &addresses as &[Option<&str>],
        &user_agents as &[Option<&str>]
    )
    .execute(connection)
    .await?;
    Ok(())
}
