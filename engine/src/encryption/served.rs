//! What other servers may ask of keys: of this server's users only, and without what only their owners see.

use std::collections::BTreeMap;

use hearth_storage::{UserNid, cross_signing::Usage, device_lists};
use ruma::{
    CanonicalJsonObject, OwnedUserId, UInt,
    api::federation::{
        device::get_devices::v1 as get_devices,
        keys::{claim_keys::v1 as claim_keys, get_keys::v1 as get_keys},
    },
    serde::Raw,
};
use serde_json::value::{RawValue, to_raw_value};

use super::{claim, objects, published, query};
use crate::{Engine, Error, rooms::ServeError};

/// Users, or devices, of one request.
const MOST_AT_ONCE: usize = 10_000;

fn bounded(count: usize) -> Result<(), ServeError> {
    match count > MOST_AT_ONCE {
        true => Err(ServeError::Bad("too many users or devices at once".to_owned())),
        false => Ok(()),
    }
}

fn are_ours<'a>(
    engine: &Engine,
    mut user_ids: impl Iterator<Item = &'a OwnedUserId>,
) -> Result<(), ServeError> {
    let own = &engine.config.server_name;
    match user_ids.all(|user_id| user_id.server_name() == own) {
        true => Ok(()),
        false => Err(ServeError::Bad("a user is not of this server".to_owned())),
    }
}

fn raw<T>(object: &CanonicalJsonObject) -> Result<Raw<T>, Error> {
    let json: Box<RawValue> =
        to_raw_value(object).map_err(|error| Error::Damaged(format!("a key: {error}")))?;
    Ok(Raw::from_json(json))
}

/// `POST /user/keys/query`.
pub async fn user_keys(
    engine: &Engine,
    request: get_keys::Request,
) -> Result<get_keys::Response, ServeError> {
    bounded(request.device_keys.len())?;
    are_ours(engine, request.device_keys.keys())?;
    let user_ids: Vec<&OwnedUserId> = request.device_keys.keys().collect();
    let nids = query::find_users(engine, &user_ids).await?;
    let user_nids: Vec<UserNid> = nids.values().copied().collect();
    let mut published = published::of_users(engine, &user_nids, None).await?;
    let mut response = get_keys::Response::new(BTreeMap::new());
    for (user_id, wanted) in request.device_keys {
        let mut devices = BTreeMap::new();
        if let Some(user_nid) = nids.get(&user_id) {
            for (device_id, object) in published.devices.remove(user_nid).unwrap_or_default() {
                if wanted.is_empty() || wanted.iter().any(|wanted| wanted.as_str() == device_id) {
                    devices.insert(device_id.into(), raw(&object)?);
                }
            }
            for (usage, keys) in [
                (Usage::Master, &mut response.master_keys),
                (Usage::SelfSigning, &mut response.self_signing_keys),
            ] {
                if let Some(object) = published.cross_signing.remove(&(*user_nid, usage)) {
                    keys.insert(user_id.clone(), raw(&object)?);
                }
            }
        }
        response.device_keys.insert(user_id, devices);
    }
    Ok(response)
}

/// `POST /user/keys/claim`.
pub async fn claim_user_keys(
    engine: &Engine,
    request: claim_keys::Request,
) -> Result<claim_keys::Response, ServeError> {
    bounded(request.one_time_keys.values().map(BTreeMap::len).sum())?;
    are_ours(engine, request.one_time_keys.keys())?;
    let claimed = claim::claim_local(engine, &request.one_time_keys).await?;
    let mut keys = claim_keys::OneTimeKeys::new();
    for (user_id, devices) in claimed {
        let of_user = keys.entry(user_id).or_default();
        for (device_id, named) in devices {
            let named = named
                .into_iter()
                .filter_map(|(name, key)| Some((name.try_into().ok()?, Raw::from_json(key))));
            of_user.insert(device_id.into(), named.collect());
        }
    }
    Ok(claim_keys::Response::new(keys))
}

/// `GET /user/devices/{userId}`: the devices that have keys, and the position by which later changes name their
/// predecessor.
pub async fn devices(
    engine: &Engine,
    request: get_devices::Request,
) -> Result<get_devices::Response, ServeError> {
    let user_id = request.user_id;
    are_ours(engine, [&user_id].into_iter())?;
    let user_nid = engine.interner.find_user(&user_id).await.map_err(Error::from)?;
    let Some(user_nid) = user_nid else {
        return Ok(get_devices::Response::new(user_id, UInt::MIN));
    };
    // Before the devices are read: what changes in between is told once more.
    let version = {
        let mut connection = engine.db.acquire().await.map_err(Error::from)?;
        device_lists::version(&mut connection, user_nid)
            .await
            .map_err(Error::from)?
    };
    let mut published = published::of_users(engine, &[user_nid], None).await?;
    let stream_id = UInt::try_from(version.0).unwrap_or(UInt::MIN);
    let mut response = get_devices::Response::new(user_id, stream_id);
    for (device_id, mut object) in published.devices.remove(&user_nid).unwrap_or_default() {
        let display_name = objects::take_display_name(&mut object);
        let mut device = get_devices::UserDevice::new(device_id.into(), raw(&object)?);
        device.device_display_name = display_name;
        response.devices.push(device);
    }
    for (usage, key) in [
        (Usage::Master, &mut response.master_key),
        (Usage::SelfSigning, &mut response.self_signing_key),
    ] {
        if let Some(object) = published.cross_signing.remove(&(user_nid, usage)) {
            *key = Some(raw(&object)?);
        }
    }
    Ok(response)
}
