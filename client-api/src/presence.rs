//! Who is there.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, presence};
use ruma::api::client::presence::{
    get_presence::v3 as get_presence_request, set_presence::v3 as set_presence_request,
};

/// `GET /_matrix/client/*/presence/{userId}/status`
pub(crate) async fn get_presence(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_presence_request::Request>,
) -> Result<get_presence_request::Response, MatrixError> {
    let shown = presence::get(&engine, &requester, &request.user_id).await?;
    let mut response = get_presence_request::Response::new(shown.state.into());
    response.last_active_ago = shown.last_active_ago(engine.clock.now_ms());
    response.currently_active = (shown.state == presence::State::Online).then_some(shown.currently_active);
    response.status_msg = shown.status_msg.map(|status| status.as_ref().to_owned());
    Ok(response)
}

/// `PUT /_matrix/client/*/presence/{userId}/status`
pub(crate) async fn set_presence(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<set_presence_request::Request>,
) -> Result<set_presence_request::Response, MatrixError> {
    presence::set(
        &engine,
        &requester,
        &request.user_id,
        &request.presence,
        request.status_msg,
    )?;
    Ok(set_presence_request::Response::new())
}
