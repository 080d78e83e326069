//! The line itself: frames in, frames out, and whether the other end is still there.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message, Utf8Bytes,
        protocol::{
            Role, WebSocketConfig,
            frame::{
                Frame,
                coding::{Data, OpCode},
            },
        },
    },
};
use tokio_util::sync::CancellationToken;

use super::{Sockets, end::End, frames};

/// The largest message of a client. What is larger goes over HTTP.
pub(super) const MAX_MESSAGE: usize = 1 << 20;

/// Both buffers keep the size they once grew to, for as long as the connection lives. So reads are small, and what is
/// sent goes out in fragments of this size.
const BUFFER: usize = 4 << 10;

/// How long a client may take for its part of the end.
const CLOSING: Duration = Duration::from_secs(2);

/// A connection's line.
pub(super) struct Line {
    socket: WebSocketStream<TokioIo<Upgraded>>,
    shutdown: CancellationToken,
    ping_interval: Duration,
    next_ping: Instant,
    /// Something came since the last ping.
    has_heard: bool,
}

impl Line {
    pub async fn new(upgraded: Upgraded, sockets: &Sockets) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        let ping_interval = sockets.settings.ping_interval;
        Self {
            socket,
            shutdown: sockets.engine.shutdown.clone(),
            ping_interval,
            next_ping: Instant::now() + ping_interval,
            has_heard: true,
        }
    }

    /// The next frame of the client. May be given up and asked for again.
    pub async fn next(&mut self) -> Result<Utf8Bytes, End> {
        loop {
            let message = self.socket.next().await.ok_or(End::Gone)??;
            self.has_heard = true;
            match message {
                Message::Text(text) => return Ok(text),
                Message::Binary(_) => return Err(End::Binary),
                Message::Close(_) => return Err(End::Gone),
                // A ping is answered underneath.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Sends a frame, in fragments. A client that takes nothing of it for two intervals is gone.
    pub async fn send(&mut self, text: String) -> Result<(), End> {
        let mut rest = Bytes::from(text);
        let mut data = Data::Text;
        loop {
            let fragment = rest.split_to(rest.len().min(BUFFER));
            let is_last = rest.is_empty();
            self.write(Message::Frame(Frame::message(
                fragment,
                OpCode::Data(data),
                is_last,
            )))
            .await?;
            if is_last {
                return Ok(());
            }
            data = Data::Continue;
        }
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        let (patience, shutdown) = (2 * self.ping_interval, &self.shutdown);
        let too_long = async {
            tokio::select! {
                () = sleep(patience) => End::Silent,
                () = async { shutdown.cancelled().await; sleep(CLOSING).await } => End::Gone,
            }
        };
        tokio::select! {
            biased;
            sent = self.socket.send(message) => Ok(sent?),
            end = too_long => Err(end),
        }
    }

    /// When to call [`Line::beat`].
    pub fn deadline(&self) -> Instant {
        self.next_ping
    }

    /// Asks whether the other end is there, unless it did not answer the last time.
    pub async fn beat(&mut self) -> Result<(), End> {
        if Instant::now() < self.next_ping {
            return Ok(());
        }
        if !self.has_heard {
            return Err(End::Silent);
        }
        self.has_heard = false;
        self.next_ping = Instant::now() + self.ping_interval;
        self.write(Message::Ping(Bytes::new())).await
    }

    /// Says why it ends, and gives the client a moment to say goodbye.
    pub async fn close(mut self, end: &End) {
        let goodbye = async {
            if let Some(error) = end.error() {
                self.send(frames::error(None, error)).await?;
            }
            if let Some(frame) = end.frame() {
                self.write(Message::Close(Some(frame))).await?;
            }
            // To drop a line with something unread in it would reset it, and the client might not hear the last words.
            while let Some(Ok(_)) = self.socket.next().await {}
            if matches!(end, End::TooLarge | End::NotUtf8 | End::Protocol) {
                // There is no making sense of what is still to come.
                let stream = self.socket.get_mut();
                let mut rest = [0; BUFFER];
                while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
            }
            Ok::<(), End>(())
        };
        // Whoever hears nothing of it will notice.
        let _ = timeout(CLOSING, goodbye).await;
    }
}
