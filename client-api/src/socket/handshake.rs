//! The upgrade of an HTTP request to a WebSocket (RFC 6455, section 4.2), and who asks for it where a header tells.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{FromRequestParts as _, Request, State},
    response::{IntoResponse as _, Response},
};
use hearth_endpoint::{Client, MatrixError};
use hearth_engine::accounts;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use hyper::upgrade::OnUpgrade;
use ruma::api::error::ErrorKind;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    SUBPROTOCOL, Sockets,
    connection::{self, Opening},
    requests::Origin,
    session::{Session, admit},
};

/// `GET /_matrix/client/unstable/chat.hearth.socket`
///
/// Any page may ask: nothing but a token that it has to have lets it in, no cookie and no address.
pub(super) async fn chat_hearth_socket(
    State(sockets): State<Arc<Sockets>>,
    request: Request,
) -> Result<Response, MatrixError> {
    let (mut parts, _) = request.into_parts();
    let Some(accept) = accepted(&parts.headers) else {
        return Ok(upgrade_required());
    };
    let Some(on_upgrade) = parts.extensions.remove::<OnUpgrade>() else {
        return Ok(upgrade_required());
    };
    if !offers_subprotocol(&parts.headers) {
        return Err(MatrixError::invalid_param(format!(
            "`Sec-WebSocket-Protocol` must offer {SUBPROTOCOL}."
        )));
    }
    let engine = &sockets.engine;
    let client = Client::from_request_parts(&mut parts, engine).await?;
    let too_many = || MatrixError::limit_exceeded(std::time::Duration::from_secs(60));
    let counted = sockets.limits.of_address(client.address).ok_or_else(too_many)?;
    let session = match bearer(&parts.headers)? {
        None => None,
        Some(token) => {
            let requester = accounts::authenticate(engine, token).await?;
            let user = sockets.limits.of_user(&requester).ok_or_else(too_many)?;
            Some(Session::new(requester, token, user))
        }
    };
    if let Some(session) = &session {
        admit(engine, &session.requester, &client);
    }
    let opening = Opening {
        origin: Origin::of(&parts.headers, &parts.extensions),
        client,
        session,
        _counted: counted,
    };
    // Not a part of the request any more: it ends by itself, with the connection.
    tokio::spawn(async move {
        match on_upgrade.await {
            Ok(upgraded) => connection::run(&sockets, upgraded, opening).await,
            Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
        }
    });
    Ok(switching(accept))
}

/// What the handshake is answered by, if it is one.
fn accepted(headers: &HeaderMap) -> Option<HeaderValue> {
    let has = |name: HeaderName, wanted: &str| {
        let values = headers.get_all(name).into_iter();
        let mut tokens = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        tokens.any(|token| token.trim().eq_ignore_ascii_case(wanted))
    };
    let is_handshake =
        has(CONNECTION, "upgrade") && has(UPGRADE, "websocket") && has(SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_handshake)?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}

fn offers_subprotocol(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    let mut offers = offers
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    offers.any(|offer| offer.trim() == SUBPROTOCOL)
}

/// The token of the `Authorization` header. One in the query would be logged on its way, so it is not looked for.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, MatrixError> {
    let Some(header) = headers.get(AUTHORIZATION) else {
        return Ok(None);
    };
    let token = header.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    token.map(Some).ok_or_else(MatrixError::missing_token)
}

fn switching(accept: HeaderValue) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    response
}

fn upgrade_required() -> Response {
    let error = MatrixError::new(
        StatusCode::UPGRADE_REQUIRED,
        ErrorKind::Unrecognized,
        "This is a WebSocket: ask for it by a handshake of version 13, on HTTP/1.1.",
    );
    let mut response = error.into_response();
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}
