//! The frames: what a client may send, and what it is sent. One JSON object each.

use std::borrow::Cow;

use hearth_endpoint::MatrixError;
use hearth_engine::sync;
use http::StatusCode;
use ruma::api::{client::sync::sync_events::v3::Filter, error::ErrorKind};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{Map, Value, value::RawValue};

/// The most bytes of a client's ID of a request.
const MAX_ID: usize = 256;

/// What a client says.
#[derive(Debug)]
pub(super) enum Frame<'a> {
    /// Who it is, or a fresh token.
    Auth(Cow<'a, str>),
    /// What to push.
    Sync(SyncFrame),
    /// A request of the client API.
    Request(RequestFrame<'a>),
    /// What it has received.
    Ack(Cow<'a, str>),
    /// It wants to hear something.
    Ping(Option<&'a RawValue>),
}

/// `op` is `sync`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct SyncFrame {
    pub since: Option<String>,
    #[serde(default)]
    filter: Option<Box<RawValue>>,
    pub set_presence: Option<String>,
    #[serde(default)]
    pub use_state_after: bool,
}

/// `op` is `request`.
#[derive(Debug, Deserialize)]
pub(super) struct RequestFrame<'a> {
    #[serde(borrow)]
    pub id: &'a RawValue,
    #[serde(borrow)]
    pub method: Cow<'a, str>,
    #[serde(borrow)]
    pub path: Cow<'a, str>,
    #[serde(borrow, default)]
    pub body: Option<&'a RawValue>,
}

/// What is read of every frame first.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    op: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Auth<'a> {
    #[serde(borrow)]
    access_token: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Ack<'a> {
    #[serde(borrow)]
    pos: Cow<'a, str>,
}

/// A frame that can't be served.
#[derive(Debug)]
pub(super) struct BadFrame<'a> {
    pub error: MatrixError,
    /// The client's ID of it, if it has one.
    pub id: Option<&'a RawValue>,
}

/// Reads a frame.
pub(super) fn read(text: &str) -> Result<Frame<'_>, BadFrame<'_>> {
    let bad = |error| BadFrame { error, id: None };
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        return Err(bad(MatrixError::not_json("This frame is not JSON.")));
    }
    // serde takes an array for a struct, field by field.
    if !text.trim_start().starts_with('{') {
        return Err(bad(MatrixError::bad_json("A frame is a JSON object.")));
    }
    let head: Head<'_> = of_shape(text).map_err(bad)?;
    let id = head.id.filter(|id| is_id(id));
    let frame = match head.op.as_deref() {
        _ if head.id.is_some() && id.is_none() => Err(MatrixError::bad_json(
            "`id` is a number or a string, at most 256 bytes long.",
        )),
        Some("auth") => of_shape(text).map(|Auth { access_token }| Frame::Auth(access_token)),
        Some("sync") => of_shape(text).map(Frame::Sync),
        Some("request") => of_shape(text).map(Frame::Request),
        Some("ack") => of_shape(text).map(|Ack { pos }| Frame::Ack(pos)),
        Some("ping") => Ok(Frame::Ping(id)),
        Some(_) => Err(MatrixError::new(
            StatusCode::BAD_REQUEST,
            ErrorKind::Unrecognized,
            "`op` is none that this server knows.",
        )),
        None => Err(MatrixError::bad_json("A frame has an `op`.")),
    };
    frame.map_err(|error| BadFrame { error, id })
}

fn of_shape<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, MatrixError> {
    // What was sent is not repeated: it may be a token.
    serde_json::from_str(text).map_err(|error| {
        MatrixError::bad_json(format!(
            "This frame is not as it should be (at its byte {}).",
            error.column()
        ))
    })
}

fn is_id(id: &RawValue) -> bool {
    let first = id.get().as_bytes().first().copied().unwrap_or_default();
    (first == b'"' || first == b'-' || first.is_ascii_digit()) && id.get().len() <= MAX_ID
}

impl SyncFrame {
    /// The filter: the ID of a stored one, or one in full.
    pub fn filter(&self) -> Result<Option<Filter>, MatrixError> {
        let Some(filter) = &self.filter else {
            return Ok(None);
        };
        match filter.get() {
            "null" => Ok(None),
            // The engine reads it: what is wrong with it then comes out.
            object if object.starts_with('{') => Ok(Some(Filter::FilterId(object.to_owned()))),
            text => serde_json::from_str(text)
                .map(|id| Some(Filter::FilterId(id)))
                .map_err(|_| MatrixError::bad_json("`filter` is the ID of a filter, or a filter.")),
        }
    }
}

#[derive(Serialize)]
struct Push<'a> {
    op: &'static str,
    pos: &'a str,
    data: &'a sync::Response,
}

/// What became true.
pub(super) fn push(data: &sync::Response) -> serde_json::Result<String> {
    serde_json::to_string(&Push {
        op: "sync",
        pos: &data.next_batch,
        data,
    })
}

#[derive(Serialize)]
struct Answer<'a> {
    op: &'static str,
    id: &'a RawValue,
    status: u16,
    #[serde(skip_serializing_if = "Map::is_empty")]
    headers: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
}

/// The answer to a request.
pub(super) fn response(
    id: &RawValue,
    status: StatusCode,
    headers: Map<String, Value>,
    body: Option<&RawValue>,
) -> String {
    encoded(&Answer {
        op: "response",
        id,
        status: status.as_u16(),
        headers,
        body,
    })
}

#[derive(Serialize)]
struct Failure<'a> {
    op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(flatten)]
    error: Map<String, Value>,
}

/// A frame could not be served, or the connection ends.
pub(super) fn error(id: Option<&RawValue>, error: MatrixError) -> String {
    encoded(&Failure {
        op: "error",
        id,
        error: error.into_fields(),
    })
}

#[derive(Serialize)]
struct Pong<'a> {
    op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
}

/// The answer to a ping.
pub(super) fn pong(id: Option<&RawValue>) -> String {
    encoded(&Pong { op: "pong", id })
}

/// The token expires soon.
pub(super) fn auth_needed() -> String {
    r#"{"op":"auth_needed"}"#.to_owned()
}

/// Strings, numbers and JSON that was parsed before: nothing here can fail to serialise.
fn encoded(frame: &impl Serialize) -> String {
    serde_json::to_string(frame).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Frame, read};

    fn code(text: &str) -> &'static str {
        let error = read(text).expect_err("it is refused").error;
        match error.kind().expect("it has a code").errcode().as_str() {
            "M_NOT_JSON" => "not json",
            "M_BAD_JSON" => "bad json",
            "M_UNRECOGNIZED" => "unrecognized",
            _ => "another",
        }
    }

    #[test]
    fn frames_are_told_apart() {
        assert!(
            matches!(read(r#"{"op":"auth","access_token":"x"}"#), Ok(Frame::Auth(token)) if token == "x")
        );
        assert!(matches!(read(r#"{"op":"ack","pos":"h1_5"}"#), Ok(Frame::Ack(pos)) if pos == "h1_5"));
        assert!(matches!(read(r#"{"op":"ping","id":2}"#), Ok(Frame::Ping(Some(id))) if id.get() == "2"));
        assert!(matches!(read(r#"{"op":"ping"}"#), Ok(Frame::Ping(None))));
        assert!(matches!(read(r#" {"op":"sync"}"#), Ok(Frame::Sync(_))));
        let request = r#"{"op":"request","id":"a","method":"PUT","path":"/x","body":{"n":1.0}}"#;
        let Ok(Frame::Request(request)) = read(request) else {
            panic!("a request")
        };
        assert_eq!(request.body.expect("a body").get(), r#"{"n":1.0}"#);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert_eq!(code("{"), "not json");
        assert_eq!(code("[]"), "bad json");
        assert_eq!(code("{}"), "bad json");
        assert_eq!(code(r#"{"op":"dance"}"#), "unrecognized");
        assert_eq!(code(r#"{"op":"auth"}"#), "bad json");
        assert_eq!(
            code(r#"{"op":"request","id":{},"method":"GET","path":"/"}"#),
            "bad json"
        );
        assert_eq!(code(r#"{"op":"request","method":"GET","path":"/"}"#), "bad json");
    }

    #[test]
    fn a_filter_is_an_id_or_an_object() {
        let filter = |text: &str| match read(text) {
            Ok(Frame::Sync(frame)) => frame.filter().map(|filter| filter.is_some()).ok(),
            _ => panic!("a sync frame"),
        };
        assert_eq!(filter(r#"{"op":"sync","filter":null}"#), Some(false));
        assert_eq!(filter(r#"{"op":"sync","filter":"abc"}"#), Some(true));
        assert_eq!(filter(r#"{"op":"sync","filter":{"room":{}}}"#), Some(true));
        assert_eq!(filter(r#"{"op":"sync","filter":7}"#), None);
    }
}
