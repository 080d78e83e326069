//! The server's side of end-to-end encryption: keys of devices and users, who hears that they changed, and what goes
//! from device to device. It stores and hands on; it can read none of it.
//!
//! A file per concept. Knows nothing of HTTP or of how other servers are reached.

pub(crate) mod announce;
pub mod backup;
pub mod claim;
pub mod counts;
pub mod cross_signing;
pub mod dehydrated;
pub mod device_lists;
mod objects;
mod published;
pub mod query;
pub(crate) mod remote_lists;
pub(crate) mod served;
pub mod signatures;
pub mod to_device;
pub mod upload;

use std::sync::Arc;

use hearth_storage::{KeyNid, Position, RoomNid};
use parking_lot::Mutex;

use crate::{Engine, Error};
use counts::Counts;
use device_lists::{Move, Recent, RecentChange};
pub use objects::BadKey;
use remote_lists::Resyncs;
use to_device::Queues;

/// Changes of device lists that are remembered.
const RECENT_CHANGES: usize = 1 << 14;
/// Changes of who is in which room that are remembered; 40 bytes each.
const RECENT_MOVES: usize = 1 << 16;

/// What is kept in memory of keys. All of it is bounded, and nothing is lost with it.
#[derive(Debug)]
pub struct Encryption {
    pub(crate) changes: Recent<Arc<RecentChange>>,
    pub(crate) moves: Recent<(RoomNid, Move)>,
    pub(crate) counts: Counts,
    pub(crate) resyncs: Resyncs,
    /// Stands for the state event that has a room encrypted.
    key: Mutex<Option<KeyNid>>,
    pub(crate) queues: Arc<Queues>,
}

impl Encryption {
    /// Nothing known yet of what came up to `since`.
    pub(crate) fn new(since: Position) -> Self {
        Self {
            changes: Recent::new(RECENT_CHANGES, since),
            moves: Recent::new(RECENT_MOVES, since),
            counts: Counts::new(),
            resyncs: Resyncs::default(),
            key: Mutex::default(),
            queues: Arc::new(Queues::new()),
        }
    }

    /// The log lost what was after `position`.
    pub(crate) fn cut_back(&self, position: Position) {
        self.changes.reset(position);
        self.moves.reset(position);
        self.counts.clear();
        self.queues.clear();
    }

    fn key(&self) -> Option<KeyNid> {
        *self.key.lock()
    }
}

/// Has what the log says of encryption understood from now on. Called before it is followed, and when it lost its end.
pub(crate) async fn begin(engine: &Engine) -> Result<(), Error> {
    let key = engine.interner.key("m.room.encryption", "").await?;
    *engine.encryption.key.lock() = Some(key);
    Ok(())
}
