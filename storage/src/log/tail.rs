//! How followers hear of commits. A tail is a hint, the tables are the truth: a message may be lost, doubled or
//! late, and a follower that is not at a message's `from` reads the gap with [`super::read_range`].

use std::{fmt::Debug, sync::Arc};

use tokio::sync::broadcast;

use super::change::{
    AccountData, DeviceListChange, MembershipChange, NewEvent, Receipt, Redaction, StateChange, ToDevice,
};
use crate::{Position, RoomNid, UserNid};

/// One entry of the log as a follower sees it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it stands.
    pub position: Position,
    /// What it says.
    pub kind: EntryKind,
}

/// What an entry says.
#[derive(Debug, Clone)]
pub enum EntryKind {
    /// A live event, and the changes of current state at its position.
    Event(Arc<NewEvent>, Arc<[StateChange]>),
    /// Changes of current state without an event.
    State(RoomNid, Arc<[StateChange]>),
    /// A membership.
    Membership(MembershipChange),
    /// A redaction.
    Redaction(Redaction),
    /// A receipt.
    Receipt(Receipt),
    /// Account data.
    AccountData(AccountData),
    /// Drop what is cached of this user's account.
    Account(UserNid),
    /// A change of a user's devices or cross-signing keys.
    DeviceList(DeviceListChange),
    /// Messages to devices.
    ToDevice(Arc<ToDevice>),
}

impl EntryKind {
    /// The room it is about, if it is about one and everyone in it.
    pub fn room(&self) -> Option<RoomNid> {
        match self {
            Self::Event(event, _) => Some(event.room_nid),
            Self::State(room_nid, _) => Some(*room_nid),
            Self::Membership(membership) => Some(membership.room_nid),
            Self::Redaction(redaction) => Some(redaction.room_nid),
            Self::Receipt(receipt) => Some(receipt.room_nid),
            Self::AccountData(_) | Self::Account(_) | Self::DeviceList(_) | Self::ToDevice(_) => None,
        }
    }
}

/// What one commit added to the log.
#[derive(Debug, Clone)]
pub struct TailMessage {
    /// The generation of the log.
    pub generation: i32,
    /// The last position before this commit.
    pub from: Position,
    /// The last position of this commit.
    pub to: Position,
    /// The entries of `from` (exclusive) to `to`, in order.
    pub entries: Arc<[Entry]>,
}

/// Receives messages; a dropped one shows as a gap between `to` and the next `from`.
#[derive(Debug)]
pub struct TailReceiver(broadcast::Receiver<TailMessage>);

impl TailReceiver {
    /// The next message, or nothing once the tail is gone.
    pub async fn next(&mut self) -> Option<TailMessage> {
        loop {
            match self.0.recv().await {
                Ok(message) => return Some(message),
                // The follower sees the gap and reads it.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Carries the end of the log from the committer to followers, in this process or another.
pub trait LogTail: Debug + Send + Sync + 'static {
    /// Tells followers of a commit. Never waits.
    fn publish(&self, message: TailMessage);
    /// Follows from now on.
    fn subscribe(&self) -> TailReceiver;
}

/// The tail within one process.
#[derive(Debug, Clone)]
pub struct InProcessTail(broadcast::Sender<TailMessage>);

impl InProcessTail {
    /// Keeps up to `capacity` messages for a slow follower.
    pub fn new(capacity: usize) -> Self {
        Self(broadcast::channel(capacity).0)
    }
}

impl Default for InProcessTail {
    fn default() -> Self {
        Self::new(1024)
    }
}

impl LogTail for InProcessTail {
    fn publish(&self, message: TailMessage) {
        // An error says only that nobody follows.
        let _ = self.0.send(message);
    }

    fn subscribe(&self) -> TailReceiver {
        TailReceiver(self.0.subscribe())
    }
}
