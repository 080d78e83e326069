//! How many connections a user, or an address, may have open.

use std::{collections::HashMap, hash::Hash, net::IpAddr, sync::Arc};

use hearth_engine::accounts::Requester;
use metrics::gauge;
use parking_lot::Mutex;

use super::Settings;

/// Connections that are open, by whose they are.
#[derive(Debug)]
pub(super) struct Limits {
    enabled: bool,
    max_per_user: usize,
    max_per_address: usize,
    open: Mutex<HashMap<Whose, usize>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Whose {
    User(i64),
    /// Nothing behind a proxy that doesn't tell.
    Address(Option<IpAddr>),
}

/// An open connection, counted until this is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    limits: Arc<Limits>,
    whose: Whose,
}

impl Limits {
    pub fn new(enabled: bool, settings: &Settings) -> Self {
        Self {
            enabled,
            max_per_user: settings.max_per_user,
            max_per_address: settings.max_per_address,
            open: Mutex::default(),
        }
    }

    /// Counts a connection from an address; nothing if there are too many.
    pub fn of_address(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Counted> {
        self.count(Whose::Address(address.map(network)), self.max_per_address)
    }

    /// Counts a connection of a user; nothing if there are too many.
    pub fn of_user(self: &Arc<Self>, requester: &Requester) -> Option<Counted> {
        self.count(Whose::User(requester.user_nid.into()), self.max_per_user)
    }

    fn count(self: &Arc<Self>, whose: Whose, max: usize) -> Option<Counted> {
        let mut open = self.open.lock();
        let count = open.entry(whose).or_default();
        if self.enabled && *count >= max {
            if *count == 0 {
                open.remove(&whose);
            }
            return None;
        }
        *count += 1;
        drop(open);
        if let Whose::Address(_) = whose {
            gauge!("hearth_sockets_open").increment(1);
        }
        Some(Counted {
            limits: Arc::clone(self),
            whose,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.limits.open.lock();
        if let Some(count) = open.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.whose);
            }
        }
        drop(open);
        if let Whose::Address(_) = self.whose {
            gauge!("hearth_sockets_open").decrement(1);
        }
    }
}

/// Who has one IPv6 address has the 2^64 around it.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Limits, Settings};

    fn limits(enabled: bool) -> Arc<Limits> {
        let settings = Settings {
            max_per_address: 2,
            ..Settings::default()
        };
        Arc::new(Limits::new(enabled, &settings))
    }

    #[test]
    fn a_place_is_free_again_once_its_connection_ends() {
        let limits = limits(true);
        let address = "2001:db8::1".parse().ok();
        let neighbour = "2001:db8::2".parse().ok();
        let first = limits.of_address(address).expect("there is room");
        let _second = limits.of_address(neighbour).expect("there is room");
        assert!(limits.of_address(address).is_none());
        assert!(limits.of_address("203.0.113.9".parse().ok()).is_some());
        drop(first);
        assert!(limits.of_address(address).is_some());
    }

    #[test]
    fn switched_off_they_hold_nobody() {
        let limits = limits(false);
        let open: Vec<_> = (0..10).filter_map(|_| limits.of_address(None)).collect();
        assert_eq!(open.len(), 10);
    }
}
