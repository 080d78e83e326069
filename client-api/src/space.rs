//! Spaces.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{
    Engine,
    rooms::hierarchy::{self, HierarchyRequest},
};
use ruma::{
    UInt,
    api::client::space::{SpaceHierarchyRoomsChunk, get_hierarchy::v1 as get_hierarchy_request},
};

/// `GET /_matrix/client/*/rooms/{roomId}/hierarchy`
pub(crate) async fn get_hierarchy(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_hierarchy_request::Request>,
) -> Result<get_hierarchy_request::Response, MatrixError> {
    let number = |number: UInt| usize::try_from(u64::from(number)).unwrap_or(usize::MAX);
    let wanted = HierarchyRequest {
        limit: request.limit.map(number),
        max_depth: request.max_depth.map(number),
        suggested_only: request.suggested_only,
        from: request.from.as_deref(),
    };
    let page = hierarchy::hierarchy(&engine, &requester, &request.room_id, wanted).await?;
    let mut response = get_hierarchy_request::Response::new();
    response.rooms = page
        .rooms
        .into_iter()
        .map(|room| SpaceHierarchyRoomsChunk::new(room.summary, room.children_state))
        .collect();
    response.next_batch = page.next_batch;
    Ok(response)
}
