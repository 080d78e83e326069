//! Sending to one server until it is owed nothing.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use hearth_engine::{
    Engine,
    outgoing::{self, Batch},
    remote::RemoteError,
};
use metrics::{counter, histogram};
use ruma::{
    OwnedServerName, api::federation::transactions::send_transaction_message::v1 as send_transaction,
    serde::Raw,
};
use serde_json::Value;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, sleep_until},
};

use super::{PAUSE, Recovery, outage};
use crate::{Federation, client::Allowance, reachability::backoff};

/// How long EDUs wait for others, where no event waits with them.
const GATHER: Duration = Duration::from_millis(50);
/// Between two attempts, however often a server is heard from that takes nothing itself: at first, and when it has
/// failed several times.
const LEAST: Duration = Duration::from_secs(1);
const LEAST_LATER: Duration = Duration::from_secs(10);
const LATER: u32 = 5;
/// How often a server is sent what it says it can't use, before that is left out.
const UNUSABLE: u32 = 3;

/// Sends to one server.
pub(super) struct Sender {
    pub federation: Arc<Federation>,
    pub engine: Weak<Engine>,
    pub permits: Arc<Semaphore>,
    pub server: OwnedServerName,
}

/// What came of a transaction.
enum Sent {
    Taken,
    /// Not taken; to be tried again after a while.
    Failed(Duration),
    /// This server has nothing to do with that one any more, or shuts down.
    Over,
}

impl Sender {
    /// Sends until the server is owed nothing, or this one shuts down.
    pub async fn run(self) {
        loop {
            let Some(engine) = self.engine.upgrade() else {
                return;
            };
            let shutdown = engine.shutdown.clone();
            if shutdown.is_cancelled() {
                return;
            }
            let gathers = !outgoing::is_pressing(&engine, &self.server);
            drop(engine);
            if gathers && shutdown.run_until_cancelled(sleep(GATHER)).await.is_none() {
                return;
            }
            let Some(Ok(permit)) = shutdown.run_until_cancelled(self.permits.acquire()).await else {
                return;
            };
            let Some(engine) = self.engine.upgrade() else {
                return;
            };
            let batch = match outgoing::next(&engine, &self.server).await {
                Ok(Some(batch)) => batch,
                Ok(None) if outgoing::rest(&engine, &self.server) => return,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(%error, server = %self.server, "could not read what a server is owed; trying again");
                    drop((engine, permit));
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let began = Instant::now();
            let mut recovery = Recovery(self.federation.client.reachability.recovered());
            let sent = self.send(&engine, batch).await;
            let failures = outgoing::failures(&engine, &self.server).count;
            drop((engine, permit));
            match sent {
                Sent::Taken => {}
                Sent::Over => return,
                Sent::Failed(wait) => {
                    let least = if failures < LATER { LEAST } else { LEAST_LATER };
                    let cut_short = async {
                        recovery.of(&self.server).await;
                        sleep_until(began + least).await;
                    };
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = sleep(wait) => {}
                        () = cut_short => {}
                    }
                }
            }
        }
    }

    async fn send(&self, engine: &Arc<Engine>, mut batch: Batch) -> Sent {
        let own_name = engine.config.server_name.clone();
        let mut request =
            send_transaction::Request::new(batch.txn_id.as_str().into(), own_name, engine.clock.now());
        request.pdus = std::mem::take(&mut batch.pdus);
        request.edus = std::mem::take(&mut batch.edus)
            .into_iter()
            .map(Raw::from_json)
            .collect();
        let (pdus, edus) = (request.pdus.len(), request.edus.len());
        let began = Instant::now();
        let asked = self
            .federation
            .client
            .ask(&self.server, request, Allowance::DELIVERY);
        let Some(answer) = engine.shutdown.run_until_cancelled(asked).await else {
            return Sent::Over;
        };
        histogram!("hearth_federation_transaction_seconds").record(began.elapsed().as_secs_f64());
        match answer {
            Ok(response) => {
                self.note_refused(&response);
                self.taken(engine, batch, (pdus, edus));
                Sent::Taken
            }
            Err(RemoteError::NotAllowed(_)) if !self.federation.client.is_allowed(&self.server) => {
                outgoing::drop_server(engine, &self.server);
                Sent::Over
            }
            // It took it: what it says of the events is of no consequence.
            Err(RemoteError::Malformed(_)) => {
                self.taken(engine, batch, (pdus, edus));
                Sent::Taken
            }
            Err(error) => self.failed(engine, batch, &error),
        }
    }

    fn taken(&self, engine: &Engine, batch: Batch, (pdus, edus): (usize, usize)) {
        counter!("hearth_federation_transactions_sent_total", "outcome" => "taken").increment(1);
        counter!("hearth_federation_pdus_sent_total").increment(pdus as u64);
        counter!("hearth_federation_edus_sent_total").increment(edus as u64);
        if let Some(oldest) = batch.oldest {
            let lag = engine.clock.now_ms().saturating_sub(oldest).max(0);
            histogram!("hearth_federation_delivery_lag_seconds").record(lag as f64 / 1000.0);
        }
        outgoing::delivered(engine, &self.server, batch);
    }

    fn failed(&self, engine: &Engine, batch: Batch, error: &RemoteError) -> Sent {
        counter!("hearth_federation_transactions_sent_total", "outcome" => "failed").increment(1);
        let before = outgoing::failures(engine, &self.server);
        if is_unusable(error) && before.count >= UNUSABLE {
            tracing::error!(%error, server = %self.server, "a server can't use a transaction, which is left out");
            outgoing::delivered(engine, &self.server, batch);
            return Sent::Taken;
        }
        let wait = backoff(before.count.saturating_add(1), outage(engine, before)).max(asked_to_wait(error));
        if before.count == 0 {
            tracing::info!(%error, server = %self.server, "a server takes nothing at the moment");
        }
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        let retry_at = engine.clock.now_ms().saturating_add(wait_ms);
        outgoing::failed(engine, &self.server, batch, error.to_string(), retry_at);
        Sent::Failed(wait)
    }

    fn note_refused(&self, response: &send_transaction::Response) {
        for (event_id, outcome) in &response.pdus {
            if let Err(reason) = outcome {
                let reason: String = reason.chars().take(300).collect();
                counter!("hearth_federation_pdus_refused_total").increment(1);
                tracing::info!(server = %self.server, %event_id, reason, "a server refused an event");
            }
        }
    }
}

/// Whether the same would be refused again: the transaction is at fault, not the moment.
fn is_unusable(error: &RemoteError) -> bool {
    matches!(
        error,
        RemoteError::Refused {
            status: 400 | 413 | 422,
            ..
        }
    )
}

/// How long a server asks to be left alone, up to an hour.
fn asked_to_wait(error: &RemoteError) -> Duration {
    let asked = match error {
        RemoteError::Refused {
            status: 429,
            body: Some(body),
            ..
        } => body
            .get("retry_after_ms")
            .and_then(Value::as_u64)
            .map(Duration::from_millis),
        // Other requests to it failed; nothing was tried.
        RemoteError::Unreachable { retry_after, .. } => retry_after.map(|wait| wait.min(LEAST_LATER)),
        _ => None,
    };
    asked.unwrap_or_default().min(Duration::from_secs(3_600))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(status: u16, body: Value) -> RemoteError {
        RemoteError::Refused {
            status,
            errcode: String::new(),
            error: String::new(),
            body: Some(body),
        }
    }

    #[test]
    fn a_server_that_asks_for_time_gets_it_up_to_an_hour() {
        let wait = |ms: u64| asked_to_wait(&refused(429, json!({ "retry_after_ms": ms }))).as_secs();
        assert_eq!((wait(30_000), wait(u64::MAX)), (30, 3_600));
        assert_eq!(
            asked_to_wait(&refused(429, json!({ "retry_after_ms": "soon" }))),
            Duration::ZERO
        );
        assert_eq!(
            asked_to_wait(&refused(500, json!({ "retry_after_ms": 5 }))),
            Duration::ZERO
        );
    }

    #[test]
    fn only_what_is_wrong_with_the_transaction_itself_makes_it_unusable() {
        assert!(is_unusable(&refused(400, json!({}))));
        for status in [401, 403, 404, 429, 500, 502] {
            assert!(!is_unusable(&refused(status, json!({}))), "{status}");
        }
        let reason = String::new();
        assert!(!is_unusable(&RemoteError::Unreachable {
            reason,
            retry_after: None
        }));
    }
}
