//! A WebSocket of Hearth's (docs/websocket.md), as far as scenarios need it: it is pushed what is new, and confirms it.

use futures_util::{SinkExt, StreamExt};
use hyper::header::{AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Error, Message, Utf8Bytes, client::IntoClientRequest as _, error::ProtocolError,
        protocol::WebSocketConfig,
    },
};

use crate::client::{ClientError, read};

/// As the server names it in `unstable_features` of `/versions`.
pub const FEATURE: &str = "chat.hearth.socket";
const PATH: &str = "/_matrix/client/unstable/chat.hearth.socket";
const SUBPROTOCOL: &str = "chat.hearth.v1";
/// Tungstenite's own would take 128 KiB a socket of the generator's memory.
const BUFFER: usize = 4 << 10;

/// An open WebSocket.
pub struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    /// Connects to `authority`, and has it pushed what is new since a token.
    pub async fn open(
        authority: &str,
        authorization: &HeaderValue,
        since: &str,
        filter: Option<&str>,
    ) -> Result<Self, ClientError> {
        let stream = TcpStream::connect(authority).await.map_err(Error::Io)?;
        stream.set_nodelay(true).map_err(Error::Io)?;
        let mut request = format!("ws://{authority}{PATH}").into_client_request()?;
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, authorization.clone());
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(0);
        let (stream, _) = client_async_with_config(request, stream, Some(config)).await?;
        let mut socket = Self(stream);
        let mut sync = json!({"op": "sync", "since": since, "set_presence": "offline"});
        if let Some(filter) = filter {
            sync["filter"] = serde_json::from_str(filter).unwrap_or_default();
        }
        socket.say(&sync.to_string()).await?;
        Ok(socket)
    }

    /// The next push: the body of a sync. Confirmed by then.
    pub async fn push(&mut self) -> Result<String, ClientError> {
        #[derive(Deserialize)]
        struct Frame<'a> {
            op: &'a str,
            pos: Option<&'a str>,
            #[serde(borrow)]
            data: Option<&'a RawValue>,
        }
        loop {
            let text = self.next().await?;
            let frame: Frame<'_> = read("push", text.as_bytes())?;
            if let (Frame { op: "sync", .. }, Some(pos), Some(data)) = (&frame, frame.pos, frame.data) {
                let data = data.get().to_owned();
                self.say(&json!({"op": "ack", "pos": pos}).to_string()).await?;
                return Ok(data);
            }
        }
    }

    async fn next(&mut self) -> Result<Utf8Bytes, ClientError> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text),
                // Pings are answered underneath.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Err(Error::from(ProtocolError::ResetWithoutClosingHandshake).into()),
            }
        }
    }

    async fn say(&mut self, text: &str) -> Result<(), ClientError> {
        Ok(self.0.send(Message::text(text)).await?)
    }
}
