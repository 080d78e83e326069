//! How much of this server one other may have at a time.

use std::sync::Arc;

use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests of one server that are worked on at a time; more wait.
const AT_A_TIME: usize = 16;
/// Servers that are told apart. Whoever is forgotten starts anew.
const SERVERS: usize = 10_000;

/// The turns of all servers.
#[derive(Debug)]
pub(crate) struct Turns(Cache<OwnedServerName, Arc<Semaphore>>);

impl Turns {
    /// Waits until a request of `origin` may be worked on.
    pub(crate) async fn wait(&self, origin: &ServerName) -> Option<OwnedSemaphorePermit> {
        let made = self
            .0
            .get_or_insert_with(origin, || Ok::<_, ()>(Arc::new(Semaphore::new(AT_A_TIME))));
        made.ok()?.acquire_owned().await.ok()
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self(Cache::new(SERVERS))
    }
}
