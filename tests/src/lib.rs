//! The harness of the whole-server tests: servers, and clients to speak to them.
//!
//! [`Server`] is a whole server in this process, on a database of its own; several may run side by side.
//! [`HearthProcess`] is the binary `hearth`, to be killed; [`Synapse`] is another's server. [`Client`] is a user's device: its verbs send JSON and
//! give back the [`Answer`], whatever it is. Knows nothing of what is inside a server.

mod answer;
mod authority;
mod client;
mod dns;
mod presence;
mod process;
mod python;
mod server;
mod socket;
mod synapse;
mod sync;
mod two;
mod verbs;
mod waiting;

pub use answer::Answer;
pub use authority::Authority;
pub use client::Client;
pub use dns::{NameServer, Told, may_listen_on, own_address};
pub use presence::{presence, presence_is};
pub use process::HearthProcess;
pub use python::python_script;
pub use server::{SHARED_SECRET, Server};
pub use socket::{Closed, Ledger, Socket};
pub use synapse::Synapse;
pub use sync::{
    account_data, ephemeral, has_left, is_invited, is_joined, state, state_has, timeline, timeline_has,
};
pub use two::Two;
pub use verbs::{PASSWORD, encoded, event_ids, public_chat, text};
pub use waiting::{PATIENCE, until, until_ok, within};
