//! The engine's questions to other servers: each is asked as its kind allows.

use futures_util::{FutureExt as _, future::BoxFuture};
use hearth_engine::remote::{
    Asked, KeysWanted, Large, RemoteServers, invite_v1,
    user_keys::{claim as claim_user_keys, query as user_keys},
};
use ruma::{
    ServerName,
    api::federation::{
        authorization::get_event_authorization::v1 as event_auth,
        backfill::get_backfill::v1 as backfill,
        device::get_devices::v1 as devices,
        directory::get_public_rooms_filtered::v1 as public_rooms,
        discovery::get_server_version::v1 as version,
        event::{
            get_event::v1 as event, get_event_by_timestamp::v1 as event_by_timestamp,
            get_missing_events::v1 as missing_events, get_room_state::v1 as state,
            get_room_state_ids::v1 as state_ids,
        },
        membership::{
            create_invite::v2 as invite, create_join_event::v2 as send_join,
            create_knock_event::v1 as send_knock, create_leave_event::v2 as send_leave,
            prepare_join_event::v1 as make_join, prepare_knock_event::v1 as make_knock,
            prepare_leave_event::v1 as make_leave,
        },
        query::{get_profile_information::v1 as profile, get_room_information::v1 as directory},
        space::get_hierarchy::v1 as hierarchy,
        thirdparty::exchange_invite::v1 as exchange_invite,
    },
    serde::Base64,
    signatures::PublicKeyMap,
};

use crate::{Federation, client::Allowance, identity_keys};

macro_rules! questions {
    (large { $($large:ident,)* } $($name:ident: $allowance:ident;)*) => {
        impl RemoteServers for Federation {
            fn public_keys<'a>(&'a self, wanted: &'a KeysWanted) -> BoxFuture<'a, PublicKeyMap> {
                self.keys.public_keys(wanted).boxed()
            }

            fn is_reachable(&self, server: &ServerName) -> bool {
                self.client.is_allowed(server) && self.client.reachability.wait(server).is_none()
            }

            fn identity_key_is_valid<'a>(&'a self, url: &'a str, public_key: &'a Base64) -> Asked<'a, bool> {
                identity_keys::is_valid(&self.web, url, public_key).boxed()
            }

            $(
                fn $large<'a>(
                    &'a self,
                    server: &'a ServerName,
                    request: $large::Request,
                ) -> Asked<'a, Large<$large::Response>> {
                    self.client.ask_for_much(server, request, Allowance::STATE).boxed()
                }
            )*

            $(
                fn $name<'a>(
                    &'a self,
                    server: &'a ServerName,
                    request: $name::Request,
                ) -> Asked<'a, $name::Response> {
                    self.client.ask(server, request, Allowance::$allowance).boxed()
                }
            )*
        }
    };
}

questions! {
    large { state, state_ids, send_join, }
    event_auth: STATE;
    backfill: PAGE;
    event: QUESTION;
    missing_events: PAGE;
    event_by_timestamp: QUESTION;
    make_join: QUESTION;
    make_leave: QUESTION;
    send_leave: QUESTION;
    make_knock: QUESTION;
    send_knock: QUESTION;
    invite: QUESTION;
    invite_v1: QUESTION;
    exchange_invite: QUESTION;
    public_rooms: PAGE;
    hierarchy: PAGE;
    user_keys: PAGE;
    claim_user_keys: QUESTION;
    devices: QUESTION;
    profile: QUESTION;
    directory: QUESTION;
    version: QUESTION;
}
