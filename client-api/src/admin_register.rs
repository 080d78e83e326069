//! Registration by shared secret, at the path and with the bodies that Synapse [documents].
//!
//! [documents]: https://element-hq.github.io/synapse/latest/admin_api/register_api.html

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{CredentialsGuard, Json, MatrixError};
use hearth_engine::{
    Engine,
    accounts::{
        admin_register::{self, AdminRegistration},
        logins::DeviceRequest,
    },
};
use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};

/// Where this is.
pub(crate) const PATH: &str = "/_synapse/admin/v1/register";

/// The answer to a `GET`.
#[derive(Debug, Serialize)]
pub(crate) struct Nonce {
    nonce: String,
}

/// What to register.
#[derive(Deserialize)]
pub(crate) struct Request {
    nonce: String,
    username: String,
    password: String,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    mac: String,
    device_id: Option<OwnedDeviceId>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    inhibit_login: bool,
    #[serde(default)]
    refresh_token: bool,
}

/// Who was registered.
#[derive(Serialize)]
pub(crate) struct Response {
    user_id: OwnedUserId,
    home_server: OwnedServerName,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<OwnedDeviceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_ms: Option<i64>,
}

/// `GET /_synapse/admin/v1/register`
pub(crate) async fn nonce(
    State(engine): State<Arc<Engine>>,
    _: CredentialsGuard,
) -> Result<axum::Json<Nonce>, MatrixError> {
    Ok(axum::Json(Nonce {
        nonce: admin_register::nonce(&engine).await?,
    }))
}

/// `POST /_synapse/admin/v1/register`
pub(crate) async fn register(
    State(engine): State<Arc<Engine>>,
    _: CredentialsGuard,
    Json(request): Json<Request>,
) -> Result<axum::Json<Response>, MatrixError> {
    let registration = AdminRegistration {
        nonce: request.nonce,
        username: request.username,
        password: request.password.into(),
        is_admin: request.admin,
        user_type: request.user_type,
        mac: request.mac,
        device: DeviceRequest {
            device_id: request.device_id,
            initial_display_name: request.initial_device_display_name,
            refreshes: request.refresh_token,
        },
        inhibit_login: request.inhibit_login,
    };
    let registered = admin_register::register(&engine, registration).await?;
    let mut response = Response {
        home_server: registered.user_id.server_name().to_owned(),
        user_id: registered.user_id,
        access_token: None,
        device_id: None,
        refresh_token: None,
        expires_in_ms: None,
    };
    if let Some(login) = registered.login {
        response.access_token = Some(login.access_token);
        response.device_id = Some(login.device_id);
        response.refresh_token = login.refresh_token;
        response.expires_in_ms = login.expires_in_ms;
    }
    Ok(axum::Json(response))
}
