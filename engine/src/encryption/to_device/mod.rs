//! Messages from device to device (client-server API, "Send-to-Device messaging").
//!
//! A message is a fact of the log: what is sent to a room after it has a later position, so that no device is told of
//! that first. It is kept until its device, or the server of its device, is known to have it. A message that is accepted
//! twice, of a client or of a server, is kept once.

mod accepted;
mod housekeeping;
mod queues;
pub(crate) mod receive;
pub mod send;
pub(crate) mod told;

pub(crate) use housekeeping::{drop_old, keep};
pub(crate) use queues::Queues;

/// The most bytes of a message's content: as much as an event may have.
const MAX_CONTENT_BYTES: usize = 1 << 16;
/// The most bytes of a message's type, as of an event's.
const MAX_TYPE_BYTES: usize = 255;
/// The most bytes that one request may come to, once for each device that it is for.
const MAX_REQUEST_BYTES: usize = 8 << 20;
