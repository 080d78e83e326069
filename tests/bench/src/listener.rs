//! A client that hears what is new: by long polls, or on a WebSocket.

use crate::{
    client::{Client, ClientError, SyncRequest, Synced},
    socket::Socket,
};

/// By which of the two it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Polls,
    Socket,
}

/// A client that has synced, and goes on from there. It is connected from the first [`Listener::next`] on.
pub struct Listener {
    client: Client,
    since: String,
    filter: Option<&'static str>,
    /// How long it waits in one poll.
    timeout_ms: u64,
    door: Door,
    socket: Option<Socket>,
}

impl Listener {
    /// Syncs for the first time, on a connection that is closed afterwards.
    pub async fn begin(
        client: &Client,
        door: Door,
        filter: Option<&'static str>,
        timeout_ms: u64,
    ) -> Result<Self, ClientError> {
        let mut first = client.sibling();
        let body = first
            .sync(SyncRequest {
                filter,
                ..SyncRequest::default()
            })
            .await?;
        Ok(Self {
            client: client.sibling(),
            since: Synced::read(&body)?.next_batch.into_owned(),
            filter,
            timeout_ms,
            door,
            socket: None,
        })
    }

    /// What is new next: of polls the body, which may have nothing, and of pushes the same.
    pub async fn next(&mut self) -> Result<Vec<u8>, ClientError> {
        if self.door == Door::Polls {
            let request = SyncRequest {
                since: Some(&self.since),
                timeout_ms: self.timeout_ms,
                filter: self.filter,
            };
            let body = self.client.sync(request).await?;
            self.since = Synced::read(&body)?.next_batch.into_owned();
            return Ok(body.into());
        }
        let socket = match &mut self.socket {
            Some(socket) => socket,
            None => {
                let socket = self.client.socket(&self.since, self.filter).await?;
                self.socket.insert(socket)
            }
        };
        Ok(socket.push().await?.into_bytes())
    }
}
