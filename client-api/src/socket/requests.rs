//! Requests of the client API that come in frames: handed to the router that HTTP has, in the order of their frames, and
//! answered as they finish. Of writes to one room each waits for the one before.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    future::pending,
    net::SocketAddr,
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo};
use futures_util::FutureExt as _;
use hearth_endpoint::MatrixError;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER, USER_AGENT},
    uri::PathAndQuery,
};
use http_body_util::BodyExt as _;
use percent_encoding::percent_decode_str;
use ruma::api::error::ErrorKind;
use serde_json::{Map, Value, value::RawValue};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use super::{end::End, frames, frames::RequestFrame};

/// Requests that may be under way at once.
const MAX_IN_FLIGHT: usize = 32;

/// Headers of an answer that say something to a client.
const TOLD_HEADERS: [HeaderName; 2] = [RETRY_AFTER, LOCATION];

/// Where the connection comes from: what the router reads of every request.
#[derive(Debug)]
pub(super) struct Origin {
    headers: Vec<(HeaderName, HeaderValue)>,
    peer: Option<ConnectInfo<SocketAddr>>,
}

impl Origin {
    pub fn of(headers: &HeaderMap, extensions: &Extensions) -> Self {
        const COPIED: [HeaderName; 2] = [USER_AGENT, HeaderName::from_static("x-forwarded-for")];
        let copies = COPIED.into_iter().flat_map(|name| {
            let values = headers.get_all(&name).into_iter();
            // Copies: a header's value would keep the buffer that the request was read into.
            let values = values.filter_map(|value| HeaderValue::from_bytes(value.as_bytes()).ok());
            values.map(move |value| (name.clone(), value)).collect::<Vec<_>>()
        });
        Self {
            headers: copies.collect(),
            peer: extensions.get().copied(),
        }
    }
}

/// The requests of a connection.
#[derive(Debug)]
pub(super) struct Requests {
    router: Router,
    origin: Origin,
    running: JoinSet<Answered>,
    /// Answered at once.
    ready: VecDeque<Answered>,
    /// Rooms that are being written to, with the writes that wait for it.
    rooms: HashMap<String, VecDeque<Call>>,
    in_flight: usize,
}

/// A request and what is to become of it.
#[derive(Debug)]
struct Call {
    id: Box<RawValue>,
    /// The room that it writes to.
    room: Option<String>,
    request: Request<Body>,
}

#[derive(Debug)]
struct Answered {
    room: Option<String>,
    frame: String,
}

impl Requests {
    pub fn new(router: Router, origin: Origin) -> Self {
        Self {
            router,
            origin,
            running: JoinSet::new(),
            ready: VecDeque::new(),
            rooms: HashMap::new(),
            in_flight: 0,
        }
    }

    /// Begins a request in the name of who has `token`.
    pub fn begin(&mut self, frame: &RequestFrame<'_>, token: &str) -> Result<(), MatrixError> {
        if self.in_flight >= MAX_IN_FLIGHT {
            return Err(MatrixError::limit_exceeded(Duration::from_secs(1)));
        }
        let (method, path) = allowed(frame)?;
        let room = room_written_to(&method, path.path());
        let call = Call {
            id: frame.id.to_owned(),
            request: self.request(method, path, frame.body, token)?,
            room,
        };
        self.in_flight += 1;
        if let Some(room) = &call.room {
            match self.rooms.entry(room.clone()) {
                Entry::Occupied(mut waiting) => {
                    waiting.get_mut().push_back(call);
                    return Ok(());
                }
                Entry::Vacant(free) => {
                    free.insert(VecDeque::new());
                }
            }
        }
        self.start(call);
        Ok(())
    }

    fn request(
        &self,
        method: Method,
        path: PathAndQuery,
        body: Option<&RawValue>,
        token: &str,
    ) -> Result<Request<Body>, MatrixError> {
        let body = body.filter(|body| body.get() != "null");
        let body = body.map_or_else(Body::empty, |body| Body::from(body.get().to_owned()));
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path.into();
        let headers = request.headers_mut();
        let token = HeaderValue::from_str(&format!("Bearer {token}"));
        headers.insert(AUTHORIZATION, token.map_err(MatrixError::internal)?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(
            self.origin
                .headers
                .iter()
                .map(|(name, value)| (Some(name.clone()), value.clone())),
        );
        if let Some(peer) = self.origin.peer {
            request.extensions_mut().insert(peer);
        }
        Ok(request)
    }

    /// Starts a request: it has gone as far as it gets without waiting when this returns, so that none overtakes it. What
    /// it then waits for, it waits for on a task of its own: a client that is slow to read what is being written must
    /// not hold up what others wait for.
    fn start(&mut self, call: Call) {
        let mut answer = Box::pin(answer(self.router.clone(), call));
        match answer.as_mut().now_or_never() {
            Some(answered) => self.ready.push_back(answered),
            None => {
                self.running.spawn(answer);
            }
        }
    }

    /// The next answer, a frame. Never while no request is under way.
    pub async fn answered(&mut self) -> Result<String, End> {
        let answered = match self.ready.pop_front() {
            Some(answered) => answered,
            None => match self.running.join_next().await {
                Some(answered) => answered.map_err(|_| End::Failed)?,
                None => pending().await,
            },
        };
        self.in_flight -= 1;
        if let Some(room) = answered.room {
            match self.rooms.get_mut(&room).and_then(VecDeque::pop_front) {
                Some(next) => self.start(next),
                None => {
                    self.rooms.remove(&room);
                }
            }
        }
        Ok(answered.frame)
    }

    /// Whether no request is under way.
    pub fn is_idle(&self) -> bool {
        self.in_flight == 0
    }
}

async fn answer(router: Router, call: Call) -> Answered {
    let Call { id, room, request } = call;
    let route = format!("{} {}", request.method(), request.uri().path());
    let frame = match router.oneshot(request).await {
        Ok(response) => encode(&id, response, &route).await,
        Err(never) => match never {},
    };
    Answered { room, frame }
}

async fn encode(id: &RawValue, response: axum::response::Response, route: &str) -> String {
    let (parts, body) = response.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return frames::error(Some(id), MatrixError::internal(error)),
    };
    let told = TOLD_HEADERS.iter().filter_map(|name| {
        let value = parts.headers.get(name)?.to_str().ok()?;
        Some((name.as_str().to_owned(), Value::from(value)))
    });
    let headers: Map<String, Value> = told.collect();
    if body.is_empty() {
        return frames::response(id, parts.status, headers, None);
    }
    match serde_json::from_slice(&body) {
        Ok(body) => frames::response(id, parts.status, headers, Some(body)),
        Err(_) => frames::error(Some(id), only_by_http(route)),
    }
}

/// Whether this may be requested by a frame, and then what it is.
fn allowed(frame: &RequestFrame<'_>) -> Result<(Method, PathAndQuery), MatrixError> {
    let method = match &*frame.method {
        "GET" => Method::GET,
        "POST" => Method::POST,
        "PUT" => Method::PUT,
        "DELETE" => Method::DELETE,
        _ => {
            return Err(MatrixError::invalid_param(
                "`method` is GET, POST, PUT or DELETE.",
            ));
        }
    };
    let bad_path = || {
        MatrixError::invalid_param(
            "`path` is a path of the client API with its query, as `/_matrix/client/…`.",
        )
    };
    let is_local = frame.path.starts_with("/_matrix/") && !frame.path.contains('#');
    let path: PathAndQuery = match frame.path.parse() {
        Ok(path) if is_local => path,
        _ => return Err(bad_path()),
    };
    let query = url::form_urlencoded::parse(path.query().unwrap_or_default().as_bytes());
    if query.into_iter().any(|(key, _)| key == "access_token") {
        return Err(MatrixError::invalid_param(
            "A request is made in the name of who is connected: `access_token` is not for its path.",
        ));
    }
    let route = || format!("{method} {}", path.path());
    let segments: Vec<&str> = path.path().split('/').skip(2).collect();
    match segments.as_slice() {
        ["media", _, "upload" | "download" | "thumbnail", ..]
        | ["client", _, "media", "upload" | "download" | "thumbnail", ..] => Err(only_by_http(&route())),
        ["client", _, "sync" | "events" | "initialSync"] | ["client", "unstable", _, "sync"] => {
            Err(only_by_http(&route()))
        }
        ["client", "unstable", "chat.hearth.socket"] => Err(only_by_http(&route())),
        ["client" | "media", ..] => Ok((method, path)),
        _ => Err(bad_path()),
    }
}

fn only_by_http(route: &str) -> MatrixError {
    MatrixError::new(
        StatusCode::BAD_REQUEST,
        ErrorKind::Unrecognized,
        format!("This goes over HTTP only: {route}"),
    )
}

/// The room, or its alias, that a request writes to.
fn room_written_to(method: &Method, path: &str) -> Option<String> {
    if *method == Method::GET {
        return None;
    }
    let mut segments = path.split('/');
    segments.find(|segment| matches!(*segment, "rooms" | "join" | "knock"))?;
    let room = segments.next()?;
    Some(percent_decode_str(room).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::{allowed, room_written_to};
    use crate::socket::frames::{Frame, read};

    fn is_allowed(method: &str, path: &str) -> bool {
        let frame = format!(r#"{{"op":"request","id":1,"method":"{method}","path":"{path}"}}"#);
        match read(&frame) {
            Ok(Frame::Request(frame)) => allowed(&frame).is_ok(),
            _ => panic!("a request"),
        }
    }

    #[test]
    fn the_client_api_may_be_requested() {
        assert!(is_allowed("GET", "/_matrix/client/v3/account/whoami"));
        assert!(is_allowed("GET", "/_matrix/client/versions"));
        assert!(is_allowed(
            "PUT",
            "/_matrix/client/v3/rooms/!a%3Ab/send/m.room.message/1"
        ));
        assert!(is_allowed(
            "GET",
            "/_matrix/client/v3/rooms/!a/messages?dir=b&limit=5"
        ));
        assert!(is_allowed("GET", "/_matrix/client/v1/media/config"));
    }

    #[test]
    fn what_waits_or_is_no_json_may_not() {
        assert!(!is_allowed("GET", "/_matrix/client/v3/sync"));
        assert!(!is_allowed("GET", "/_matrix/client/v3/sync?timeout=0"));
        assert!(!is_allowed(
            "POST",
            "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
        ));
        assert!(!is_allowed("GET", "/_matrix/client/v3/events"));
        assert!(!is_allowed("GET", "/_matrix/client/unstable/chat.hearth.socket"));
        assert!(!is_allowed("GET", "/_matrix/client/v1/media/download/x/y"));
        assert!(!is_allowed("POST", "/_matrix/media/v3/upload"));
    }

    #[test]
    fn other_places_and_other_identities_may_not() {
        assert!(!is_allowed("GET", "https://example.org/_matrix/client/versions"));
        assert!(!is_allowed("GET", "//example.org/_matrix/client/versions"));
        assert!(!is_allowed("GET", "/_matrix/federation/v1/version"));
        assert!(!is_allowed("GET", "/_matrix/../metrics"));
        assert!(!is_allowed("GET", "/metrics"));
        assert!(!is_allowed("GET", "/_matrix/client/versions#x"));
        assert!(!is_allowed(
            "GET",
            "/_matrix/client/v3/account/whoami?access_token=x"
        ));
        assert!(!is_allowed(
            "GET",
            "/_matrix/client/v3/account/whoami?access%5Ftoken=x"
        ));
        assert!(!is_allowed("CONNECT", "/_matrix/client/versions"));
        assert!(!is_allowed("OPTIONS", "/_matrix/client/versions"));
    }

    #[test]
    fn writes_to_a_room_are_known_by_it_however_it_is_spelt() {
        let room = |path| room_written_to(&Method::PUT, path);
        let send = "/_matrix/client/v3/rooms/!a%3Ab/send/m.room.message/1";
        assert_eq!(room(send).as_deref(), Some("!a:b"));
        assert_eq!(room("/_matrix/client/v3/join/!a:b").as_deref(), Some("!a:b"));
        assert_eq!(room("/_matrix/client/v3/createRoom"), None);
        assert_eq!(room_written_to(&Method::GET, send), None);
    }
}
