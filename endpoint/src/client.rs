//! Who is on the other end of a connection: its address and its user agent.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::extract::{ConnectInfo, FromRequestParts};
use hearth_engine::Engine;
use http::{Extensions, HeaderMap, HeaderValue, header::USER_AGENT, request::Parts};
use ipnet::IpNet;

use crate::MatrixError;

/// The most bytes of a user agent that are kept.
const MAX_USER_AGENT: usize = 256;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The client of a request, as far as it can be known.
///
/// Its address is that of the connection, which a listener states as a request extension of type
/// `axum::extract::ConnectInfo<SocketAddr>`. Only where the connection comes from a proxy that is trusted (this
/// machine's loopback, a Unix socket, or `trusted_proxies`) does `X-Forwarded-For` count, and of that the last
/// address which is not itself a trusted proxy's: whatever stands before it, anyone may have written.
#[derive(Debug, Clone, Default)]
pub struct Client {
    /// The address. None behind a proxy on a Unix socket which does not tell.
    pub address: Option<IpAddr>,
    /// A copy: the header's value is a piece of the buffer that the request was read into, and would keep it.
    pub(crate) user_agent: Option<Box<str>>,
}

impl Client {
    /// The client of a request with these headers and extensions.
    pub fn of(headers: &HeaderMap, extensions: &Extensions, trusted_proxies: &[IpNet]) -> Self {
        let peer = extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map(|info| info.0.ip().to_canonical());
        Self {
            address: address(peer, headers, trusted_proxies),
            user_agent: headers.get(USER_AGENT).and_then(user_agent),
        }
    }

    /// The network that it has to itself: its address, and of IPv6 the 2^64 around it.
    pub fn network(&self) -> Option<IpAddr> {
        match self.address? {
            address @ IpAddr::V4(_) => Some(address),
            IpAddr::V6(address) => Some(IpAddr::V6((u128::from(address) >> 64 << 64).into())),
        }
    }

    /// What the client says it is: visible ASCII, at most 256 bytes.
    pub fn user_agent(&self) -> Option<&str> {
        self.user_agent.as_deref()
    }
}

fn user_agent(header: &HeaderValue) -> Option<Box<str>> {
    let text = header.to_str().ok()?;
    Some(text[..text.len().min(MAX_USER_AGENT)].into())
}

impl FromRequestParts<Arc<Engine>> for Client {
    type Rejection = MatrixError;

    async fn from_request_parts(parts: &mut Parts, engine: &Arc<Engine>) -> Result<Self, MatrixError> {
        Ok(Self::of(
            &parts.headers,
            &parts.extensions,
            &engine.config.trusted_proxies,
        ))
    }
}

/// The client's address, where `peer` is that of the connection (none: a Unix socket).
fn address(peer: Option<IpAddr>, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> Option<IpAddr> {
    let trusted = |address: &IpAddr| {
        address.is_loopback() || trusted_proxies.iter().any(|network| network.contains(address))
    };
    if peer.is_some_and(|peer| !trusted(&peer)) {
        return peer;
    }
    // Each proxy adds to the end, by a header line of its own or to the last one.
    let mut nearest = peer;
    for line in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        let Ok(line) = line.to_str() else { return nearest };
        for hop in line.rsplit(',') {
            let Some(hop) = parse_hop(hop) else { return nearest };
            nearest = Some(hop);
            if !trusted(&hop) {
                return nearest;
            }
        }
    }
    nearest
}

/// An address as proxies write it: bare, or with a port.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let address = hop
        .parse::<IpAddr>()
        .ok()
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|hop| hop.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, forwarded: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(X_FORWARDED_FOR, line.parse().expect("a header value"));
        }
        let proxies = ["10.1.0.0/16".parse().expect("a network")];
        address(peer.parse().ok(), &headers, &proxies).map(|address| address.to_string())
    }

    #[test]
    fn a_stranger_cannot_choose_its_address() {
        assert_eq!(
            seen("203.0.113.9", &["198.51.100.1"]).as_deref(),
            Some("203.0.113.9")
        );
        assert_eq!(
            seen("127.0.0.1", &["1.2.3.4, 203.0.113.9"]).as_deref(),
            Some("203.0.113.9")
        );
    }

    #[test]
    fn trusted_proxies_are_looked_through() {
        let chain = ["1.2.3.4, 203.0.113.9", "10.1.2.3"];
        assert_eq!(seen("127.0.0.1", &chain).as_deref(), Some("203.0.113.9"));
        assert_eq!(seen("10.1.0.7", &chain).as_deref(), Some("203.0.113.9"));
        assert_eq!(seen("10.2.0.7", &chain).as_deref(), Some("10.2.0.7"));
    }

    #[test]
    fn without_a_header_it_is_the_connection() {
        assert_eq!(seen("127.0.0.1", &[]).as_deref(), Some("127.0.0.1"));
        assert_eq!(seen("unix", &[]), None);
        assert_eq!(seen("unix", &["203.0.113.9"]).as_deref(), Some("203.0.113.9"));
    }

    #[test]
    fn garbage_ends_the_chain_where_it_stands() {
        assert_eq!(
            seen("127.0.0.1", &["203.0.113.9, nonsense, 10.1.2.3"]).as_deref(),
            Some("10.1.2.3")
        );
        assert_eq!(seen("127.0.0.1", &["nonsense"]).as_deref(), Some("127.0.0.1"));
    }

    #[test]
    fn ports_and_mapped_addresses_are_understood() {
        assert_eq!(
            seen("127.0.0.1", &["[2001:db8::1]:4711"]).as_deref(),
            Some("2001:db8::1")
        );
        assert_eq!(
            seen("127.0.0.1", &["::ffff:203.0.113.9"]).as_deref(),
            Some("203.0.113.9")
        );
        assert_eq!(
            seen("127.0.0.1", &["203.0.113.9:80"]).as_deref(),
            Some("203.0.113.9")
        );
    }
}
