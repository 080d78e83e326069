//! Names to addresses and services, by the hosts file and DNS. Answers are kept as long as they say.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData, RecordType},
};

/// How long one name server has for one answer.
const TIMEOUT: Duration = Duration::from_secs(4);
/// A wrong answer must not stay for longer than this, whatever it says.
const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// How long it is remembered at most that a name has no records.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(5 * 60);
/// Answers kept.
const CACHE: u64 = 4096;

/// Asks name servers.
pub struct Resolver(Option<TokioResolver>);

/// A service as DNS announces it (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Srv {
    /// The lowest is tried first.
    pub priority: u16,
    /// How often it is chosen first among those of its priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host, without a dot at its end; empty where the service is decidedly not offered.
    pub target: String,
}

/// Why a name could not be resolved.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ResolveError {
    /// There are no such records.
    #[error("{0} has no address in DNS")]
    NotFound(String),
    /// Nobody could say.
    #[error("DNS does not tell about {name}: {reason}")]
    Failed {
        /// The name that was asked for.
        name: String,
        /// What went wrong.
        reason: String,
    },
}

impl Resolver {
    /// With the machine's `/etc/hosts` and these name servers, or if there are none those of `/etc/resolv.conf`. Where
    /// that can't be used, the hosts file serves alone.
    pub fn new(name_servers: &[SocketAddr]) -> Self {
        let with = |config| TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let mut builder = match name_servers {
            [] => TokioResolver::builder_tokio().unwrap_or_else(|error| {
                tracing::warn!(%error, "no name servers: only names in the hosts file are found");
                with(ResolverConfig::default())
            }),
            given => with(ResolverConfig::from_name_servers(
                given.iter().map(name_server).collect(),
            )),
        };
        let options = builder.options_mut();
        options.timeout = TIMEOUT;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Always;
        options.cache_size = CACHE;
        options.positive_max_ttl = Some(MAX_TTL);
        options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
        let resolver = builder.build();
        Self(
            resolver
                .inspect_err(|error| tracing::error!(%error, "names can't be resolved"))
                .ok(),
        )
    }

    /// The addresses of a host, at least one.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let (resolver, name) = self.ask(host)?;
        let found = resolver
            .lookup_ip(name)
            .await
            .map_err(|error| failure(host, &error))?;
        let addresses: Vec<_> = found.iter().collect();
        if addresses.is_empty() {
            return Err(ResolveError::NotFound(host.to_owned()));
        }
        Ok(addresses)
    }

    /// The services announced under a name such as `_matrix-fed._tcp.example.org`, at least one, in no order.
    pub async fn services(&self, service: &str) -> Result<Vec<Srv>, ResolveError> {
        let (resolver, name) = self.ask(service)?;
        let found = resolver
            .lookup(name, RecordType::SRV)
            .await
            .map_err(|error| failure(service, &error))?;
        let services: Vec<_> = found
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(Srv {
                    priority: srv.priority,
                    weight: srv.weight,
                    port: srv.port,
                    target: srv.target.to_ascii().trim_end_matches('.').to_owned(),
                }),
                _ => None,
            })
            .collect();
        if services.is_empty() {
            return Err(ResolveError::NotFound(service.to_owned()));
        }
        Ok(services)
    }

    /// A name is absolute, whatever search domains the machine has.
    fn ask(&self, name: &str) -> Result<(&TokioResolver, Name), ResolveError> {
        let failed = |reason: String| ResolveError::Failed {
            name: name.to_owned(),
            reason,
        };
        let resolver = self
            .0
            .as_ref()
            .ok_or_else(|| failed("this machine has no resolver".to_owned()))?;
        let mut absolute = Name::from_ascii(name).map_err(|error| failed(error.to_string()))?;
        absolute.set_fqdn(true);
        Ok((resolver, absolute))
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

fn failure(name: &str, error: &NetError) -> ResolveError {
    if error.is_no_records_found() {
        return ResolveError::NotFound(name.to_owned());
    }
    ResolveError::Failed {
        name: name.to_owned(),
        reason: error.to_string(),
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}
