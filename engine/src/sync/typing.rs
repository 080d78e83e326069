//! Who is typing, for a sync.

use std::collections::HashMap;

use hearth_storage::{RoomNid, UserNid, log::Membership};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::Sync;
use crate::{Engine, Error, tokens::Ephemeral};

/// The rooms of the user in which who is typing has changed since the token; all in which someone types, where the
/// token says nothing of it, or is from another run of the server.
pub(super) fn changed(sync: &Sync<'_>) -> HashMap<RoomNid, Vec<UserNid>> {
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
    let rooms = match told {
        Some(told) => typing.changed_since(told.counter, is_joined),
        None => typing.present(is_joined),
    };
    rooms.into_iter().collect()
}

/// What a token says of typing now.
pub(super) fn now(engine: &Engine) -> Ephemeral {
    Ephemeral {
        run: engine.typing.run(),
        counter: engine.typing.version(),
    }
}

/// The `m.typing` event, without users who are ignored.
pub(super) async fn to_event(sync: &Sync<'_>, users: &[UserNid]) -> Result<Option<Box<RawValue>>, Error> {
    let ids = sync.engine.interner.user_ids(users).await?;
    let users = users.iter().filter_map(|user_nid| ids.get(user_nid));
    let users: Vec<_> = users
        .filter(|user_id| **user_id == sync.requester.user_id || !sync.user.preferences.ignores(user_id))
        .collect();
    Ok(to_raw_value(&json!({ "type": "m.typing", "content": { "user_ids": users } })).ok())
}
