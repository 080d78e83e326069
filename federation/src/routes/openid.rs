//! Whose a token for OpenID is. For everybody: services that ask are no servers of Matrix.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, accounts::openid};
use ruma::api::federation::openid::get_openid_userinfo::v1 as get_openid_userinfo;

/// `GET /_matrix/federation/v1/openid/userinfo`
pub(super) async fn get_openid_userinfo(
    State(engine): State<Arc<Engine>>,
    Ruma { request, .. }: Ruma<get_openid_userinfo::Request>,
) -> Result<get_openid_userinfo::Response, MatrixError> {
    let user_id = openid::user_of(&engine, &request.access_token).await?;
    Ok(get_openid_userinfo::Response::new(user_id))
}
