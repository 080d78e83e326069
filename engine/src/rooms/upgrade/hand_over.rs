//! What goes over from a room to the one that replaces it: this server's aliases, the place in its directory, and what
//! its users keep for the room.
//!
//! Only between rooms that say so of each other: a create event alone can name any room as its predecessor.

use std::sync::Arc;

use hearth_storage::{account_data as stored, profiles, room_upgrades};
use ruma::{OwnedRoomId, RoomId};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::TOMBSTONE;
use crate::{
    Engine, Error,
    account_data::{self, AccountDataError},
    accounts::Requester,
    push_rules,
    rooms::{Room, by_id, read::current_state_event},
    tags, users,
};

const DIRECT: &str = "m.direct";

/// The room that replaces `old`, if it is known here and names it as its predecessor.
pub(super) async fn replacement(engine: &Engine, old: &Room) -> Result<Option<Arc<Room>>, Error> {
    let Some(new_id) = replaced_by(engine, old).await? else {
        return Ok(None);
    };
    let Some(new) = by_id(engine, &new_id).await? else {
        return Ok(None);
    };
    Ok((predecessor(engine, &new).await?.as_deref() == Some(&*old.id)).then_some(new))
}

/// The room that a tombstone leads to.
async fn replaced_by(engine: &Engine, old: &Room) -> Result<Option<OwnedRoomId>, Error> {
    #[derive(Deserialize)]
    struct Content {
        replacement_room: OwnedRoomId,
    }
    let Some(tombstone) = current_state_event(engine, old, TOMBSTONE, "").await? else {
        return Ok(None);
    };
    let content: Option<Content> = serde_json::from_str(tombstone.content().get()).ok();
    Ok(content.map(|content| content.replacement_room))
}

/// The room that a create event says came before.
async fn predecessor(engine: &Engine, new: &Room) -> Result<Option<OwnedRoomId>, Error> {
    #[derive(Deserialize)]
    struct Content {
        predecessor: Predecessor,
    }
    #[derive(Deserialize)]
    struct Predecessor {
        room_id: OwnedRoomId,
    }
    let Some(create) = current_state_event(engine, new, "m.room.create", "").await? else {
        return Ok(None);
    };
    let content: Option<Content> = serde_json::from_str(create.content().get()).ok();
    Ok(content.map(|content| content.predecessor.room_id))
}

/// After a user of this server joined a room: what they kept for the one that it replaces goes over, and where they are
/// the first here, so does what this server kept. What can't go over is no reason against the join.
pub(in crate::rooms) async fn to_who_joined(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    is_first: bool,
) {
    let handed_over = async {
        let Some(new) = by_id(engine, room_id).await? else {
            return Ok(());
        };
        let Some(old_id) = predecessor(engine, &new).await? else {
            return Ok(());
        };
        let Some(old) = by_id(engine, &old_id).await? else {
            return Ok(());
        };
        if replaced_by(engine, &old).await?.as_deref() != Some(&*new.id) {
            return Ok(());
        }
        if is_first {
            aliases_and_publication(engine, &old, &new).await?;
        }
        if users::load(engine, requester.user_nid)
            .await?
            .rooms
            .contains_key(&old.nid)
        {
            settings(engine, requester, &old, &new).await;
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = handed_over.await {
        tracing::warn!(%error, %room_id, "what was kept for a room did not go over to the one that replaces it");
    }
}

/// Has this server's aliases of a room lead to the one that replaces it, and publishes that in its stead.
pub(super) async fn aliases_and_publication(engine: &Engine, old: &Room, new: &Room) -> Result<(), Error> {
    let mut transaction = engine.db.begin().await?;
    room_upgrades::hand_over(&mut transaction, old.nid, new.nid).await?;
    transaction.commit().await?;
    engine.directory.changed();
    Ok(())
}

/// What a user keeps for a room holds for the one that replaces it, where they keep nothing for that yet: tags, push
/// rules, and whether it is a direct chat.
pub(super) async fn settings(engine: &Arc<Engine>, requester: &Requester, old: &Room, new: &Room) {
    let tags = tags::carry_over(engine, requester, old.nid, new.nid).await;
    let rules = push_rules::carry_over(engine, requester, &old.id, &new.id).await;
    let direct = direct(engine, requester, &old.id, &new.id).await;
    let failed = [
        tags.err().map(|error| error.to_string()),
        rules.err().map(|error| error.to_string()),
        direct.err().map(|error| error.to_string()),
    ];
    for error in failed.into_iter().flatten() {
        tracing::warn!(error, user_id = %requester.user_id, room_id = %new.id,
            "what a user keeps for a room did not go over to the one that replaces it");
    }
}

/// `m.direct`: with whom the old room was a direct chat, the new one is too.
async fn direct(
    engine: &Arc<Engine>,
    requester: &Requester,
    old: &RoomId,
    new: &RoomId,
) -> Result<(), AccountDataError> {
    let mut transaction = engine.db.begin().await?;
    // Two joins at once must not undo each other's work.
    profiles::lock(&mut transaction, requester.user_nid).await?;
    let content = stored::find(&mut transaction, requester.user_nid, None, DIRECT).await?;
    let Some(changed) = content.and_then(|content| with_room(&content, old, new)) else {
        return Ok(());
    };
    account_data::check(DIRECT, &changed)?;
    account_data::check_usage(&mut transaction, requester, None, DIRECT, &changed).await?;
    account_data::commit(engine, requester, None, DIRECT, &changed).await
}

/// The content of `m.direct` with `new` wherever `old` is. Nothing if that is so already.
fn with_room(content: &str, old: &RoomId, new: &RoomId) -> Option<String> {
    let mut content: Map<String, Value> = serde_json::from_str(content).ok()?;
    let mut is_changed = false;
    for rooms in content.values_mut().filter_map(Value::as_array_mut) {
        if rooms.iter().any(|room| room == old.as_str()) && !rooms.iter().any(|room| room == new.as_str()) {
            rooms.push(Value::String(new.to_string()));
            is_changed = true;
        }
    }
    is_changed.then(|| Value::Object(content).to_string())
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use serde_json::{Value, json};

    use super::with_room;

    #[test]
    fn a_direct_chat_goes_on_in_the_room_that_replaces_it() {
        let (old, new) = (room_id!("!old:a"), room_id!("!new:a"));
        let content = json!({ "@bob:b": ["!old:a", "!other:a"], "@carol:c": ["!other:a"], "x": 1 });
        let changed = with_room(&content.to_string(), old, new).expect("it is changed");
        let expected =
            json!({ "@bob:b": ["!old:a", "!other:a", "!new:a"], "@carol:c": ["!other:a"], "x": 1 });
        assert_eq!(serde_json::from_str::<Value>(&changed).expect("JSON"), expected);
        assert_eq!(with_room(&changed, old, new), None);
        assert_eq!(with_room("[]", old, new), None);
    }
}
