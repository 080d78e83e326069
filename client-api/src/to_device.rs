//! Messages from device to device.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, encryption::to_device::send};
use ruma::api::client::to_device::send_event_to_device::v3 as send_event_to_device_request;

/// `PUT /_matrix/client/*/sendToDevice/{eventType}/{txnId}`
pub(crate) async fn send_event_to_device(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<send_event_to_device_request::Request>,
) -> Result<send_event_to_device_request::Response, MatrixError> {
    let (event_type, txn_id) = (request.event_type.to_string(), request.txn_id.as_str());
    let messages = request.messages.iter().map(|(user_id, devices)| {
        let devices = devices.iter();
        let devices = devices.map(|(device, content)| (device.clone(), content.json()));
        (user_id.clone(), devices.collect())
    });
    send::send_to_device(&engine, &requester, &event_type, txn_id, &messages.collect()).await?;
    Ok(send_event_to_device_request::Response::new())
}
