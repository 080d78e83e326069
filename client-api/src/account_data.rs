//! Account data, global and of rooms.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, account_data};
use ruma::{
    api::client::config::{
        get_global_account_data::v3 as get_global_account_data_request,
        get_room_account_data::v3 as get_room_account_data_request,
        set_global_account_data::v3 as set_global_account_data_request,
        set_room_account_data::v3 as set_room_account_data_request,
    },
    serde::Raw,
};

/// `GET /_matrix/client/*/user/{userId}/account_data/{type}`
pub(crate) async fn get_global_account_data(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_global_account_data_request::Request>,
) -> Result<get_global_account_data_request::Response, MatrixError> {
    let data_type = request.event_type.to_string();
    let content = account_data::get_global(&engine, &requester, &request.user_id, &data_type).await?;
    Ok(get_global_account_data_request::Response::new(raw(&content)?))
}

/// `PUT /_matrix/client/*/user/{userId}/account_data/{type}`
pub(crate) async fn set_global_account_data(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<set_global_account_data_request::Request>,
) -> Result<set_global_account_data_request::Response, MatrixError> {
    let (data_type, content) = (request.event_type.to_string(), request.data.json().get());
    account_data::set_global(&engine, &requester, &request.user_id, &data_type, content).await?;
    Ok(set_global_account_data_request::Response::new())
}

/// `GET /_matrix/client/*/user/{userId}/rooms/{roomId}/account_data/{type}`
pub(crate) async fn get_room_account_data(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_room_account_data_request::Request>,
) -> Result<get_room_account_data_request::Response, MatrixError> {
    let data_type = request.event_type.to_string();
    let content = account_data::get_room(
        &engine,
        &requester,
        &request.user_id,
        &request.room_id,
        &data_type,
    )
    .await?;
    Ok(get_room_account_data_request::Response::new(raw(&content)?))
}

/// `PUT /_matrix/client/*/user/{userId}/rooms/{roomId}/account_data/{type}`
pub(crate) async fn set_room_account_data(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<set_room_account_data_request::Request>,
) -> Result<set_room_account_data_request::Response, MatrixError> {
    let (data_type, content) = (request.event_type.to_string(), request.data.json().get());
    account_data::set_room(
        &engine,
        &requester,
        &request.user_id,
        &request.room_id,
        &data_type,
        content,
    )
    .await?;
    Ok(set_room_account_data_request::Response::new())
}

fn raw<T>(content: &str) -> Result<Raw<T>, MatrixError> {
    Raw::from_json_string(content.to_owned()).map_err(MatrixError::internal)
}
