//! The one log: what a change is, who commits it, and how the rest of the server hears of it.
//!
//! [`Committer`] writes; [`LogTail`] carries what was written to whoever follows; [`read_range`] reads from the
//! tables what a tail has dropped.

mod change;
mod commit;
mod committer;
mod fence;
mod range;
mod rows;
mod sequences;
mod tail;
mod writer;

pub use change::{
    AccountData, Alias, Change, ClientTransaction, DeviceListChange, Fact, Gap, HeadMove, Membership,
    MembershipChange, NewEvent, NewRoom, NewState, OutgoingToDevice, PartialRoom, Receipt, Redaction,
    Relation, Restated, StateChange, ToDevice, ToDeviceMessage, ToDeviceRequest, UnmatchedRedaction,
};
pub use committer::{CommitError, Committed, Committer, CommitterStatus, Outcome, Patience, Slot};
pub use range::{head, parted_at, read_range};
pub use tail::{Entry, EntryKind, InProcessTail, LogTail, TailMessage, TailReceiver};
