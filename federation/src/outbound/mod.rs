//! Sending to other servers what the engine says they are owed: a task for each that is owed something, with one
//! transaction under way.

mod send;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use hearth_engine::{
    Engine,
    outgoing::{self, Due},
};
use ruma::{OwnedServerName, ServerName};
use tokio::sync::Semaphore;

use crate::Federation;

/// Transactions under way at once, over all servers.
const UNDER_WAY: usize = 200;
/// How long the database is left alone after it failed.
const PAUSE: Duration = Duration::from_secs(1);

impl Federation {
    /// Begins to send what other servers are owed, until the engine shuts down.
    pub fn start_sending(self: &Arc<Self>, engine: &Arc<Engine>) {
        tokio::spawn(supervise(Arc::clone(self), Arc::downgrade(engine)));
    }

    /// Tries a server again at once that is left alone because it failed.
    pub fn retry(&self, server: &ServerName) {
        self.client.reachability.forgive(server);
    }
}

async fn supervise(federation: Arc<Federation>, engine: Weak<Engine>) {
    let Some(mut due) = begin(&federation, &engine).await else {
        return;
    };
    let Some(shutdown) = engine.upgrade().map(|engine| engine.shutdown.clone()) else {
        return;
    };
    let permits = Arc::new(Semaphore::new(UNDER_WAY));
    let mut recovered = federation.client.reachability.recovered();
    loop {
        let server = tokio::select! {
            () = shutdown.cancelled() => return,
            due = due.next() => match due {
                Some(server) => server,
                None => return,
            },
            heard = recovered.recv() => {
                if let (Ok(server), Some(engine)) = (heard, engine.upgrade()) {
                    outgoing::heard_from(&engine, &server);
                }
                continue;
            }
        };
        let sender = send::Sender {
            federation: Arc::clone(&federation),
            engine: Weak::clone(&engine),
            permits: Arc::clone(&permits),
            server,
        };
        tokio::spawn(sender.run());
    }
}

/// Has the engine tell who is due; tries until the database answers.
async fn begin(federation: &Arc<Federation>, engine: &Weak<Engine>) -> Option<Due> {
    loop {
        let alive = engine.upgrade()?;
        let client = Arc::clone(&federation.client);
        match outgoing::begin(&alive, move |server| client.is_allowed(server)).await {
            Ok(due) => {
                restore(federation, &alive);
                return Some(due);
            }
            Err(error) => tracing::warn!(%error, "could not see what other servers are owed; trying again"),
        }
        let shutdown = alive.shutdown.clone();
        drop(alive);
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Servers that failed when the last run ended fail still, until they answer: then their queues hear of it.
fn restore(federation: &Federation, engine: &Engine) {
    for (server, failures) in outgoing::failing(engine) {
        let outage = outage(engine, failures);
        federation
            .client
            .reachability
            .restore(&server, failures.count, outage, None);
    }
}

/// How long a server has failed.
fn outage(engine: &Engine, failures: outgoing::Failures) -> Duration {
    let now = engine.clock.now_ms();
    let since = failures.since.unwrap_or(now);
    Duration::from_millis(u64::try_from(now.saturating_sub(since)).unwrap_or(0))
}

/// Hears when a server is heard from.
struct Recovery(tokio::sync::broadcast::Receiver<OwnedServerName>);

impl Recovery {
    /// Returns when `server` was heard from after it had failed, or may have been.
    async fn of(&mut self, server: &ServerName) {
        use tokio::sync::broadcast::error::RecvError;
        loop {
            match self.0.recv().await {
                Ok(heard) if heard == server => return,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return,
                // Never: whoever waits here keeps the client.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}
