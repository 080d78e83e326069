//! What was accepted before, so that a retransmission does nothing: in the log's tables, with what it sent.

use hearth_storage::{
    Position,
    log::{Change, CommitError, ToDeviceRequest},
};

use crate::{Engine, transactions::RequestKey};

/// The constraint that a request fails which was accepted before.
const ACCEPTED_ONCE: &str = "to_device_requests_pkey";

/// A request to be remembered as accepted now.
pub(super) fn request(engine: &Engine, request_key: RequestKey) -> ToDeviceRequest {
    ToDeviceRequest {
        request_key,
        created_at: engine.clock.now_ms(),
    }
}

/// Commits what one request sends; nothing if it was accepted before.
pub(super) async fn commit(engine: &Engine, change: Change) -> Result<Option<Position>, CommitError> {
    match engine.log.commit(change).await {
        Ok(position) => Ok(Some(position)),
        Err(CommitError::Constraint(name)) if name == ACCEPTED_ONCE => Ok(None),
        Err(error) => Err(error),
    }
}
