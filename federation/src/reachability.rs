//! How other servers did lately, and how long those that did not answer are left alone.
//!
//! Whoever asks other servers reports here and asks here first; the outbound queues go by the same waits.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};
use tokio::{sync::broadcast, time::Instant};

/// The first wait; each failure doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait in the first minutes of an outage: most are restarts.
const EARLY_MAX: Duration = Duration::from_secs(10);
/// How long that holds.
const EARLY: Duration = Duration::from_secs(10 * 60);
/// The longest wait.
const MAX: Duration = Duration::from_secs(60 * 60);
/// Servers that are remembered.
const SERVERS: usize = 50_000;
/// Reports that one who listens may be behind; a queue that misses one waits as it would have.
const HEARD: usize = 1024;

/// What is known of all servers, in memory.
pub struct Reachability {
    servers: Cache<OwnedServerName, Arc<Mutex<State>>>,
    heard: broadcast::Sender<OwnedServerName>,
}

/// How a server did lately.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Failures since it last answered.
    pub failures: u32,
    /// Since when it has not answered.
    pub failing_since: Option<Instant>,
    /// When it last answered, or asked something itself.
    pub last_success: Option<Instant>,
    /// Why it last failed; kept when it answers again.
    pub last_error: Option<String>,
    /// Not to be tried before.
    pub next_try: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    standing: Standing,
    last_failure: Option<Instant>,
}

impl Reachability {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self {
            servers: Cache::new(SERVERS),
            heard: broadcast::channel(HEARD).0,
        }
    }

    /// How a server did; `None` if it was never asked, or not for long.
    pub fn standing(&self, server: &ServerName) -> Option<Standing> {
        Some(self.servers.get(server)?.lock().standing.clone())
    }

    /// How long a server is still left alone by what can wait: deliveries.
    pub fn wait(&self, server: &ServerName) -> Option<Duration> {
        let state = self.servers.get(server)?;
        let next_try = state.lock().standing.next_try?;
        remaining(next_try)
    }

    /// How long it is still left alone by a request that somebody waits for. That is never long: the server may have
    /// come back without telling us.
    pub fn short_wait(&self, server: &ServerName) -> Option<Duration> {
        let state = self.servers.get(server)?;
        let state = state.lock();
        let next_try = state.standing.next_try?;
        let soon = state.last_failure? + EARLY_MAX;
        remaining(next_try.min(soon))
    }

    /// A request was answered.
    pub fn succeeded(&self, server: &ServerName) {
        self.is_there(server);
    }

    /// A server asked something of us, which was signed by its key: it is there.
    pub fn heard_from(&self, server: &ServerName) {
        self.is_there(server);
    }

    /// A request was not answered. Requests that were under way at the same time count as one failure.
    pub fn failed(&self, server: &ServerName, began: Instant, reason: &str) {
        let state = self.state(server);
        let mut state = state.lock();
        let now = Instant::now();
        state.standing.last_error = Some(reason.to_owned());
        if state.last_failure.is_some_and(|last| began < last) || state.standing.last_success > Some(began) {
            return;
        }
        let since = *state.standing.failing_since.get_or_insert(now);
        state.standing.failures = state.standing.failures.saturating_add(1);
        state.last_failure = Some(now);
        state.standing.next_try = Some(now + backoff(state.standing.failures, now - since));
    }

    /// The servers that are heard from after they had failed, as it happens.
    pub fn recovered(&self) -> broadcast::Receiver<OwnedServerName> {
        self.heard.subscribe()
    }

    /// Remembers that a server failed before this process began, `outage` ago. It may be tried at once.
    pub fn restore(&self, server: &ServerName, failures: u32, outage: Duration, last_error: Option<String>) {
        let state = self.state(server);
        let mut state = state.lock();
        if state.standing == Standing::default() {
            let now = Instant::now();
            state.standing.failures = failures;
            state.standing.failing_since = Some(now.checked_sub(outage).unwrap_or(now));
            state.standing.last_error = last_error;
        }
    }

    /// Leaves nobody alone any longer: an operator's `retry`.
    pub fn forgive(&self, server: &ServerName) {
        if let Some(state) = self.servers.get(server) {
            let mut state = state.lock();
            state.standing.next_try = None;
            state.last_failure = None;
        }
        let _ = self.heard.send(server.to_owned());
    }

    fn is_there(&self, server: &ServerName) {
        let was_failing = {
            let state = self.state(server);
            let mut state = state.lock();
            let was_failing = state.standing.failures > 0;
            state.last_failure = None;
            state.standing = Standing {
                last_success: Some(Instant::now()),
                last_error: state.standing.last_error.take(),
                ..Standing::default()
            };
            was_failing
        };
        if was_failing {
            // Nobody may be listening.
            let _ = self.heard.send(server.to_owned());
        }
    }

    fn state(&self, server: &ServerName) -> Arc<Mutex<State>> {
        let made = self
            .servers
            .get_or_insert_with(server, || Ok::<_, ()>(Arc::default()));
        made.unwrap_or_default()
    }
}

impl Default for Reachability {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Reachability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reachability")
            .field("servers", &self.servers.len())
            .finish_non_exhaustive()
    }
}

fn remaining(until: Instant) -> Option<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left)
}

/// How long a server is left alone after so many failures, the outage having lasted `outage`.
pub fn backoff(failures: u32, outage: Duration) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(20)));
    doubled.min(if outage < EARLY { EARLY_MAX } else { MAX })
}

#[cfg(test)]
mod tests {
    use ruma::server_name;
    use tokio::time::advance;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waits_double_and_are_short_in_the_first_ten_minutes() {
        let early: Vec<_> = (1..=6)
            .map(|failures| backoff(failures, seconds(60)).as_secs())
            .collect();
        assert_eq!(early, [1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff(7, EARLY), seconds(64));
        assert_eq!(backoff(u32::MAX, EARLY), MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_failed_is_left_alone_and_then_tried_again() {
        let (reachability, server) = (Reachability::new(), server_name!("a.example"));
        assert_eq!(reachability.wait(server), None);
        reachability.failed(server, Instant::now(), "refused");
        assert_eq!(reachability.wait(server), Some(seconds(1)));
        advance(seconds(1)).await;
        assert_eq!(reachability.wait(server), None);
        reachability.failed(server, Instant::now(), "refused again");
        assert_eq!(reachability.wait(server), Some(seconds(2)));
        let standing = reachability.standing(server).expect("it was asked");
        assert_eq!(
            (standing.failures, standing.last_error.as_deref()),
            (2, Some("refused again"))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_fail_together_count_once() {
        let (reachability, server) = (Reachability::new(), server_name!("a.example"));
        let began = Instant::now();
        advance(seconds(5)).await;
        for _ in 0..10 {
            reachability.failed(server, began, "no answer");
        }
        assert_eq!(reachability.standing(server).expect("it was asked").failures, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_somebody_waits_for_does_not_wait_out_an_hour() {
        let (reachability, server) = (Reachability::new(), server_name!("a.example"));
        for _ in 0..20 {
            advance(seconds(120)).await;
            reachability.failed(server, Instant::now(), "refused");
        }
        assert!(reachability.wait(server) > Some(seconds(60)));
        assert_eq!(reachability.short_wait(server), Some(EARLY_MAX));
        advance(EARLY_MAX).await;
        assert_eq!(reachability.short_wait(server), None);
    }

    #[tokio::test(start_paused = true)]
    async fn hearing_from_a_server_ends_its_wait_and_is_told() {
        let (reachability, server) = (Reachability::new(), server_name!("a.example"));
        let mut recovered = reachability.recovered();
        reachability.heard_from(server);
        assert!(recovered.try_recv().is_err(), "it had not failed");
        advance(seconds(1)).await;
        reachability.failed(server, Instant::now(), "refused");
        reachability.heard_from(server);
        assert_eq!(reachability.wait(server), None);
        assert_eq!(recovered.try_recv().as_deref(), Ok(server));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_goes_on_over_a_restart() {
        let (reachability, server) = (Reachability::new(), server_name!("a.example"));
        let mut recovered = reachability.recovered();
        advance(seconds(5)).await;
        reachability.restore(server, 12, seconds(3_600), Some("refused".to_owned()));
        assert_eq!(
            reachability.wait(server),
            None,
            "it is tried when the server starts"
        );
        reachability.heard_from(server);
        assert_eq!(recovered.try_recv().as_deref(), Ok(server));
        reachability.restore(server, 12, seconds(3_600), None);
        assert_eq!(
            reachability.standing(server).expect("it is known").failures,
            0,
            "what is known now counts"
        );
    }
}
