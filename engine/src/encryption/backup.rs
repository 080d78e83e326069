//! Backups of room keys (client-server API, "Server-side key backups").
//!
//! Owns the versions of a user's backups, which key replaces which, and what is too much. Keys come and go encrypted:
//! nothing here can read them, nor needs to know the rooms that they are of.

use std::{fmt, str::FromStr, sync::Arc};

pub use hearth_storage::key_backup::{Contents, Which};
use hearth_storage::{
    Connection,
    key_backup::{self, Backup, BackupNid, Key},
};
use ruma::UInt;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Engine, Error, accounts::Requester};

/// The most backups of a user that are kept at a time. Clients delete the old one when they make a new one, as a rule.
const MAX_BACKUPS: i64 = 50;
/// The most keys in a backup: those of the encrypted rooms of a lifetime.
const MAX_KEYS: i64 = 1_000_000;
/// The most bytes of what is kept with a backup.
const MAX_AUTH_DATA_BYTES: usize = 1 << 16;
/// The most bytes of a key; a real one has about 700.
const MAX_KEY_BYTES: usize = 1 << 14;
/// The most bytes of the name of an algorithm, or of a session.
const MAX_NAME_BYTES: usize = 255;
/// How many keys are read at a time, where all are asked for.
const PAGE: i64 = 500;

/// Why a backup, or a key, was not read or deleted.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The user has no such backup.
    #[error("there is no such backup")]
    NoBackup,
    /// The backup has no such key.
    #[error("the backup has no such key")]
    NoKey,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(BackupError);

/// Why a backup was not made, or not changed.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// What is said of it is not as it should be.
    #[error("the algorithm of a backup is a name, and its `auth_data` an object")]
    Malformed,
    /// The algorithm's name is empty or too long.
    #[error("the name of an algorithm has {MAX_NAME_BYTES} bytes at most")]
    BadAlgorithm,
    /// `auth_data` is too long.
    #[error("the `auth_data` of a backup has {MAX_AUTH_DATA_BYTES} bytes at most")]
    TooLarge,
    /// The user has too many.
    #[error("a user keeps at most {MAX_BACKUPS} backups")]
    TooMany,
    /// The user has no such backup.
    #[error("there is no such backup")]
    NoBackup,
    /// The algorithm of a backup stays.
    #[error("the backup has another algorithm")]
    OtherAlgorithm,
    /// The body speaks of another backup.
    #[error("the body names another version")]
    OtherVersion,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(DescribeError);

/// Why keys were not stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The user has no backup.
    #[error("there is no backup")]
    NoBackup,
    /// Keys go to another backup by now.
    #[error("keys go to the backup {0}")]
    NotCurrent(Version),
    /// The key is not as it should be, or its session's name.
    #[error("the key of the session {session_id:?} is not as it should be: {reason}")]
    Malformed {
        /// The session.
        session_id: String,
        /// What is wrong.
        reason: String,
    },
    /// A key is too long.
    #[error("a key has {MAX_KEY_BYTES} bytes at most")]
    TooLarge,
    /// The backup is full.
    #[error("a backup has {MAX_KEYS} keys at most")]
    TooMany,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(StoreError);

/// Names one of a user's backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version(i64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// It names no backup: those that do are written in one way only.
#[derive(Debug, thiserror::Error)]
#[error("there is no backup of this version")]
pub struct NoVersion;

impl FromStr for Version {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let number: i64 = text.parse().map_err(|_| NoVersion)?;
        let version = Self(number);
        // Not "+1", nor "01".
        (number > 0 && version.to_string() == text)
            .then_some(version)
            .ok_or(NoVersion)
    }
}

impl From<NoVersion> for BackupError {
    fn from(_: NoVersion) -> Self {
        Self::NoBackup
    }
}

impl From<NoVersion> for DescribeError {
    fn from(_: NoVersion) -> Self {
        Self::NoBackup
    }
}

/// A backup, as it is told.
#[derive(Debug, Clone, Serialize)]
pub struct Description {
    /// How the keys are encrypted.
    pub algorithm: Arc<str>,
    /// What clients keep with it.
    pub auth_data: Box<RawValue>,
    /// How many keys there are.
    pub count: i64,
    /// Moves on whenever the keys change.
    pub etag: String,
    /// Its version.
    pub version: String,
}

/// What a client says of a backup that it makes or changes.
#[derive(Debug, Deserialize)]
struct Said {
    algorithm: String,
    auth_data: Box<RawValue>,
    version: Option<String>,
}

/// A key, as clients send it and get it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyData {
    /// The first message that it decrypts.
    pub first_message_index: UInt,
    /// How many devices handed it on.
    pub forwarded_count: UInt,
    /// Whether the device that stored it had verified the one it came from.
    pub is_verified: bool,
    /// The key, encrypted.
    pub session_data: Box<RawValue>,
}

/// A key, and which it is.
#[derive(Debug)]
pub struct NamedKey {
    /// The room.
    pub room_id: Arc<str>,
    /// The Megolm session.
    pub session_id: Arc<str>,
    /// The key.
    pub data: KeyData,
}

/// Makes a backup, which keys go to from now on. `said` is what the client says of it, a JSON object.
pub async fn create(engine: &Engine, requester: &Requester, said: &str) -> Result<Version, DescribeError> {
    let said = read_description(said)?;
    let user_nid = requester.user_nid;
    let mut transaction = engine.db.begin().await?;
    key_backup::lock_versions(&mut transaction, user_nid).await?;
    let (_, count) = key_backup::newest(&mut transaction, user_nid).await?;
    if count >= MAX_BACKUPS {
        return Err(DescribeError::TooMany);
    }
    let auth_data = said.auth_data.get();
    let version = key_backup::insert(&mut transaction, user_nid, &said.algorithm, auth_data).await?;
    transaction.commit().await?;
    Ok(Version(version))
}

/// Changes what clients keep with a backup. `said` is what the client says of it, a JSON object.
pub async fn update(
    engine: &Engine,
    requester: &Requester,
    version: &str,
    said: &str,
) -> Result<(), DescribeError> {
    let said = read_description(said)?;
    if said.version.is_some_and(|said| said != version) {
        return Err(DescribeError::OtherVersion);
    }
    let version: Version = version.parse()?;
    let mut connection = engine.db.acquire().await?;
    let backup = key_backup::find(&mut connection, requester.user_nid, version.0).await?;
    let backup = backup.ok_or(DescribeError::NoBackup)?;
    if *backup.algorithm != *said.algorithm {
        return Err(DescribeError::OtherAlgorithm);
    }
    key_backup::set_auth_data(&mut connection, backup.backup_nid, said.auth_data.get()).await?;
    Ok(())
}

/// The backup that keys go to.
pub async fn current(engine: &Engine, requester: &Requester) -> Result<Description, BackupError> {
    let mut connection = engine.db.acquire().await?;
    let backup = key_backup::current(&mut connection, requester.user_nid).await?;
    Ok(describe(backup.ok_or(BackupError::NoBackup)?)?)
}

/// The backup of a version.
pub async fn get(engine: &Engine, requester: &Requester, version: &str) -> Result<Description, BackupError> {
    let mut connection = engine.db.acquire().await?;
    Ok(describe(find(&mut connection, requester, version).await?)?)
}

/// Deletes a backup with its keys; one that was deleted before counts as deleted.
pub async fn delete(engine: &Engine, requester: &Requester, version: &str) -> Result<(), BackupError> {
    let version: Version = version.parse()?;
    let mut transaction = engine.db.begin().await?;
    if !key_backup::delete(&mut transaction, requester.user_nid, version.0).await? {
        return Err(BackupError::NoBackup);
    }
    transaction.commit().await?;
    Ok(())
}

/// Stores keys in the backup of a version, which must be the one that keys go to. `keys` are JSON objects, by room and
/// session. Either all of them count when this returns, or none does.
pub async fn store(
    engine: &Engine,
    requester: &Requester,
    version: &str,
    keys: &[(&str, &str, &str)],
) -> Result<Contents, StoreError> {
    let keys = keys
        .iter()
        .map(|(room_id, session_id, key)| Ok((*room_id, *session_id, read_key(session_id, key)?)))
        .collect::<Result<Vec<_>, StoreError>>()?;
    let keys: Vec<Key<&str>> = keys
        .iter()
        .map(|(room_id, session_id, key)| Key {
            room_id: *room_id,
            session_id: *session_id,
            is_verified: key.is_verified,
            first_message_index: key.first_message_index.into(),
            forwarded_count: key.forwarded_count.into(),
            session_data: key.session_data.get(),
        })
        .collect();
    let user_nid = requester.user_nid;
    let mut transaction = engine.db.begin().await?;
    let locked = match version.parse::<Version>() {
        Ok(version) => key_backup::lock(&mut transaction, user_nid, version.0)
            .await?
            .map(|backup_nid| (version, backup_nid)),
        Err(NoVersion) => None,
    };
    let (newest, _) = key_backup::newest(&mut transaction, user_nid).await?;
    let newest = Version(newest.ok_or(StoreError::NoBackup)?);
    let backup_nid = match locked {
        Some((version, backup_nid)) if version == newest => backup_nid,
        _ => return Err(StoreError::NotCurrent(newest)),
    };
    let contents = key_backup::store(&mut transaction, backup_nid, &keys).await?;
    if contents.count > MAX_KEYS {
        return Err(StoreError::TooMany);
    }
    transaction.commit().await?;
    Ok(contents)
}

/// Deletes keys of a backup; those that aren't there count as deleted.
pub async fn delete_keys(
    engine: &Engine,
    requester: &Requester,
    version: &str,
    which: Which<'_>,
) -> Result<Contents, BackupError> {
    let version: Version = version.parse()?;
    let mut transaction = engine.db.begin().await?;
    let backup_nid = key_backup::lock(&mut transaction, requester.user_nid, version.0).await?;
    let backup_nid = backup_nid.ok_or(BackupError::NoBackup)?;
    let contents = key_backup::delete_keys(&mut transaction, backup_nid, which).await?;
    transaction.commit().await?;
    Ok(contents)
}

/// The key of a session.
pub async fn key(
    engine: &Engine,
    requester: &Requester,
    version: &str,
    room_id: &str,
    session_id: &str,
) -> Result<KeyData, BackupError> {
    let mut connection = engine.db.acquire().await?;
    let backup = find(&mut connection, requester, version).await?;
    let key = key_backup::key(&mut connection, backup.backup_nid, room_id, session_id).await?;
    Ok(tell(key.ok_or(BackupError::NoKey)?)?.data)
}

/// The keys of a backup, or of one room in it, to be read a page at a time.
pub async fn keys(
    engine: &Arc<Engine>,
    requester: &Requester,
    version: &str,
    room_id: Option<&str>,
) -> Result<Pages, BackupError> {
    let mut connection = engine.db.acquire().await?;
    let backup = find(&mut connection, requester, version).await?;
    Ok(Pages {
        engine: Arc::clone(engine),
        backup_nid: backup.backup_nid,
        only_room: room_id.is_some(),
        after: Some((room_id.unwrap_or_default().into(), "".into())),
    })
}

/// Keys of a backup, in the order of rooms and sessions. Holds nothing between pages, neither keys nor a connection: a
/// backup can be larger than what one request may use of either, and a client slower than others can wait.
#[derive(Debug)]
pub struct Pages {
    engine: Arc<Engine>,
    backup_nid: BackupNid,
    only_room: bool,
    /// The place of the last key that was read; nothing at the end.
    after: Option<(Arc<str>, Arc<str>)>,
}

impl Pages {
    /// The next keys; none at the end.
    pub async fn next(&mut self) -> Result<Vec<NamedKey>, Error> {
        let Some((room_id, session_id)) = &self.after else {
            return Ok(Vec::new());
        };
        let after = (&**room_id, &**session_id);
        let mut connection = self.engine.db.acquire().await?;
        let page = if self.only_room {
            key_backup::keys_of_room_after(&mut connection, self.backup_nid, after, PAGE).await?
        } else {
            key_backup::keys_after(&mut connection, self.backup_nid, after, PAGE).await?
        };
        self.after = page
            .last()
            .map(|key| (Arc::clone(&key.room_id), Arc::clone(&key.session_id)));
        page.into_iter().map(tell).collect()
    }
}

async fn find(
    connection: &mut Connection,
    requester: &Requester,
    version: &str,
) -> Result<Backup, BackupError> {
    let version: Version = version.parse()?;
    let backup = key_backup::find(connection, requester.user_nid, version.0).await?;
    backup.ok_or(BackupError::NoBackup)
}

fn read_description(said: &str) -> Result<Said, DescribeError> {
    let said: Said = serde_json::from_str(said).map_err(|_| DescribeError::Malformed)?;
    if !said.auth_data.get().starts_with('{') {
        return Err(DescribeError::Malformed);
    }
    if said.algorithm.is_empty() || said.algorithm.len() > MAX_NAME_BYTES {
        return Err(DescribeError::BadAlgorithm);
    }
    if said.auth_data.get().len() > MAX_AUTH_DATA_BYTES {
        return Err(DescribeError::TooLarge);
    }
    Ok(said)
}

fn read_key(session_id: &str, key: &str) -> Result<KeyData, StoreError> {
    let malformed = |reason: String| StoreError::Malformed {
        session_id: session_id.chars().take(MAX_NAME_BYTES).collect(),
        reason,
    };
    if session_id.is_empty() || session_id.len() > MAX_NAME_BYTES {
        return Err(malformed(format!(
            "the name of a session has between 1 and {MAX_NAME_BYTES} bytes"
        )));
    }
    let key: KeyData = serde_json::from_str(key).map_err(|error| malformed(error.to_string()))?;
    if !key.session_data.get().starts_with('{') {
        return Err(malformed("`session_data` is an object".to_owned()));
    }
    if key.session_data.get().len() > MAX_KEY_BYTES {
        return Err(StoreError::TooLarge);
    }
    Ok(key)
}

fn describe(backup: Backup) -> Result<Description, Error> {
    Ok(Description {
        algorithm: backup.algorithm,
        auth_data: stored_json(&backup.auth_data)?,
        count: backup.contents.count,
        etag: backup.contents.etag.to_string(),
        version: backup.version.to_string(),
    })
}

fn tell(key: Key<Arc<str>>) -> Result<NamedKey, Error> {
    let number = |number: i64| {
        UInt::try_from(number).map_err(|error| Error::Damaged(format!("a key in a backup: {error}")))
    };
    Ok(NamedKey {
        data: KeyData {
            first_message_index: number(key.first_message_index)?,
            forwarded_count: number(key.forwarded_count)?,
            is_verified: key.is_verified,
            session_data: stored_json(&key.session_data)?,
        },
        room_id: key.room_id,
        session_id: key.session_id,
    })
}

fn stored_json(json: &str) -> Result<Box<RawValue>, Error> {
    RawValue::from_string(json.to_owned()).map_err(|error| Error::Damaged(format!("a key backup: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_written_in_one_way() {
        assert_eq!("12".parse::<Version>().expect("a version"), Version(12));
        for other in [
            "",
            "0",
            "-1",
            "+1",
            "01",
            " 1",
            "1 ",
            "one",
            "9223372036854775808",
            "1\0",
        ] {
            assert!(
                other.parse::<Version>().is_err(),
                "{other:?} was taken for a version"
            );
        }
    }

    #[test]
    fn a_key_is_what_the_specification_says_and_of_bounded_length() {
        let key = |data: &str| {
            format!(
                r#"{{"first_message_index":0,"forwarded_count":0,"is_verified":false,"session_data":{data}}}"#
            )
        };
        assert!(read_key("s", &key(r#"{"mac":"\u0000"}"#)).is_ok());
        for bad in [
            "7",
            "{}",
            &key("null"),
            &key(r#""text""#),
            r#"{"first_message_index":-1,"forwarded_count":0,"is_verified":false,"session_data":{}}"#,
            r#"{"first_message_index":0.5,"forwarded_count":0,"is_verified":false,"session_data":{}}"#,
            r#"{"first_message_index":0,"forwarded_count":0,"is_verified":"no","session_data":{}}"#,
        ] {
            assert!(
                matches!(read_key("s", bad), Err(StoreError::Malformed { .. })),
                "{bad} was taken for a key"
            );
        }
        let long = "x".repeat(MAX_KEY_BYTES);
        assert!(matches!(
            read_key("s", &key(&format!(r#"{{"mac":"{long}"}}"#))),
            Err(StoreError::TooLarge)
        ));
        assert!(read_key("", &key("{}")).is_err());
        assert!(read_key(&long, &key("{}")).is_err());
    }
}
