//! What this server answers other servers, as far as it is no matter of HTTP: the counterpart of
//! [`crate::remote::RemoteServers`], in the same types.

pub mod acl;
mod at_time;
mod directory;
mod edus;
mod history;
mod queries;
mod spaces;
mod transactions;

pub use crate::encryption::served::{claim_user_keys, devices, user_keys};
pub use at_time::timestamp_to_event;
pub use directory::{list as public_rooms, list_filtered as public_rooms_filtered};
pub use queries::{directory, profile};
pub use spaces::hierarchy;

pub use history::{backfill, event, event_auth, missing_events, state, state_ids};

pub use crate::rooms::{
    ServeError,
    handshake::{
        invited::{invite, invite_v1},
        serve::{make_join, make_knock, make_leave, send_join, send_knock, send_leave},
    },
    receive::inbox::{Answers, ReceiveError, receive_pdus},
    third_party::{bind_third_party_id, exchange_third_party_invite},
};
pub(crate) use edus::{joined, room_of};
pub(crate) use transactions::Transactions;
pub use transactions::{TransactionError, send_transaction_message};
