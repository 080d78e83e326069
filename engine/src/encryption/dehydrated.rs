//! Dehydrated devices (MSC3814): a device that nobody is logged in to takes messages for its user, who may have no
//! other at the moment. A client that is logged in later reads them with its private keys, which are kept here encrypted.
//!
//! To everybody else it is a device like any other: it has keys, it is in the device list, it is sent messages. Its
//! messages are not let go as they are read: whoever reads them may not come to an end.

use std::sync::Arc;

use hearth_storage::{
    Connection, Position, Transaction, UserNid,
    dehydrated_devices::{self as stored, DehydratedDevice},
    device_keys, device_lists, devices, key_backup,
    one_time_keys::{self, SessionKey},
};
use ruma::{
    DeviceId, OwnedDeviceId, api::client::dehydrated_device::put_dehydrated_device::unstable::Request,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    announce,
    objects::{self, BadKey},
    to_device::told,
    upload::{self, UploadError},
};
use crate::{
    Engine, Error,
    accounts::{MAX_DISPLAY_NAME_CHARS, Requester},
    log::position_of,
    tokens::{BadToken, SyncToken},
};

/// The most bytes of the private keys, as a client encrypts them.
const MAX_DATA_BYTES: usize = 1 << 18;
/// The most bytes of a device ID.
const MAX_DEVICE_ID_BYTES: usize = 255;

/// Why a device was not taken.
#[derive(Debug, thiserror::Error)]
pub enum DehydrateError {
    /// The private keys are no object that names how they are encrypted.
    #[error("`device_data` is an object with an `algorithm`")]
    BadData,
    /// The private keys are too long.
    #[error("`device_data` has {MAX_DATA_BYTES} bytes at most")]
    DataTooLarge,
    /// The device ID can't be one.
    #[error("a device ID has between 1 and {MAX_DEVICE_ID_BYTES} bytes, and no NUL")]
    BadDeviceId,
    /// The device's name can't be one.
    #[error("a device's name has {MAX_DISPLAY_NAME_CHARS} characters at most, and no NUL")]
    BadDisplayName,
    /// Somebody is logged in to a device of this ID.
    #[error("there is a device of this ID, to which somebody is logged in")]
    IsInUse,
    /// Its public keys are not as they should be.
    #[error(transparent)]
    Keys(#[from] UploadError),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(DehydrateError);

impl From<BadKey> for DehydrateError {
    fn from(error: BadKey) -> Self {
        Self::Keys(error.into())
    }
}

/// Why nothing is told of a dehydrated device.
#[derive(Debug, thiserror::Error)]
pub enum RehydrateError {
    /// The user has none.
    #[error("there is no dehydrated device")]
    NoDevice,
    /// The user's is another.
    #[error("this is not the dehydrated device")]
    OtherDevice,
    /// `next_batch` is none of our tokens.
    #[error(transparent)]
    BadToken(#[from] BadToken),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(RehydrateError);

/// Some messages of a dehydrated device.
#[derive(Debug)]
pub struct Messages {
    /// The messages, in order.
    pub events: Vec<Box<RawValue>>,
    /// Leads to those after them.
    pub next_batch: String,
}

/// What is checked before a device is taken.
struct Checked {
    identity: Arc<str>,
    one_time_keys: Vec<SessionKey>,
    fallback_keys: Vec<SessionKey>,
}

/// Takes a device for the requester's user, in place of the one before, whose messages are lost.
pub async fn put(
    engine: &Arc<Engine>,
    requester: &Requester,
    request: &Request,
) -> Result<(), DehydrateError> {
    let checked = check(requester, request)?;
    let user_nid = requester.user_nid;
    let now = engine.clock.now_ms();
    let mut transaction = engine.db.begin().await?;
    // One at a time for a user.
    key_backup::lock_versions(&mut transaction, user_nid).await?;
    if let Some(before) = stored::find(&mut transaction, user_nid).await? {
        devices::delete(&mut transaction, user_nid, &[before.device_id], now).await?;
    }
    let (device_id, name) = (
        request.device_id.as_str(),
        request.initial_device_display_name.as_deref(),
    );
    let (device_nid, is_new) =
        devices::find_or_insert(&mut transaction, user_nid, device_id, name, now).await?;
    if !is_new {
        return Err(DehydrateError::IsInUse);
    }
    stored::insert(
        &mut transaction,
        user_nid,
        device_nid,
        request.device_data.json().get(),
    )
    .await?;
    device_keys::set(&mut transaction, device_nid, &checked.identity).await?;
    if !checked.one_time_keys.is_empty() {
        one_time_keys::insert(&mut transaction, device_nid, &checked.one_time_keys).await?;
    }
    if !checked.fallback_keys.is_empty() {
        one_time_keys::set_fallback(&mut transaction, device_nid, &checked.fallback_keys).await?;
    }
    device_lists::announce(&mut transaction, user_nid, device_id, None, now).await?;
    announce::commit(engine, transaction, user_nid).await?;
    Ok(())
}

/// The requester's dehydrated device: its ID, and its private keys, an object that a client encrypted.
pub async fn get(
    engine: &Engine,
    requester: &Requester,
) -> Result<(OwnedDeviceId, Box<RawValue>), RehydrateError> {
    let device = find(&mut *engine.db.acquire().await?, requester.user_nid).await?;
    let data = RawValue::from_string(device.device_data.to_string())
        .map_err(|error| Error::Damaged(format!("a dehydrated device: {error}")))?;
    Ok((device.device_id.into(), data))
}

/// Deletes the requester's dehydrated device: its ID.
pub async fn delete(engine: &Arc<Engine>, requester: &Requester) -> Result<OwnedDeviceId, RehydrateError> {
    let mut transaction: Transaction = engine.db.begin().await?;
    let device = find(&mut transaction, requester.user_nid).await?;
    let now = engine.clock.now_ms();
    let device_ids = [device.device_id];
    devices::delete(&mut transaction, requester.user_nid, &device_ids, now).await?;
    announce::commit(engine, transaction, requester.user_nid).await?;
    let [device_id] = device_ids;
    Ok(device_id.into())
}

/// The messages that wait for a dehydrated device, which must be the requester's, after those that led to `next_batch`.
pub async fn messages(
    engine: &Engine,
    requester: &Requester,
    device_id: &DeviceId,
    next_batch: Option<&str>,
) -> Result<Messages, RehydrateError> {
    let token = next_batch.map(str::parse::<SyncToken>).transpose()?;
    let head = engine.log.head();
    let since = match token {
        Some(token) => position_of(engine, &token, head).await?.0,
        None => Position(0),
    };
    let mut connection = engine.db.acquire().await?;
    let device = stored::find(&mut connection, requester.user_nid).await?;
    let device = device.filter(|device| device.device_id == device_id.as_str());
    let device = device.ok_or(RehydrateError::OtherDevice)?;
    let page = told::page(&mut connection, device.device_nid, since, head.position).await?;
    let next = SyncToken {
        generation: head.generation,
        position: page.upto.unwrap_or(since),
        ephemeral: None,
        part: None,
        to_device: None,
    };
    Ok(Messages {
        events: page.events,
        next_batch: next.to_string(),
    })
}

async fn find(connection: &mut Connection, user_nid: UserNid) -> Result<DehydratedDevice, RehydrateError> {
    let device = stored::find(connection, user_nid).await?;
    device.ok_or(RehydrateError::NoDevice)
}

fn check(requester: &Requester, request: &Request) -> Result<Checked, DehydrateError> {
    #[derive(Deserialize)]
    struct Data {
        #[serde(rename = "algorithm")]
        _algorithm: String,
    }
    let data = request.device_data.json().get();
    serde_json::from_str::<Data>(data).map_err(|_| DehydrateError::BadData)?;
    if data.len() > MAX_DATA_BYTES {
        return Err(DehydrateError::DataTooLarge);
    }
    let device_id = request.device_id.as_str();
    if !(1..=MAX_DEVICE_ID_BYTES).contains(&device_id.len()) || device_id.contains('\0') {
        return Err(DehydrateError::BadDeviceId);
    }
    let name = request.initial_device_display_name.as_deref().unwrap_or_default();
    if name.contains('\0') || name.chars().count() > MAX_DISPLAY_NAME_CHARS {
        return Err(DehydrateError::BadDisplayName);
    }
    let identity = request.device_keys.json().get();
    let identity = objects::device_keys(identity, &requester.user_id, &request.device_id)?;
    let (one_time_keys, fallback_keys) = upload::checked(&request.one_time_keys, &request.fallback_keys)?;
    Ok(Checked {
        identity: objects::to_json(identity),
        one_time_keys,
        fallback_keys,
    })
}
