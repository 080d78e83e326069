//! Ticks: which messages were delivered to whom, and what became of one's own. docs/websocket.md, "Ticks", is what clients
//! and other servers may rely on.
//!
//! A message is *delivered* to a user when one of their devices confirmed a response in which this server put it. What
//! each response had in it is in memory until the device confirms it ([`told`]); what was confirmed is gathered for half a
//! second and becomes receipts of the type [`DELIVERED`] ([`marks`]), each of which stands for all messages of others from
//! one event to another ([`coverage`]). Receipts are of the log, so that sync tells them like any, to those who may know
//! ([`giving`]); other servers of this kind ([`peers`]) are told by an EDU ([`edu`]). [`status`] is for the one who asks.
//!
//! State events are no messages: nobody waits for a tick on them, and clients keep them out of timelines at will.

mod coverage;
mod edu;
mod giving;
mod marks;
mod peers;
mod status;
mod told;

pub(crate) use coverage::{Message, Stretch, stretches};
pub(crate) use edu::receive;
pub(crate) use giving::{may_count, withhold};
pub(crate) use marks::keep;
pub(crate) use peers::{among, is_hearth};
pub use status::{MessageStatus, StatusError, of_message};
pub(crate) use told::{RoomTold, Telling};

use crate::{Engine, accounts::Requester, tokens::SyncToken};

/// The type of receipts that say what was delivered.
pub(crate) const DELIVERED: &str = "chat.hearth.delivered";

/// What ticks keep in memory.
#[derive(Debug)]
pub(crate) struct Ticks {
    told: told::Told,
    marks: marks::Marks,
    peers: peers::Peers,
}

impl Ticks {
    pub fn new() -> Self {
        Self {
            told: told::Told::default(),
            marks: marks::Marks::new(),
            peers: peers::Peers::new(),
        }
    }

    /// The log lost its end: what was told of it is not what will be there.
    pub fn cut_back(&self) {
        self.told.clear();
        self.marks.clear();
    }

    /// A device is being sent a response.
    pub fn tell(&self, requester: &Requester, telling: Telling) {
        self.told.add(requester.device_nid, telling);
    }
}

/// A device has everything that it was told up to the response with this token.
pub(crate) fn confirmed(engine: &Engine, requester: &Requester, token: &SyncToken) {
    let rooms = engine.ticks.told.confirm(requester.device_nid, token);
    if !rooms.is_empty() {
        engine
            .ticks
            .marks
            .add(requester.user_nid, rooms, engine.clock.now_ms());
    }
}
