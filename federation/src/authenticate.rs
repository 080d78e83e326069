//! Which server asks: the extractor of every endpoint that demands a server's signature (server-server API, "Request
//! Authentication").

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{FromRequest, Request, State},
    response::IntoResponse as _,
};
use bytes::Bytes;
use hearth_endpoint::{
    Client, MatrixError, RumaRoutes as _,
    bulk::{Crowded, Place},
    decoding, encode_held,
};
use hearth_engine::{Engine, remote::KeysWanted};
use http::StatusCode;
use ruma::{
    OwnedServerName, ServerName,
    api::{
        IncomingRequest,
        error::ErrorKind,
        federation::authentication::{ServerSignatures, XMatrix},
    },
    signatures::verify_canonical_json_bytes,
};

use crate::{
    Federation,
    canonical::{canonical, push_string},
    turns::Turn,
};

/// The most bytes in the body of a request: a transaction of 50 events of 64 KiB and 100 EDUs, which have no limit of
/// their own, of as much.
const MAX_BODY: usize = 12 << 20;

/// Bodies of more bytes take a place among those of their sender's network.
const SMALL_BODY: usize = 128 << 10;
/// When a server that has too many requests here is to come again.
const LATER: Duration = Duration::from_secs(5);

/// The most levels of arrays and objects in a body.
const MAX_DEPTH: usize = 100;
/// The same in a transaction, each of whose events is judged by itself. Servers written in Python pass on no deeper ones.
const MAX_DEPTH_OF_TRANSACTION: usize = 1_000;

/// A request of another server, which has shown that it is the one it says.
///
/// Take it apart in the handler's arguments:
///
/// ```ignore
/// async fn get_event(
///     State(engine): State<Arc<Engine>>,
///     Federated { request, origin, .. }: Federated<get_event::v1::Request>,
/// ) -> Result<get_event::v1::Response, MatrixError>
/// ```
///
/// What is wrong with a request is answered here, in this order: a path that isn't UTF-8, no or a strange
/// `Authorization`, another destination than this server, a server that this one has nothing to do with, the size of
/// the body, its JSON, the signature, too many requests at a time, the shape. One server's are worked on a few at a time.
#[derive(Debug)]
pub struct Federated<R> {
    /// What is asked.
    pub request: R,
    /// Which server asks.
    pub origin: OwnedServerName,
    /// The body as it came; empty where there was none.
    pub body: Bytes,
    held: Arc<Held>,
}

/// What a request holds until its answer is on its way.
#[derive(Debug)]
struct Held {
    _body: Option<Place>,
    _turn: Turn,
}

impl<R> FromRequest<Arc<Engine>> for Federated<R>
where
    R: IncomingRequest<Authentication = ServerSignatures> + Send,
{
    type Rejection = MatrixError;

    async fn from_request(mut request: Request, engine: &Arc<Engine>) -> Result<Self, MatrixError> {
        let path_args = decoding::path_args(&mut request).await?;
        let federation = request.extensions().get::<Arc<Federation>>().cloned();
        let federation =
            federation.ok_or_else(|| MatrixError::internal("these routes lack their `Federation`"))?;

        let shown = shown(&federation, &request)?;
        let (parts, body) = request.into_parts();
        let client = Client::of(&parts.headers, &parts.extensions, &engine.config.trusted_proxies);
        let place = federation.turns.body(client.network());
        let (body, place) = decoding::read_body(&parts.headers, body, MAX_BODY, SMALL_BODY, place).await?;
        decoding::check_json(&parts.method, &body, max_depth(parts.uri.path()))?;
        let request = http::Request::from_parts(parts, body);
        verify(&federation, engine, &shown, &request).await?;

        tracing::Span::current().record("user", shown.origin.as_str());
        let turn = federation
            .turns
            .wait(&shown.origin, is_large(request.uri().path()))
            .await;
        let turn = turn.map_err(|Crowded| MatrixError::limit_exceeded(LATER))?;
        let (parts, body) = request.into_parts();
        let json = if body.is_empty() { b"{}".as_slice() } else { &body };
        let request = decoding::decode(http::Request::from_parts(parts, json), &path_args)?;
        Ok(Self {
            request,
            origin: shown.origin,
            body,
            held: Arc::new(Held {
                _body: place,
                _turn: turn,
            }),
        })
    }
}

/// Whether the answer may be as large as the state of a room.
fn is_large(path: &str) -> bool {
    ["/state/", "/state_ids/", "/event_auth/", "/send_join/"]
        .iter()
        .any(|part| path.contains(part))
}

fn max_depth(path: &str) -> usize {
    match path.starts_with("/_matrix/federation/v1/send/") {
        true => MAX_DEPTH_OF_TRANSACTION,
        false => MAX_DEPTH,
    }
}

/// What the `Authorization` header says, if this server has to do with whom it names.
fn shown(federation: &Federation, request: &Request) -> Result<XMatrix, MatrixError> {
    let shown = XMatrix::extract_from_http_headers(request.headers()).map_err(|error| {
        unauthorized(format!(
            "This request needs an `Authorization: X-Matrix` header: {error}."
        ))
    })?;
    let own_name = federation.keys.own().server_name();
    if shown
        .destination
        .as_ref()
        .is_some_and(|destination| *destination != *own_name)
    {
        return Err(unauthorized("This request is for another server."));
    }
    if !federation.client.is_allowed(&shown.origin) {
        return Err(MatrixError::forbidden(
            "This server does not federate with yours.",
        ));
    }
    Ok(shown)
}

/// Whether the request is signed by a key of its origin that is valid now.
async fn verify(
    federation: &Federation,
    engine: &Engine,
    shown: &XMatrix,
    request: &http::Request<Bytes>,
) -> Result<(), MatrixError> {
    let now = engine.clock.now();
    let wanted = KeysWanted::from([(shown.origin.clone(), BTreeMap::from([(shown.key.clone(), now)]))]);
    let keys = federation.keys.public_keys(&wanted).await;
    if keys.is_empty() {
        return Err(unauthorized(
            "The key that signed this request can't be had from your server.",
        ));
    }
    let signed = signed_json(shown, federation.keys.own().server_name(), request)?;
    let key = keys
        .get(shown.origin.as_str())
        .and_then(|keys| keys.get(shown.key.as_str()))
        .ok_or_else(|| unauthorized("Your server has no such key."))?;
    verify_canonical_json_bytes(
        &shown.key.algorithm(),
        key.as_bytes(),
        shown.sig.as_bytes(),
        signed.as_bytes(),
    )
    .map_err(|error| unauthorized(format!("The signature of this request is not valid: {error}.")))?;
    federation.client.reachability.heard_from(&shown.origin);
    Ok(())
}

/// What the signature of a request is of: the request as an object in canonical JSON.
fn signed_json(
    shown: &XMatrix,
    own_name: &ServerName,
    request: &http::Request<Bytes>,
) -> Result<String, MatrixError> {
    let body = std::str::from_utf8(request.body())
        .map_err(|_| MatrixError::not_json("The body of this request is not UTF-8."))?;
    let mut json = String::with_capacity(body.len() + 512);
    json.push('{');
    if !body.is_empty() {
        let content = canonical(body)
            .map_err(|error| MatrixError::not_json(format!("The body of this request: {error}.")))?;
        json.push_str("\"content\":");
        json.push_str(&content);
        json.push(',');
    }
    let uri = request.uri().path_and_query().map_or("/", |uri| uri.as_str());
    let fields = [
        ("\"destination\":", own_name.as_str()),
        (",\"method\":", request.method().as_str()),
        (",\"origin\":", shown.origin.as_str()),
        (",\"uri\":", uri),
    ];
    for (name, value) in fields {
        json.push_str(name);
        push_string(&mut json, value);
    }
    json.push('}');
    Ok(json)
}

fn unauthorized(message: impl Into<std::borrow::Cow<'static, str>>) -> MatrixError {
    MatrixError::new(StatusCode::UNAUTHORIZED, ErrorKind::Unauthorized, message)
}

/// Routes of endpoints that demand a server's signature.
pub trait FederationRoutes: Sized {
    /// Serves an endpoint by a handler that gets its request with its origin, and gives its response.
    #[must_use]
    fn federated<R, F, Fut>(self, handler: F) -> Self
    where
        R: IncomingRequest<Authentication = ServerSignatures> + Send + 'static,
        F: Fn(State<Arc<Engine>>, Federated<R>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R::OutgoingResponse, MatrixError>> + Send;
}

impl FederationRoutes for Router<Arc<Engine>> {
    fn federated<R, F, Fut>(self, handler: F) -> Self
    where
        R: IncomingRequest<Authentication = ServerSignatures> + Send + 'static,
        F: Fn(State<Arc<Engine>>, Federated<R>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R::OutgoingResponse, MatrixError>> + Send,
    {
        self.ruma_paths::<R, _, _>(move |engine: State<Arc<Engine>>, request: Federated<R>| {
            let held = Arc::clone(&request.held);
            let answer = handler(engine, request);
            async move {
                match answer.await {
                    Ok(response) => encode_held(response, held),
                    Err(error) => error.into_response(),
                }
            }
        })
    }
}
