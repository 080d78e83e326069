//! A Matrix client with as much of the client-server API as the scenarios need. Reads answers no further than that.

use std::{borrow::Cow, cell::Cell, collections::HashMap, fmt::Write as _, rc::Rc};

use bytes::Bytes;
use hyper::{Method, StatusCode, header::HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    connection::{Answer, Connection, ConnectionError},
    socket::Socket,
};

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("{what}: {status} {code} {message}")]
    Refused {
        what: &'static str,
        status: StatusCode,
        code: String,
        message: String,
    },
    #[error("{what}: the answer is not what the specification says")]
    Answer {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("the token cannot be sent as a header")]
    Token,
    #[error("the WebSocket broke")]
    Socket(#[source] Box<tokio_tungstenite::tungstenite::Error>),
}

impl From<tokio_tungstenite::tungstenite::Error> for ClientError {
    fn from(error: tokio_tungstenite::tungstenite::Error) -> Self {
        Self::Socket(Box::new(error))
    }
}

/// Who a session belongs to, as `register` and `login` answer.
#[derive(Deserialize)]
pub struct Session {
    pub user_id: String,
    pub access_token: String,
}

/// The part of a `/sync` that scenarios read.
#[derive(Debug, Deserialize)]
pub struct Synced<'a> {
    #[serde(borrow)]
    pub next_batch: Cow<'a, str>,
    #[serde(borrow, default)]
    rooms: SyncedRooms<'a>,
    #[serde(borrow, default)]
    presence: SyncedPresence<'a>,
}

#[derive(Debug, Default, Deserialize)]
struct SyncedPresence<'a> {
    #[serde(borrow, default)]
    events: Vec<PresenceEvent<'a>>,
}

#[derive(Debug, Deserialize)]
struct PresenceEvent<'a> {
    #[serde(borrow, default)]
    content: PresenceContent<'a>,
}

#[derive(Debug, Default, Deserialize)]
struct PresenceContent<'a> {
    #[serde(borrow, default)]
    status_msg: Option<Cow<'a, str>>,
}

#[derive(Debug, Default, Deserialize)]
struct SyncedRooms<'a> {
    #[serde(borrow, default)]
    join: HashMap<&'a str, SyncedRoom<'a>>,
}

#[derive(Debug, Deserialize)]
struct SyncedRoom<'a> {
    #[serde(borrow, default)]
    timeline: Timeline<'a>,
}

#[derive(Debug, Default, Deserialize)]
struct Timeline<'a> {
    #[serde(borrow, default)]
    events: Vec<SyncedEvent<'a>>,
}

#[derive(Debug, Deserialize)]
struct SyncedEvent<'a> {
    #[serde(borrow, default)]
    content: SyncedContent<'a>,
}

#[derive(Debug, Default, Deserialize)]
struct SyncedContent<'a> {
    #[serde(borrow, default)]
    body: Option<Cow<'a, str>>,
}

impl<'a> Synced<'a> {
    pub fn read(body: &'a [u8]) -> Result<Self, ClientError> {
        read("sync", body)
    }

    pub fn rooms(&self) -> usize {
        self.rooms.join.len()
    }

    /// What users say of themselves.
    pub fn status_messages(&self) -> impl Iterator<Item = &str> {
        let events = self.presence.events.iter();
        events.filter_map(|event| event.content.status_msg.as_deref())
    }

    /// The texts of all timelines.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let events = self.rooms.join.values().flat_map(|room| &room.timeline.events);
        events.filter_map(|event| event.content.body.as_deref())
    }
}

/// What to ask `/sync` for.
#[derive(Debug, Default, Clone, Copy)]
pub struct SyncRequest<'a> {
    pub since: Option<&'a str>,
    pub timeout_ms: u64,
    /// An inline filter, as JSON.
    pub filter: Option<&'a str>,
}

/// One user's device, on one connection.
pub struct Client {
    connection: Connection,
    user_id: String,
    authorization: HeaderValue,
    /// Transaction ids given so far, on all connections of the device.
    transactions: Rc<Cell<u64>>,
}

impl Client {
    pub fn new(connection: Connection, session: Session) -> Result<Self, ClientError> {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", session.access_token))
            .map_err(|_| ClientError::Token)?;
        authorization.set_sensitive(true);
        Ok(Self {
            connection,
            user_id: session.user_id,
            authorization,
            transactions: Rc::default(),
        })
    }

    pub fn user_id(&self) -> &str {
        &self.user_id
    }

    /// The same device on another connection: one can wait in a long poll while the other sends.
    pub fn sibling(&self) -> Self {
        Self {
            connection: self.connection.sibling(),
            user_id: self.user_id.clone(),
            authorization: self.authorization.clone(),
            transactions: self.transactions.clone(),
        }
    }

    /// A WebSocket of this device.
    pub async fn socket(&self, since: &str, filter: Option<&str>) -> Result<Socket, ClientError> {
        Socket::open(self.connection.authority(), &self.authorization, since, filter).await
    }

    /// Whether the server has a feature that no specification names yet.
    pub async fn has_feature(&mut self, name: &str) -> Result<bool, ClientError> {
        #[derive(Deserialize)]
        struct Versions {
            #[serde(default)]
            unstable_features: HashMap<String, bool>,
        }
        let body = self
            .call("versions", Method::GET, "/_matrix/client/versions", None)
            .await?;
        let versions: Versions = read("versions", &body)?;
        Ok(versions.unstable_features.get(name) == Some(&true))
    }

    /// Says what the user is, and a message.
    pub async fn set_presence(&mut self, state: &str, status_msg: &str) -> Result<(), ClientError> {
        let path = format!("/_matrix/client/v3/presence/{}/status", segment(&self.user_id));
        let body = json!({"presence": state, "status_msg": status_msg}).to_string();
        self.call("presence", Method::PUT, &path, Some(body.into()))
            .await
            .map(drop)
    }

    /// Makes a room and returns its id.
    pub async fn create_room(&mut self, request: &Value) -> Result<String, ClientError> {
        #[derive(Deserialize)]
        struct Created {
            room_id: String,
        }
        let body = self
            .post("createRoom", "/_matrix/client/v3/createRoom", request)
            .await?;
        Ok(read::<Created>("createRoom", &body)?.room_id)
    }

    pub async fn join(&mut self, room_id: &str) -> Result<(), ClientError> {
        let path = format!("/_matrix/client/v3/join/{}", segment(room_id));
        self.post("join", &path, &json!({})).await.map(drop)
    }

    /// Sends a text and waits until the server has taken it.
    pub async fn send_text(&mut self, room_id: &str, text: &str) -> Result<(), ClientError> {
        self.transactions.set(self.transactions.get() + 1);
        let path = format!(
            "/_matrix/client/v3/rooms/{}/send/m.room.message/b{}",
            segment(room_id),
            self.transactions.get()
        );
        let body = json!({"msgtype": "m.text", "body": text}).to_string();
        self.call("send", Method::PUT, &path, Some(body.into()))
            .await
            .map(drop)
    }

    pub async fn set_state(
        &mut self,
        room_id: &str,
        event_type: &str,
        state_key: &str,
        content: &Value,
    ) -> Result<(), ClientError> {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/state/{}/{}",
            segment(room_id),
            segment(event_type),
            segment(state_key)
        );
        let body = content.to_string();
        self.call("state", Method::PUT, &path, Some(body.into()))
            .await
            .map(drop)
    }

    /// One `/sync`, not yet read. Stays offline: presence is not what is measured.
    pub async fn sync(&mut self, request: SyncRequest<'_>) -> Result<Bytes, ClientError> {
        let mut path = format!(
            "/_matrix/client/v3/sync?set_presence=offline&timeout={}",
            request.timeout_ms
        );
        for (key, value) in [("since", request.since), ("filter", request.filter)] {
            if let Some(value) = value {
                let _ = write!(path, "&{key}={}", segment(value));
            }
        }
        self.call("sync", Method::GET, &path, None).await
    }

    /// One page of history, backwards: the events in it and the token of the next page, `None` at the beginning.
    pub async fn messages(
        &mut self,
        room_id: &str,
        from: Option<&str>,
        limit: u64,
    ) -> Result<(usize, Option<String>), ClientError> {
        #[derive(Deserialize)]
        struct Page {
            chunk: Vec<serde::de::IgnoredAny>,
            end: Option<String>,
        }
        let mut path = format!(
            "/_matrix/client/v3/rooms/{}/messages?dir=b&limit={limit}",
            segment(room_id)
        );
        if let Some(from) = from {
            let _ = write!(path, "&from={}", segment(from));
        }
        let body = self.call("messages", Method::GET, &path, None).await?;
        let page: Page = read("messages", &body)?;
        Ok((page.chunk.len(), page.end))
    }

    async fn post(&mut self, what: &'static str, path: &str, body: &Value) -> Result<Bytes, ClientError> {
        self.call(what, Method::POST, path, Some(body.to_string().into()))
            .await
    }

    async fn call(
        &mut self,
        what: &'static str,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Bytes, ClientError> {
        let authorization = Some(&self.authorization);
        let answer = self.connection.call(method, path, authorization, body).await?;
        accepted(what, answer)
    }
}

/// The body of an answer with status 200; the server's error otherwise.
pub fn accepted(what: &'static str, answer: Answer) -> Result<Bytes, ClientError> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct MatrixError {
        errcode: String,
        error: String,
    }
    if answer.status == StatusCode::OK {
        return Ok(answer.body);
    }
    let error: MatrixError = serde_json::from_slice(&answer.body).unwrap_or_default();
    Err(ClientError::Refused {
        what,
        status: answer.status,
        code: error.errcode,
        message: error.error,
    })
}

/// Reads what is wanted of an answer.
pub fn read<'a, T: Deserialize<'a>>(what: &'static str, body: &'a [u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|source| ClientError::Answer { what, source })
}

/// A text as one segment of a path, or one value of a query.
fn segment(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$:@*".contains(&byte);
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if plain(byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    Cow::Owned(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_need_no_encoding_and_json_does() {
        assert_eq!(segment("!abc_1:example.org:8448"), "!abc_1:example.org:8448");
        assert_eq!(segment("s1/2?&"), "s1%2F2%3F%26");
        assert_eq!(segment("{\"é\"}"), "%7B%22%C3%A9%22%7D");
    }

    #[test]
    fn a_sync_is_read_for_its_texts() {
        let body = br#"{"next_batch":"s2","presence":{},"rooms":{"join":{"!a":{"timeline":{"events":[
            {"type":"m.room.message","content":{"body":"1 \"hi\"","msgtype":"m.text"}},
            {"type":"m.room.topic","content":{}}]}},"!b":{}}}}"#;
        let synced = Synced::read(body).unwrap();
        assert_eq!((synced.next_batch.as_ref(), synced.rooms()), ("s2", 2));
        assert_eq!(synced.texts().collect::<Vec<_>>(), ["1 \"hi\""]);
        assert_eq!(
            Synced::read(br#"{"next_batch":"s3"}"#).unwrap().texts().count(),
            0
        );
    }

    #[test]
    fn a_refusal_tells_the_servers_code() {
        let answer = Answer {
            status: StatusCode::TOO_MANY_REQUESTS,
            body: Bytes::from_static(br#"{"errcode":"M_LIMIT_EXCEEDED","error":"slow"}"#),
        };
        let error = accepted("send", answer).unwrap_err().to_string();
        assert_eq!(error, "send: 429 Too Many Requests M_LIMIT_EXCEEDED slow");
    }
}
