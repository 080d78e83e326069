//! Every key of the configuration, its default, and what the keys demand of each other.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use hearth_client_api::SocketSettings;
use hearth_endpoint::outgoing::OutgoingSettings;
use hearth_engine::{Config, DirectoryAudience, RateLimits, Registration, Support, SupportContact, Ticks};
use hearth_federation::ServerPolicy;
use ruma::{OwnedServerName, OwnedUserId, RoomVersionId, owned_server_name};
use serde::{Deserialize, Deserializer, de};

use super::{
    error::ConfigError,
    tree::Node,
    values::{self, ByteSize, NameServer, Network, Secret, ServerPattern},
};

/// The whole configuration. [`Settings::default`] is a local trial: `localhost` on `127.0.0.1:8008`, with a
/// private PostgreSQL in `./hearth-data`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct Settings {
    /// The name in this server's user IDs. It can never change.
    #[serde(deserialize_with = "values::server_name")]
    pub server_name: OwnedServerName,
    /// Where the signing key and the private PostgreSQL are; a relative path starts at the working directory.
    #[serde(deserialize_with = "values::directory")]
    pub data_dir: PathBuf,
    /// What `.well-known` announces, without a slash at the end.
    #[serde(deserialize_with = "values::public_url")]
    pub public_url: Option<String>,
    /// `[database]`.
    pub database: DatabaseSettings,
    /// `[[listener]]`.
    #[serde(rename = "listener", deserialize_with = "listeners")]
    pub listeners: Vec<Listener>,
    /// Reverse proxies beside those on this machine: their `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// `[registration]`.
    pub registration: RegistrationSettings,
    /// `[rate_limits]`.
    pub rate_limits: RateLimitSettings,
    /// `[rooms]`.
    pub rooms: RoomSettings,
    /// `[websocket]`.
    pub websocket: WebSocketSettings,
    /// `[ticks]`.
    pub ticks: TickSettings,
    /// `[presence]`.
    pub presence: PresenceSettings,
    /// `[federation]`.
    pub federation: FederationSettings,
    /// `[outbound]`.
    pub outbound: Outbound,
    /// `[application_services]`.
    pub application_services: ApplicationServices,
    /// `[support]`.
    pub support: SupportSettings,
    /// `[log]`.
    pub log: LogSettings,
}

/// `[database]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct DatabaseSettings {
    /// An external PostgreSQL; without it the server runs a private one in `data_dir`.
    #[serde(deserialize_with = "values::database_url")]
    pub url: Option<Secret>,
    /// The largest number of connections for everything but the committer, which has its own.
    #[serde(deserialize_with = "values::connections")]
    pub max_connections: u32,
}

/// A `[[listener]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct Listener {
    /// Where to listen; port 0 lets the system choose.
    #[serde(deserialize_with = "values::listen_address")]
    pub address: SocketAddr,
    /// A PEM file: the certificate, then those between it and the authority's.
    #[serde(default)]
    pub tls_certificate: Option<PathBuf>,
    /// A PEM file: the certificate's key.
    #[serde(default)]
    pub tls_private_key: Option<PathBuf>,
    /// What is served here: everything, unless said.
    #[serde(default = "Service::all")]
    pub serves: Vec<Service>,
}

/// A part of what a listener can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// The client-server API and `.well-known`.
    Client,
    /// The server-server API.
    Federation,
    /// `/metrics`.
    Metrics,
}

/// `[registration]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RegistrationSettings {
    /// Anyone may register.
    pub open: bool,
    /// Guests may register.
    pub guests: bool,
    /// Whoever knows it may register users at `/_synapse/admin/v1/register`.
    pub shared_secret: Option<Secret>,
}

/// `[rate_limits]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RateLimitSettings {
    /// Off, nothing is limited.
    pub enabled: bool,
}

/// `[rooms]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RoomSettings {
    /// The version of rooms whose creator doesn't choose one.
    #[serde(deserialize_with = "values::room_version")]
    pub default_version: RoomVersionId,
    /// How much memory room heads and cached events may take.
    pub memory: ByteSize,
    /// New rooms that are not public are encrypted.
    pub encrypt_new_private_rooms: bool,
    /// Who is shown the rooms that are published here.
    pub directory: Audience,
}

/// Who is shown the rooms that are published here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// This server's users.
    Users,
    /// They, and other servers for theirs.
    Servers,
    /// They, and who isn't logged in.
    Everyone,
}

impl Audience {
    fn to_engine(self) -> DirectoryAudience {
        match self {
            Self::Users => DirectoryAudience::Users,
            Self::Servers => DirectoryAudience::Servers,
            Self::Everyone => DirectoryAudience::Everyone,
        }
    }
}

/// `[websocket]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct WebSocketSettings {
    /// How often a client is asked whether it is there, in seconds.
    #[serde(deserialize_with = "values::interval_s")]
    pub ping_interval_s: u32,
    /// Connections that one user may have open.
    #[serde(deserialize_with = "values::count")]
    pub max_per_user: u32,
    /// Connections that one address may have open.
    #[serde(deserialize_with = "values::count")]
    pub max_per_address: u32,
}

/// `[ticks]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct TickSettings {
    /// In rooms of more members nobody is told what was delivered.
    #[serde(deserialize_with = "values::members")]
    pub max_room_members: u32,
}

/// `[presence]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct PresenceSettings {
    /// Off, nobody is told of anybody.
    pub enabled: bool,
    /// Other servers are told of this one's users.
    pub to_servers: bool,
    /// What other servers say of theirs is told.
    pub from_servers: bool,
    /// Who did nothing for so many seconds is unavailable.
    #[serde(deserialize_with = "values::interval_s")]
    pub idle_s: u32,
    /// Who has no connection for so many seconds is offline.
    #[serde(deserialize_with = "values::interval_s")]
    pub offline_after_s: u32,
}

/// `[federation]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct FederationSettings {
    /// Off, this server talks to no other.
    pub enabled: bool,
    /// If given, only servers that match one of these.
    pub allow: Option<Vec<ServerPattern>>,
    /// Never servers that match one of these.
    pub deny: Vec<ServerPattern>,
    /// Servers that are believed about the keys of those that don't answer.
    #[serde(deserialize_with = "values::server_names")]
    pub notaries: Vec<OwnedServerName>,
}

/// `[outbound]`: limits on what the server itself requests.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct Outbound {
    /// Addresses that are never connected to.
    pub denied_networks: Vec<Network>,
    /// A PEM file of certificate authorities that are trusted beside the system's.
    pub extra_root_certificates: Option<PathBuf>,
    /// Who is asked for names, instead of those of `/etc/resolv.conf`.
    pub name_servers: Vec<NameServer>,
}

/// `[application_services]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct ApplicationServices {
    /// The specification's YAML files.
    pub registration_files: Vec<PathBuf>,
}

/// `[support]`: what `.well-known/matrix/support` tells.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct SupportSettings {
    /// A page for this server's users.
    #[serde(deserialize_with = "values::url")]
    pub support_page: Option<String>,
    /// Who runs this server.
    pub contacts: Vec<Contact>,
}

/// `[[support.contacts]]`: at least one way to reach the person is given.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct Contact {
    /// `m.role.admin`, `m.role.security` or a namespaced role.
    #[serde(default = "Contact::default_role")]
    pub role: String,
    /// A Matrix user.
    #[serde(default, deserialize_with = "values::user_id")]
    pub matrix_id: Option<OwnedUserId>,
    /// A mail address.
    #[serde(default)]
    pub email_address: Option<String>,
}

/// `[log]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct LogSettings {
    /// How a line looks.
    pub format: LogFormat,
    /// Which lines are written, in `tracing`'s notation.
    #[serde(deserialize_with = "values::log_level")]
    pub level: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            server_name: owned_server_name!("localhost"),
            data_dir: PathBuf::from("./hearth-data"),
            public_url: None,
            database: DatabaseSettings::default(),
            listeners: vec![Listener::plain(SocketAddr::from((Ipv4Addr::LOCALHOST, 8008)))],
            trusted_proxies: Vec::new(),
            registration: RegistrationSettings::default(),
            rate_limits: RateLimitSettings::default(),
            rooms: RoomSettings::default(),
            websocket: WebSocketSettings::default(),
            ticks: TickSettings::default(),
            presence: PresenceSettings::default(),
            federation: FederationSettings::default(),
            outbound: Outbound::default(),
            application_services: ApplicationServices::default(),
            support: SupportSettings::default(),
            log: LogSettings::default(),
        }
    }
}

impl Default for DatabaseSettings {
    fn default() -> Self {
        Self {
            url: None,
            max_connections: 20,
        }
    }
}

impl Default for RateLimitSettings {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl Default for RoomSettings {
    fn default() -> Self {
        Self {
            default_version: RoomVersionId::V12,
            memory: ByteSize(256 << 20),
            encrypt_new_private_rooms: false,
            directory: Audience::Everyone,
        }
    }
}

impl Default for TickSettings {
    fn default() -> Self {
        Self {
            max_room_members: 100,
        }
    }
}

impl Default for WebSocketSettings {
    fn default() -> Self {
        Self {
            ping_interval_s: 30,
            max_per_user: 100,
            max_per_address: 1000,
        }
    }
}

impl Default for PresenceSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            to_servers: true,
            from_servers: true,
            idle_s: 300,
            offline_after_s: 30,
        }
    }
}

impl PresenceSettings {
    fn to_engine(&self) -> hearth_engine::PresenceSettings {
        hearth_engine::PresenceSettings {
            enabled: self.enabled,
            to_servers: self.to_servers,
            from_servers: self.from_servers,
            idle: Duration::from_secs(self.idle_s.into()),
            offline_after: Duration::from_secs(self.offline_after_s.into()),
        }
    }
}

impl Default for FederationSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            allow: None,
            deny: Vec::new(),
            notaries: vec![owned_server_name!("matrix.org")],
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}

impl Default for Outbound {
    fn default() -> Self {
        // IANA's registries of special-purpose addresses: what is not globally reachable, and multicast.
        let special = [
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "::/128",
            "::1/128",
            "64:ff9b:1::/48",
            "100::/64",
            "2001::/23",
            "2001:db8::/32",
            "2002::/16",
            "fc00::/7",
            "fe80::/10",
            "fec0::/10",
            "ff00::/8",
        ];
        Self {
            denied_networks: special
                .iter()
                .filter_map(|network| network.parse().ok())
                .collect(),
            extra_root_certificates: None,
            name_servers: Vec::new(),
        }
    }
}

impl Service {
    fn all() -> Vec<Self> {
        vec![Self::Client, Self::Federation, Self::Metrics]
    }
}

impl Contact {
    fn default_role() -> String {
        "m.role.admin".to_owned()
    }

    fn to_engine(&self) -> SupportContact {
        SupportContact {
            role: self.role.clone(),
            matrix_id: self.matrix_id.clone(),
            email_address: self.email_address.clone(),
        }
    }
}

impl Listener {
    /// Everything over plain HTTP at `address`.
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            tls_certificate: None,
            tls_private_key: None,
            serves: Service::all(),
        }
    }

    /// Whether `service` is served here.
    pub fn serves(&self, service: Service) -> bool {
        self.serves.contains(&service)
    }
}

impl Settings {
    /// The part that the engine decides by.
    pub fn engine_config(&self) -> Config {
        Config {
            public_url: self.public_url.clone(),
            registration: Registration {
                open: self.registration.open,
                guests: self.registration.guests,
                shared_secret: self
                    .registration
                    .shared_secret
                    .as_ref()
                    .map(|s| s.reveal().to_owned()),
            },
            rate_limits: RateLimits {
                enabled: self.rate_limits.enabled,
            },
            trusted_proxies: self.trusted_proxies.iter().map(|network| network.0).collect(),
            default_room_version: self.rooms.default_version.clone(),
            room_memory_bytes: self.rooms.memory.0,
            encrypt_new_private_rooms: self.rooms.encrypt_new_private_rooms,
            directory: self.rooms.directory.to_engine(),
            support: Support {
                page: self.support.support_page.clone(),
                contacts: self.support.contacts.iter().map(Contact::to_engine).collect(),
            },
            presence: self.presence.to_engine(),
            ticks: Ticks {
                max_room_members: usize::try_from(self.ticks.max_room_members).unwrap_or(usize::MAX),
            },
            ..Config::new(self.server_name.clone())
        }
    }

    /// What holds for every WebSocket.
    pub fn socket(&self) -> SocketSettings {
        let WebSocketSettings {
            ping_interval_s,
            max_per_user,
            max_per_address,
        } = self.websocket;
        let number = |count| usize::try_from(count).unwrap_or(usize::MAX);
        SocketSettings {
            ping_interval: Duration::from_secs(ping_interval_s.into()),
            max_per_user: number(max_per_user),
            max_per_address: number(max_per_address),
            ..SocketSettings::default()
        }
    }

    /// What holds for every request that the server makes.
    pub fn outgoing(&self) -> OutgoingSettings {
        OutgoingSettings {
            denied_networks: self
                .outbound
                .denied_networks
                .iter()
                .map(|network| network.0)
                .collect(),
            extra_root_certificates: self.outbound.extra_root_certificates.clone(),
            name_servers: self.outbound.name_servers.iter().map(|server| server.0).collect(),
        }
    }

    /// Which other servers this one has to do with.
    pub fn server_policy(&self) -> ServerPolicy {
        let patterns =
            |list: &[ServerPattern]| list.iter().map(|pattern| pattern.as_str().to_owned()).collect();
        ServerPolicy {
            allow: self.federation.allow.as_deref().map(patterns),
            deny: patterns(&self.federation.deny),
        }
    }

    /// What no single key can tell; `root` knows where the keys were written.
    pub(super) fn check(&self, root: &Node) -> Result<(), ConfigError> {
        if self.listeners.is_empty() {
            return Err(root.error_at(&["listener"], "expected at least one listener"));
        }
        for (index, contact) in self.support.contacts.iter().enumerate() {
            if contact.matrix_id.is_none() && contact.email_address.is_none() {
                let expected = "expected a `matrix_id`, an `email_address` or both";
                return Err(root.error_at(&["support", "contacts", &index.to_string()], expected));
            }
        }
        let mut addresses = HashSet::new();
        for (index, listener) in self.listeners.iter().enumerate() {
            let index = index.to_string();
            let at = |key| ["listener", index.as_str(), key];
            match (&listener.tls_certificate, &listener.tls_private_key) {
                (Some(_), None) => {
                    let problem =
                        "expected `tls_private_key` beside it: a certificate serves only with its key";
                    return Err(root.error_at(&at("tls_certificate"), problem));
                }
                (None, Some(_)) => {
                    let problem =
                        "expected `tls_certificate` beside it: a key serves only with its certificate";
                    return Err(root.error_at(&at("tls_private_key"), problem));
                }
                _ => {}
            }
            if listener.serves.is_empty() {
                let expected = "expected at least one of `client`, `federation`, `metrics`";
                return Err(root.error_at(&at("serves"), expected));
            }
            // Port 0 is another port each time.
            if listener.address.port() != 0 && !addresses.insert(listener.address) {
                return Err(root.error_at(&at("address"), "expected an address that no other listener has"));
            }
        }
        Ok(())
    }
}

/// `[[listener]]`, or one `[listener]`.
fn listeners<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Listener>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Vec<Listener>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of tables, each headed [[listener]]")
        }

        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Vec<Listener>, A::Error> {
            Listener::deserialize(de::value::MapAccessDeserializer::new(map)).map(|listener| vec![listener])
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Vec<Listener>, A::Error> {
            Vec::deserialize(de::value::SeqAccessDeserializer::new(seq))
        }
    }
    deserializer.deserialize_any(Visitor)
}
