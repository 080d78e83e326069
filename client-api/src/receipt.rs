//! Receipts.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{
    Engine,
    receipts::{self, Marker, Thread},
};
use ruma::{
    OwnedEventId, OwnedRoomId,
    api::{
        IncomingRequest,
        client::receipt::create_receipt::v3::{self as create_receipt_request, ReceiptType},
        error::DeserializationError,
    },
};
use serde_json::{Map, Value};

use crate::requests::{path, served_as};

/// `POST /_matrix/client/*/rooms/{roomId}/receipt/{receiptType}/{eventId}`
pub(crate) async fn create_receipt(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<CreateReceipt>,
) -> Result<create_receipt_request::Response, MatrixError> {
    let marker = marker(&request.receipt_type, request.thread_id)?;
    receipts::set(
        &engine,
        &requester,
        &request.room_id,
        &[(marker, &request.event_id)],
    )
    .await?;
    Ok(create_receipt_request::Response::new())
}

fn marker(receipt_type: &ReceiptType, thread_id: Option<Value>) -> Result<Marker, MatrixError> {
    match receipt_type {
        ReceiptType::Read => Ok(Marker::Read(thread(thread_id)?)),
        ReceiptType::ReadPrivate => Ok(Marker::ReadPrivate(thread(thread_id)?)),
        ReceiptType::FullyRead if thread_id.is_some() => {
            Err(MatrixError::invalid_param("`m.fully_read` is of no thread."))
        }
        ReceiptType::FullyRead => Ok(Marker::FullyRead),
        _ => Err(MatrixError::invalid_param(
            "This server knows no such type of receipt.",
        )),
    }
}

fn thread(thread_id: Option<Value>) -> Result<Thread, MatrixError> {
    match thread_id {
        None => Ok(Thread::Unthreaded),
        Some(Value::String(name)) if name == "main" => Ok(Thread::Main),
        Some(Value::String(root)) => match OwnedEventId::try_from(root) {
            Ok(root) => Ok(Thread::Root(root)),
            Err(_) => Err(MatrixError::invalid_param(
                "`thread_id` is an event ID or `main`.",
            )),
        },
        Some(_) => Err(MatrixError::invalid_param("`thread_id` is a string.")),
    }
}

/// The request of `create_receipt`. ruma's own refuses a bad `thread_id` as it refuses broken JSON, where the
/// specification has another code.
#[derive(Debug)]
pub(crate) struct CreateReceipt {
    room_id: OwnedRoomId,
    receipt_type: ReceiptType,
    event_id: OwnedEventId,
    thread_id: Option<Value>,
}

served_as!(CreateReceipt, create_receipt_request);

impl IncomingRequest for CreateReceipt {
    type EndpointError = <create_receipt_request::Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = create_receipt_request::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let (room_id, receipt_type, event_id) = path(path_args)?;
        let mut body: Map<String, Value> = serde_json::from_slice(request.body())?;
        Ok(Self {
            room_id,
            receipt_type,
            event_id,
            thread_id: body.remove("thread_id"),
        })
    }
}
