//! Dehydrated devices (MSC3814).

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, encryption::dehydrated};
use ruma::{
    api::client::dehydrated_device::{
        delete_dehydrated_device::unstable as delete_dehydrated_device_request,
        get_dehydrated_device::unstable as get_dehydrated_device_request,
        get_events::unstable as get_events_request,
        put_dehydrated_device::unstable as put_dehydrated_device_request,
    },
    serde::Raw,
};

/// `PUT /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
pub(crate) async fn put_dehydrated_device(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<put_dehydrated_device_request::Request>,
) -> Result<put_dehydrated_device_request::Response, MatrixError> {
    dehydrated::put(&engine, &requester, &request).await?;
    Ok(put_dehydrated_device_request::Response::new(request.device_id))
}

/// `GET /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
pub(crate) async fn get_dehydrated_device(
    State(engine): State<Arc<Engine>>,
    Ruma { requester, .. }: Ruma<get_dehydrated_device_request::Request>,
) -> Result<get_dehydrated_device_request::Response, MatrixError> {
    let (device_id, data) = dehydrated::get(&engine, &requester).await?;
    Ok(get_dehydrated_device_request::Response::new(
        device_id,
        Raw::from_json(data),
    ))
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
pub(crate) async fn delete_dehydrated_device(
    State(engine): State<Arc<Engine>>,
    Ruma { requester, .. }: Ruma<delete_dehydrated_device_request::Request>,
) -> Result<delete_dehydrated_device_request::Response, MatrixError> {
    let device_id = dehydrated::delete(&engine, &requester).await?;
    Ok(delete_dehydrated_device_request::Response::new(device_id))
}

/// `POST /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{deviceId}/events`
pub(crate) async fn get_events(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_events_request::Request>,
) -> Result<get_events_request::Response, MatrixError> {
    let next_batch = request.next_batch.as_deref();
    let told = dehydrated::messages(&engine, &requester, &request.device_id, next_batch).await?;
    let events = told.events.into_iter().map(Raw::from_json);
    let mut response = get_events_request::Response::new(events.collect());
    response.next_batch = Some(told.next_batch);
    Ok(response)
}
