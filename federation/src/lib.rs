//! Server-server: finding other servers, asking them, believing them, and answering what they ask.
//!
//! [`Federation`] is this server among the others. The engine asks through it ([`RemoteServers`]); [`routes`] are what
//! others ask. Rules of Matrix are the engine's: a handler here decodes, makes one call and encodes. Knows nothing of
//! SQL and of the client-server API.
//!
//! [`RemoteServers`]: hearth_engine::remote::RemoteServers

mod authenticate;
mod canonical;
mod client;
mod discovery;
mod identity_keys;
mod in_flight;
mod keys;
mod outbound;
mod policy;
mod reachability;
mod remote_servers;
mod routes;
mod turns;

use std::sync::Arc;

use hearth_endpoint::outgoing::Outgoing;
use hearth_engine::{Clock, Entropy, server_keys::ServerKeyStore};
use ruma::OwnedServerName;

pub use authenticate::{Federated, FederationRoutes};
pub use client::{Allowance, Client};
pub use keys::{KeyRing, OwnKeys, RetiredKey};
pub use policy::ServerPolicy;
pub use reachability::{Reachability, Standing};
pub use routes::routes;

use discovery::Discovery;
use turns::Turns;

/// This server among the others. One per server; two may live in one process.
#[derive(Debug)]
pub struct Federation {
    /// Asks other servers.
    pub client: Arc<Client>,
    /// The keys of all servers.
    pub keys: KeyRing,
    turns: Turns,
    /// Goes where URLs say, and not where servers are.
    web: Outgoing,
}

/// What [`Federation`] is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// This server's keys.
    pub own_keys: OwnKeys,
    /// Which servers it has to do with.
    pub policy: ServerPolicy,
    /// Who is asked for keys that their owner doesn't give.
    pub notaries: Vec<OwnedServerName>,
    /// Where keys are kept.
    pub store: ServerKeyStore,
    /// How requests leave.
    pub outgoing: &'a Outgoing,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

impl Federation {
    /// Puts the parts together. Nobody is asked for anything yet.
    pub fn new(parts: Parts<'_>) -> Arc<Self> {
        let own = Arc::new(parts.own_keys);
        let discovery = Discovery::new(parts.outgoing, parts.entropy);
        let client = Arc::new(Client::new(
            Arc::clone(&own),
            parts.policy,
            parts.outgoing,
            discovery,
        ));
        Arc::new(Self {
            keys: KeyRing::new(own, Arc::clone(&client), parts.notaries, parts.store, parts.clock),
            client,
            turns: Turns::default(),
            web: parts.outgoing.clone(),
        })
    }
}
