//! Decoding by ruma, taken apart: for an extractor whose callers show who they are in another way than [`Ruma`]'s do.
//!
//! The same rules, in the same order; between them the extractor puts what is its own.
//!
//! [`Ruma`]: crate::Ruma

use axum::{body::Body, extract::Request};
use bytes::Bytes;
use http::{HeaderMap, Method};
use ruma::api::IncomingRequest;

use crate::{
    MatrixError, body,
    bulk::{Crowded, Place},
    ruma_request,
};

/// The arguments in a request's path, decoded.
pub async fn path_args(request: &mut Request) -> Result<Vec<String>, MatrixError> {
    let args = ruma_request::raw_path_args(request).await?;
    Ok(args.iter().map(|(_, value)| value.to_owned()).collect())
}

/// Reads a body of at most `limit` bytes, within a bound of time. Where it grows beyond `small` bytes it waits for a
/// `place`, which comes with it; 429 `M_LIMIT_EXCEEDED` if there is none for long.
pub async fn read_body(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    small: usize,
    place: impl Future<Output = Result<Place, Crowded>>,
) -> Result<(Bytes, Option<Place>), MatrixError> {
    body::read_in_place(headers, body, limit, small, place).await
}

/// Checks that a body is JSON, an object, and not nested deeper than `depth` levels, where there has to be one.
pub fn check_json(method: &Method, body: &[u8], depth: usize) -> Result<(), MatrixError> {
    body::check_json(method, body, depth)
}

/// Decodes a request, whose body is `{}` where there was none.
pub fn decode<R: IncomingRequest>(
    request: http::Request<&[u8]>,
    path_args: &[String],
) -> Result<R, MatrixError> {
    let path_args: Vec<_> = path_args.iter().map(String::as_str).collect();
    ruma_request::decode(request, &path_args)
}
