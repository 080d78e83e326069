//! Read markers: several receipts in one request.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{
    Engine,
    receipts::{self, Marker, Thread},
};
use ruma::api::client::read_marker::set_read_marker::v3 as set_read_marker_request;

/// `POST /_matrix/client/*/rooms/{roomId}/read_markers`
pub(crate) async fn set_read_marker(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<set_read_marker_request::Request>,
) -> Result<set_read_marker_request::Response, MatrixError> {
    let markers: Vec<_> = [
        (Marker::FullyRead, request.fully_read.as_deref()),
        (Marker::Read(Thread::Unthreaded), request.read_receipt.as_deref()),
        (
            Marker::ReadPrivate(Thread::Unthreaded),
            request.private_read_receipt.as_deref(),
        ),
    ]
    .into_iter()
    .filter_map(|(marker, event_id)| Some((marker, event_id?)))
    .collect();
    receipts::set(&engine, &requester, &request.room_id, &markers).await?;
    Ok(set_read_marker_request::Response::new())
}
