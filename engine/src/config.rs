//! What the engine is told by the operator. Built by `homeserver` from the configuration file.

use ruma::{OwnedServerName, RoomVersionId};

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
    /// The memory that room heads and cached events may take, in bytes.
    pub room_memory_bytes: u64,
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
            room_memory_bytes: 256 << 20,
        }
    }
}
