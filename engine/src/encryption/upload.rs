//! `keys/upload`: what a device publishes for others.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hearth_storage::{
    Connection, device_keys, device_lists, devices,
    one_time_keys::{self, SessionKey},
};
use ruma::{
    OwnedOneTimeKeyId, api::client::keys::upload_keys::v3::Request, encryption::OneTimeKey, serde::Raw,
};

use super::{
    announce,
    counts::{self, KeyCounts},
    objects::{self, BadKey, MAX_ID_BYTES},
};
use crate::{Engine, Error, accounts::Requester};
use std::sync::Arc;

/// One-time keys that a device may have at a time. Clients keep some fifty.
const MAX_ONE_TIME_KEYS: u64 = 2_000;
/// Fallback keys that one request may have: one for an algorithm.
const MAX_FALLBACK_KEYS: usize = 16;
/// How long a key that was given out is remembered, in milliseconds.
const REMEMBER_CLAIMED_MS: i64 = 7 * 24 * 3_600_000;

/// Why keys were not taken.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// A key is not one.
    #[error(transparent)]
    BadKey(#[from] BadKey),
    /// The device has another one-time key of this name.
    #[error("One time key {0} already exists.")]
    Exists(String),
    /// There are two fallback keys for an algorithm, or for too many.
    #[error("there is one fallback key for an algorithm")]
    Fallbacks,
    /// The device has as many one-time keys as it may have.
    #[error("a device has {MAX_ONE_TIME_KEYS} one-time keys at most")]
    TooMany,
    /// The device was deleted meanwhile.
    #[error("the device is gone")]
    Gone,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(UploadError);

/// Publishes keys of the requester's device. All are taken, or none. The same upload again changes nothing, even when
/// some of its keys were given out meanwhile.
pub async fn upload(
    engine: &Arc<Engine>,
    requester: &Requester,
    request: Request,
) -> Result<Arc<KeyCounts>, UploadError> {
    let identity = match &request.device_keys {
        Some(keys) => {
            let (user_id, device_id) = (&requester.user_id, &requester.device_id);
            let keys = objects::device_keys(keys.json().get(), user_id, device_id)?;
            Some(objects::to_json(keys))
        }
        None => None,
    };
    let (one_time, fallback) = checked(&request.one_time_keys, &request.fallback_keys)?;
    if identity.is_none() && one_time.is_empty() && fallback.is_empty() {
        return Ok(counts::of_device(engine, requester.device_nid).await?);
    }
    let now = engine.clock.now_ms();
    let mut transaction = engine.db.begin().await?;
    if !devices::lock(&mut transaction, requester.device_nid).await? {
        return Err(UploadError::Gone);
    }
    if !one_time.is_empty() {
        store_one_time(&mut transaction, requester, one_time, now).await?;
    }
    if !fallback.is_empty() {
        one_time_keys::set_fallback(&mut transaction, requester.device_nid, &fallback).await?;
    }
    let mut is_news = false;
    if let Some(identity) = identity {
        is_news = device_keys::set(&mut transaction, requester.device_nid, &identity).await?;
    }
    if is_news {
        let device_id = requester.device_id.as_str();
        device_lists::announce(&mut transaction, requester.user_nid, device_id, None, now).await?;
        announce::commit(engine, transaction, requester.user_nid).await?;
    } else {
        transaction.commit().await?;
    }
    engine.encryption.counts.changed(requester.device_nid);
    Ok(counts::of_device(engine, requester.device_nid).await?)
}

/// Named keys, as they are uploaded.
pub(super) type NamedKeys = BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>;

/// The one-time keys and the fallback keys of an upload, if they are as they should be.
pub(super) fn checked(
    one_time: &NamedKeys,
    fallback: &NamedKeys,
) -> Result<(Vec<SessionKey>, Vec<SessionKey>), UploadError> {
    let read = |keys: &NamedKeys| session_keys(keys.iter().map(|(id, key)| (id.as_str(), key.json().get())));
    let (one_time, fallback) = (read(one_time)?, read(fallback)?);
    let algorithms: BTreeSet<&str> = fallback.iter().map(|key| key.algorithm.as_str()).collect();
    if algorithms.len() != fallback.len() || fallback.len() > MAX_FALLBACK_KEYS {
        return Err(UploadError::Fallbacks);
    }
    if one_time.len() as u64 > MAX_ONE_TIME_KEYS {
        return Err(UploadError::TooMany);
    }
    Ok((one_time, fallback))
}

async fn store_one_time(
    connection: &mut Connection,
    requester: &Requester,
    mut keys: Vec<SessionKey>,
    now: i64,
) -> Result<(), UploadError> {
    let device_nid = requester.device_nid;
    one_time_keys::forget_claimed(connection, device_nid, now - REMEMBER_CLAIMED_MS).await?;
    let names: Vec<(&str, &str)> = keys.iter().map(|key| (&*key.algorithm, &*key.key_id)).collect();
    let known = one_time_keys::named(connection, device_nid, &names).await?;
    let claimed = one_time_keys::claimed_lately(connection, device_nid, &names).await?;
    let known: HashMap<(String, String), Arc<str>> = known
        .into_iter()
        .map(|key| ((key.algorithm, key.key_id), key.key))
        .collect();
    for key in &keys {
        let name = (key.algorithm.clone(), key.key_id.clone());
        if known.get(&name).is_some_and(|known| *known != key.key) {
            return Err(UploadError::Exists(format!("{}:{}", key.algorithm, key.key_id)));
        }
    }
    keys.retain(|key| {
        let name = (key.algorithm.clone(), key.key_id.clone());
        !known.contains_key(&name) && !claimed.contains(&name)
    });
    let counts = one_time_keys::counts(connection, device_nid).await?;
    let has: u64 = counts
        .iter()
        .map(|count| u64::try_from(count.count).unwrap_or(0))
        .sum();
    if has + keys.len() as u64 > MAX_ONE_TIME_KEYS {
        return Err(UploadError::TooMany);
    }
    Ok(one_time_keys::insert(connection, device_nid, &keys).await?)
}

fn session_keys<'a>(keys: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Vec<SessionKey>, BadKey> {
    keys.map(|(name, json)| {
        let (algorithm, key_id) = name.split_once(':').ok_or(BadKey::Name)?;
        let fits = |part: &str| (1..=MAX_ID_BYTES).contains(&part.len()) && !part.contains('\0');
        if !fits(algorithm) || !fits(key_id) {
            return Err(BadKey::Name);
        }
        Ok(SessionKey {
            algorithm: algorithm.to_owned(),
            key_id: key_id.to_owned(),
            key: objects::one_time_key(json)?,
        })
    })
    .collect()
}
