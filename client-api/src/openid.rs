//! OpenID: tokens for other services.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, accounts::openid};
use ruma::{
    api::client::account::request_openid_token::v3 as request_openid_token_request, authentication::TokenType,
};

/// `POST /_matrix/client/*/user/{userId}/openid/request_token`
pub(crate) async fn request_openid_token(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<request_openid_token_request::Request>,
) -> Result<request_openid_token_request::Response, MatrixError> {
    let given = openid::request_token(&engine, &requester, &request.user_id).await?;
    Ok(request_openid_token_request::Response::new(
        given.token,
        TokenType::Bearer,
        engine.config.server_name.clone(),
        given.expires_in,
    ))
}
