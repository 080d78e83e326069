//! One's own devices.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, accounts::devices};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::device::{
        Device, delete_device::v3 as delete_device_request, delete_devices::v3 as delete_devices_request,
        get_device::v3 as get_device_request, get_devices::v3 as get_devices_request,
        update_device::v3 as update_device_request,
    },
};

/// `GET /_matrix/client/*/devices`
pub(crate) async fn get_devices(
    State(engine): State<Arc<Engine>>,
    Ruma { requester, .. }: Ruma<get_devices_request::Request>,
) -> Result<get_devices_request::Response, MatrixError> {
    let devices = devices::list(&engine, &requester).await?;
    Ok(get_devices_request::Response::new(
        devices.into_iter().map(shown).collect(),
    ))
}

/// `GET /_matrix/client/*/devices/{deviceId}`
pub(crate) async fn get_device(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_device_request::Request>,
) -> Result<get_device_request::Response, MatrixError> {
    let device = devices::get(&engine, &requester, &request.device_id).await?;
    Ok(get_device_request::Response::new(shown(device)))
}

/// `PUT /_matrix/client/*/devices/{deviceId}`
pub(crate) async fn update_device(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<update_device_request::Request>,
) -> Result<update_device_request::Response, MatrixError> {
    devices::rename(
        &engine,
        &requester,
        &request.device_id,
        request.display_name.as_deref(),
    )
    .await?;
    Ok(update_device_request::Response::new())
}

/// `DELETE /_matrix/client/*/devices/{deviceId}`
pub(crate) async fn delete_device(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<delete_device_request::Request>,
) -> Result<delete_device_request::Response, MatrixError> {
    devices::delete(&engine, &requester, &[request.device_id], request.auth.as_ref()).await?;
    Ok(delete_device_request::Response::new())
}

/// `POST /_matrix/client/*/delete_devices`
pub(crate) async fn delete_devices(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<delete_devices_request::Request>,
) -> Result<delete_devices_request::Response, MatrixError> {
    devices::delete(&engine, &requester, &request.devices, request.auth.as_ref()).await?;
    Ok(delete_devices_request::Response::new())
}

fn shown(device: devices::Device) -> Device {
    let mut shown = Device::new(device.device_id.into());
    shown.display_name = device.display_name;
    shown.last_seen_ip = device.last_seen_address;
    let last_seen_at = device.last_seen_at.and_then(|at| UInt::try_from(at).ok());
    shown.last_seen_ts = last_seen_at.map(MilliSecondsSinceUnixEpoch);
    shown
}
