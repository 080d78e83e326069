//! How often one user, or one address, may ask.
//!
//! Each class of endpoints has a bucket per user or address, in this node's memory. The rates are far above what
//! clients do when people use them (ten to thirty requests at start-up, typing, scrolling) and far below what
//! hurts. Endpoints that only wait (`/sync`) or tell anyone the same (`/versions`) have no limit.

use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::extract::FromRequestParts;
use governor::{
    DefaultKeyedRateLimiter, Quota,
    clock::{Clock, DefaultClock},
};
use hearth_engine::{Engine, RateLimits};
use http::{Method, request::Parts};
use ruma::{UserId, api::IncomingRequest};

use crate::{Client, Identify, Identity, MatrixError, routes};

/// The most keys of a bucket that are kept.
const MAX_KEYS: usize = 100_000;

/// How often full buckets are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// What an endpoint is limited as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Not at all.
    Free,
    /// A password or a token may be guessed here, or an account made.
    Credentials,
    /// Writes to rooms, and their making.
    Writes,
    /// The rest.
    General,
}

/// The class of an endpoint.
///
/// ruma repeats the spec's "rate-limited" for each, but the spec leaves out the sends, which matter most here. A
/// server may limit any endpoint.
pub(crate) fn class<R>() -> Class
where
    R: IncomingRequest<Authentication: Identify>,
{
    let of_users = <<R::Authentication as Identify>::Identity as Identity>::OF_USERS;
    class_of(&R::METHOD, routes::latest_path::<R>(), of_users, R::RATE_LIMITED)
}

fn class_of(method: &Method, path: &str, of_users: bool, rate_limited: bool) -> Class {
    const CREDENTIALS: [&str; 9] = [
        "/login",
        "/register",
        "/requestToken",
        "/account/password",
        "/account/deactivate",
        "/delete_devices",
        "/devices/{device_id}",
        "/keys/device_signing/upload",
        // Nobody in particular has this server ask others here.
        "/3pid/onbind",
    ];
    const CHATTER: [&str; 3] = [
        "/typing/{user_id}",
        "/receipt/{receipt_type}/{event_id}",
        "/read_markers",
    ];
    let ends_with = |endings: &[&str]| endings.iter().any(|ending| path.ends_with(ending));

    let reads = *method == Method::GET;
    // Renaming a device takes no password.
    let renames = *method == Method::PUT && path.ends_with("/devices/{device_id}");
    if !reads && !renames && ends_with(&CREDENTIALS) {
        Class::Credentials
    } else if path.ends_with("/sync") || (!of_users && !rate_limited && !is_costly(path)) {
        Class::Free
    } else if !reads && !ends_with(&CHATTER) && is_of_rooms(path) {
        Class::Writes
    } else {
        Class::General
    }
}

/// What is for everybody and not the same for all: each answer is looked up, at another server perhaps.
fn is_costly(path: &str) -> bool {
    path.contains("/directory/") || path.ends_with("/openid/userinfo")
}

fn is_of_rooms(path: &str) -> bool {
    ["/rooms/{", "/createRoom", "/join/{", "/knock/{", "/directory/"].iter().any(|part| path.contains(part))
        // A user's own settings for a room change nothing for others.
        && !path.contains("/user/{")
}

/// The buckets of all classes.
#[derive(Debug)]
pub(crate) struct Limits {
    enabled: bool,
    hasher: RandomState,
    credentials: Buckets,
    writes: Buckets,
    general: Buckets,
}

impl Limits {
    pub(crate) fn new(settings: &RateLimits) -> Self {
        Self {
            enabled: settings.enabled,
            hasher: RandomState::new(),
            credentials: Buckets::new(10, Duration::from_secs(5)),
            writes: Buckets::new(50, Duration::from_millis(100)),
            general: Buckets::new(300, Duration::from_millis(20)),
        }
    }

    /// Takes one request of `class` off the bucket of `user`, or of the client's address where nobody is known.
    pub(crate) fn check(
        &self,
        class: Class,
        client: &Client,
        user: Option<&UserId>,
    ) -> Result<(), MatrixError> {
        let buckets = match class {
            _ if !self.enabled => return Ok(()),
            Class::Free => return Ok(()),
            Class::Credentials => &self.credentials,
            Class::Writes => &self.writes,
            Class::General => &self.general,
        };
        // Hashed, so that a key has one size. The seed is secret: nobody can aim at another's bucket.
        let key = match user {
            Some(user) => self.hasher.hash_one(user),
            None => self.hasher.hash_one(client.network()),
        };
        buckets.take(key).map_err(MatrixError::limit_exceeded)
    }
}

/// One class's buckets, by key.
#[derive(Debug)]
struct Buckets {
    quota: Quota,
    limiter: RwLock<DefaultKeyedRateLimiter<u64>>,
    clock: DefaultClock,
    start: Instant,
    swept_ms: AtomicU64,
    since_sweep: AtomicU64,
}

impl Buckets {
    /// Buckets of `burst` requests, and one more every `period`.
    fn new(burst: u32, period: Duration) -> Self {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(period)
            .unwrap_or(Quota::per_second(burst))
            .allow_burst(burst);
        Self {
            quota,
            limiter: RwLock::new(DefaultKeyedRateLimiter::keyed(quota)),
            clock: DefaultClock::default(),
            start: Instant::now(),
            swept_ms: AtomicU64::new(0),
            since_sweep: AtomicU64::new(0),
        }
    }

    /// Takes one, or tells how long until there is one.
    fn take(&self, key: u64) -> Result<(), Duration> {
        self.sweep_if_due();
        let limiter = self.limiter.read().unwrap_or_else(PoisonError::into_inner);
        limiter
            .check_key(&key)
            .map_err(|until| until.wait_time_from(self.clock.now()))
    }

    /// Forgets keys whose buckets are full again: by time, and by count, as each request adds one key at most.
    fn sweep_if_due(&self) {
        let now_ms = self.start.elapsed().as_millis() as u64;
        let swept_ms = self.swept_ms.load(Ordering::Relaxed);
        let since = self.since_sweep.fetch_add(1, Ordering::Relaxed);
        let by_time = now_ms.saturating_sub(swept_ms) >= SWEEP_INTERVAL.as_millis() as u64;
        if !by_time && since < MAX_KEYS as u64 {
            return;
        }
        // One of those who notice does it.
        if self
            .swept_ms
            .compare_exchange(swept_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed)
            .is_err()
        {
            return;
        }
        self.since_sweep.store(0, Ordering::Relaxed);
        let limiter = self.limiter.read().unwrap_or_else(PoisonError::into_inner);
        limiter.retain_recent();
        let keys = limiter.len();
        drop(limiter);
        if keys > MAX_KEYS {
            // A flood from more addresses than fit: letting some of it through beats running out of memory.
            tracing::warn!(
                keys,
                "too many clients to keep their rate limits; starting them anew"
            );
            *self.limiter.write().unwrap_or_else(PoisonError::into_inner) =
                DefaultKeyedRateLimiter::keyed(self.quota);
        }
    }
}

/// Takes one off the strict limit of the client's address, for a route that isn't ruma's and where secrets may be
/// guessed. Put it before the body among the handler's arguments.
#[derive(Debug)]
pub struct CredentialsGuard;

impl FromRequestParts<Arc<Engine>> for CredentialsGuard {
    type Rejection = MatrixError;

    async fn from_request_parts(parts: &mut Parts, engine: &Arc<Engine>) -> Result<Self, MatrixError> {
        if let Some(limits) = parts.extensions.get::<Arc<Limits>>() {
            let client = Client::of(&parts.headers, &parts.extensions, &engine.config.trusted_proxies);
            limits.check(Class::Credentials, &client, None)?;
        }
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn limits(enabled: bool) -> Limits {
        Limits::new(&RateLimits { enabled })
    }

    fn client(address: &str) -> Client {
        Client {
            address: Some(address.parse().expect("an address")),
            user_agent: None,
        }
    }

    #[test]
    fn guessing_is_stopped_and_told_for_how_long() {
        let limits = limits(true);
        let guesser = client("203.0.113.9");
        for _ in 0..10 {
            limits
                .check(Class::Credentials, &guesser, None)
                .expect("within the burst");
        }
        let error = limits
            .check(Class::Credentials, &guesser, None)
            .expect_err("beyond the burst");
        assert_eq!(error.status(), http::StatusCode::TOO_MANY_REQUESTS);
        limits
            .check(Class::Credentials, &client("203.0.113.10"), None)
            .expect("someone else is not held up");
        limits
            .check(Class::General, &guesser, None)
            .expect("nor are other requests");
    }

    #[test]
    fn users_behind_one_address_do_not_share_a_bucket() {
        let limits = limits(true);
        let office = client("203.0.113.9");
        for _ in 0..50 {
            limits
                .check(Class::Writes, &office, Some(user_id!("@a:x")))
                .expect("within the burst");
        }
        assert!(
            limits
                .check(Class::Writes, &office, Some(user_id!("@a:x")))
                .is_err()
        );
        limits
            .check(Class::Writes, &office, Some(user_id!("@b:x")))
            .expect("another user");
    }

    #[test]
    fn one_household_of_ipv6_is_one_address() {
        let limits = limits(true);
        for host in 0..10 {
            let client = client(&format!("2001:db8:1:2::{host}"));
            limits
                .check(Class::Credentials, &client, None)
                .expect("within the burst");
        }
        assert!(
            limits
                .check(Class::Credentials, &client("2001:db8:1:2:3:4:5:6"), None)
                .is_err()
        );
        limits
            .check(Class::Credentials, &client("2001:db8:1:3::1"), None)
            .expect("another network");
    }

    #[test]
    fn off_is_off() {
        let limits = limits(false);
        for _ in 0..1000 {
            limits
                .check(Class::Credentials, &client("203.0.113.9"), None)
                .expect("no limit");
        }
    }

    #[test]
    fn memory_is_bounded_in_a_flood() {
        let buckets = Buckets::new(10, Duration::from_secs(5));
        for key in 0..3 * MAX_KEYS as u64 {
            _ = buckets.take(key);
        }
        let kept = buckets.limiter.read().expect("not poisoned").len();
        assert!(kept <= 2 * MAX_KEYS, "{kept} keys are kept");
    }

    #[test]
    fn endpoints_fall_into_their_classes() {
        use Class::{Credentials, Free, General, Writes};
        let cases = [
            (Method::POST, "/_matrix/client/v3/login", false, true, Credentials),
            (Method::GET, "/_matrix/client/v3/login", false, true, General),
            (
                Method::POST,
                "/_matrix/client/v3/register",
                false,
                true,
                Credentials,
            ),
            (Method::POST, "/_matrix/client/v3/refresh", false, true, General),
            (
                Method::PUT,
                "/_matrix/federation/v1/3pid/onbind",
                false,
                false,
                Credentials,
            ),
            (
                Method::POST,
                "/_matrix/client/v3/account/password",
                true,
                true,
                Credentials,
            ),
            (
                Method::DELETE,
                "/_matrix/client/v3/devices/{device_id}",
                true,
                false,
                Credentials,
            ),
            (
                Method::PUT,
                "/_matrix/client/v3/devices/{device_id}",
                true,
                false,
                General,
            ),
            (Method::GET, "/.well-known/matrix/client", false, false, Free),
            (
                Method::GET,
                "/_matrix/client/v3/directory/room/{room_alias}",
                false,
                false,
                General,
            ),
            (
                Method::GET,
                "/_matrix/federation/v1/openid/userinfo",
                false,
                false,
                General,
            ),
            (
                Method::PUT,
                "/_matrix/client/v3/directory/list/room/{room_id}",
                true,
                false,
                Writes,
            ),
            (Method::GET, "/_matrix/client/v3/sync", true, false, Free),
            (
                Method::PUT,
                "/_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}",
                true,
                false,
                Writes,
            ),
            (Method::POST, "/_matrix/client/v3/createRoom", true, false, Writes),
            (
                Method::POST,
                "/_matrix/client/v3/join/{room_id_or_alias}",
                true,
                true,
                Writes,
            ),
            (
                Method::PUT,
                "/_matrix/client/v3/rooms/{room_id}/typing/{user_id}",
                true,
                true,
                General,
            ),
            (
                Method::GET,
                "/_matrix/client/v3/rooms/{room_id}/messages",
                true,
                false,
                General,
            ),
            (
                Method::PUT,
                "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/account_data/{event_type}",
                true,
                false,
                General,
            ),
        ];
        for (method, path, of_users, rate_limited, expected) in cases {
            assert_eq!(
                class_of(&method, path, of_users, rate_limited),
                expected,
                "{method} {path}"
            );
        }
    }
}
