//! The key ring: the keys of all servers, from memory, from the database, from the servers themselves and from
//! notaries, in this order (server-server API, "Retrieving server keys").
//!
//! What a key is asked for has a time: from room version 5 on, a key that was not valid then is none. A time of 0 asks
//! for a key of any validity.

mod fetch;
mod notary;
mod own;
mod verify;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use hearth_engine::{
    Clock,
    remote::KeysWanted,
    server_keys::{ServerKey, ServerKeyStore},
};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, OwnedServerSigningKeyId, ServerName, serde::Base64, signatures::PublicKeyMap};
use tokio::{sync::Semaphore, time::Instant};

use crate::{client::Client, in_flight::InFlight};
use verify::{Key, Statement};

pub use own::{OwnKeys, RetiredKey};

/// Servers whose keys are in memory.
const SERVERS: usize = 20_000;
/// Servers that are asked at a time.
const AT_A_TIME: usize = 32;
/// A server that has told its keys is not asked again before.
const AFTER_SUCCESS: Duration = Duration::from_secs(60);
/// A server that has not is left alone for this long, doubling. Not for long: it may come back, and then nothing that it
/// sends can be believed before its keys are known.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(2 * 60);

/// The keys of all servers.
#[derive(Debug, Clone)]
pub struct KeyRing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    own: Arc<OwnKeys>,
    client: Arc<Client>,
    notaries: Vec<OwnedServerName>,
    store: ServerKeyStore,
    clock: Arc<dyn Clock>,
    memory: Cache<OwnedServerName, Arc<Mutex<Known>>>,
    asking: InFlight<OwnedServerName, ()>,
    places: Semaphore,
}

/// What is known of a server.
#[derive(Debug, Default)]
struct Known {
    keys: BTreeMap<OwnedServerSigningKeyId, Key>,
    /// Whether the database was looked at.
    is_recalled: bool,
    failures: u32,
    /// The server is not asked again before.
    next_ask: Option<Instant>,
    /// Notaries are not asked about it again before.
    next_notary: Option<Instant>,
}

impl KeyRing {
    pub(crate) fn new(
        own: Arc<OwnKeys>,
        client: Arc<Client>,
        notaries: Vec<OwnedServerName>,
        store: ServerKeyStore,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self(Arc::new(Inner {
            own,
            client,
            notaries,
            store,
            clock,
            memory: Cache::new(SERVERS),
            asking: InFlight::default(),
            places: Semaphore::new(AT_A_TIME),
        }))
    }

    /// This server's own keys.
    pub fn own(&self) -> &OwnKeys {
        &self.0.own
    }

    /// The keys wanted, as far as they can be had. Many may want the same: each server is asked once.
    pub async fn public_keys(&self, wanted: &KeysWanted) -> PublicKeyMap {
        let mut found = PublicKeyMap::new();
        let mut missing = self.in_memory(wanted, &mut found);
        if !missing.is_empty() {
            self.recall(missing.keys()).await;
            missing = self.in_memory(&missing, &mut found);
        }
        if !missing.is_empty() {
            stream::iter(missing.keys())
                .for_each_concurrent(AT_A_TIME, |server| self.ask(server))
                .await;
            missing = self.in_memory(&missing, &mut found);
        }
        for notary in &self.0.notaries {
            if missing.is_empty() {
                break;
            }
            self.ask_notary(notary, &missing).await;
            missing = self.in_memory(&missing, &mut found);
        }
        if !missing.is_empty() {
            tracing::debug!(servers = missing.len(), "keys of some servers can't be had");
        }
        found
    }

    /// Adds what is in memory to `found`, and says what isn't.
    fn in_memory(&self, wanted: &KeysWanted, found: &mut PublicKeyMap) -> KeysWanted {
        let mut missing = KeysWanted::new();
        for (server, keys) in wanted {
            let known = self.0.memory.get(server);
            let known = known.as_ref().map(|known| known.lock());
            for (id, time) in keys {
                let key = if *server == *self.0.own.server_name() {
                    self.0.own.valid_at(*time).remove(id.as_str())
                } else {
                    let key = known.as_ref().and_then(|known| known.keys.get(id));
                    key.filter(|key| key.valid_until >= i64::from(time.0))
                        .map(|key| key.public_key.clone())
                };
                match key {
                    Some(key) => {
                        found
                            .entry(server.to_string())
                            .or_default()
                            .insert(id.to_string(), key);
                    }
                    None if *server == *self.0.own.server_name() => {}
                    None => {
                        missing
                            .entry(server.clone())
                            .or_default()
                            .insert(id.clone(), *time);
                    }
                }
            }
        }
        missing
    }

    /// Brings to memory what the database knows of servers.
    async fn recall(&self, servers: impl Iterator<Item = &OwnedServerName>) {
        let unknown: Vec<_> = servers
            .filter(|server| !self.known(server).lock().is_recalled)
            .cloned()
            .collect();
        if unknown.is_empty() {
            return;
        }
        let stored = match self.0.store.of_servers(&unknown).await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(%error, "stored keys can't be read");
                return;
            }
        };
        for key in stored {
            let (Ok(server), Ok(id)) = (
                ServerName::parse(&key.server_name),
                key.key_id.as_str().try_into(),
            ) else {
                continue;
            };
            let known = self.known(&server);
            // What came meanwhile is newer.
            known.lock().keys.entry(id).or_insert(Key {
                public_key: Base64::new(key.public_key),
                valid_until: key.valid_until,
                fetched_at: key.fetched_at,
            });
        }
        for server in &unknown {
            self.known(server).lock().is_recalled = true;
        }
    }

    /// Keeps what a server said, in memory and in the database. By way of a notary it may be older than what is known.
    async fn keep(&self, statement: Statement, is_first_hand: bool) {
        self.recall(std::iter::once(&statement.server)).await;
        let mut rows = Vec::new();
        {
            let known = self.known(&statement.server);
            let mut known = known.lock();
            for (id, key) in statement.keys {
                let before = known.keys.get(&id);
                if !is_first_hand && before.is_some_and(|before| before.valid_until >= key.valid_until) {
                    continue;
                }
                rows.push(ServerKey {
                    server_name: statement.server.to_string(),
                    key_id: id.to_string(),
                    public_key: key.public_key.as_bytes().to_vec(),
                    valid_until: key.valid_until,
                    fetched_at: key.fetched_at,
                    response: statement.json.clone(),
                });
                known.keys.insert(id, key);
            }
        }
        if let Err(error) = self.0.store.keep(&rows).await {
            // They are in memory, and can be asked for again.
            tracing::warn!(%error, server = %statement.server, "keys can't be stored");
        }
    }

    fn known(&self, server: &ServerName) -> Arc<Mutex<Known>> {
        let made = self
            .0
            .memory
            .get_or_insert_with(server, || Ok::<_, ()>(Arc::default()));
        made.unwrap_or_default()
    }
}
