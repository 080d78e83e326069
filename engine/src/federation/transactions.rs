//! Transactions of other servers (server-server API, "Transactions"): one of a server at a time, each event judged
//! alone, each EDU applied as far as it is believed.

use std::sync::Arc;

use quick_cache::sync::Cache;
use ruma::{
    OwnedServerName, ServerName,
    api::federation::transactions::send_transaction_message::v1 as send_transaction,
};
use tokio::sync::Mutex;

use super::{Answers, ReceiveError, edus, receive_pdus};
use crate::{Engine, encryption::to_device::receive as to_device};

/// Events and EDUs in one transaction, by the specification.
const MOST_PDUS: usize = 50;
const MOST_EDUS: usize = 100;
/// Servers that are told apart. One that is forgotten while a transaction of it is worked on may have a second beside.
const SERVERS: usize = 10_000;

/// Why a transaction is not taken.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// It has more events than may be.
    #[error("a transaction has at most {MOST_PDUS} PDUs")]
    TooManyPdus,
    /// It has more EDUs than may be.
    #[error("a transaction has at most {MOST_EDUS} EDUs")]
    TooManyEdus,
    /// It says that it is of another server than the one that sends it.
    #[error("the transaction is of another server")]
    OtherOrigin,
    /// Its events are not taken now.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
}

/// Lets the transactions of one server be worked on one after the other.
#[derive(Debug)]
pub(crate) struct Transactions(Cache<OwnedServerName, Arc<Mutex<()>>>);

impl Transactions {
    pub fn new() -> Self {
        Self(Cache::new(SERVERS))
    }

    fn of(&self, origin: &ServerName) -> Arc<Mutex<()>> {
        let made = self
            .0
            .get_or_insert_with(origin, || Ok::<_, std::convert::Infallible>(Arc::default()));
        match made {
            Ok(turn) => turn,
        }
    }
}

/// `PUT /_matrix/federation/v1/send/{txnId}`. The events are kept, durably, when this returns.
pub async fn send_transaction_message(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: send_transaction::Request,
) -> Result<send_transaction::Response, TransactionError> {
    if request.pdus.len() > MOST_PDUS {
        return Err(TransactionError::TooManyPdus);
    }
    if request.edus.len() > MOST_EDUS {
        return Err(TransactionError::TooManyEdus);
    }
    if request.origin != *origin {
        return Err(TransactionError::OtherOrigin);
    }
    let turn = engine.inbound_transactions.of(origin);
    let _turn = turn.lock().await;
    // Before its events count: a device must not be told of what was said after a message to it first.
    to_device::receive(engine, origin, &request.edus)
        .await
        .map_err(ReceiveError::from)?;
    // The same answer for a transaction that comes again; its EDUs say nothing new then.
    let answers: Answers =
        receive_pdus(engine, origin, request.transaction_id.as_str(), &request.pdus).await?;
    edus::receive_edus(engine, origin, &request.edus).await;
    metrics::counter!("hearth_federation_transactions_received_total").increment(1);
    Ok(send_transaction::Response::new(answers))
}
