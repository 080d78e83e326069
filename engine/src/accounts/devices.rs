//! `devices`: what a user sees and changes of their devices.

use hearth_storage::devices;
pub use hearth_storage::devices::Device;
use ruma::{DeviceId, OwnedDeviceId, api::client::uiaa::AuthData};

use super::{
    Requester, changes, logins,
    uia::{self, Operation, UiaError},
};
use crate::{Engine, Error};

/// Why a device was not shown or renamed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The user has no such device.
    #[error("the user has no such device")]
    NotFound,
    /// The name cannot be stored.
    #[error("a device's name must have 256 characters at most, and no NUL")]
    InvalidDisplayName,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(DeviceError);

/// Why devices were not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteDevicesError {
    /// The user has yet to show that it is them.
    #[error(transparent)]
    Uia(#[from] UiaError),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(DeleteDevicesError);

/// The requester's devices, oldest first.
pub async fn list(engine: &Engine, requester: &Requester) -> Result<Vec<Device>, Error> {
    Ok(devices::list(&mut *engine.db.acquire().await?, requester.user_nid).await?)
}

/// One of the requester's devices.
pub async fn get(
    engine: &Engine,
    requester: &Requester,
    device_id: &DeviceId,
) -> Result<Device, DeviceError> {
    let mut connection = engine.db.acquire().await?;
    // U+0000 would be an error of the database rather than a device that isn't there.
    if device_id.as_str().contains('\0') {
        return Err(DeviceError::NotFound);
    }
    let device = devices::find(&mut connection, requester.user_nid, device_id.as_str()).await?;
    device.ok_or(DeviceError::NotFound)
}

/// Renames one of the requester's devices; without a name, only says whether there is such a device.
pub async fn rename(
    engine: &Engine,
    requester: &Requester,
    device_id: &DeviceId,
    display_name: Option<&str>,
) -> Result<(), DeviceError> {
    let Some(display_name) = display_name else {
        return get(engine, requester, device_id).await.map(drop);
    };
    if display_name.contains('\0') || display_name.chars().count() > logins::MAX_DISPLAY_NAME_CHARS {
        return Err(DeviceError::InvalidDisplayName);
    }
    if device_id.as_str().contains('\0') {
        return Err(DeviceError::NotFound);
    }
    let mut transaction = engine.db.begin().await?;
    if !devices::rename(
        &mut transaction,
        requester.user_nid,
        device_id.as_str(),
        display_name,
        engine.clock.now_ms(),
    )
    .await?
    {
        return Err(DeviceError::NotFound);
    }
    Ok(changes::commit(engine, transaction, requester.user_nid).await?)
}

/// Deletes devices of the requester, with their tokens; those that do not exist count as deleted. The user shows
/// first that it is them.
pub async fn delete(
    engine: &Engine,
    requester: &Requester,
    device_ids: &[OwnedDeviceId],
    auth: Option<&AuthData>,
) -> Result<(), DeleteDevicesError> {
    let operation = Operation::delete_devices(requester, device_ids);
    let grant = uia::authorise(engine, &operation, Some(requester), auth).await?;
    let device_ids: Vec<String> = device_ids
        .iter()
        .map(ToString::to_string)
        .filter(|device_id| !device_id.contains('\0'))
        .collect();
    let mut transaction = engine.db.begin().await?;
    grant.spend(engine, &operation, &mut transaction).await?;
    let now = engine.clock.now_ms();
    devices::delete(&mut transaction, requester.user_nid, &device_ids, now).await?;
    Ok(changes::commit(engine, transaction, requester.user_nid).await?)
}
