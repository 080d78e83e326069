//! The tables `one_time_keys` and `fallback_keys`: what others begin an encrypted session with a device by.

use std::sync::Arc;

use crate::{Connection, DeviceNid, Result, text};

/// A key by which to begin a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionKey {
    /// The algorithm: what is before the colon of its name.
    pub algorithm: String,
    /// What is after the colon.
    pub key_id: String,
    /// The key, JSON.
    pub key: Arc<str>,
}

/// A key that was given out.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// Whose it is.
    pub device_nid: DeviceNid,
    /// The key.
    pub key: SessionKey,
}

/// How many one-time keys of an algorithm a device has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The algorithm.
    pub algorithm: String,
    /// How many.
    pub count: i64,
}

/// Those of a device's one-time keys that have one of these names (algorithm and ID).
pub async fn named(
    connection: &mut Connection,
    device_nid: DeviceNid,
    names: &[(&str, &str)],
) -> Result<Vec<SessionKey>> {
    let algorithms: Vec<&str> = names.iter().map(|name| name.0).collect();
    let key_ids: Vec<&str> = names.iter().map(|name| name.1).collect();
    let rows = sqlx::query!(
        "SELECT k.algorithm, k.key_id, k.key
         FROM unnest($2::text[], $3::text[]) AS wanted (algorithm, key_id) JOIN one_time_keys k USING (algorithm, key_id)
         WHERE k.device_nid = $1",
        device_nid.0,
        &algorithms as &[&str],
        &key_ids as &[&str]
    )
    .fetch_all(connection)
    .await?;
    let keys = rows.into_iter().map(|row| SessionKey {
        algorithm: row.algorithm,
        key_id: row.key_id,
        key: text(row.key),
    });
    Ok(keys.collect())
}

/// Those of some names (algorithm and ID) whose keys were given out lately.
pub async fn claimed_lately(
    connection: &mut Connection,
    device_nid: DeviceNid,
    names: &[(&str, &str)],
) -> Result<Vec<(String, String)>> {
    let algorithms: Vec<&str> = names.iter().map(|name| name.0).collect();
    let key_ids: Vec<&str> = names.iter().map(|name| name.1).collect();
    let rows = sqlx::query!(
        "SELECT c.algorithm, c.key_id
         FROM unnest($2::text[], $3::text[]) AS wanted (algorithm, key_id)
         JOIN claimed_one_time_keys c USING (algorithm, key_id) WHERE c.device_nid = $1",
        device_nid.0,
        &algorithms as &[&str],
        &key_ids as &[&str]
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.algorithm, row.key_id)).collect())
}

/// Forgets which of a device's keys were given out before `claimed_before`, milliseconds.
pub async fn forget_claimed(
    connection: &mut Connection,
    device_nid: DeviceNid,
    claimed_before: i64,
) -> Result<()> {
    sqlx::query!(
        "DELETE FROM claimed_one_time_keys WHERE device_nid = $1 AND claimed_at < $2",
        device_nid.0,
        claimed_before
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Stores one-time keys of a device, which must be locked, in their order.
pub async fn insert(connection: &mut Connection, device_nid: DeviceNid, keys: &[SessionKey]) -> Result<()> {
    let algorithms: Vec<&str> = keys.iter().map(|key| key.algorithm.as_str()).collect();
    let key_ids: Vec<&str> = keys.iter().map(|key| key.key_id.as_str()).collect();
    let values: Vec<&[u8]> = keys.iter().map(|key| key.key.as_bytes()).collect();
    sqlx::query!(
        "INSERT INTO one_time_keys (device_nid, algorithm, key_id, key)
         SELECT $1, k.algorithm, k.key_id, k.key
         FROM unnest($2::text[], $3::text[], $4::bytea[]) WITH ORDINALITY AS k (algorithm, key_id, key, place)
         ORDER BY k.place",
        device_nid.0,
        &algorithms as &[&str],
        &key_ids as &[&str],
        &values as &[&[u8]]
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// How many one-time keys a device has, by algorithm.
pub async fn counts(connection: &mut Connection, device_nid: DeviceNid) -> Result<Vec<Count>> {
    let counts = sqlx::query_as!(
        Count,
        r#"SELECT algorithm, count(*) AS "count!" FROM one_time_keys WHERE device_nid = $1
           GROUP BY algorithm ORDER BY algorithm"#,
        device_nid.0
    )
    .fetch_all(connection)
    .await?;
    Ok(counts)
}

/// Takes a one-time key of each of these devices and algorithms, the first that was uploaded and that nobody else is
/// taking. It is gone when the transaction ends, and stays where that fails.
pub async fn claim(
    connection: &mut Connection,
    wanted: &[(DeviceNid, &str)],
    now: i64,
) -> Result<Vec<Claimed>> {
    let devices: Vec<i64> = wanted.iter().map(|(device_nid, _)| device_nid.0).collect();
    let algorithms: Vec<&str> = wanted.iter().map(|(_, algorithm)| *algorithm).collect();
    let rows = sqlx::query!(
        r#"WITH picked AS (
               SELECT first.device_nid, first.algorithm, first.key_id
               FROM unnest($1::bigint[], $2::text[]) AS wanted (device_nid, algorithm) CROSS JOIN LATERAL (
                   SELECT k.device_nid, k.algorithm, k.key_id FROM one_time_keys k
                   WHERE k.device_nid = wanted.device_nid AND k.algorithm = wanted.algorithm
                   ORDER BY k.ordinal LIMIT 1 FOR UPDATE SKIP LOCKED
               ) first
           ), claimed AS (
               DELETE FROM one_time_keys k USING picked
               WHERE k.device_nid = picked.device_nid AND k.algorithm = picked.algorithm AND k.key_id = picked.key_id
               RETURNING k.device_nid, k.algorithm, k.key_id, k.key
           ), noted AS (
               INSERT INTO claimed_one_time_keys (device_nid, claimed_at, algorithm, key_id)
               SELECT device_nid, $3, algorithm, key_id FROM claimed
               ON CONFLICT ON CONSTRAINT claimed_one_time_keys_pkey DO UPDATE SET claimed_at = excluded.claimed_at
           )
           SELECT device_nid, algorithm, key_id, key FROM claimed"#,
        &devices,
        &algorithms as &[&str],
        now
    )
    .fetch_all(connection)
    .await?;
    let claimed = rows.into_iter().map(|row| Claimed {
        device_nid: DeviceNid(row.device_nid),
        key: SessionKey {
            algorithm: row.algorithm,
            key_id: row.key_id,
            key: text(row.key),
        },
    });
    Ok(claimed.collect())
}

/// The fallback key of each of these devices and algorithms, where there is one. It counts as used from then on.
pub async fn claim_fallback(
    connection: &mut Connection,
    wanted: &[(DeviceNid, &str)],
) -> Result<Vec<Claimed>> {
    let devices: Vec<i64> = wanted.iter().map(|(device_nid, _)| device_nid.0).collect();
    let algorithms: Vec<&str> = wanted.iter().map(|(_, algorithm)| *algorithm).collect();
    // Locked in one order by all; a key that is used already is only read.
    sqlx::query!(
        "UPDATE fallback_keys f SET used = true FROM (
             SELECT k.device_nid, k.algorithm FROM fallback_keys k
             JOIN unnest($1::bigint[], $2::text[]) AS wanted (device_nid, algorithm) USING (device_nid, algorithm)
             WHERE NOT k.used ORDER BY k.device_nid, k.algorithm FOR UPDATE OF k
         ) unused WHERE f.device_nid = unused.device_nid AND f.algorithm = unused.algorithm",
        &devices,
        &algorithms as &[&str]
    )
    .execute(&mut *connection)
    .await?;
    let rows = sqlx::query!(
        "SELECT k.device_nid, k.algorithm, k.key_id, k.key FROM fallback_keys k
         JOIN unnest($1::bigint[], $2::text[]) AS wanted (device_nid, algorithm) USING (device_nid, algorithm)",
        &devices,
        &algorithms as &[&str]
    )
    .fetch_all(connection)
    .await?;
    let claimed = rows.into_iter().map(|row| Claimed {
        device_nid: DeviceNid(row.device_nid),
        key: SessionKey {
            algorithm: row.algorithm,
            key_id: row.key_id,
            key: text(row.key),
        },
    });
    Ok(claimed.collect())
}

/// Stores fallback keys of a device, which must be locked, each in place of the one of its algorithm. One that is the
/// same as before stays as used as it was.
pub async fn set_fallback(
    connection: &mut Connection,
    device_nid: DeviceNid,
    keys: &[SessionKey],
) -> Result<()> {
    let algorithms: Vec<&str> = keys.iter().map(|key| key.algorithm.as_str()).collect();
    let key_ids: Vec<&str> = keys.iter().map(|key| key.key_id.as_str()).collect();
    let values: Vec<&[u8]> = keys.iter().map(|key| key.key.as_bytes()).collect();
    sqlx::query!(
        "INSERT INTO fallback_keys AS old (device_nid, algorithm, key_id, key, used)
         SELECT $1, k.algorithm, k.key_id, k.key, false
         FROM unnest($2::text[], $3::text[], $4::bytea[]) AS k (algorithm, key_id, key)
         ON CONFLICT ON CONSTRAINT fallback_keys_pkey DO UPDATE SET key_id = excluded.key_id, key = excluded.key,
             used = false
             WHERE old.key_id <> excluded.key_id OR old.key <> excluded.key",
        device_nid.0,
        &algorithms as &[&str],
        &key_ids as &[&str],
        &values as &[&[u8]]
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The algorithms for which a device has a fallback key that nobody was given yet.
pub async fn unused_fallback(connection: &mut Connection, device_nid: DeviceNid) -> Result<Vec<String>> {
    let algorithms = sqlx::query_scalar!(
        "SELECT algorithm FROM fallback_keys WHERE device_nid = $1 AND NOT used ORDER BY algorithm",
        device_nid.0
    )
    .fetch_all(connection)
    .await?;
    Ok(algorithms)
}
