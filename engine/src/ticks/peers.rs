//! Which other servers are of this kind: only these are told what was delivered. Asked once and remembered for a day; in
//! memory.

use quick_cache::sync::Cache;
use ruma::{
    OwnedServerName, ServerName, api::federation::discovery::get_server_version::v1 as get_server_version,
};

use crate::{Engine, remote::RemoteError};

/// Servers that are remembered.
const MOST: usize = 10_000;
/// How long an answer is, in milliseconds; an answer that is no version is one, too.
const A_DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// How long a server is left alone at most that gave none; less where it is known to be tried again sooner.
const A_WHILE_MS: i64 = 10 * 60 * 1000;

/// What this server calls its kind, in answer to `/_matrix/federation/v1/version`.
const NAME: &str = "Hearth";

/// The servers that were asked.
#[derive(Debug)]
pub(super) struct Peers(Cache<OwnedServerName, Known>);

#[derive(Debug, Clone, Copy)]
struct Known {
    is_hearth: bool,
    /// Milliseconds.
    until: i64,
}

impl Peers {
    pub fn new() -> Self {
        Self(Cache::new(MOST))
    }

    fn known(&self, server: &ServerName, now: i64) -> Option<bool> {
        let known = self.0.get(server)?;
        (now < known.until).then_some(known.is_hearth)
    }
}

/// Of some servers those that are known to be of this kind, and those of which it isn't known.
pub(crate) fn among<'a>(
    engine: &Engine,
    servers: impl Iterator<Item = &'a OwnedServerName>,
) -> (Vec<&'a OwnedServerName>, Vec<OwnedServerName>) {
    let now = engine.clock.now_ms();
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for server in servers.filter(|server| **server != engine.config.server_name) {
        match engine.ticks.peers.known(server, now) {
            Some(true) => known.push(server),
            Some(false) => {}
            None => unknown.push(server.clone()),
        }
    }
    (known, unknown)
}

/// Whether a server is of this kind. Asks it where that isn't known; several who want to know wait for one answer.
pub(crate) async fn is_hearth(engine: &Engine, server: &ServerName) -> bool {
    let peers = &engine.ticks.peers;
    if let Some(known) = peers.known(server, engine.clock.now_ms()) {
        return known;
    }
    let is_over = |known: &Known| engine.clock.now_ms() >= known.until;
    if peers.0.get(server).is_some_and(|known| is_over(&known)) {
        peers.0.remove(server);
    }
    let known = peers.0.get_or_insert_async(server, async {
        Ok::<_, std::convert::Infallible>(ask(engine, server).await)
    });
    let Ok(known) = known.await;
    known.is_hearth
}

async fn ask(engine: &Engine, server: &ServerName) -> Known {
    let answer = engine
        .remote
        .version(server, get_server_version::Request::new())
        .await;
    let is_hearth = answer.as_ref().is_ok_and(|response| {
        response.server.as_ref().and_then(|server| server.name.as_deref()) == Some(NAME)
    });
    let lasts = match answer.as_ref().err() {
        Some(RemoteError::Unreachable {
            retry_after: Some(wait),
            ..
        }) => i64::try_from(wait.as_millis()).map_or(A_WHILE_MS, |wait| wait.min(A_WHILE_MS)),
        Some(error) if error.is_passing() => A_WHILE_MS,
        _ => A_DAY_MS,
    };
    Known {
        is_hearth,
        until: engine.clock.now_ms().saturating_add(lasts),
    }
}
