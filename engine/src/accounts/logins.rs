//! What a login and a registration end in: a device with fresh tokens.

use hearth_storage::{Connection, DeviceNid, StorageError, UserNid, devices, tokens};
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use super::secrets;
use crate::Engine;

/// How long an access token lasts that can be refreshed. Others last until they are logged out.
pub const ACCESS_TOKEN_LIFETIME_MS: i64 = 60 * 60 * 1000;

/// A device ID's greatest length.
const MAX_DEVICE_ID_BYTES: usize = 255;

/// A display name's greatest length.
pub(crate) const MAX_DISPLAY_NAME_CHARS: usize = 256;

/// What a client says of the device that it logs in.
#[derive(Debug, Clone, Default)]
pub struct DeviceRequest {
    /// The device to log in again, or a new one's ID; `None` has one made up.
    pub device_id: Option<OwnedDeviceId>,
    /// The name of a new device.
    pub initial_display_name: Option<String>,
    /// The client can refresh tokens, and so gets one that expires.
    pub refreshes: bool,
}

/// A device that may make requests now.
#[derive(Clone)]
pub struct Login {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// Lets the device make requests.
    pub access_token: String,
    /// Gets the next access token.
    pub refresh_token: Option<String>,
    /// Milliseconds until the access token expires; `None` for never.
    pub expires_in_ms: Option<i64>,
}

impl std::fmt::Debug for Login {
    /// Leaves the tokens out: they must not reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({} on {})", self.user_id, self.device_id)
    }
}

/// The device ID cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a device ID must have 1 to 255 bytes and no control characters")]
pub struct InvalidDeviceId;

impl DeviceRequest {
    /// The same with a device ID that is fit for use: the one asked for, or ten random capitals.
    pub(super) fn with_device_id(
        mut self,
        engine: &Engine,
    ) -> Result<(OwnedDeviceId, Self), InvalidDeviceId> {
        // Clients that have no device yet are seen to send an empty ID.
        let asked_for = self
            .device_id
            .take()
            .filter(|device_id| !device_id.as_str().is_empty());
        let device_id = match asked_for {
            None => secrets::letters(&*engine.entropy, 10, true).into(),
            Some(id) if id.as_str().len() > MAX_DEVICE_ID_BYTES || id.as_str().contains(char::is_control) => {
                return Err(InvalidDeviceId);
            }
            Some(device_id) => device_id,
        };
        Ok((device_id, self))
    }
}

/// Logs a device in within the caller's transaction. A device that existed loses its earlier tokens, and keeps its
/// name: then the flag is set, and the transaction must end in [`super::changes::commit`].
pub(super) async fn open(
    engine: &Engine,
    connection: &mut Connection,
    user: (&UserId, UserNid),
    device_id: OwnedDeviceId,
    request: &DeviceRequest,
) -> Result<(Login, bool), StorageError> {
    let (user_id, user_nid) = user;
    let now = engine.clock.now_ms();
    let display_name = request.initial_display_name.as_deref().map(shortened);
    let (device_nid, is_new) = devices::find_or_insert(
        connection,
        user_nid,
        device_id.as_str(),
        display_name.as_deref(),
        now,
    )
    .await?;
    if !is_new {
        tokens::delete_after(connection, device_nid, 0).await?;
    }
    let issued = issue(engine, connection, device_nid, 1, request.refreshes).await?;
    let Issued {
        access_token,
        refresh_token,
        expires_in_ms,
    } = issued;
    let login = Login {
        user_id: user_id.to_owned(),
        device_id,
        access_token,
        refresh_token,
        expires_in_ms,
    };
    Ok((login, !is_new))
}

/// Tokens given out together.
pub(super) struct Issued {
    pub(super) access_token: String,
    pub(super) refresh_token: Option<String>,
    pub(super) expires_in_ms: Option<i64>,
}

/// Gives a device the tokens of issue number `issue`. The device must be locked.
pub(super) async fn issue(
    engine: &Engine,
    connection: &mut Connection,
    device_nid: DeviceNid,
    issue: i32,
    refreshes: bool,
) -> Result<Issued, StorageError> {
    let access_token = secrets::access_token(&*engine.entropy);
    let refresh_token = refreshes.then(|| secrets::refresh_token(&*engine.entropy));
    let expires_in_ms = refreshes.then_some(ACCESS_TOKEN_LIFETIME_MS);
    let expires_at = expires_in_ms.map(|expires_in_ms| engine.clock.now_ms() + expires_in_ms);
    tokens::insert_access(
        connection,
        &secrets::hash(&access_token),
        device_nid,
        issue,
        expires_at,
    )
    .await?;
    if let Some(refresh_token) = &refresh_token {
        tokens::insert_refresh(connection, &secrets::hash(refresh_token), device_nid, issue).await?;
    }
    Ok(Issued {
        access_token,
        refresh_token,
        expires_in_ms,
    })
}

/// A display name as it is stored for a new device: cut rather than refused, since clients make it up of whatever
/// the platform tells them.
fn shortened(display_name: &str) -> String {
    display_name
        .chars()
        .filter(|c| *c != '\0')
        .take(MAX_DISPLAY_NAME_CHARS)
        .collect()
}
