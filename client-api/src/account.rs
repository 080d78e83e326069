//! One's own account.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{
    Engine,
    accounts::{deactivate, password},
};
use ruma::api::client::account::{
    ThirdPartyIdRemovalStatus, change_password::v3 as change_password_request,
    deactivate::v3 as deactivate_request, whoami::v3 as whoami_request,
};

/// `GET /_matrix/client/*/account/whoami`
pub(crate) async fn whoami(
    State(_): State<Arc<Engine>>,
    Ruma { requester, .. }: Ruma<whoami_request::Request>,
) -> Result<whoami_request::Response, MatrixError> {
    let mut response = whoami_request::Response::new(requester.user_id.clone(), requester.is_guest);
    response.device_id = Some(requester.device_id.clone());
    Ok(response)
}

/// `POST /_matrix/client/*/account/password`
///
/// The specification lets someone without a token show who they are by e-mail or phone; there is neither, and so it
/// takes a token.
pub(crate) async fn change_password(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<change_password_request::Request>,
) -> Result<change_password_request::Response, MatrixError> {
    let requester = requester.ok_or_else(MatrixError::missing_token)?;
    let auth = request.auth.as_ref();
    let new_password = request.new_password.into();
    password::change_password(&engine, &requester, new_password, request.logout_devices, auth).await?;
    Ok(change_password_request::Response::new())
}

/// `POST /_matrix/client/*/account/deactivate`
pub(crate) async fn deactivate(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<deactivate_request::Request>,
) -> Result<deactivate_request::Response, MatrixError> {
    let requester = requester.ok_or_else(MatrixError::missing_token)?;
    deactivate::deactivate(&engine, &requester, request.erase, request.auth.as_ref()).await?;
    // Nobody's third-party identifiers are bound anywhere: all of none were unbound.
    Ok(deactivate_request::Response::new(
        ThirdPartyIdRemovalStatus::Success,
    ))
}
