//! What this server answers other servers, as far as it is no matter of HTTP: the counterpart of
//! [`crate::remote::RemoteServers`], in the same types.

pub mod acl;

pub use crate::rooms::receive::inbox::{Answers, ReceiveError, receive_pdus};
