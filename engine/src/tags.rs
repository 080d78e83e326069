//! Tags of rooms (client-server API, "Room Tagging"): the account data `m.tag`, one tag at a time.

use std::sync::Arc;

use hearth_storage::{RoomNid, account_data, profiles};
use ruma::{RoomId, UserId};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    Engine,
    account_data::{AccountDataError, check, check_owner, check_usage, commit, own_room},
    accounts::Requester,
};

const TAG: &str = "m.tag";
/// A tag's name is at most this long, in bytes (client-server API, "Room Tagging").
const MAX_TAG_BYTES: usize = 255;

/// The requester's tags of a room, by name.
pub async fn get(
    engine: &Engine,
    requester: &Requester,
    user_id: &UserId,
    room_id: &RoomId,
) -> Result<Map<String, Value>, AccountDataError> {
    check_owner(requester, user_id)?;
    let Some(room_nid) = own_room(engine, requester, room_id).await? else {
        return Ok(Map::new());
    };
    let mut connection = engine.db.acquire().await?;
    let content = account_data::find(&mut connection, requester.user_nid, Some(room_nid), TAG).await?;
    Ok(tags_in(content.as_deref()))
}

/// Puts a tag on a room; `info` is JSON, an object.
pub async fn set(
    engine: &Arc<Engine>,
    requester: &Requester,
    user_id: &UserId,
    room_id: &RoomId,
    tag: &str,
    info: &RawValue,
) -> Result<(), AccountDataError> {
    check_owner(requester, user_id)?;
    if tag.len() > MAX_TAG_BYTES {
        return Err(AccountDataError::TypeTooLong);
    }
    let info = serde_json::from_str::<Map<String, Value>>(info.get())
        .map_err(|error| AccountDataError::BadContent(error.to_string()))?;
    let room_nid = own_room(engine, requester, room_id)
        .await?
        .ok_or(AccountDataError::UnknownRoom)?;
    let tag = tag.to_owned();
    change(engine, requester, room_nid, move |tags| {
        let info = Value::Object(info);
        tags.insert(tag, info.clone()).as_ref() != Some(&info)
    })
    .await
}

/// Takes a tag off a room.
pub async fn delete(
    engine: &Arc<Engine>,
    requester: &Requester,
    user_id: &UserId,
    room_id: &RoomId,
    tag: &str,
) -> Result<(), AccountDataError> {
    check_owner(requester, user_id)?;
    let Some(room_nid) = own_room(engine, requester, room_id).await? else {
        return Ok(());
    };
    let tag = tag.to_owned();
    change(engine, requester, room_nid, move |tags| {
        tags.remove(&tag).is_some()
    })
    .await
}

/// Puts the tags of one room on another that has none yet.
pub(crate) async fn carry_over(
    engine: &Arc<Engine>,
    requester: &Requester,
    from: RoomNid,
    to: RoomNid,
) -> Result<(), AccountDataError> {
    let carried = {
        let mut connection = engine.db.acquire().await?;
        let content = account_data::find(&mut connection, requester.user_nid, Some(from), TAG).await?;
        tags_in(content.as_deref())
    };
    if carried.is_empty() {
        return Ok(());
    }
    change(engine, requester, to, move |tags| {
        let is_untagged = tags.is_empty();
        if is_untagged {
            *tags = carried;
        }
        is_untagged
    })
    .await
}

/// Changes the tags of a room; `change` says whether it did change anything.
async fn change(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_nid: RoomNid,
    change: impl FnOnce(&mut Map<String, Value>) -> bool + Send + 'static,
) -> Result<(), AccountDataError> {
    let (engine, requester) = (Arc::clone(engine), requester.clone());
    // A task of its own: a caller that goes away must not open the lock before what it queued is committed.
    let task = tokio::spawn(async move {
        let mut transaction = engine.db.begin().await?;
        // Two devices that tag a room at once must not undo each other's work.
        profiles::lock(&mut transaction, requester.user_nid).await?;
        let content = account_data::find(&mut transaction, requester.user_nid, Some(room_nid), TAG).await?;
        let mut tags = tags_in(content.as_deref());
        if !change(&mut tags) {
            return Ok(());
        }
        let content = serde_json::json!({ "tags": tags }).to_string();
        check(TAG, &content)?;
        check_usage(&mut transaction, &requester, Some(room_nid), TAG, &content).await?;
        commit(&engine, &requester, Some(room_nid), TAG, &content).await
    });
    task.await
        .map_err(|error| crate::Error::Damaged(format!("tagging a room: {error}")))?
}

/// The tags in a content, which a client may have set to anything.
fn tags_in(content: Option<&str>) -> Map<String, Value> {
    let content = content.and_then(|content| serde_json::from_str::<Map<String, Value>>(content).ok());
    match content.and_then(|mut content| content.remove("tags")) {
        Some(Value::Object(tags)) => tags,
        _ => Map::new(),
    }
}
