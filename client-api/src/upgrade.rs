//! Upgrading rooms.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, rooms::upgrade};
use ruma::api::client::room::upgrade_room::v3 as upgrade_room;

/// `POST /_matrix/client/*/rooms/{roomId}/upgrade`
pub(crate) async fn upgrade_room(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<upgrade_room::Request>,
) -> Result<upgrade_room::Response, MatrixError> {
    let upgrade_room::Request {
        room_id,
        new_version,
        additional_creators,
        ..
    } = request;
    let upgraded = upgrade::upgrade_room(&engine, &requester, &room_id, new_version, additional_creators);
    Ok(upgrade_room::Response::new(upgraded.await?))
}
