//! Backups of room keys: the tables `key_backups` and `key_backup_keys`.
//!
//! Whoever changes the keys of a backup first locks it, by [`lock`], so that its count and its etag are true.

use std::sync::Arc;

use crate::{Connection, Result, UserNid, text};

/// Stands for a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupNid(i64);

/// A backup that was not deleted.
#[derive(Debug, Clone)]
pub struct Backup {
    /// Stands for it.
    pub backup_nid: BackupNid,
    /// 1 for the first of a user, and so on.
    pub version: i64,
    /// How its keys are encrypted.
    pub algorithm: Arc<str>,
    /// What clients keep with it, a JSON object.
    pub auth_data: Arc<str>,
    /// What is in it.
    pub contents: Contents,
}

/// What is in a backup, told so that two moments can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// Moves on whenever the keys change.
    pub etag: i64,
    /// How many keys there are.
    pub count: i64,
}

/// A key of a backup.
#[derive(Debug, Clone)]
pub struct Key<S> {
    /// The room.
    pub room_id: S,
    /// The Megolm session.
    pub session_id: S,
    /// Whether the device that stored it had verified the one it came from.
    pub is_verified: bool,
    /// The first message that it decrypts.
    pub first_message_index: i64,
    /// How many devices handed it on.
    pub forwarded_count: i64,
    /// The key, encrypted, a JSON object.
    pub session_data: S,
}

/// Which keys of a backup.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// All of them.
    All,
    /// Those of a room.
    OfRoom(&'a str),
    /// That of a session in a room.
    OfSession(&'a str, &'a str),
}

/// The backup of a user that keys go to: the newest.
pub async fn current(connection: &mut Connection, user_nid: UserNid) -> Result<Option<Backup>> {
    let row = sqlx::query!(
        r#"SELECT backup_nid, version, algorithm, auth_data AS "auth_data!", etag, key_count FROM key_backups
           WHERE user_nid = $1 AND auth_data IS NOT NULL ORDER BY version DESC LIMIT 1"#,
        user_nid.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Backup {
        backup_nid: BackupNid(row.backup_nid),
        version: row.version,
        algorithm: text(row.algorithm),
        auth_data: text(row.auth_data),
        contents: Contents {
            etag: row.etag,
            count: row.key_count,
        },
    }))
}

/// The backup of a user with this version.
pub async fn find(connection: &mut Connection, user_nid: UserNid, version: i64) -> Result<Option<Backup>> {
    let row = sqlx::query!(
        r#"SELECT backup_nid, version, algorithm, auth_data AS "auth_data!", etag, key_count FROM key_backups
           WHERE user_nid = $1 AND version = $2 AND auth_data IS NOT NULL"#,
        user_nid.0,
        version
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Backup {
        backup_nid: BackupNid(row.backup_nid),
        version: row.version,
        algorithm: text(row.algorithm),
        auth_data: text(row.auth_data),
        contents: Contents {
            etag: row.etag,
            count: row.key_count,
        },
    }))
}

/// Locks the backup of a user with this version until the transaction ends.
pub async fn lock(connection: &mut Connection, user_nid: UserNid, version: i64) -> Result<Option<BackupNid>> {
    let backup_nid = sqlx::query_scalar!(
        "SELECT backup_nid FROM key_backups
         WHERE user_nid = $1 AND version = $2 AND auth_data IS NOT NULL FOR NO KEY UPDATE",
        user_nid.0,
        version
    )
    .fetch_optional(connection)
    .await?;
    Ok(backup_nid.map(BackupNid))
}

/// The version of the newest backup of a user that is not deleted, and how many of those there are.
pub async fn newest(connection: &mut Connection, user_nid: UserNid) -> Result<(Option<i64>, i64)> {
    let row = sqlx::query!(
        r#"SELECT max(version) AS version, count(*) AS "count!" FROM key_backups
           WHERE user_nid = $1 AND auth_data IS NOT NULL"#,
        user_nid.0
    )
    .fetch_one(connection)
    .await?;
    Ok((row.version, row.count))
}

/// Keeps others from making a backup for this user until the transaction ends.
pub async fn lock_versions(connection: &mut Connection, user_nid: UserNid) -> Result<()> {
    // The weakest lock that excludes itself.
    sqlx::query!(
        "SELECT user_nid FROM accounts WHERE user_nid = $1 FOR NO KEY UPDATE",
        user_nid.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(())
}

/// Makes a backup, and gives its version. Whoever calls this holds [`lock_versions`].
pub async fn insert(
    connection: &mut Connection,
    user_nid: UserNid,
    algorithm: &str,
    auth_data: &str,
) -> Result<i64> {
    let version = sqlx::query_scalar!(
        "INSERT INTO key_backups (user_nid, version, algorithm, auth_data, etag, key_count)
         SELECT $1, coalesce(max(version), 0) + 1, $2, $3, 0, 0 FROM key_backups WHERE user_nid = $1
         RETURNING version",
        user_nid.0,
        algorithm.as_bytes(),
        auth_data.as_bytes()
    )
    .fetch_one(connection)
    .await?;
    Ok(version)
}

/// Replaces what clients keep with a backup.
pub async fn set_auth_data(
    connection: &mut Connection,
    backup_nid: BackupNid,
    auth_data: &str,
) -> Result<()> {
    sqlx::query!(
        "UPDATE key_backups SET auth_data = $2 WHERE backup_nid = $1 AND auth_data IS NOT NULL",
        backup_nid.0,
        auth_data.as_bytes()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes a backup with its keys. `false`: the user never had one of this version; it is fine if it was deleted before.
pub async fn delete(connection: &mut Connection, user_nid: UserNid, version: i64) -> Result<bool> {
    let row = sqlx::query!(
        "UPDATE key_backups SET auth_data = NULL, key_count = 0 WHERE user_nid = $1 AND version = $2
         RETURNING backup_nid",
        user_nid.0,
        version
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(false) };
    // A statement of its own: it sees the keys of whoever held the lock until now.
    sqlx::query!(
        "DELETE FROM key_backup_keys WHERE backup_nid = $1",
        row.backup_nid
    )
    .execute(connection)
    .await?;
    Ok(true)
}

/// Deletes all backups of a user.
pub async fn delete_all(connection: &mut Connection, user_nid: UserNid) -> Result<()> {
    sqlx::query!(
        "UPDATE key_backups SET auth_data = NULL, key_count = 0 WHERE user_nid = $1 AND auth_data IS NOT NULL",
        user_nid.0
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "DELETE FROM key_backup_keys WHERE backup_nid IN (SELECT backup_nid FROM key_backups WHERE user_nid = $1)",
        user_nid.0
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Stores keys, however many, but for those of which the backup has as good a one: one that is verified is better than
/// one that isn't, then one that begins earlier, then one that fewer devices handed on. No session may be among `keys`
/// twice. Whoever calls this holds the backup's [`lock`].
pub async fn store(
    connection: &mut Connection,
    backup_nid: BackupNid,
    keys: &[Key<&str>],
) -> Result<Contents> {
    let room_ids: Vec<&[u8]> = keys.iter().map(|key| key.room_id.as_bytes()).collect();
    let session_ids: Vec<&[u8]> = keys.iter().map(|key| key.session_id.as_bytes()).collect();
    let are_verified: Vec<bool> = keys.iter().map(|key| key.is_verified).collect();
    let first_indexes: Vec<i64> = keys.iter().map(|key| key.first_message_index).collect();
    let forwarded: Vec<i64> = keys.iter().map(|key| key.forwarded_count).collect();
    let data: Vec<&[u8]> = keys.iter().map(|key| key.session_data.as_bytes()).collect();
    // xmax tells an inserted row (0) from an updated one.
    let row = sqlx::query!(
        r#"WITH stored AS (
               INSERT INTO key_backup_keys AS old
                   (backup_nid, room_id, session_id, is_verified, first_message_index, forwarded_count, session_data)
               SELECT $1, new.* FROM unnest($2::bytea[], $3::bytea[], $4::bool[], $5::bigint[], $6::bigint[], $7::bytea[]) new
               ON CONFLICT ON CONSTRAINT key_backup_keys_pkey DO UPDATE SET
                   is_verified = excluded.is_verified, first_message_index = excluded.first_message_index,
                   forwarded_count = excluded.forwarded_count, session_data = excluded.session_data
               WHERE (NOT excluded.is_verified, excluded.first_message_index, excluded.forwarded_count)
                   < (NOT old.is_verified, old.first_message_index, old.forwarded_count)
               RETURNING xmax::text = '0' AS is_new
           ), change AS (
               SELECT count(*) AS stored, count(*) FILTER (WHERE is_new) AS added FROM stored
           )
           UPDATE key_backups SET etag = etag + least(change.stored, 1), key_count = key_count + change.added
           FROM change WHERE backup_nid = $1
           RETURNING etag, key_count"#,
        backup_nid.0,
        &room_ids as &[&[u8]],
        &session_ids as &[&[u8]],
        &are_verified,
        &first_indexes,
        &forwarded,
        &data as &[&[u8]]
    )
    .fetch_one(connection)
    .await?;
    Ok(Contents {
        etag: row.etag,
        count: row.key_count,
    })
}

/// Deletes keys. Whoever calls this holds the backup's [`lock`].
pub async fn delete_keys(
    connection: &mut Connection,
    backup_nid: BackupNid,
    which: Which<'_>,
) -> Result<Contents> {
    let backup = backup_nid.0;
    let done = match which {
        Which::All => {
            sqlx::query!("DELETE FROM key_backup_keys WHERE backup_nid = $1", backup)
                .execute(&mut *connection)
                .await?
        }
        Which::OfRoom(room_id) => {
            sqlx::query!(
                "DELETE FROM key_backup_keys WHERE backup_nid = $1 AND room_id = $2",
                backup,
                room_id.as_bytes()
            )
            .execute(&mut *connection)
            .await?
        }
        Which::OfSession(room_id, session_id) => {
            sqlx::query!(
                "DELETE FROM key_backup_keys WHERE backup_nid = $1 AND room_id = $2 AND session_id = $3",
                backup,
                room_id.as_bytes(),
                session_id.as_bytes()
            )
            .execute(&mut *connection)
            .await?
        }
    };
    let deleted = i64::try_from(done.rows_affected()).unwrap_or(i64::MAX);
    let row = sqlx::query!(
        "UPDATE key_backups SET etag = etag + least($2::bigint, 1), key_count = key_count - $2 WHERE backup_nid = $1
         RETURNING etag, key_count",
        backup,
        deleted
    )
    .fetch_one(connection)
    .await?;
    Ok(Contents {
        etag: row.etag,
        count: row.key_count,
    })
}

/// The key of a session.
pub async fn key(
    connection: &mut Connection,
    backup_nid: BackupNid,
    room_id: &str,
    session_id: &str,
) -> Result<Option<Key<Arc<str>>>> {
    let row = sqlx::query!(
        "SELECT is_verified, first_message_index, forwarded_count, session_data FROM key_backup_keys
         WHERE backup_nid = $1 AND room_id = $2 AND session_id = $3",
        backup_nid.0,
        room_id.as_bytes(),
        session_id.as_bytes()
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Key {
        room_id: room_id.into(),
        session_id: session_id.into(),
        is_verified: row.is_verified,
        first_message_index: row.first_message_index,
        forwarded_count: row.forwarded_count,
        session_data: text(row.session_data),
    }))
}

/// The first `limit` keys of a backup after the one of a session in a room, in the order of both. All are after those of
/// empty names.
pub async fn keys_after(
    connection: &mut Connection,
    backup_nid: BackupNid,
    (room_id, session_id): (&str, &str),
    limit: i64,
) -> Result<Vec<Key<Arc<str>>>> {
    let rows = sqlx::query!(
        "SELECT room_id, session_id, is_verified, first_message_index, forwarded_count, session_data
         FROM key_backup_keys WHERE backup_nid = $1 AND (room_id, session_id) > ($2, $3)
         ORDER BY room_id, session_id LIMIT $4",
        backup_nid.0,
        room_id.as_bytes(),
        session_id.as_bytes(),
        limit
    )
    .fetch_all(connection)
    .await?;
    let keys = rows.into_iter().map(|row| Key {
        room_id: text(row.room_id),
        session_id: text(row.session_id),
        is_verified: row.is_verified,
        first_message_index: row.first_message_index,
        forwarded_count: row.forwarded_count,
        session_data: text(row.session_data),
    });
    Ok(keys.collect())
}

/// The first `limit` keys of a room in a backup after that of a session, in the order of their sessions.
pub async fn keys_of_room_after(
    connection: &mut Connection,
    backup_nid: BackupNid,
    (room_id, session_id): (&str, &str),
    limit: i64,
) -> Result<Vec<Key<Arc<str>>>> {
    let rows = sqlx::query!(
        "SELECT session_id, is_verified, first_message_index, forwarded_count, session_data
         FROM key_backup_keys WHERE backup_nid = $1 AND room_id = $2 AND session_id > $3
         ORDER BY session_id LIMIT $4",
        backup_nid.0,
        room_id.as_bytes(),
        session_id.as_bytes(),
        limit
    )
    .fetch_all(connection)
    .await?;
    let room_id: Arc<str> = room_id.into();
    let keys = rows.into_iter().map(|row| Key {
        room_id: Arc::clone(&room_id),
        session_id: text(row.session_id),
        is_verified: row.is_verified,
        first_message_index: row.first_message_index,
        forwarded_count: row.forwarded_count,
        session_data: text(row.session_data),
    });
    Ok(keys.collect())
}
