//! Joins, leaves and knocks of other servers' users, and invites of this server's.

use std::sync::Arc;

use axum::extract::State;
use hearth_endpoint::MatrixError;
use hearth_engine::{Engine, federation, remote::invite_v1};
use ruma::api::federation::membership::{
    create_invite::v2 as create_invite, create_join_event::v2 as create_join_event,
    create_knock_event::v1 as create_knock_event, create_leave_event::v2 as create_leave_event,
    prepare_join_event::v1 as prepare_join_event, prepare_knock_event::v1 as prepare_knock_event,
    prepare_leave_event::v1 as prepare_leave_event,
};

use crate::Federated;

/// `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`
pub(super) async fn prepare_join_event(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<prepare_join_event::Request>,
) -> Result<prepare_join_event::Response, MatrixError> {
    Ok(federation::make_join(&engine, &origin, request).await?)
}

/// `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`
pub(super) async fn create_join_event(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<create_join_event::Request>,
) -> Result<create_join_event::Response, MatrixError> {
    Ok(federation::send_join(&engine, &origin, request).await?)
}

/// `GET /_matrix/federation/v1/make_leave/{roomId}/{userId}`
pub(super) async fn prepare_leave_event(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<prepare_leave_event::Request>,
) -> Result<prepare_leave_event::Response, MatrixError> {
    Ok(federation::make_leave(&engine, &origin, request).await?)
}

/// `PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}`
pub(super) async fn create_leave_event(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<create_leave_event::Request>,
) -> Result<create_leave_event::Response, MatrixError> {
    Ok(federation::send_leave(&engine, &origin, request).await?)
}

/// `GET /_matrix/federation/v1/make_knock/{roomId}/{userId}`
pub(super) async fn prepare_knock_event(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<prepare_knock_event::Request>,
) -> Result<prepare_knock_event::Response, MatrixError> {
    Ok(federation::make_knock(&engine, &origin, request).await?)
}

/// `PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}`
pub(super) async fn create_knock_event(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<create_knock_event::Request>,
) -> Result<create_knock_event::Response, MatrixError> {
    Ok(federation::send_knock(&engine, &origin, request).await?)
}

/// `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`
pub(super) async fn create_invite(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<create_invite::Request>,
) -> Result<create_invite::Response, MatrixError> {
    Ok(federation::invite(&engine, &origin, request).await?)
}

/// `PUT /_matrix/federation/v1/invite/{roomId}/{eventId}`
pub(super) async fn create_invite_v1(
    State(engine): State<Arc<Engine>>,
    Federated { origin, request, .. }: Federated<invite_v1::Request>,
) -> Result<invite_v1::Response, MatrixError> {
    Ok(federation::invite_v1(&engine, &origin, request).await?)
}
