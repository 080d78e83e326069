//! The extractor of every endpoint that ruma knows: decoded, authenticated, limited.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use axum::{
    RequestExt,
    extract::{FromRequest, RawPathParams, Request, rejection::RawPathParamsRejection},
};
use bytes::Bytes;
use hearth_engine::{Engine, accounts::Requester};
use http::{Extensions, StatusCode};
use ruma::api::{
    IncomingRequest, IncomingRequestExt,
    error::{DeserializationError, ErrorKind, FromHttpRequestError, HeaderDeserializationError},
};
use tracing::Span;

use crate::{
    Client, Identify, Identity, MatrixError, body, guests,
    limits::{self, Limits},
    nesting::MAX_DEPTH,
    routes::latest_path,
};

/// A request of a ruma endpoint, with who sent it.
///
/// Take it apart in the handler's arguments:
///
/// ```ignore
/// async fn join_room_by_id(
///     State(engine): State<Arc<Engine>>,
///     Ruma { request, requester, .. }: Ruma<join_room_by_id::v3::Request>,
/// ) -> Result<join_room_by_id::v3::Response, MatrixError>
/// ```
///
/// For endpoints whose body is JSON or empty. What is wrong with a request is answered here, in this order: a path
/// that isn't UTF-8, the token, what guests may not do, the rate limit, the size of the body, its JSON, its shape.
#[derive(Debug)]
pub struct Ruma<R>
where
    R: IncomingRequest<Authentication: Identify>,
{
    /// What is asked.
    pub request: R,
    /// Who asks: a `Requester`, an `Option<Requester>` or `()`, as the endpoint's authentication has it.
    pub requester: <R::Authentication as Identify>::Identity,
    /// From where.
    pub client: Client,
    /// The body as it came; empty where there was none.
    pub body: Bytes,
}

impl<R> FromRequest<Arc<Engine>> for Ruma<R>
where
    R: IncomingRequest<Authentication: Identify> + Send,
{
    type Rejection = MatrixError;

    async fn from_request(mut request: Request, engine: &Arc<Engine>) -> Result<Self, MatrixError> {
        let path_args = raw_path_args(&mut request).await?;
        let path_args: Vec<_> = path_args.iter().map(|(_, value)| value).collect();
        let client = Client::of(
            request.headers(),
            request.extensions(),
            &engine.config.trusted_proxies,
        );

        let credentials = R::Authentication::credentials(&request)?;
        let (parts, body) = request.into_parts();
        let identity = R::Authentication::identify(engine, &client, credentials).await?;
        admit::<R>(
            &parts.extensions,
            &client,
            identity.requester(),
            path_args.last().copied(),
        )?;

        let is_known = identity.requester().is_some();
        let limit = if is_known {
            body::MAX_BODY
        } else {
            body::MAX_ANONYMOUS_BODY
        };
        let body = body::read(&parts.headers, body, limit).await?;
        body::check_json(&parts.method, &body, MAX_DEPTH)?;
        // Not all of ruma's requests do this for themselves.
        let json = if body.is_empty() { b"{}".as_slice() } else { &body };
        let request = decode(http::Request::from_parts(parts, json), &path_args)?;
        Ok(Self {
            request,
            requester: identity,
            client,
            body,
        })
    }
}

/// ruma's decoding, which panics on some of what it did not expect (in 0.17.2, a login without a `type`).
pub(crate) fn decode<R: IncomingRequest>(
    request: http::Request<&[u8]>,
    path_args: &[&str],
) -> Result<R, MatrixError> {
    let body = *request.body();
    match catch_unwind(AssertUnwindSafe(|| R::try_from_http_request(request, path_args))) {
        Ok(decoded) => decoded.map_err(|error| refusal(&error, body)),
        Err(_) => Err(body::bad_body(
            body,
            "The body of this request is not as it should be.",
        )),
    }
}

pub(crate) async fn raw_path_args(request: &mut Request) -> Result<RawPathParams, MatrixError> {
    request
        .extract_parts::<RawPathParams>()
        .await
        .map_err(|rejection| match rejection {
            RawPathParamsRejection::InvalidUtf8InPathParam(_) => {
                MatrixError::invalid_param("The path of this request is not UTF-8.")
            }
            rejection => MatrixError::internal(rejection),
        })
}

/// Whether whoever asks may ask this at all, and now. `last_arg` is the last argument in the path.
fn admit<R>(
    extensions: &Extensions,
    client: &Client,
    requester: Option<&Requester>,
    last_arg: Option<&str>,
) -> Result<(), MatrixError>
where
    R: IncomingRequest<Authentication: Identify>,
{
    // What everybody may ask, a guest may.
    let users_only = <<R::Authentication as Identify>::Identity as Identity>::USERS_ONLY;
    if let Some(requester) = requester {
        Span::current().record("user", requester.user_id.as_str());
        if requester.is_guest && users_only && !guests::may_use(&R::METHOD, latest_path::<R>(), last_arg) {
            return Err(MatrixError::new(
                StatusCode::FORBIDDEN,
                ErrorKind::GuestAccessForbidden,
                "Guests may not do this: register an account.",
            ));
        }
    }
    match extensions.get::<Arc<Limits>>() {
        Some(limits) => {
            let user = requester.map(|requester| &*requester.user_id);
            limits.check(limits::class::<R>(), client, user)
        }
        None => Ok(()),
    }
}

/// The spec's code for what ruma could not read. The sentence may repeat what the client sent: it goes back to
/// the client, not to the log.
fn refusal(error: &FromHttpRequestError, body: &[u8]) -> MatrixError {
    use DeserializationError as Cause;
    let cause = match error {
        FromHttpRequestError::MethodMismatch { .. } => return MatrixError::method_not_allowed(),
        FromHttpRequestError::Deserialization(cause) => cause,
        _ => return MatrixError::new(StatusCode::BAD_REQUEST, ErrorKind::Unknown, error.to_string()),
    };
    match cause {
        Cause::Json(error) => body::bad_body(
            body,
            format!("The body of this request is not as it should be: {error}."),
        ),
        Cause::Header(HeaderDeserializationError::MissingHeader(_)) => {
            MatrixError::missing_param(cause.to_string())
        }
        // serde's words for a field without a default; ruma has no variant for it.
        Cause::Query(error) if error.to_string().starts_with("missing field") => {
            MatrixError::missing_param(error.to_string())
        }
        _ => MatrixError::invalid_param(cause.to_string()),
    }
}
