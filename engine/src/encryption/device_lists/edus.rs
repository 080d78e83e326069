//! What other servers are told of changes: the present of a device, or of cross-signing keys (server-server API,
//! `m.device_list_update`, `m.signing_key_update`).

use std::{collections::BTreeSet, sync::Arc};

use hearth_storage::{
    Position, UserNid,
    cross_signing::Usage,
    device_lists::{self, LastChange},
};
use ruma::{CanonicalJsonObject, UserId};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::super::{objects, published};
use crate::{Engine, Error};

#[derive(Serialize)]
struct Edu<T> {
    edu_type: &'static str,
    content: T,
}

#[derive(Serialize)]
struct DeviceListUpdate<'a> {
    user_id: &'a UserId,
    device_id: &'a str,
    stream_id: i64,
    prev_id: Vec<i64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<CanonicalJsonObject>,
}

#[derive(Serialize)]
struct SigningKeyUpdate<'a> {
    user_id: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    master_key: Option<&'a CanonicalJsonObject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    self_signing_key: Option<&'a CanonicalJsonObject>,
}

/// The EDUs of changes of devices, and with empty IDs of cross-signing keys, in the order of the log.
pub(crate) async fn edus(
    engine: &Engine,
    changes: &[(UserNid, Arc<str>)],
) -> Result<Vec<Box<RawValue>>, Error> {
    let mut last = {
        let mut connection = engine.db.acquire().await?;
        device_lists::last_changes(&mut connection, changes).await?
    };
    last.sort_by_key(|change| change.position);
    let user_nids: BTreeSet<UserNid> = last.iter().map(|change| change.user_nid).collect();
    let user_nids: Vec<UserNid> = user_nids.into_iter().collect();
    let user_ids = engine.interner.user_ids(&user_nids).await?;
    let mut published = published::of_users(engine, &user_nids, None).await?;
    let mut edus = Vec::with_capacity(last.len());
    for change in &last {
        let Some(user_id) = user_ids.get(&change.user_nid) else {
            continue;
        };
        let edu = if change.device_id.is_empty() {
            let key = |usage| published.cross_signing.get(&(change.user_nid, usage));
            encode(
                "m.signing_key_update",
                SigningKeyUpdate {
                    user_id,
                    master_key: key(Usage::Master),
                    self_signing_key: key(Usage::SelfSigning),
                },
            )?
        } else {
            let devices = published.devices.get_mut(&change.user_nid);
            let device = devices.and_then(|devices| devices.remove(&*change.device_id));
            encode("m.device_list_update", update(user_id, change, device))?
        };
        edus.push(edu);
    }
    Ok(edus)
}

fn update<'a>(
    user_id: &'a UserId,
    change: &'a LastChange,
    mut device: Option<CanonicalJsonObject>,
) -> DeviceListUpdate<'a> {
    let prev_id = change.previous.map(|Position(previous)| previous);
    DeviceListUpdate {
        user_id,
        device_id: &change.device_id,
        stream_id: change.position.0,
        prev_id: prev_id.into_iter().collect(),
        deleted: device.is_none(),
        device_display_name: device.as_mut().and_then(objects::take_display_name),
        keys: device,
    }
}

fn encode(edu_type: &'static str, content: impl Serialize) -> Result<Box<RawValue>, Error> {
    to_raw_value(&Edu { edu_type, content }).map_err(|error| Error::Damaged(format!("a key: {error}")))
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_device_that_is_gone_is_told_as_deleted() {
        let change = LastChange {
            user_nid: UserNid::from(1),
            device_id: "D".into(),
            position: Position(7),
            previous: Some(Position(5)),
        };
        let told = serde_json::to_value(update(user_id!("@a:b"), &change, None)).expect("JSON");
        let gone =
            json!({ "user_id": "@a:b", "device_id": "D", "stream_id": 7, "prev_id": [5], "deleted": true });
        assert_eq!(told, gone);
        let mut device = CanonicalJsonObject::new();
        objects::add_display_name(&mut device, Some("Phone"));
        let told = serde_json::to_value(update(user_id!("@a:b"), &change, Some(device))).expect("JSON");
        assert_eq!(
            (&told["device_display_name"], &told["keys"]),
            (&json!("Phone"), &json!({}))
        );
    }
}
