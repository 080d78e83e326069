//! The event of a room nearest to a time, as other servers in the room ask for it.

use std::sync::Arc;

use ruma::{ServerName, api::federation::event::get_event_by_timestamp};

use super::ServeError;
use crate::{
    Engine,
    rooms::{at_time::nearest_here, handshake::serve::room_for},
};

/// `GET /_matrix/federation/v1/timestamp_to_event/{roomId}`
///
/// Not only of what the server may see: of all else too it may hear IDs and times, and no contents.
pub async fn timestamp_to_event(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: get_event_by_timestamp::v1::Request,
) -> Result<get_event_by_timestamp::v1::Response, ServeError> {
    let room = room_for(engine, origin, &request.room_id).await?;
    if !room.has_server(origin) {
        return Err(ServeError::Forbidden(
            "your server is not in that room".to_owned(),
        ));
    }
    let found = nearest_here(engine, &room, request.ts, request.dir).await?;
    let found = found.ok_or(ServeError::UnknownEvent)?;
    Ok(get_event_by_timestamp::v1::Response::new(
        found.event_id,
        found.origin_server_ts,
    ))
}
