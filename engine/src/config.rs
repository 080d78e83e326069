//! What the engine is told by the operator. Built by `homeserver` from the configuration file.

use std::time::Duration;

use ipnet::IpNet;
use ruma::{OwnedServerName, OwnedUserId, RoomVersionId};

/// The engine's settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name in this server's user IDs.
    pub server_name: OwnedServerName,
    /// `public_url`: the base URL that `.well-known` announces.
    pub public_url: Option<String>,
    /// `[registration]`.
    pub registration: Registration,
    /// `[rate_limits]`.
    pub rate_limits: RateLimits,
    /// `[rooms] default_version`.
    pub default_room_version: RoomVersionId,
    /// `[rooms] encrypt_new_private_rooms`: new rooms that are not public are encrypted, unless they are spaces.
    pub encrypt_new_private_rooms: bool,
    /// `[rooms] directory`.
    pub directory: DirectoryAudience,
    /// The memory that room heads and cached events may take, in bytes.
    pub room_memory_bytes: u64,
    /// `trusted_proxies`: networks whose `X-Forwarded-For` is believed, besides loopback and Unix sockets.
    pub trusted_proxies: Vec<IpNet>,
    /// `[support]`.
    pub support: Support,
    /// `[ticks]`.
    pub ticks: Ticks,
    /// `[presence]`.
    pub presence: PresenceSettings,
}

/// `[presence]`: who is there, and when they were last seen.
#[derive(Debug, Clone, Copy)]
pub struct PresenceSettings {
    /// Off, nobody is told of anybody.
    pub enabled: bool,
    /// Other servers are told of this one's users.
    pub to_servers: bool,
    /// What other servers say of theirs is told.
    pub from_servers: bool,
    /// `idle_s`: who did nothing for that long is unavailable.
    pub idle: Duration,
    /// `offline_after_s`: who has no connection for that long is offline.
    pub offline_after: Duration,
}

impl Default for PresenceSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            to_servers: true,
            from_servers: true,
            idle: Duration::from_secs(300),
            offline_after: Duration::from_secs(30),
        }
    }
}

/// `[ticks]`: whether users are told to whom their messages were delivered.
#[derive(Debug, Clone, Copy)]
pub struct Ticks {
    /// `max_room_members`: in rooms of more nobody is; 0 for nowhere.
    pub max_room_members: usize,
}

impl Default for Ticks {
    fn default() -> Self {
        Self {
            max_room_members: 100,
        }
    }
}

/// `[rooms] directory`: who is shown the rooms that are published here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DirectoryAudience {
    /// This server's users.
    Users,
    /// They, and other servers for theirs.
    Servers,
    /// They, and who isn't logged in: as the specification has it.
    #[default]
    Everyone,
}

/// `[support]`: what `.well-known/matrix/support` tells. Nothing is told while both are empty.
#[derive(Debug, Clone, Default)]
pub struct Support {
    /// `support_page`: the URL of a page for this server's users.
    pub page: Option<String>,
    /// `contacts`: who runs this server.
    pub contacts: Vec<SupportContact>,
}

/// `[[support.contacts]]`. At least one way to reach the person is set.
#[derive(Debug, Clone)]
pub struct SupportContact {
    /// `role`: `m.role.admin`, `m.role.security` or a namespaced one.
    pub role: String,
    /// `matrix_id`, of this server or another.
    pub matrix_id: Option<OwnedUserId>,
    /// `email_address`.
    pub email_address: Option<String>,
}

/// `[registration]`.
#[derive(Debug, Clone, Default)]
pub struct Registration {
    /// Anyone may register.
    pub open: bool,
    /// Guests may register.
    pub guests: bool,
    /// Whoever knows it may register users at `/_synapse/admin/v1/register`.
    pub shared_secret: Option<String>,
}

/// `[rate_limits]`.
#[derive(Debug, Clone, Copy)]
pub struct RateLimits {
    /// Off, nothing is limited.
    pub enabled: bool,
}

impl Config {
    /// The settings of a local trial for `server_name`: closed registration, limits on, rooms of version 12.
    pub fn new(server_name: OwnedServerName) -> Self {
        Self {
            server_name,
            public_url: None,
            registration: Registration::default(),
            rate_limits: RateLimits { enabled: true },
            default_room_version: RoomVersionId::V12,
            encrypt_new_private_rooms: false,
            directory: DirectoryAudience::default(),
            room_memory_bytes: 256 << 20,
            trusted_proxies: Vec::new(),
            support: Support::default(),
            ticks: Ticks::default(),
            presence: PresenceSettings::default(),
        }
    }
}
