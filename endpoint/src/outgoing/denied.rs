//! `[outbound] denied_networks`: where this server never connects to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The networks, and how an address is held against them.
#[derive(Debug, Default)]
pub(super) struct DeniedNetworks(Vec<IpNet>);

impl DeniedNetworks {
    pub(super) fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether `address` is in one of them, by itself or as the IPv4 address that is reached through it.
    pub(super) fn contain(&self, address: IpAddr) -> bool {
        let is_denied = |address: IpAddr| self.0.iter().any(|network| network.contains(&address));
        match address {
            IpAddr::V4(_) => is_denied(address),
            IpAddr::V6(outer) => {
                is_denied(address) || embedded(outer).is_some_and(|inner| is_denied(inner.into()))
            }
        }
    }
}

/// The IPv4 address within an IPv6 one: mapped (`::ffff:0:0/96`), compatible (`::/96`), behind NAT64
/// (`64:ff9b::/96`, RFC 6052) or behind 6to4 (`2002::/16`, RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let parts = address.segments();
    let (high, low) = match parts {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => (high, low),
        [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denies(networks: &[&str], address: &str) -> bool {
        let networks = networks.iter().map(|network| network.parse().expect("a network"));
        DeniedNetworks::new(networks.collect()).contain(address.parse().expect("an address"))
    }

    #[test]
    fn an_address_is_held_against_each_network() {
        let private = ["127.0.0.0/8", "10.0.0.0/8", "::1/128"];
        assert!(denies(&private, "127.0.0.1"));
        assert!(denies(&private, "10.255.0.1"));
        assert!(denies(&private, "::1"));
        assert!(!denies(&private, "11.0.0.1"));
        assert!(!denies(&private, "2001:db8::1"));
        assert!(!denies(&[], "127.0.0.1"));
    }

    #[test]
    fn an_address_cannot_hide_in_a_longer_one() {
        for disguise in [
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:a00:1::5",
        ] {
            assert!(denies(&["10.0.0.0/8"], disguise), "{disguise}");
        }
        assert!(!denies(&["10.0.0.0/8"], "64:ff9b::11.0.0.1"));
    }
}
