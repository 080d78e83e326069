//! A device's WebSocket, and an account of what came on it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    panic::Location,
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest as _,
        http::HeaderValue,
        protocol::{WebSocketConfig, frame::Frame},
    },
};

use crate::{Answer, Client, PATIENCE, within};

const PATH: &str = "/_matrix/client/unstable/chat.hearth.socket";
const SUBPROTOCOL: &str = "chat.hearth.v1";

/// An open WebSocket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    /// What came while something else was waited for.
    kept: VecDeque<Value>,
    next_id: u64,
    /// The token of the last push.
    pub pos: Option<String>,
}

/// Why a connection did not come about.
enum Refusal {
    Answer(Box<Answer>),
    Nobody(Error),
}

/// How a connection ended: the close code and the reason; nothing where there was no close frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed(pub Option<(u16, String)>);

impl Closed {
    /// The close code.
    pub fn code(&self) -> Option<u16> {
        self.0.as_ref().map(|(code, _)| *code)
    }
}

impl Socket {
    /// Connects by the client's token, in a header.
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub async fn connect(client: &Client) -> Self {
        Self::try_connect(client, client.token.as_deref(), Some(SUBPROTOCOL))
            .await
            .unwrap_or_else(|answer| panic!("refused: {} {}", answer.status, answer.body))
    }

    /// Connects without saying who it is.
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub async fn connect_anonymously(client: &Client) -> Self {
        Self::try_connect(client, None, Some(SUBPROTOCOL))
            .await
            .unwrap_or_else(|answer| panic!("refused: {} {}", answer.status, answer.body))
    }

    /// Connects by the client's token, if the server is there and doesn't say that it can't now.
    ///
    /// # Panics
    ///
    /// When it refuses.
    pub async fn connect_if_up(client: &Client) -> Option<Self> {
        match Self::open(client, client.token.as_deref(), Some(SUBPROTOCOL)).await {
            Ok(socket) => Some(socket),
            Err(Refusal::Nobody(_)) => None,
            Err(Refusal::Answer(answer)) if answer.status == 503 => None,
            Err(Refusal::Answer(answer)) => panic!("refused: {} {}", answer.status, answer.body),
        }
    }

    /// Connects, or tells how that was refused.
    ///
    /// # Panics
    ///
    /// When nobody answers.
    pub async fn try_connect(
        client: &Client,
        token: Option<&str>,
        subprotocol: Option<&'static str>,
    ) -> Result<Self, Answer> {
        match Self::open(client, token, subprotocol).await {
            Ok(socket) => Ok(socket),
            Err(Refusal::Answer(answer)) => Err(*answer),
            Err(Refusal::Nobody(error)) => panic!("no answer: {error}"),
        }
    }

    async fn open(
        client: &Client,
        token: Option<&str>,
        subprotocol: Option<&'static str>,
    ) -> Result<Self, Refusal> {
        let address = client.base().trim_start_matches("http://").to_owned();
        let mut request = format!("ws://{address}{PATH}")
            .into_client_request()
            .expect("a URL");
        let headers = request.headers_mut();
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a token");
            headers.insert("authorization", value);
        }
        if let Some(subprotocol) = subprotocol {
            headers.insert("sec-websocket-protocol", HeaderValue::from_static(subprotocol));
        }
        let stream = within(PATIENCE, "it is connected", TcpStream::connect(address)).await;
        let stream = stream.map_err(|error| Refusal::Nobody(error.into()))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(4 << 10)
            .write_buffer_size(0);
        let connected = client_async_with_config(request, stream, Some(config));
        match within(PATIENCE, "it is upgraded", connected).await {
            Ok((stream, response)) => {
                let chosen = response.headers().get("sec-websocket-protocol");
                assert_eq!(chosen.and_then(|chosen| chosen.to_str().ok()), subprotocol);
                Ok(Self {
                    stream,
                    kept: VecDeque::new(),
                    next_id: 1,
                    pos: None,
                })
            }
            Err(Error::Http(response)) => {
                let (parts, body) = response.into_parts();
                Err(Refusal::Answer(Box::new(Answer {
                    request: format!("GET {PATH}"),
                    status: parts.status.as_u16(),
                    headers: parts.headers,
                    body: serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default(),
                })))
            }
            Err(error) => Err(Refusal::Nobody(error)),
        }
    }

    /// Sends a frame; false when the connection is broken.
    pub async fn try_say(&mut self, frame: Value) -> bool {
        self.stream.send(Message::text(frame.to_string())).await.is_ok()
    }

    /// Sends a frame.
    ///
    /// # Panics
    ///
    /// When the connection is broken.
    pub async fn say(&mut self, frame: Value) {
        self.say_raw(Message::text(frame.to_string())).await;
    }

    /// Sends any message.
    ///
    /// # Panics
    ///
    /// When the connection is broken.
    pub async fn say_raw(&mut self, message: Message) {
        self.stream.send(message).await.expect("it can be sent");
    }

    /// Sends a bare frame of the WebSocket.
    ///
    /// # Panics
    ///
    /// When the connection is broken.
    pub async fn say_frame(&mut self, frame: Frame) {
        self.say_raw(Message::Frame(frame)).await;
    }

    /// The next frame, or how it ended.
    #[track_caller]
    pub fn hear(&mut self) -> impl Future<Output = Result<Value, Closed>> {
        within(PATIENCE, "a frame comes", async {
            if let Some(kept) = self.kept.pop_front() {
                return Ok(kept);
            }
            self.read().await
        })
    }

    async fn read(&mut self) -> Result<Value, Closed> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).expect("JSON");
                    if let Some(pos) = frame["pos"].as_str() {
                        self.pos = Some(pos.to_owned());
                    }
                    return Ok(frame);
                }
                Some(Ok(Message::Close(close))) => {
                    let close = close.map(|close| (close.code.into(), close.reason.to_string()));
                    return Err(Closed(close));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Closed(None)),
            }
        }
    }

    /// The next frame that is `wanted`; the others are kept for later.
    ///
    /// # Panics
    ///
    /// When the connection ends before.
    #[track_caller]
    pub fn hear_until(&mut self, wanted: impl Fn(&Value) -> bool) -> impl Future<Output = Value> {
        let caller = Location::caller();
        within(PATIENCE, "the frame comes", async move {
            if let Some(index) = self.kept.iter().position(&wanted) {
                return self.kept.remove(index).unwrap_or_default();
            }
            loop {
                match self.read().await {
                    Ok(frame) if wanted(&frame) => return frame,
                    Ok(frame) => self.kept.push_back(frame),
                    Err(closed) => panic!("{caller}: it ended: {closed:?}"),
                }
            }
        })
    }

    /// The next frame of an `op`.
    #[track_caller]
    pub fn hear_op(&mut self, op: &'static str) -> impl Future<Output = Value> {
        self.hear_until(move |frame| frame["op"] == op)
    }

    /// The next push, confirmed.
    pub async fn push(&mut self) -> Value {
        let push = self.hear_op("sync").await;
        self.say(json!({ "op": "ack", "pos": push["pos"] })).await;
        push["data"].clone()
    }

    /// How it ends; what comes before is dropped.
    pub async fn ended(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.hear().await {
                return closed;
            }
        }
    }

    /// Sends a request: its ID.
    pub async fn begin(&mut self, method: &str, path: &str, body: Option<Value>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let mut frame =
            json!({ "op": "request", "id": id, "method": method, "path": format!("/_matrix/client{path}") });
        if let Some(body) = body {
            frame["body"] = body;
        }
        self.say(frame).await;
        id
    }

    /// The answer to the request with an ID.
    pub async fn answer(&mut self, id: u64) -> Value {
        self.hear_until(move |frame| frame["id"] == id).await
    }

    /// Makes a request and waits for its answer.
    pub async fn request(&mut self, method: &str, path: &str, body: Option<Value>) -> Value {
        let id = self.begin(method, path, body).await;
        self.answer(id).await
    }

    /// Waits until the server has served every frame so far that is served at once. Whatever was pushed before is kept.
    pub async fn settle(&mut self) {
        let id = self.next_id;
        self.next_id += 1;
        self.say(json!({ "op": "ping", "id": id })).await;
        self.hear_until(move |frame| frame["op"] == "pong" && frame["id"] == id)
            .await;
    }

    /// Whether a push has come and was not asked for.
    pub fn has_push(&self) -> bool {
        self.kept.iter().any(|frame| frame["op"] == "sync")
    }
}

/// What a client was told of each room, by its numbers: nothing missed, nothing twice.
#[derive(Debug, Default)]
pub struct Ledger {
    upto: HashMap<String, i64>,
    events: HashSet<String>,
    bodies: HashMap<String, Vec<String>>,
}

impl Ledger {
    /// Enters the body of a push.
    ///
    /// # Panics
    ///
    /// When something was left out or is told again.
    #[track_caller]
    pub fn enter(&mut self, data: &Value) {
        for section in ["join", "leave"] {
            let rooms = data["rooms"][section].as_object().into_iter().flatten();
            for (room_id, room) in rooms {
                self.enter_room(room_id, room);
            }
        }
    }

    #[track_caller]
    fn enter_room(&mut self, room_id: &str, room: &Value) {
        let number = |key: &str| room["chat.hearth.seq"][key].as_i64().expect("a number");
        let (after, upto) = (number("after"), number("upto"));
        let timeline = &room["timeline"];
        match self.upto.insert(room_id.to_owned(), upto) {
            Some(known) if timeline["limited"] == true => {
                assert!(known <= after, "{room_id}: {known} {room}")
            }
            Some(known) => assert_eq!(known, after, "{room_id} was told up to {known}: {room}"),
            None => {}
        }
        let mut last = after;
        for event in timeline["events"].as_array().into_iter().flatten() {
            let sequence = event["unsigned"]["chat.hearth.seq"]
                .as_i64()
                .expect("an event has its place");
            assert!(last < sequence && sequence <= upto, "{sequence} in {room}");
            last = sequence;
            let event_id = event["event_id"].as_str().expect("an ID").to_owned();
            assert!(self.events.insert(event_id), "told twice: {event}");
            if let Some(body) = event["content"]["body"].as_str() {
                let bodies = self.bodies.entry(room_id.to_owned()).or_default();
                bodies.push(body.to_owned());
            }
        }
    }

    /// The last number of a room that was accounted for.
    pub fn upto(&self, room_id: &str) -> Option<i64> {
        self.upto.get(room_id).copied()
    }

    /// How many rooms were told of.
    pub fn rooms(&self) -> usize {
        self.upto.len()
    }

    /// The bodies of the messages of a room, in their order.
    pub fn bodies(&self, room_id: &str) -> &[String] {
        self.bodies.get(room_id).map_or(&[], Vec::as_slice)
    }
}
