//! Backups of room keys.

mod listing;

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{
    Engine,
    encryption::backup::{self, Contents, Description, KeyData, Which},
};
use http::header::CONTENT_TYPE;
use ruma::{
    UInt,
    api::client::backup::{
        add_backup_keys::v3 as add_backup_keys_request,
        add_backup_keys_for_room::v3 as add_backup_keys_for_room_request,
        add_backup_keys_for_session::v3 as add_backup_keys_for_session_request,
        create_backup_version::v3 as create_backup_version_request,
        delete_backup_keys::v3 as delete_backup_keys_request,
        delete_backup_keys_for_room::v3 as delete_backup_keys_for_room_request,
        delete_backup_keys_for_session::v3 as delete_backup_keys_for_session_request,
        delete_backup_version::v3 as delete_backup_version_request,
        get_backup_info::v3 as get_backup_info_request, get_backup_keys::v3 as get_backup_keys_request,
        get_backup_keys_for_room::v3 as get_backup_keys_for_room_request,
        get_backup_keys_for_session::v3 as get_backup_keys_for_session_request,
        get_latest_backup_info::v3 as get_latest_backup_info_request,
        update_backup_version::v3 as update_backup_version_request,
    },
};

/// `POST /_matrix/client/*/room_keys/version`
pub(crate) async fn create_backup_version(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<create_backup_version_request::Request>,
) -> Result<create_backup_version_request::Response, MatrixError> {
    let version = backup::create(&engine, &requester, request.algorithm.json().get()).await?;
    Ok(create_backup_version_request::Response::new(version.to_string()))
}

/// `GET /_matrix/client/*/room_keys/version`
pub(crate) async fn get_latest_backup_info(
    State(engine): State<Arc<Engine>>,
    Ruma { requester, .. }: Ruma<get_latest_backup_info_request::Request>,
) -> Result<Json<Description>, MatrixError> {
    Ok(Json(backup::current(&engine, &requester).await?))
}

/// `GET /_matrix/client/*/room_keys/version/{version}`
pub(crate) async fn get_backup_info(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_backup_info_request::Request>,
) -> Result<Json<Description>, MatrixError> {
    Ok(Json(backup::get(&engine, &requester, &request.version).await?))
}

/// `PUT /_matrix/client/*/room_keys/version/{version}`
pub(crate) async fn update_backup_version(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<update_backup_version_request::Request>,
) -> Result<update_backup_version_request::Response, MatrixError> {
    let said = request.algorithm.json().get();
    backup::update(&engine, &requester, &request.version, said).await?;
    Ok(update_backup_version_request::Response::new())
}

/// `DELETE /_matrix/client/*/room_keys/version/{version}`
pub(crate) async fn delete_backup_version(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<delete_backup_version_request::Request>,
) -> Result<delete_backup_version_request::Response, MatrixError> {
    backup::delete(&engine, &requester, &request.version).await?;
    Ok(delete_backup_version_request::Response::new())
}

/// `PUT /_matrix/client/*/room_keys/keys`
pub(crate) async fn add_backup_keys(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<add_backup_keys_request::Request>,
) -> Result<add_backup_keys_request::Response, MatrixError> {
    let keys = request.rooms.iter().flat_map(|(room_id, room)| {
        let sessions = room.sessions.iter();
        sessions.map(|(session_id, key)| (room_id.as_str(), session_id.as_str(), key.json().get()))
    });
    let keys: Vec<_> = keys.collect();
    let stored = backup::store(&engine, &requester, &request.version, &keys).await?;
    let (etag, count) = contents(stored);
    Ok(add_backup_keys_request::Response::new(etag, count))
}

/// `PUT /_matrix/client/*/room_keys/keys/{roomId}`
pub(crate) async fn add_backup_keys_for_room(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<add_backup_keys_for_room_request::Request>,
) -> Result<add_backup_keys_for_room_request::Response, MatrixError> {
    let room_id = request.room_id.as_str();
    let keys = request
        .sessions
        .iter()
        .map(|(session_id, key)| (room_id, session_id.as_str(), key.json().get()));
    let keys: Vec<_> = keys.collect();
    let stored = backup::store(&engine, &requester, &request.version, &keys).await?;
    let (etag, count) = contents(stored);
    Ok(add_backup_keys_for_room_request::Response::new(etag, count))
}

/// `PUT /_matrix/client/*/room_keys/keys/{roomId}/{sessionId}`
pub(crate) async fn add_backup_keys_for_session(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<add_backup_keys_for_session_request::Request>,
) -> Result<add_backup_keys_for_session_request::Response, MatrixError> {
    let (room_id, session_id) = (request.room_id.as_str(), request.session_id.as_str());
    let key = (room_id, session_id, request.session_data.json().get());
    let stored = backup::store(&engine, &requester, &request.version, &[key]).await?;
    let (etag, count) = contents(stored);
    Ok(add_backup_keys_for_session_request::Response::new(etag, count))
}

/// `GET /_matrix/client/*/room_keys/keys`
pub(crate) async fn get_backup_keys(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_backup_keys_request::Request>,
) -> Result<Response, MatrixError> {
    let pages = backup::keys(&engine, &requester, &request.version, None).await?;
    Ok(json(listing::of_rooms(pages).await?))
}

/// `GET /_matrix/client/*/room_keys/keys/{roomId}`
pub(crate) async fn get_backup_keys_for_room(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_backup_keys_for_room_request::Request>,
) -> Result<Response, MatrixError> {
    let room_id = request.room_id.as_str();
    let pages = backup::keys(&engine, &requester, &request.version, Some(room_id)).await?;
    Ok(json(listing::of_sessions(pages).await?))
}

/// `GET /_matrix/client/*/room_keys/keys/{roomId}/{sessionId}`
pub(crate) async fn get_backup_keys_for_session(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_backup_keys_for_session_request::Request>,
) -> Result<Json<KeyData>, MatrixError> {
    let (room_id, session_id) = (request.room_id.as_str(), request.session_id.as_str());
    Ok(Json(
        backup::key(&engine, &requester, &request.version, room_id, session_id).await?,
    ))
}

/// `DELETE /_matrix/client/*/room_keys/keys`
pub(crate) async fn delete_backup_keys(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<delete_backup_keys_request::Request>,
) -> Result<delete_backup_keys_request::Response, MatrixError> {
    let left = backup::delete_keys(&engine, &requester, &request.version, Which::All).await?;
    let (etag, count) = contents(left);
    Ok(delete_backup_keys_request::Response::new(etag, count))
}

/// `DELETE /_matrix/client/*/room_keys/keys/{roomId}`
pub(crate) async fn delete_backup_keys_for_room(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<delete_backup_keys_for_room_request::Request>,
) -> Result<delete_backup_keys_for_room_request::Response, MatrixError> {
    let which = Which::OfRoom(request.room_id.as_str());
    let left = backup::delete_keys(&engine, &requester, &request.version, which).await?;
    let (etag, count) = contents(left);
    Ok(delete_backup_keys_for_room_request::Response::new(etag, count))
}

/// `DELETE /_matrix/client/*/room_keys/keys/{roomId}/{sessionId}`
pub(crate) async fn delete_backup_keys_for_session(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<delete_backup_keys_for_session_request::Request>,
) -> Result<delete_backup_keys_for_session_request::Response, MatrixError> {
    let which = Which::OfSession(request.room_id.as_str(), &request.session_id);
    let left = backup::delete_keys(&engine, &requester, &request.version, which).await?;
    let (etag, count) = contents(left);
    Ok(delete_backup_keys_for_session_request::Response::new(etag, count))
}

fn contents(contents: Contents) -> (String, UInt) {
    let count = UInt::try_from(contents.count).unwrap_or(UInt::MAX);
    (contents.etag.to_string(), count)
}

fn json(body: Body) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}
