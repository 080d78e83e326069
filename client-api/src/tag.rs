//! Tags of rooms.

use std::sync::Arc;

use axum::{Json, extract::State};
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, tags};
use ruma::api::client::tag::{
    create_tag::v3 as create_tag_request, delete_tag::v3 as delete_tag_request,
    get_tags::v3 as get_tags_request,
};
use serde_json::{Value, json};

/// `GET /_matrix/client/*/user/{userId}/rooms/{roomId}/tags`
///
/// Not ruma's answer: that has no room for what clients keep in a tag beside its order.
pub(crate) async fn get_tags(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_tags_request::Request>,
) -> Result<Json<Value>, MatrixError> {
    let tags = tags::get(&engine, &requester, &request.user_id, &request.room_id).await?;
    Ok(Json(json!({ "tags": tags })))
}

/// `PUT /_matrix/client/*/user/{userId}/rooms/{roomId}/tags/{tag}`
pub(crate) async fn create_tag(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request,
        requester,
        body,
        ..
    }: Ruma<create_tag_request::Request>,
) -> Result<create_tag_request::Response, MatrixError> {
    let info = serde_json::from_slice(&body).map_err(|error| MatrixError::not_json(error.to_string()))?;
    tags::set(
        &engine,
        &requester,
        &request.user_id,
        &request.room_id,
        &request.tag,
        info,
    )
    .await?;
    Ok(create_tag_request::Response::new())
}

/// `DELETE /_matrix/client/*/user/{userId}/rooms/{roomId}/tags/{tag}`
pub(crate) async fn delete_tag(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<delete_tag_request::Request>,
) -> Result<delete_tag_request::Response, MatrixError> {
    tags::delete(
        &engine,
        &requester,
        &request.user_id,
        &request.room_id,
        &request.tag,
    )
    .await?;
    Ok(delete_tag_request::Response::new())
}
