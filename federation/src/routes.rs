//! What other servers may ask of this one.
//!
//! An endpoint that demands a signature is registered by `.federated(handler)`, one for everybody by `.ruma(handler)`;
//! method and paths come from ruma.

use std::sync::Arc;

use axum::{Extension, Router};
use hearth_endpoint::RumaRoutes as _;
use hearth_engine::Engine;
use ruma::api::federation::discovery::{
    get_remote_server_keys::v2 as get_remote_server_keys,
    get_remote_server_keys_batch::v2 as get_remote_server_keys_batch, get_server_keys::v2 as get_server_keys,
};

use crate::{Federation, FederationRoutes as _};

mod at_time;
mod directory;
mod history;
mod keys;
mod membership;
mod openid;
mod query;
mod space;
mod third_party;
mod transactions;
mod user_keys;
mod version;

/// The routes of a server that federates.
pub fn routes(federation: Arc<Federation>) -> Router<Arc<Engine>> {
    server().layer(Extension(federation))
}

fn server() -> Router<Arc<Engine>> {
    Router::new()
        .ruma(version::get_server_version)
        .federated(history::get_event)
        .federated(history::get_room_state)
        .federated(history::get_room_state_ids)
        .federated(history::get_event_authorization)
        .federated(history::get_backfill)
        .federated(history::get_missing_events)
        .federated(at_time::get_event_by_timestamp)
        .federated(directory::get_public_rooms)
        .federated(directory::get_public_rooms_filtered)
        .federated(space::get_hierarchy)
        .ruma(openid::get_openid_userinfo)
        .federated(membership::prepare_join_event)
        .federated(membership::create_join_event)
        .federated(membership::prepare_leave_event)
        .federated(membership::create_leave_event)
        .federated(membership::prepare_knock_event)
        .federated(membership::create_knock_event)
        .federated(membership::create_invite)
        .federated(membership::create_invite_v1)
        .federated(third_party::exchange_invite)
        .ruma(third_party::bind_callback)
        .federated(query::get_room_information)
        .federated(query::get_profile_information)
        .federated(user_keys::get_keys)
        .federated(user_keys::claim_keys)
        .federated(user_keys::get_devices)
        .federated(transactions::send_transaction_message)
        .ruma_paths::<get_server_keys::Request, _, _>(keys::get_server_keys)
        .ruma_paths::<get_remote_server_keys::Request, _, _>(keys::get_remote_server_keys)
        .ruma_paths::<get_remote_server_keys_batch::Request, _, _>(keys::get_remote_server_keys_batch)
}
