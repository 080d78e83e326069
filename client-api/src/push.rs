//! Push rules.

use std::sync::Arc;

use axum::{Json, extract::State};
use hearth_endpoint::{MatrixError, Ruma};
use hearth_engine::{Engine, push_rules};
use ruma::api::{
    IncomingRequest, Metadata,
    client::push::{
        delete_pushrule::v3 as delete_pushrule_request, get_pushrule::v3 as get_pushrule_request,
        get_pushrule_actions::v3 as get_pushrule_actions_request,
        get_pushrule_enabled::v3 as get_pushrule_enabled_request,
        get_pushrules_all::v3 as get_pushrules_all_request,
        get_pushrules_global_scope::v3 as get_pushrules_global_scope_request,
        set_pushrule::v3 as set_pushrule_request, set_pushrule_actions::v3 as set_pushrule_actions_request,
        set_pushrule_enabled::v3 as set_pushrule_enabled_request,
    },
    error::DeserializationError,
};
use serde_json::{Map, Value, json, value::RawValue};

/// `GET /_matrix/client/*/pushrules/`
pub(crate) async fn get_pushrules_all(
    State(engine): State<Arc<Engine>>,
    Ruma { requester, .. }: Ruma<get_pushrules_all_request::Request>,
) -> Result<Json<Box<RawValue>>, MatrixError> {
    json_of(&push_rules::all(&engine, &requester).await?)
}

/// `GET /_matrix/client/*/pushrules/global/`
pub(crate) async fn get_pushrules_global_scope(
    State(engine): State<Arc<Engine>>,
    Ruma { requester, .. }: Ruma<get_pushrules_global_scope_request::Request>,
) -> Result<Json<Box<RawValue>>, MatrixError> {
    json_of(&push_rules::global(&engine, &requester).await?)
}

/// `GET /_matrix/client/*/pushrules/global/{kind}/{ruleId}`
pub(crate) async fn get_pushrule(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_pushrule_request::Request>,
) -> Result<get_pushrule_request::Response, MatrixError> {
    let rule = push_rules::rule(&engine, &requester, request.kind, &request.rule_id).await?;
    Ok(get_pushrule_request::Response::new(rule.into()))
}

/// `GET /_matrix/client/*/pushrules/global/{kind}/{ruleId}/enabled`
pub(crate) async fn get_pushrule_enabled(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_pushrule_enabled_request::Request>,
) -> Result<get_pushrule_enabled_request::Response, MatrixError> {
    let rule = push_rules::rule(&engine, &requester, request.kind, &request.rule_id).await?;
    Ok(get_pushrule_enabled_request::Response::new(
        rule.as_ref().enabled(),
    ))
}

/// `GET /_matrix/client/*/pushrules/global/{kind}/{ruleId}/actions`
pub(crate) async fn get_pushrule_actions(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_pushrule_actions_request::Request>,
) -> Result<get_pushrule_actions_request::Response, MatrixError> {
    let rule = push_rules::rule(&engine, &requester, request.kind, &request.rule_id).await?;
    Ok(get_pushrule_actions_request::Response::new(
        rule.as_ref().actions().to_owned(),
    ))
}

/// `PUT /_matrix/client/*/pushrules/global/{kind}/{ruleId}`
pub(crate) async fn set_pushrule(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<SetPushRule>,
) -> Result<set_pushrule_request::Response, MatrixError> {
    let SetPushRule(request) = request;
    let (after, before) = (request.after.as_deref(), request.before.as_deref());
    push_rules::set(&engine, &requester, request.rule, after, before).await?;
    Ok(set_pushrule_request::Response::new())
}

/// `DELETE /_matrix/client/*/pushrules/global/{kind}/{ruleId}`
pub(crate) async fn delete_pushrule(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<delete_pushrule_request::Request>,
) -> Result<delete_pushrule_request::Response, MatrixError> {
    push_rules::delete(&engine, &requester, request.kind, &request.rule_id).await?;
    Ok(delete_pushrule_request::Response::new())
}

/// `PUT /_matrix/client/*/pushrules/global/{kind}/{ruleId}/enabled`
pub(crate) async fn set_pushrule_enabled(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<set_pushrule_enabled_request::Request>,
) -> Result<set_pushrule_enabled_request::Response, MatrixError> {
    push_rules::set_enabled(
        &engine,
        &requester,
        request.kind,
        &request.rule_id,
        request.enabled,
    )
    .await?;
    Ok(set_pushrule_enabled_request::Response::new())
}

/// `PUT /_matrix/client/*/pushrules/global/{kind}/{ruleId}/actions`
pub(crate) async fn set_pushrule_actions(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<set_pushrule_actions_request::Request>,
) -> Result<set_pushrule_actions_request::Response, MatrixError> {
    push_rules::set_actions(
        &engine,
        &requester,
        request.kind,
        &request.rule_id,
        request.actions,
    )
    .await?;
    Ok(set_pushrule_actions_request::Response::new())
}

fn json_of(rules: &str) -> Result<Json<Box<RawValue>>, MatrixError> {
    RawValue::from_string(rules.to_owned())
        .map(Json)
        .map_err(MatrixError::internal)
}

/// ruma's request, decoded as the specification has it: without `conditions` a rule has none.
pub(crate) struct SetPushRule(set_pushrule_request::Request);

impl Metadata for SetPushRule {
    const METHOD: http::Method = <set_pushrule_request::Request as Metadata>::METHOD;
    const RATE_LIMITED: bool = <set_pushrule_request::Request as Metadata>::RATE_LIMITED;
    type Authentication = <set_pushrule_request::Request as Metadata>::Authentication;
    type PathBuilder = <set_pushrule_request::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = <set_pushrule_request::Request as Metadata>::PATH_BUILDER;
}

impl IncomingRequest for SetPushRule {
    type EndpointError = <set_pushrule_request::Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = set_pushrule_request::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let (parts, body) = request.into_parts();
        let mut body: Map<String, Value> = serde_json::from_slice(body)?;
        body.entry("conditions").or_insert_with(|| json!([]));
        let body = serde_json::to_vec(&body)?;
        let request = http::Request::from_parts(parts, body.as_slice());
        set_pushrule_request::Request::try_from_http_request_inner(request, path_args).map(Self)
    }
}
