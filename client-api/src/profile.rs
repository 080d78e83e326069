//! Profiles: what users say of themselves.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, profiles};
use ruma::{
    OwnedUserId,
    api::{
        IncomingRequest,
        client::profile::{
            ProfileFieldValue, delete_profile_field::v3 as delete_profile_field_request,
            get_profile::v3 as get_profile_request, get_profile_field::v3 as get_profile_field_request,
            set_profile_field::v3 as set_profile_field_request,
        },
        error::DeserializationError,
    },
};
use serde_json::{Map, Value};

use crate::requests::{path, served_as};

/// `GET /_matrix/client/*/profile/{userId}`
pub(crate) async fn get_profile(
    State(engine): State<Arc<Engine>>,
    Ruma { request, .. }: Ruma<get_profile_request::Request>,
) -> Result<get_profile_request::Response, MatrixError> {
    let profile = profiles::get(&engine, &request.user_id).await?;
    Ok(profile.into_iter().collect())
}

/// `GET /_matrix/client/*/profile/{userId}/{keyName}`
pub(crate) async fn get_profile_field(
    State(engine): State<Arc<Engine>>,
    Ruma { request, .. }: Ruma<get_profile_field_request::Request>,
) -> Result<get_profile_field_request::Response, MatrixError> {
    let field = request.field.as_str();
    let value = profiles::get_field(&engine, &request.user_id, field).await?;
    let value = ProfileFieldValue::new(field, value).map_err(MatrixError::internal)?;
    Ok(get_profile_field_request::Response::new(value))
}

/// `PUT /_matrix/client/*/profile/{userId}/{keyName}`
pub(crate) async fn set_profile_field(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<SetProfileField>,
) -> Result<set_profile_field_request::Response, MatrixError> {
    profiles::set_field(
        &engine,
        &requester,
        &request.user_id,
        &request.field,
        request.value,
    )
    .await?;
    Ok(set_profile_field_request::Response::new())
}

/// `DELETE /_matrix/client/*/profile/{userId}/{keyName}`
pub(crate) async fn delete_profile_field(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<delete_profile_field_request::Request>,
) -> Result<delete_profile_field_request::Response, MatrixError> {
    profiles::delete_field(&engine, &requester, &request.user_id, request.field.as_str()).await?;
    Ok(delete_profile_field_request::Response::new())
}

/// The request of `set_profile_field`. ruma's own refuses a missing or a bad value as it refuses broken JSON, where the
/// specification has codes for each.
#[derive(Debug)]
pub(crate) struct SetProfileField {
    user_id: OwnedUserId,
    field: String,
    value: Option<Value>,
}

served_as!(SetProfileField, set_profile_field_request);

impl IncomingRequest for SetProfileField {
    type EndpointError = <set_profile_field_request::Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = set_profile_field_request::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let (user_id, field): (OwnedUserId, String) = path(path_args)?;
        let mut body: Map<String, Value> = serde_json::from_slice(request.body())?;
        let value = body.remove(&field);
        Ok(Self {
            user_id,
            field,
            value,
        })
    }
}
