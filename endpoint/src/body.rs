//! Reading a request's body: bounded in bytes and in time, and JSON where it is meant to be.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, Request},
};
use bytes::Bytes;
use hearth_engine::Engine;
use http::{HeaderMap, Method, StatusCode, header::CONTENT_LENGTH};
use ruma::api::error::ErrorKind;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::time::timeout;

use crate::{
    MatrixError,
    bulk::{self, Crowded, Place, ReadError},
    nesting::{self, MAX_DEPTH},
};

/// The most bytes in the body of someone who has shown a token. Events end at 65,536 bytes; a client's largest
/// bodies are backups of keys and the initial state of a room.
pub(crate) const MAX_BODY: usize = 8 << 20;

/// The most bytes in the body of someone who hasn't.
pub(crate) const MAX_ANONYMOUS_BODY: usize = 128 << 10;

/// How long a body may take to arrive. Bounds what a client can hold open by sending a byte now and then.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Who finds no place is to come again after as long.
const CROWDED: Duration = Duration::from_secs(10);

/// Reads at most `limit` bytes.
pub(crate) async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, MatrixError> {
    // None is large enough to wait for a place.
    let (body, _) = read_in_place(headers, body, limit, limit, std::future::pending()).await?;
    Ok(body)
}

/// Reads at most `limit` bytes. A body that grows beyond `small` waits for a `place`, which comes with it.
pub(crate) async fn read_in_place(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    small: usize,
    place: impl Future<Output = Result<Place, Crowded>>,
) -> Result<(Bytes, Option<Place>), MatrixError> {
    if declared(headers).is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    match timeout(READ_TIMEOUT, bulk::read(body, limit, small, place)).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(ReadError::TooLarge)) => Err(too_large(limit)),
        Ok(Err(ReadError::Crowded)) => Err(MatrixError::limit_exceeded(CROWDED)),
        Ok(Err(ReadError::Broken(_))) => Err(broken()),
        Ok(Err(ReadError::TooSlow)) | Err(_) => Err(too_slow()),
    }
}

fn declared(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The connection broke or its framing did; hardly anyone is left to read this.
fn broken() -> MatrixError {
    MatrixError::new(
        StatusCode::BAD_REQUEST,
        ErrorKind::Unknown,
        "The body of this request ended before its time.",
    )
}

fn too_slow() -> MatrixError {
    MatrixError::new(
        StatusCode::REQUEST_TIMEOUT,
        ErrorKind::Unknown,
        "The body of this request took too long to arrive.",
    )
}

fn too_large(limit: usize) -> MatrixError {
    MatrixError::too_large(format!("The body of this request is larger than {limit} bytes."))
}

/// Checks what serde does not: that a body is UTF-8 throughout, an object, and not nested beyond what the server
/// can pass on: `depth` levels. An empty body stands for `{}` except in a `PUT`, whose body is what it puts.
pub(crate) fn check_json(method: &Method, body: &[u8], depth: usize) -> Result<(), MatrixError> {
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
    if nesting::too_deep(body, depth) {
        return Err(MatrixError::bad_json(format!(
            "The body of this request nests deeper than {depth} levels."
        )));
    }
    // A type that keeps its JSON as it came takes the first value and leaves what is behind it.
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(body) {
        return Err(MatrixError::not_json(format!(
            "The body of this request is not JSON: {error}."
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
        check_json(&parts.method, &body, MAX_DEPTH)?;
        let json = if body.is_empty() { b"{}".as_slice() } else { &body };
        let value = serde_json::from_slice(json).map_err(|error| bad_body(json, error.to_string()))?;
        Ok(Self(value))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    fn code(error: MatrixError) -> String {
        error.kind().expect("a standard error").errcode().to_string()
    }

    fn checked(method: Method, body: &[u8]) -> Result<(), String> {
        check_json(&method, body, MAX_DEPTH).map_err(code)
    }

    #[test]
    fn json_of_another_shape_is_told_from_what_is_not_json() {
        assert_eq!(checked(Method::POST, b"{}"), Ok(()));
        assert_eq!(checked(Method::POST, b" \n{\"a\":\"\\u0000\"}"), Ok(()));
        for body in ["[]", "null", "17", "\"text\"", "1e999"] {
            assert_eq!(
                checked(Method::POST, body.as_bytes()),
                Err("M_BAD_JSON".to_owned()),
                "{body}"
            );
        }
        for body in ["[", "nul", "a=b", "}", " "] {
            assert_eq!(
                checked(Method::POST, body.as_bytes()),
                Err("M_NOT_JSON".to_owned()),
                "{body}"
            );
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_not_json() {
        assert_eq!(
            checked(Method::POST, b"{\"a\":\"\xff\"}"),
            Err("M_NOT_JSON".to_owned())
        );
        assert_eq!(
            checked(Method::POST, b"{\"a\":\"\xed\xa0\x80\"}"),
            Err("M_NOT_JSON".to_owned())
        );
    }

    #[test]
    fn nothing_stands_for_an_empty_object_except_where_it_is_what_is_put() {
        assert_eq!(checked(Method::POST, b""), Ok(()));
        assert_eq!(checked(Method::DELETE, b""), Ok(()));
        assert_eq!(checked(Method::PUT, b""), Err("M_NOT_JSON".to_owned()));
    }

    #[test]
    fn deep_nesting_is_refused() {
        let body = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(
            checked(Method::PUT, body.as_bytes()),
            Err("M_BAD_JSON".to_owned())
        );
    }

    #[tokio::test]
    async fn a_body_is_refused_by_its_declared_length_and_by_its_real_one() {
        let mut headers = HeaderMap::new();
        let error = read(&headers, Body::from(vec![b' '; 11]), 10)
            .await
            .expect_err("11 bytes are more than 10");
        assert_eq!(
            (error.status(), code(error)),
            (StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE".to_owned())
        );
        headers.insert(CONTENT_LENGTH, 11.into());
        let unread = Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>());
        let error = read(&headers, unread, 10)
            .await
            .expect_err("11 bytes are more than 10");
        assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(
            read(&HeaderMap::new(), Body::from(vec![b' '; 10]), 10)
                .await
                .expect("10 bytes")
                .len(),
            10
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let drip = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b" "))), ()))
        });
        let error = read(&HeaderMap::new(), Body::new(StreamBody::new(drip)), MAX_BODY).await;
        assert_eq!(
            error.expect_err("it never ends").status(),
            StatusCode::REQUEST_TIMEOUT
        );
    }
}
