//! The directory of published rooms, as other servers ask for it.

use std::sync::Arc;

use ruma::{
    ServerName,
    api::federation::directory::{get_public_rooms, get_public_rooms_filtered},
};

use crate::{
    Engine,
    rooms::directory::{Asker, DirectoryError, ListPage, ListRequest, public_rooms},
};

/// `GET /_matrix/federation/v1/publicRooms`
pub async fn list(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: get_public_rooms::v1::Request,
) -> Result<get_public_rooms::v1::Response, DirectoryError> {
    let request = ListRequest {
        limit: limit(request.limit),
        since: request.since,
        network: request.room_network,
        ..ListRequest::default()
    };
    let page = public_rooms(engine, Asker::Server(origin), None, request).await?;
    let mut response = get_public_rooms::v1::Response::new();
    let ListPage {
        chunk,
        next_batch,
        prev_batch,
        total,
    } = page;
    response.chunk = chunk;
    response.next_batch = next_batch;
    response.prev_batch = prev_batch;
    response.total_room_count_estimate = total.and_then(|total| total.try_into().ok());
    Ok(response)
}

/// `POST /_matrix/federation/v1/publicRooms`
pub async fn list_filtered(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: get_public_rooms_filtered::v1::Request,
) -> Result<get_public_rooms_filtered::v1::Response, DirectoryError> {
    let request = ListRequest {
        limit: limit(request.limit),
        since: request.since,
        filter: request.filter,
        network: request.room_network,
    };
    let page = public_rooms(engine, Asker::Server(origin), None, request).await?;
    let mut response = get_public_rooms_filtered::v1::Response::new();
    let ListPage {
        chunk,
        next_batch,
        prev_batch,
        total,
    } = page;
    response.chunk = chunk;
    response.next_batch = next_batch;
    response.prev_batch = prev_batch;
    response.total_room_count_estimate = total.and_then(|total| total.try_into().ok());
    Ok(response)
}

fn limit(limit: Option<ruma::UInt>) -> Option<usize> {
    limit.map(|limit| usize::try_from(u64::from(limit)).unwrap_or(usize::MAX))
}
