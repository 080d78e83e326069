//! Who is typing, for a sync.

use std::collections::HashMap;

use hearth_storage::{RoomNid, UserNid, log::Membership};
use ruma::UserId;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::Sync;
use crate::{Engine, Error, tokens::Ephemeral};

/// The rooms of the user in which who is typing has changed since the token; all in which someone types, where the
/// token says nothing of it, or is from another run of the server. What users who are ignored did is no change.
pub(super) async fn changed(sync: &Sync<'_>) -> Result<HashMap<RoomNid, Vec<UserNid>>, Error> {
    let typing = &sync.engine.typing;
    let is_joined = |room_nid| {
        sync.user
            .rooms
            .get(&room_nid)
            .is_some_and(|room| room.membership == Membership::Join)
    };
    let told = sync
        .since_token
        .and_then(|token| token.ephemeral)
        .filter(|told| told.run == typing.run());
    let mut changed = match told {
        Some(told) => typing.changed_since(told.counter, is_joined),
        None => typing.present(is_joined),
    };
    if let Some(part) = sync.part {
        // Of rooms that are still to be told, the token says nothing.
        changed.extend(typing.present(|room_nid| room_nid > part.upto_room && is_joined(room_nid)));
    }
    if !changed.is_empty() && sync.user.preferences.ignores_anybody() {
        let users: Vec<UserNid> = changed
            .iter()
            .flat_map(|room| room.by.iter().flatten().copied())
            .collect();
        let ids = sync.engine.interner.user_ids(&users).await?;
        let is_heard =
            |user_nid: &UserNid| ids.get(user_nid).is_none_or(|user_id| !is_ignored(sync, user_id));
        changed.retain(|room| room.by.as_ref().is_none_or(|by| by.iter().any(is_heard)));
    }
    Ok(changed
        .into_iter()
        .map(|room| (room.room_nid, room.typists))
        .collect())
}

fn is_ignored(sync: &Sync<'_>, user_id: &UserId) -> bool {
    *user_id != *sync.requester.user_id && sync.user.preferences.ignores(user_id)
}

/// What a token says of typing now.
pub(super) fn now(engine: &Engine) -> Ephemeral {
    Ephemeral {
        run: engine.typing.run(),
        counter: engine.typing.version(),
        presence: 0,
    }
}

/// The `m.typing` event, without users who are ignored.
pub(super) async fn to_event(sync: &Sync<'_>, users: &[UserNid]) -> Result<Option<Box<RawValue>>, Error> {
    let ids = sync.engine.interner.user_ids(users).await?;
    let users = users.iter().filter_map(|user_nid| ids.get(user_nid));
    let users: Vec<_> = users.filter(|user_id| !is_ignored(sync, user_id)).collect();
    Ok(to_raw_value(&json!({ "type": "m.typing", "content": { "user_ids": users } })).ok())
}
