//! The server's side of end-to-end encryption: keys of devices and users, who hears that they changed, and what goes
//! from device to device. It stores and hands on; it can read none of it.
//!
//! A file per concept. Knows nothing of HTTP or of how other servers are reached.

pub mod device_lists;

use hearth_storage::Position;

use device_lists::RecentChanges;

/// What is kept in memory of keys. All of it is bounded, and nothing is lost with it.
#[derive(Debug)]
pub struct Encryption {
    pub(crate) changes: RecentChanges,
}

impl Encryption {
    /// Nothing known yet of what came up to `since`.
    pub(crate) fn new(since: Position) -> Self {
        Self {
            changes: RecentChanges::new(since),
        }
    }

    /// The log lost what was after `position`.
    pub(crate) fn cut_back(&self, position: Position) {
        self.changes.reset(position);
    }
}
