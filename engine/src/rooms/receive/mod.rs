//! Judging events of other servers, by the specification's list (server-server API, "Checks performed on receipt of a
//! PDU"), and taking them into their rooms.

pub(in crate::rooms) mod backfill;
pub(in crate::rooms) mod fetch;
pub(crate) mod inbox;
pub(in crate::rooms) mod judge;
pub(in crate::rooms) mod number;
pub(in crate::rooms) mod outliers;
pub(crate) mod pdu;
pub(in crate::rooms) mod prevs;
pub(in crate::rooms) mod state;
pub(in crate::rooms) mod take_in;
