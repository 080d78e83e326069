//! Reports to the administrator.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, reports};
use ruma::api::client::{
    reporting::report_user::v3 as report_user_request,
    room::{report_content::v3 as report_content_request, report_room::v3 as report_room_request},
};

/// `POST /_matrix/client/*/rooms/{roomId}/report/{eventId}`
pub(crate) async fn report_content(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<report_content_request::Request>,
) -> Result<report_content_request::Response, MatrixError> {
    let reason = request.reason.as_deref().unwrap_or_default();
    reports::report_event(&engine, &requester, &request.room_id, &request.event_id, reason).await?;
    Ok(report_content_request::Response::new())
}

/// `POST /_matrix/client/*/rooms/{roomId}/report`
pub(crate) async fn report_room(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<report_room_request::Request>,
) -> Result<report_room_request::Response, MatrixError> {
    reports::report_room(&engine, &requester, &request.room_id, &request.reason).await?;
    Ok(report_room_request::Response::new())
}

/// `POST /_matrix/client/*/users/{userId}/report`
pub(crate) async fn report_user(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<report_user_request::Request>,
) -> Result<report_user_request::Response, MatrixError> {
    reports::report_user(&engine, &requester, &request.user_id, &request.reason).await?;
    Ok(report_user_request::Response::new())
}
