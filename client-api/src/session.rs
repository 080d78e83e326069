//! Logging in and out, and refreshing tokens.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use hearth_endpoint::{CredentialsGuard, Json, MatrixError, Ruma, encode};
use hearth_engine::{
    Engine,
    accounts::{login, logins::DeviceRequest, logout, refresh},
};
use ruma::{
    OwnedDeviceId,
    api::client::session::{
        get_login_types::v3::{self as get_login_types, LoginType, PasswordLoginType},
        login::v3::{self as login_request, LoginInfo},
        logout::v3 as logout_request,
        logout_all::v3 as logout_all_request,
        refresh_token::v3 as refresh_request,
    },
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// `GET /_matrix/client/*/login`
pub(crate) async fn get_login_types(
    State(_): State<Arc<Engine>>,
    _: Ruma<get_login_types::Request>,
) -> Result<get_login_types::Response, MatrixError> {
    Ok(get_login_types::Response::new(vec![LoginType::Password(
        PasswordLoginType::new(),
    )]))
}

/// What a login says besides its type's own fields.
#[derive(Deserialize)]
pub(crate) struct LoginBody {
    device_id: Option<OwnedDeviceId>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    refresh_token: bool,
    #[serde(flatten)]
    info: Map<String, Value>,
}

/// `POST /_matrix/client/*/login`
///
/// Read by hand: ruma 0.17 panics at a body without a `type`.
pub(crate) async fn login(
    State(engine): State<Arc<Engine>>,
    _: CredentialsGuard,
    Json(body): Json<LoginBody>,
) -> Result<Response, MatrixError> {
    let Some(login_type) = body.info.get("type").and_then(Value::as_str).map(str::to_owned) else {
        return Err(MatrixError::missing_param(
            "The request does not say which type of login it is.",
        ));
    };
    let info =
        LoginInfo::new(&login_type, body.info).map_err(|error| MatrixError::bad_json(error.to_string()))?;
    let device = DeviceRequest {
        device_id: body.device_id,
        initial_display_name: body.initial_device_display_name,
        refreshes: body.refresh_token,
    };
    let login = login::login(&engine, info, device).await?;
    let mut response = login_request::Response::new(login.user_id, login.access_token, login.device_id);
    response.refresh_token = login.refresh_token;
    response.expires_in = login
        .expires_in_ms
        .map(|ms| Duration::from_millis(ms.unsigned_abs()));
    Ok(encode(response).into_response())
}

/// `POST /_matrix/client/*/logout`
pub(crate) async fn logout(
    State(engine): State<Arc<Engine>>,
    Ruma { requester, .. }: Ruma<logout_request::Request>,
) -> Result<logout_request::Response, MatrixError> {
    logout::logout(&engine, &requester).await?;
    Ok(logout_request::Response::new())
}

/// `POST /_matrix/client/*/logout/all`
pub(crate) async fn logout_all(
    State(engine): State<Arc<Engine>>,
    Ruma { requester, .. }: Ruma<logout_all_request::Request>,
) -> Result<logout_all_request::Response, MatrixError> {
    logout::logout_all(&engine, &requester).await?;
    Ok(logout_all_request::Response::new())
}

/// `POST /_matrix/client/*/refresh`
pub(crate) async fn refresh_token(
    State(engine): State<Arc<Engine>>,
    Ruma { request, .. }: Ruma<refresh_request::Request>,
) -> Result<refresh_request::Response, MatrixError> {
    let refreshed = refresh::refresh(&engine, &request.refresh_token).await?;
    let mut response = refresh_request::Response::new(refreshed.access_token);
    response.refresh_token = refreshed.refresh_token;
    response.expires_in_ms = refreshed
        .expires_in_ms
        .map(|ms| Duration::from_millis(ms.unsigned_abs()));
    Ok(response)
}
