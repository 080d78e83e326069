//! Reading a request's body: bounded in bytes and in time, and JSON where it is meant to be.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, Request},
};
use bytes::Bytes;
use hearth_engine::Engine;
use http::{HeaderMap, Method, StatusCode, header::CONTENT_LENGTH};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use ruma::api::error::ErrorKind;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::{MatrixError, nesting};

/// The most bytes in the body of someone who has shown a token. Events end at 65,536 bytes; a client's largest
/// bodies are backups of keys and the initial state of a room.
pub(crate) const MAX_BODY: usize = 8 << 20;

/// The most bytes in the body of someone who hasn't.
pub(crate) const MAX_ANONYMOUS_BODY: usize = 128 << 10;

/// How long a body may take to arrive. Bounds what a client can hold open by sending a byte now and then.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads at most `limit` bytes.
pub(crate) async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, MatrixError> {
    let declared = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    match tokio::time::timeout(READ_TIMEOUT, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(limit)),
        // The connection broke or its framing did; hardly anyone is left to read this.
        Ok(Err(_)) => Err(MatrixError::new(
            StatusCode::BAD_REQUEST,
            ErrorKind::Unknown,
            "The body of this request ended before its time.",
        )),
        Err(_) => Err(MatrixError::new(
            StatusCode::REQUEST_TIMEOUT,
            ErrorKind::Unknown,
            "The body of this request took too long to arrive.",
        )),
    }
}

fn too_large(limit: usize) -> MatrixError {
    MatrixError::too_large(format!("The body of this request is larger than {limit} bytes."))
}

/// Checks what serde does not: that a body is UTF-8 throughout, an object, and not nested beyond what the server
/// can pass on. An empty body stands for `{}` except in a `PUT`, whose body is what it puts.
pub(crate) fn check_json(method: &Method, body: &[u8]) -> Result<(), MatrixError> {
    if *method == Method::GET || *method == Method::HEAD {
        return Ok(());
    }
    if body.is_empty() {
        return match *method {
            Method::PUT => Err(MatrixError::not_json("This request needs a body.")),
            _ => Ok(()),
        };
    }
    if std::str::from_utf8(body).is_err() {
        return Err(MatrixError::not_json("The body of this request is not UTF-8."));
    }
    if nesting::too_deep(body) {
        return Err(MatrixError::bad_json(format!(
            "The body of this request nests deeper than {} levels.",
            nesting::MAX_DEPTH
        )));
    }
    // serde takes an array for a struct, field by field.
    let object = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if object {
        Ok(())
    } else {
        Err(bad_body(body, "The body of this request must be a JSON object."))
    }
}

/// The error for a body that could not be understood: not JSON at all, or JSON of the wrong shape.
///
/// serde_json's own distinction will not do: a number out of range, or a fault in a part that was kept raw, is
/// "syntax" or "data" by where it was met.
pub(crate) fn bad_body(body: &[u8], message: impl Into<String>) -> MatrixError {
    match serde_json::from_slice::<IgnoredAny>(body) {
        Ok(_) => MatrixError::bad_json(message.into()),
        Err(error) => MatrixError::not_json(format!("The body of this request is not JSON: {error}.")),
    }
}

/// A JSON body for a route that is not ruma's, under the same rules, for callers without a token.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Engine>> for Json<T> {
    type Rejection = MatrixError;

    async fn from_request(request: Request, _engine: &Arc<Engine>) -> Result<Self, MatrixError> {
        let (parts, body) = request.into_parts();
        let body = read(&parts.headers, body, MAX_ANONYMOUS_BODY).await?;
        check_json(&parts.method, &body)?;
        let json = if body.is_empty() { b"{}".as_slice() } else { &body };
        let value = serde_json::from_slice(json).map_err(|error| bad_body(json, error.to_string()))?;
        Ok(Self(value))
    }
}
