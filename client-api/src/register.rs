//! Registration.

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{
    Engine,
    accounts::{
        logins::DeviceRequest,
        register::{self, Registration},
    },
};
use ruma::api::client::account::{
    get_username_availability::v3 as availability, register::v3 as registration,
};

/// `POST /_matrix/client/*/register`
pub(crate) async fn register(
    State(engine): State<Arc<Engine>>,
    Ruma { request, .. }: Ruma<registration::Request>,
) -> Result<registration::Response, MatrixError> {
    let asked_for = Registration {
        kind: request.kind,
        username: request.username,
        password: request.password.map(Into::into),
        device: DeviceRequest {
            device_id: request.device_id,
            initial_display_name: request.initial_device_display_name,
            refreshes: request.refresh_token,
        },
        inhibit_login: request.inhibit_login,
    };
    let registered = register::register(&engine, asked_for, request.auth.as_ref()).await?;
    let mut response = registration::Response::new(registered.user_id);
    if let Some(login) = registered.login {
        response.access_token = Some(login.access_token);
        response.device_id = Some(login.device_id);
        response.refresh_token = login.refresh_token;
        response.expires_in = login
            .expires_in_ms
            .map(|ms| Duration::from_millis(ms.unsigned_abs()));
    }
    Ok(response)
}

/// `GET /_matrix/client/*/register/available`
pub(crate) async fn get_username_availability(
    State(engine): State<Arc<Engine>>,
    Ruma { request, .. }: Ruma<availability::Request>,
) -> Result<availability::Response, MatrixError> {
    register::check_username(&engine, &request.username).await?;
    Ok(availability::Response::new(true))
}
