//! Filters that clients store.

use std::sync::Arc;

use axum::{Json, extract::State};
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, filters};
use ruma::api::client::filter::{
    create_filter::v3 as create_filter_request, get_filter::v3 as get_filter_request,
};
use serde_json::value::RawValue;

/// `POST /_matrix/client/*/user/{userId}/filter`
pub(crate) async fn create_filter(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request,
        requester,
        body,
        ..
    }: Ruma<create_filter_request::Request>,
) -> Result<create_filter_request::Response, MatrixError> {
    // The body, since ruma's type has only the keys that it knows.
    let filter = if body.is_empty() {
        "{}"
    } else {
        std::str::from_utf8(&body).map_err(MatrixError::internal)?
    };
    let filter_id = filters::create(&engine, &requester, &request.user_id, filter).await?;
    Ok(create_filter_request::Response::new(filter_id))
}

/// `GET /_matrix/client/*/user/{userId}/filter/{filterId}`
pub(crate) async fn get_filter(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_filter_request::Request>,
) -> Result<Json<Box<RawValue>>, MatrixError> {
    let filter = filters::get(&engine, &requester, &request.user_id, &request.filter_id).await?;
    RawValue::from_string(filter.to_string())
        .map(Json)
        .map_err(MatrixError::internal)
}
