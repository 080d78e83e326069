//! The other servers, as the engine sees them: who can be asked for what. How they are reached is not known here.
//!
//! Requests and responses are ruma's. What this server answers to the same requests is in `engine/src/federation/`,
//! so that a test can put two engines back to back.

pub mod invite_v1;
pub mod user_keys;

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use futures_util::future::{BoxFuture, FutureExt as _, ready};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, OwnedServerSigningKeyId, ServerName,
    api::federation::{
        authorization::get_event_authorization,
        backfill::get_backfill,
        device::get_devices,
        directory::get_public_rooms_filtered,
        discovery::get_server_version,
        event::{get_event, get_event_by_timestamp, get_missing_events, get_room_state, get_room_state_ids},
        membership::{
            create_invite, create_join_event, create_knock_event, create_leave_event, prepare_join_event,
            prepare_knock_event, prepare_leave_event,
        },
        query::{get_profile_information, get_room_information},
        space::get_hierarchy,
        thirdparty::exchange_invite,
    },
    serde::Base64,
    signatures::PublicKeyMap,
};

/// What another server answers, some day.
pub type Asked<'a, T> = BoxFuture<'a, Result<T, RemoteError>>;

/// What another server answered, and, where that is large, the place that is kept for it among other large answers until
/// this is dropped.
#[derive(Debug)]
pub struct Large<T> {
    /// The answer.
    pub answer: T,
    /// Its place.
    pub place: LargePlace,
}

/// The place of a large answer, whatever it is kept by.
pub type LargePlace = Option<Box<dyn Debug + Send + Sync>>;

impl<T> From<T> for Large<T> {
    fn from(answer: T) -> Self {
        Self { answer, place: None }
    }
}

/// Why another server gave no answer that can be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RemoteError {
    /// It was not asked, and won't be: this server does not federate, or not with it.
    #[error("{0}")]
    NotAllowed(String),
    /// It can't be reached, or did not answer in time. `retry_after` says how long it is left alone.
    #[error("{reason}")]
    Unreachable {
        /// For the log.
        reason: String,
        /// Until when it is not asked again, as far as that is known.
        retry_after: Option<Duration>,
    },
    /// It refused, with the error code and words of its own.
    #[error("it answered {status}: {errcode} {error}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// `errcode`, empty if it gave none.
        errcode: String,
        /// `error`, for people, at most some hundred characters.
        error: String,
        /// The whole body, as far as it is JSON: some errors say more (`M_INCOMPATIBLE_ROOM_VERSION`).
        body: Option<serde_json::Value>,
    },
    /// This server has too many large answers in hand to take its answer.
    #[error("{0}")]
    Crowded(String),
    /// It answered what can't be understood, or more than is accepted.
    #[error("its answer can't be used: {0}")]
    Malformed(String),
}

impl RemoteError {
    /// Whether the server knows no such endpoint.
    pub fn is_unrecognized(&self) -> bool {
        match self {
            Self::Refused { status, errcode, .. } => {
                errcode == "M_UNRECOGNIZED" || (*status == 404 && errcode.is_empty())
            }
            _ => false,
        }
    }

    /// Whether it may answer otherwise if it is asked again later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Crowded(_) => true,
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            Self::NotAllowed(_) | Self::Malformed(_) => false,
        }
    }

    fn unreachable_here() -> Self {
        Self::NotAllowed("this server does not federate".to_owned())
    }
}

/// Keys that signatures name, and how long they must have been valid.
///
/// A key whose `valid_until_ts` is before the time asked for is no key for it, from room version 5 on (server-server
/// API, "Retrieving server keys"); a time of 0 asks for any, as older versions do.
pub type KeysWanted =
    BTreeMap<OwnedServerName, BTreeMap<OwnedServerSigningKeyId, MilliSecondsSinceUnixEpoch>>;

macro_rules! questions {
    (
        large { $( $(#[$large_doc:meta])* $large:ident: $large_module:path as $large_alias:ident; )* }
        $( $(#[$doc:meta])* $name:ident: $module:path as $alias:ident; )*
    ) => {
        $( use $large_module as $large_alias; )*
        $( use $module as $alias; )*

        /// The other servers. Each question names the server to be asked; answers are bounded in size and depth and
        /// time, and otherwise as hostile as their sender.
        pub trait RemoteServers: Debug + Send + Sync + 'static {
            /// Keys of servers, their own or as a notary knows them. Never fails: what could not be had is absent.
            fn public_keys<'a>(&'a self, _wanted: &'a KeysWanted) -> BoxFuture<'a, PublicKeyMap> {
                ready(PublicKeyMap::new()).boxed()
            }

            /// Whether requests to this server are allowed, and how it did lately: false while it is left alone
            /// after failures. A hint on whom to ask first.
            fn is_reachable(&self, _server: &ServerName) -> bool {
                false
            }

            /// Whether the key of an identity server is still in use, as the URL says that came with it (client-server
            /// API, `m.room.third_party_invite`, `key_validity_url`).
            fn identity_key_is_valid<'a>(&'a self, _url: &'a str, _public_key: &'a Base64) -> Asked<'a, bool> {
                ready(Err(RemoteError::unreachable_here())).boxed()
            }

            $(
                $(#[$large_doc])*
                fn $large<'a>(
                    &'a self,
                    _server: &'a ServerName,
                    _request: $large_alias::Request,
                ) -> Asked<'a, Large<$large_alias::Response>> {
                    ready(Err(RemoteError::unreachable_here())).boxed()
                }
            )*

            $(
                $(#[$doc])*
                fn $name<'a>(&'a self, _server: &'a ServerName, _request: $alias::Request) -> Asked<'a, $alias::Response> {
                    ready(Err(RemoteError::unreachable_here())).boxed()
                }
            )*
        }
    };
}

questions! {
    large {
        /// The state before an event, whole.
        state: get_room_state::v1 as state_v1;
        /// The state before an event, by IDs.
        state_ids: get_room_state_ids::v1 as state_ids_v1;
        /// Completes a join.
        send_join: create_join_event::v2 as send_join_v2;
    }
    /// The events that authorise one.
    event_auth: get_event_authorization::v1 as event_auth_v1;
    /// Events before some.
    backfill: get_backfill::v1 as backfill_v1;
    /// An event.
    event: get_event::v1 as event_v1;
    /// Events between what we have and what we were sent.
    missing_events: get_missing_events::v1 as missing_events_v1;
    /// The event nearest to a time.
    event_by_timestamp: get_event_by_timestamp::v1 as event_by_timestamp_v1;
    /// Begins a join.
    make_join: prepare_join_event::v1 as make_join_v1;
    /// Begins the leaving of a room, or the refusal of an invite.
    make_leave: prepare_leave_event::v1 as make_leave_v1;
    /// Completes it.
    send_leave: create_leave_event::v2 as send_leave_v2;
    /// Begins a knock.
    make_knock: prepare_knock_event::v1 as make_knock_v1;
    /// Completes a knock.
    send_knock: create_knock_event::v1 as send_knock_v1;
    /// Invites a user of that server. It answers with its signature.
    invite: create_invite::v2 as invite_v2;
    /// The same in a room of version 1 or 2, where the server knows no later way.
    invite_v1: self::invite_v1 as invite_in_v1;
    /// Makes an invite by e-mail or telephone number one of a user.
    exchange_invite: exchange_invite::v1 as exchange_invite_v1;
    /// The published rooms.
    public_rooms: get_public_rooms_filtered::v1 as public_rooms_v1;
    /// The rooms of a space.
    hierarchy: get_hierarchy::v1 as hierarchy_v1;
    /// The devices and cross-signing keys of users of that server.
    user_keys: self::user_keys::query as user_keys_v1;
    /// One-time keys of their devices.
    claim_user_keys: self::user_keys::claim as claim_user_keys_v1;
    /// All devices of one of them, and how new that is.
    devices: get_devices::v1 as devices_v1;
    /// A profile of a user of that server.
    profile: get_profile_information::v1 as profile_v1;
    /// The room of an alias of that server.
    directory: get_room_information::v1 as directory_v1;
    /// What the server runs.
    version: get_server_version::v1 as version_v1;
}

/// No other servers: for a server that does not federate.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRemoteServers;

impl RemoteServers for NoRemoteServers {}
