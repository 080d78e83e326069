//! `.well-known/matrix/server`: asked for once, kept as long as it says, failures kept for longer each time.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use hearth_endpoint::outgoing::{Limits, Outgoing};
use http::{HeaderMap, Request, Response, StatusCode, header::CACHE_CONTROL};
use quick_cache::sync::Cache;
use ruma::OwnedServerName;
use serde::Deserialize;
use tokio::time::Instant;

use crate::in_flight::InFlight;

/// A valid answer is at most a few hundred bytes.
const LIMITS: Limits = Limits {
    body_bytes: 50 << 10,
    total: Duration::from_secs(10),
    redirects: 5,
};
/// How long a valid answer is kept: without word from it, at least, and at most (the specification's figures, and a
/// bound from below so that nobody has us ask with every request).
const DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
const LEAST: Duration = Duration::from_secs(5 * 60);
const MOST: Duration = Duration::from_secs(48 * 60 * 60);
/// How long a failure is kept: at first, doubling to at most an hour.
const FIRST_FAILURE: Duration = Duration::from_secs(2 * 60);
const LAST_FAILURE: Duration = Duration::from_secs(60 * 60);
/// Hosts that are remembered.
const HOSTS: usize = 20_000;

/// What each host said.
#[derive(Clone)]
pub(super) struct WellKnowns {
    outgoing: Outgoing,
    known: Arc<Cache<String, Known>>,
    asking: Arc<InFlight<String, Option<OwnedServerName>>>,
}

/// What is kept of a host.
#[derive(Debug, Clone)]
struct Known {
    delegated: Option<OwnedServerName>,
    /// When the valid answer came, where there was one.
    since: Option<Instant>,
    /// Not asked again before.
    until: Instant,
    failures: u32,
}

/// What came of asking.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// A valid answer, to be kept so long.
    Delegated(OwnedServerName, Duration),
    /// That there is none, or nothing that is valid.
    Nothing,
    /// Nothing for now: the host could not be asked, or had a failure of its own.
    Unknown,
}

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "m.server")]
    server: OwnedServerName,
}

impl WellKnowns {
    pub(super) fn new(outgoing: Outgoing) -> Self {
        Self {
            outgoing,
            known: Arc::new(Cache::new(HOSTS)),
            asking: Arc::default(),
        }
    }

    /// To whom `host` delegates.
    pub(super) async fn of(&self, host: &str) -> Option<OwnedServerName> {
        let host = host.to_ascii_lowercase();
        if let Some(known) = self.known.get(&host)
            && Instant::now() < known.until
        {
            return known.delegated;
        }
        let this = self.clone();
        let key = host.clone();
        self.asking
            .run(key, || async move { this.refresh(host).await })
            .await?
    }

    async fn refresh(&self, host: String) -> Option<OwnedServerName> {
        let said = self.ask(&host).await;
        let known = next(self.known.get(&host), said, Instant::now());
        let delegated = known.delegated.clone();
        self.known.insert(host, known);
        delegated
    }

    async fn ask(&self, host: &str) -> Said {
        let request = Request::get(format!("https://{host}/.well-known/matrix/server")).body(Bytes::new());
        let Ok(request) = request else {
            return Said::Nothing;
        };
        match self.outgoing.send(request, &LIMITS).await {
            Ok(response) => read(&response),
            Err(error) => {
                tracing::debug!(host, %error, "no .well-known");
                Said::Unknown
            }
        }
    }
}

impl fmt::Debug for WellKnowns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WellKnowns")
            .field("known", &self.known.len())
            .finish_non_exhaustive()
    }
}

fn read(response: &Response<Bytes>) -> Said {
    let status = response.status();
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Said::Unknown;
    }
    if status != StatusCode::OK {
        return Said::Nothing;
    }
    // Whatever content type it comes with: many web servers don't know a file without an ending.
    match serde_json::from_slice::<Body>(response.body()) {
        Ok(body) => Said::Delegated(body.server, kept_for(response.headers())),
        Err(_) => Said::Nothing,
    }
}

/// By the answer's `Cache-Control`, within bounds.
fn kept_for(headers: &HeaderMap) -> Duration {
    let mut kept = None;
    for line in headers.get_all(CACHE_CONTROL) {
        for directive in line.to_str().unwrap_or_default().split(',') {
            let directive = directive.trim().to_ascii_lowercase();
            match directive.split_once('=') {
                None if ["no-store", "no-cache"].contains(&directive.as_str()) => return LEAST,
                Some(("max-age", age)) => {
                    let seconds = age.trim_matches('"').parse().ok();
                    kept = kept.or(seconds.map(Duration::from_secs));
                }
                _ => {}
            }
        }
    }
    kept.unwrap_or(DEFAULT).clamp(LEAST, MOST)
}

/// What is kept after a host was asked. An answer outlives failures of the host to repeat it, as long as an answer is
/// kept at most: a web server that is down for an hour must not move a Matrix server.
fn next(before: Option<Known>, said: Said, now: Instant) -> Known {
    let failures = before.as_ref().map_or(0, |known| known.failures) + 1;
    let again = FIRST_FAILURE
        .saturating_mul(1 << (failures - 1).min(10))
        .min(LAST_FAILURE);
    let failed = |delegated, since| Known {
        delegated,
        since,
        until: now + again,
        failures,
    };
    match (said, before) {
        (Said::Delegated(server, kept), _) => Known {
            delegated: Some(server),
            since: Some(now),
            until: now + kept,
            failures: 0,
        },
        (
            Said::Unknown,
            Some(Known {
                delegated,
                since: Some(since),
                ..
            }),
        ) if now < since + MOST => failed(delegated, Some(since)),
        (Said::Nothing | Said::Unknown, _) => failed(None, None),
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_server_name;

    use super::*;

    fn answer(status: u16, cache_control: Option<&str>, body: &str) -> Said {
        let mut response = Response::builder().status(status);
        if let Some(value) = cache_control {
            response = response.header(CACHE_CONTROL, value);
        }
        read(
            &response
                .body(Bytes::copy_from_slice(body.as_bytes()))
                .expect("a response"),
        )
    }

    fn delegated(kept: Duration) -> Said {
        Said::Delegated(owned_server_name!("m.a.example:443"), kept)
    }

    const VALID: &str = r#"{"m.server": "m.a.example:443"}"#;

    #[test]
    fn a_valid_answer_is_kept_as_it_says_within_bounds() {
        assert_eq!(answer(200, None, VALID), delegated(DEFAULT));
        assert_eq!(
            answer(200, Some("public, max-age=3600"), VALID),
            delegated(Duration::from_secs(3600))
        );
        assert_eq!(answer(200, Some("max-age=0"), VALID), delegated(LEAST));
        assert_eq!(answer(200, Some("no-store"), VALID), delegated(LEAST));
        assert_eq!(
            answer(200, Some("max-age=99999999999999999999"), VALID),
            delegated(DEFAULT)
        );
        assert_eq!(answer(200, Some("max-age=9999999"), VALID), delegated(MOST));
    }

    #[test]
    fn what_is_not_valid_says_nothing() {
        for body in [
            "",
            "{}",
            "[]",
            r#"{"m.server": 1}"#,
            r#"{"m.server": "a b"}"#,
            "<html>",
        ] {
            assert_eq!(answer(200, None, body), Said::Nothing, "{body}");
        }
        assert_eq!(answer(404, None, VALID), Said::Nothing);
        assert_eq!(answer(201, None, VALID), Said::Nothing);
        assert_eq!(answer(502, None, VALID), Said::Unknown);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_kept_for_longer_each_time() {
        let mut known = None;
        let mut kept = Vec::new();
        for _ in 0..7 {
            let now = Instant::now();
            let next = next(known, Said::Nothing, now);
            kept.push((next.until - now).as_secs() / 60);
            known = Some(next);
        }
        assert_eq!(kept, [2, 4, 8, 16, 32, 60, 60]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_outlives_failures_to_repeat_it_but_not_its_withdrawal() {
        let first = next(None, delegated(LEAST), Instant::now());
        let silent = next(Some(first.clone()), Said::Unknown, Instant::now());
        assert_eq!(silent.delegated, first.delegated);
        assert_eq!(
            next(Some(silent.clone()), Said::Nothing, Instant::now()).delegated,
            None
        );
        tokio::time::advance(MOST).await;
        assert_eq!(next(Some(silent), Said::Unknown, Instant::now()).delegated, None);
    }
}
