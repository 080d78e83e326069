//! The steps of server discovery, over lookups that are handed in. The numbers are the specification's.

use std::net::{IpAddr, SocketAddr};

use hearth_endpoint::outgoing::{ResolveError, Srv};
use ruma::{OwnedServerName, ServerName};

use super::services;

/// Where no port is given, and no service is announced.
const DEFAULT_PORT: u16 = 8448;
/// The services of step 3.3 and 4, and the deprecated ones of 3.4 and 5.
const SERVICES: [&str; 2] = ["_matrix-fed._tcp", "_matrix._tcp"];
/// Targets of a service that are looked at.
const MAX_TARGETS: usize = 8;

/// What the steps ask the network.
pub(super) trait Lookups: Send + Sync {
    /// `m.server` of `https://<host>/.well-known/matrix/server`; `None` for whatever is no valid answer.
    fn well_known(&self, host: &str) -> impl Future<Output = Option<OwnedServerName>> + Send;
    /// The SRV records of a name.
    fn services(&self, service: &str) -> impl Future<Output = Result<Vec<Srv>, ResolveError>> + Send;
    /// The addresses of a name, by CNAME, AAAA and A.
    fn addresses(&self, host: &str) -> impl Future<Output = Result<Vec<IpAddr>, ResolveError>> + Send;
}

/// Steps 1 to 3: the name to put in the `Host` header. Without its port, the certificate must be for it.
pub(super) async fn delegate(lookups: &impl Lookups, server: &ServerName) -> OwnedServerName {
    // 1. and 2.: an IP literal or an explicit port speaks for itself.
    if server.is_ip_literal() || server.port().is_some() {
        return server.to_owned();
    }
    // 3., and what is no valid answer leaves the name as it is for 4. to 6. What is delegated to isn't asked in turn.
    lookups
        .well_known(server.host())
        .await
        .unwrap_or_else(|| server.to_owned())
}

/// What follows, for the name itself (1., 2., 4. to 6.) as for a delegated one (3.1 to 3.5): addresses, best first.
///
/// `random` gives a number below the one it is given, or 0.
pub(super) async fn addresses(
    lookups: &impl Lookups,
    name: &ServerName,
    random: &mut (dyn FnMut(u64) -> u64 + Send),
) -> Result<Vec<SocketAddr>, ResolveError> {
    let host = name.host();
    let port = name.port();
    let at = |port: u16| move |address: IpAddr| SocketAddr::new(address, port);
    if let Ok(address) = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>()
    {
        return Ok(vec![at(port.unwrap_or(DEFAULT_PORT))(address)]);
    }
    if let Some(port) = port {
        return Ok(lookups.addresses(host).await?.into_iter().map(at(port)).collect());
    }
    for service in SERVICES {
        match lookups.services(&format!("{service}.{host}")).await {
            Ok(found) => return of_services(lookups, host, services::ordered(found, random)).await,
            Err(ResolveError::NotFound(_)) => {}
            // Nobody can say whether there is a service. Its host may not be the one that the name has, which might
            // answer to the same certificate.
            Err(failed) => return Err(failed),
        }
    }
    let found = lookups.addresses(host).await?;
    Ok(found.into_iter().map(at(DEFAULT_PORT)).collect())
}

async fn of_services(
    lookups: &impl Lookups,
    host: &str,
    services: Vec<Srv>,
) -> Result<Vec<SocketAddr>, ResolveError> {
    // RFC 2782: a target of "." says that the service is decidedly not available.
    let mut failure = ResolveError::NotFound(host.to_owned());
    let mut all = Vec::new();
    for service in services
        .iter()
        .filter(|service| !service.target.is_empty())
        .take(MAX_TARGETS)
    {
        match lookups.addresses(&service.target).await {
            Ok(found) => all.extend(
                found
                    .into_iter()
                    .map(|address| SocketAddr::new(address, service.port)),
            ),
            Err(error) => failure = error,
        }
    }
    if all.is_empty() { Err(failure) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A network in a table. What isn't in it isn't there; `"!"` for an answer that nobody can give.
    #[derive(Default)]
    struct Table {
        well_known: BTreeMap<&'static str, &'static str>,
        services: BTreeMap<&'static str, &'static str>,
        addresses: BTreeMap<&'static str, &'static str>,
    }

    impl Lookups for Table {
        async fn well_known(&self, host: &str) -> Option<OwnedServerName> {
            self.well_known
                .get(host)
                .and_then(|name| ServerName::parse(*name).ok())
        }

        async fn services(&self, service: &str) -> Result<Vec<Srv>, ResolveError> {
            let found = entry(&self.services, service)?;
            Ok(found
                .split(' ')
                .enumerate()
                .map(|(index, target)| {
                    let (target, port) = target.split_once(':').expect("a host and a port");
                    Srv {
                        priority: u16::try_from(index).expect("few"),
                        weight: 0,
                        port: port.parse().expect("a port"),
                        target: target.to_owned(),
                    }
                })
                .collect())
        }

        async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
            let found = entry(&self.addresses, host)?;
            Ok(found
                .split(' ')
                .map(|address| address.parse().expect("an address"))
                .collect())
        }
    }

    fn entry<'a>(table: &BTreeMap<&'static str, &'a str>, name: &str) -> Result<&'a str, ResolveError> {
        match table.get(name) {
            Some(&"!") => Err(ResolveError::Failed {
                name: name.to_owned(),
                reason: "SERVFAIL".to_owned(),
            }),
            Some(found) => Ok(found),
            None => Err(ResolveError::NotFound(name.to_owned())),
        }
    }

    /// The `Host` header, and where a request goes.
    async fn find(table: &Table, server: &str) -> (String, Result<Vec<String>, String>) {
        let server = ServerName::parse(server).expect("a server name");
        let host = delegate(table, &server).await;
        let found = addresses(table, &host, &mut |_| 0).await;
        let found = found.map(|all| all.iter().map(ToString::to_string).collect());
        (host.to_string(), found.map_err(|error| error.to_string()))
    }

    async fn assert_found(table: &Table, server: &str, host: &str, addresses: &[&str]) {
        let (found_host, found) = find(table, server).await;
        let addresses: Vec<_> = addresses.iter().map(|&address| address.to_owned()).collect();
        assert_eq!((found_host.as_str(), found), (host, Ok(addresses)), "{server}");
    }

    #[tokio::test]
    async fn step_1_an_ip_literal_is_taken_as_it_is() {
        let table = Table {
            well_known: [("1.2.3.4", "elsewhere.example")].into(),
            ..Table::default()
        };
        assert_found(&table, "1.2.3.4", "1.2.3.4", &["1.2.3.4:8448"]).await;
        assert_found(&table, "1.2.3.4:5", "1.2.3.4:5", &["1.2.3.4:5"]).await;
        assert_found(&table, "[2001:db8::1]", "[2001:db8::1]", &["[2001:db8::1]:8448"]).await;
        assert_found(&table, "[2001:db8::1]:5", "[2001:db8::1]:5", &["[2001:db8::1]:5"]).await;
    }

    #[tokio::test]
    async fn step_2_an_explicit_port_asks_no_well_known_and_no_srv() {
        let table = Table {
            well_known: [("a.example", "elsewhere.example")].into(),
            services: [("_matrix-fed._tcp.a.example", "b.example:1")].into(),
            addresses: [("a.example", "1.2.3.4 2001:db8::1"), ("b.example", "9.9.9.9")].into(),
        };
        assert_found(
            &table,
            "a.example:443",
            "a.example:443",
            &["1.2.3.4:443", "[2001:db8::1]:443"],
        )
        .await;
    }

    #[tokio::test]
    async fn step_3_1_delegation_to_an_ip_literal() {
        let table = Table {
            well_known: [("a.example", "1.2.3.4"), ("b.example", "[::5]:6")].into(),
            ..Table::default()
        };
        assert_found(&table, "a.example", "1.2.3.4", &["1.2.3.4:8448"]).await;
        assert_found(&table, "b.example", "[::5]:6", &["[::5]:6"]).await;
    }

    #[tokio::test]
    async fn step_3_2_delegation_to_a_port() {
        let table = Table {
            well_known: [("a.example", "m.a.example:443")].into(),
            services: [("_matrix-fed._tcp.m.a.example", "b.example:1")].into(),
            addresses: [("m.a.example", "1.2.3.4")].into(),
        };
        assert_found(&table, "a.example", "m.a.example:443", &["1.2.3.4:443"]).await;
    }

    #[tokio::test]
    async fn step_3_3_delegation_to_a_service_keeps_the_delegated_name() {
        let table = Table {
            well_known: [("a.example", "m.a.example")].into(),
            services: [
                ("_matrix-fed._tcp.m.a.example", "x.example:1"),
                ("_matrix._tcp.m.a.example", "y.example:2"),
                ("_matrix-fed._tcp.a.example", "z.example:3"),
            ]
            .into(),
            addresses: [
                ("x.example", "1.1.1.1"),
                ("y.example", "2.2.2.2"),
                ("z.example", "3.3.3.3"),
            ]
            .into(),
        };
        assert_found(&table, "a.example", "m.a.example", &["1.1.1.1:1"]).await;
    }

    #[tokio::test]
    async fn step_3_4_the_deprecated_service_comes_second() {
        let table = Table {
            well_known: [("a.example", "m.a.example")].into(),
            services: [("_matrix._tcp.m.a.example", "y.example:2")].into(),
            addresses: [("y.example", "2.2.2.2")].into(),
        };
        assert_found(&table, "a.example", "m.a.example", &["2.2.2.2:2"]).await;
    }

    #[tokio::test]
    async fn step_3_5_without_a_service_it_is_port_8448_of_the_delegated_name() {
        let table = Table {
            well_known: [("a.example", "m.a.example")].into(),
            addresses: [("m.a.example", "1.2.3.4"), ("a.example", "5.6.7.8")].into(),
            ..Table::default()
        };
        assert_found(&table, "a.example", "m.a.example", &["1.2.3.4:8448"]).await;
    }

    #[tokio::test]
    async fn steps_4_and_5_without_delegation_the_services_of_the_name_itself() {
        let mut table = Table {
            services: [
                ("_matrix-fed._tcp.a.example", "x.example:1 y.example:2"),
                ("_matrix._tcp.a.example", "y.example:3"),
            ]
            .into(),
            addresses: [("x.example", "1.1.1.1"), ("y.example", "2.2.2.2")].into(),
            ..Table::default()
        };
        assert_found(&table, "a.example", "a.example", &["1.1.1.1:1", "2.2.2.2:2"]).await;
        table.services.remove("_matrix-fed._tcp.a.example");
        assert_found(&table, "a.example", "a.example", &["2.2.2.2:3"]).await;
    }

    #[tokio::test]
    async fn step_6_port_8448_of_the_name_itself() {
        let table = Table {
            addresses: [("a.example", "1.2.3.4")].into(),
            ..Table::default()
        };
        assert_found(&table, "a.example", "a.example", &["1.2.3.4:8448"]).await;
    }

    #[tokio::test]
    async fn a_target_without_address_is_passed_over() {
        let table = Table {
            services: [("_matrix-fed._tcp.a.example", "gone.example:1 y.example:2")].into(),
            addresses: [("y.example", "2.2.2.2")].into(),
            ..Table::default()
        };
        assert_found(&table, "a.example", "a.example", &["2.2.2.2:2"]).await;
    }

    #[tokio::test]
    async fn a_service_that_is_decidedly_not_there_is_not_looked_for_elsewhere() {
        let table = Table {
            services: [("_matrix-fed._tcp.a.example", ":0")].into(),
            addresses: [("a.example", "1.2.3.4")].into(),
            ..Table::default()
        };
        assert!(find(&table, "a.example").await.1.is_err());
    }

    #[tokio::test]
    async fn where_dns_fails_no_other_host_is_tried() {
        let table = Table {
            services: [("_matrix-fed._tcp.a.example", "!")].into(),
            addresses: [("a.example", "1.2.3.4")].into(),
            ..Table::default()
        };
        assert!(find(&table, "a.example").await.1.is_err());
    }
}
