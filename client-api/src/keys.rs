//! Keys for end-to-end encryption.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use hearth_endpoint::{MatrixError, Ruma, signature_failures};
use hearth_engine::{
    Engine,
    encryption::{
        claim::{self, ClaimAnswer},
        cross_signing, device_lists,
        query::{self, QueryAnswer},
        signatures, upload,
    },
};
use ruma::{
    UInt,
    api::client::keys::{
        claim_keys::v3 as claim_keys_request, get_key_changes::v3 as get_key_changes_request,
        get_keys::v3 as get_keys_request, upload_keys::v3 as upload_keys_request,
        upload_signatures::v3 as upload_signatures_request,
        upload_signing_keys::v3 as upload_signing_keys_request,
    },
};

/// `POST /_matrix/client/*/keys/upload`
pub(crate) async fn upload_keys(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<upload_keys_request::Request>,
) -> Result<upload_keys_request::Response, MatrixError> {
    let counts = upload::upload(&engine, &requester, request).await?;
    let counts: BTreeMap<_, _> = counts
        .one_time
        .iter()
        .map(|(algorithm, count)| (algorithm.as_str().into(), UInt::new_saturating(*count)))
        .collect();
    Ok(upload_keys_request::Response::new(counts))
}

/// `POST /_matrix/client/*/keys/query`
pub(crate) async fn get_keys(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_keys_request::Request>,
) -> Result<Json<QueryAnswer>, MatrixError> {
    let answer = query::query(&engine, &requester, &request.device_keys, request.timeout).await?;
    Ok(Json(answer))
}

/// `POST /_matrix/client/*/keys/claim`
pub(crate) async fn claim_keys(
    State(engine): State<Arc<Engine>>,
    Ruma { request, .. }: Ruma<claim_keys_request::Request>,
) -> Result<Json<ClaimAnswer>, MatrixError> {
    Ok(Json(
        claim::claim(&engine, request.one_time_keys, request.timeout).await?,
    ))
}

/// `GET /_matrix/client/*/keys/changes`
pub(crate) async fn get_key_changes(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<get_key_changes_request::Request>,
) -> Result<get_key_changes_request::Response, MatrixError> {
    let lists = device_lists::changes(&engine, &requester, &request.from, &request.to).await?;
    Ok(get_key_changes_request::Response::new(
        lists.changed.into_iter().collect(),
        lists.left.into_iter().collect(),
    ))
}

/// `POST /_matrix/client/*/keys/device_signing/upload`
pub(crate) async fn upload_signing_keys(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<upload_signing_keys_request::Request>,
) -> Result<upload_signing_keys_request::Response, MatrixError> {
    cross_signing::upload(&engine, &requester, &request).await?;
    Ok(upload_signing_keys_request::Response::new())
}

/// `POST /_matrix/client/*/keys/signatures/upload`
pub(crate) async fn upload_signatures(
    State(engine): State<Arc<Engine>>,
    Ruma {
        request, requester, ..
    }: Ruma<upload_signatures_request::Request>,
) -> Result<Json<serde_json::Value>, MatrixError> {
    let failures = signatures::upload(&engine, &requester, &request.signed_keys).await?;
    Ok(Json(signature_failures(&failures)))
}
