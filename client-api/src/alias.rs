//! Room aliases.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, aliases};
use ruma::api::client::{
    alias::{
        create_alias::v3 as create_alias_request, delete_alias::v3 as delete_alias_request,
        get_alias::v3 as get_alias_request,
    },
    room::aliases::v3 as aliases_request,
};

/// `GET /_matrix/client/*/directory/room/{roomAlias}`
pub(crate) async fn get_alias(
    State(engine): State<Arc<Engine>>,
    Ruma { request, .. }: Ruma<get_alias_request::Request>,
) -> Result<get_alias_request::Response, MatrixError> {
    let (room_id, servers) = aliases::get(&engine, &request.room_alias).await?;
    Ok(get_alias_request::Response::new(room_id, servers))
}

/// `PUT /_matrix/client/*/directory/room/{roomAlias}`
pub(crate) async fn create_alias(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<create_alias_request::Request>,
) -> Result<create_alias_request::Response, MatrixError> {
    aliases::create(&engine, &requester, &request.room_alias, &request.room_id).await?;
    Ok(create_alias_request::Response::new())
}

/// `DELETE /_matrix/client/*/directory/room/{roomAlias}`
pub(crate) async fn delete_alias(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<delete_alias_request::Request>,
) -> Result<delete_alias_request::Response, MatrixError> {
    aliases::delete(&engine, &requester, &request.room_alias).await?;
    Ok(delete_alias_request::Response::new())
}

/// `GET /_matrix/client/*/rooms/{roomId}/aliases`
pub(crate) async fn aliases(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<aliases_request::Request>,
) -> Result<aliases_request::Response, MatrixError> {
    let aliases = aliases::of_room(&engine, &requester, &request.room_id).await?;
    Ok(aliases_request::Response::new(aliases))
}
