//! What this server answers other servers, as far as it is no matter of HTTP: the counterpart of
//! [`crate::remote::RemoteServers`], in the same types.

pub mod acl;

pub use crate::rooms::{
    ServeError,
    handshake::serve::{
        invite, make_join, make_knock, make_leave, send_join, send_knock, send_leave,
    },
    receive::inbox::{Answers, ReceiveError, receive_pdus},
};
