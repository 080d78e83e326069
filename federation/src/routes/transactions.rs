//! What other servers send on their own account.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::MatrixError;
use hearth_engine::{Engine, federation};
use ruma::api::federation::transactions::send_transaction_message::v1 as send_transaction_message;

use crate::Federated;

/// `PUT /_matrix/federation/v1/send/{txnId}`
pub(super) async fn send_transaction_message(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<send_transaction_message::Request>,
) -> Result<send_transaction_message::Response, MatrixError> {
    Ok(federation::send_transaction_message(&engine, &origin, request).await?)
}
