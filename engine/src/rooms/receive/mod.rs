//! Judging events of other servers, by the specification's list (server-server API, "Checks performed on receipt of a
//! PDU").

pub(crate) mod pdu;
