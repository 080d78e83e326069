//! This server's keys, and those of others under its signature. For everybody: whoever asks has no key to show yet.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Extension, response::Response};
use hearth_endpoint::{MatrixError, Ruma, encode};
use ruma::api::federation::discovery::{
    get_remote_server_keys::v2 as get_remote_server_keys,
    get_remote_server_keys_batch::v2 as get_remote_server_keys_batch, get_server_keys::v2 as get_server_keys,
};

use crate::Federation;

/// `GET /_matrix/key/v2/server`
pub(super) async fn get_server_keys(
    Extension(federation): Extension<Arc<Federation>>,
    Ruma { .. }: Ruma<get_server_keys::Request>,
) -> Result<Response, MatrixError> {
    let keys = federation.keys.publish().map_err(MatrixError::internal)?;
    Ok(encode(get_server_keys::Response::new(keys)))
}

/// `GET /_matrix/key/v2/query/{serverName}`
pub(super) async fn get_remote_server_keys(
    Extension(federation): Extension<Arc<Federation>>,
    Ruma { request, .. }: Ruma<get_remote_server_keys::Request>,
) -> Result<Response, MatrixError> {
    let asked = BTreeMap::from([(request.server_name, BTreeMap::new())]);
    let keys = federation
        .keys
        .testify(asked)
        .await
        .map_err(MatrixError::internal)?;
    Ok(encode(get_remote_server_keys::Response::new(keys)))
}

/// `POST /_matrix/key/v2/query`
pub(super) async fn get_remote_server_keys_batch(
    Extension(federation): Extension<Arc<Federation>>,
    Ruma { request, .. }: Ruma<get_remote_server_keys_batch::Request>,
) -> Result<Response, MatrixError> {
    let asked = request.server_keys.into_iter().map(|(server, keys)| {
        let keys = keys
            .into_iter()
            .map(|(id, criteria)| (id, criteria.minimum_valid_until_ts));
        (server, keys.collect())
    });
    let keys = federation
        .keys
        .testify(asked.collect())
        .await
        .map_err(MatrixError::internal)?;
    Ok(encode(get_remote_server_keys_batch::Response::new(keys)))
}
