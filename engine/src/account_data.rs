//! Account data, global and of rooms (client-server API, "Client Config").

use std::sync::Arc;

use hearth_storage::{
    Connection, RoomNid, account_data,
    log::{AccountData, Change, Fact},
};
use ruma::{RoomId, UserId};

use crate::{
    Engine, Error,
    accounts::Requester,
    push_rules::{self, PUSH_RULES},
    rooms, users,
};

/// `m.fully_read`, which read markers set.
pub(crate) const FULLY_READ: &str = "m.fully_read";
/// Types that only the server sets (client-server API, "Client Config", "Server Behaviour").
const SERVER_MANAGED: [&str; 2] = [FULLY_READ, PUSH_RULES];

/// A content is at most this long, in bytes of JSON: `m.direct` of an account with thousands of direct chats fits.
const MAX_CONTENT_BYTES: usize = 1 << 20;
/// Account data of one user, of all rooms together, without what the server manages: three types in each of 6,000 rooms fit.
const MAX_DATA: i64 = 20_000;
/// The length of all of these together, in bytes. A first sync carries them all.
const MAX_DATA_BYTES: i64 = 32 << 20;
/// A type is at most this long, in bytes, as those of events.
const MAX_TYPE_BYTES: usize = 255;

/// Why account data was not read or set.
#[derive(Debug, thiserror::Error)]
pub enum AccountDataError {
    /// It is another user's.
    #[error("you can see and change your own account data only")]
    NotYours,
    /// Only the server sets this type.
    #[error("{0} can't be set here: the server manages it")]
    ServerManaged(String),
    /// The type is too long.
    #[error("a type is at most {MAX_TYPE_BYTES} bytes long")]
    TypeTooLong,
    /// The content is no JSON object.
    #[error("account data is a JSON object: {0}")]
    BadContent(String),
    /// The content is too long.
    #[error("account data is at most {MAX_CONTENT_BYTES} bytes long")]
    TooLarge,
    /// The user has too much of it.
    #[error("one user keeps at most {MAX_DATA} account data of {MAX_DATA_BYTES} bytes together")]
    TooMuch,
    /// The user has nothing to do with the room, which may not exist.
    #[error("you have never been in this room")]
    UnknownRoom,
    /// There is no such account data.
    #[error("there is no such account data")]
    NotSet,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<hearth_storage::StorageError> for AccountDataError {
    fn from(error: hearth_storage::StorageError) -> Self {
        Self::Failed(error.into())
    }
}

/// The content of a type of the requester's global account data, JSON.
pub async fn get_global(
    engine: &Engine,
    requester: &Requester,
    user_id: &UserId,
    data_type: &str,
) -> Result<Arc<str>, AccountDataError> {
    check_owner(requester, user_id)?;
    let mut connection = engine.db.acquire().await?;
    let content = account_data::find(&mut connection, requester.user_nid, None, data_type).await?;
    if data_type == PUSH_RULES {
        return Ok(push_rules::told(&requester.user_id, content.as_deref())?);
    }
    content.ok_or(AccountDataError::NotSet)
}

/// The content of a type of the requester's account data for a room, JSON.
pub async fn get_room(
    engine: &Engine,
    requester: &Requester,
    user_id: &UserId,
    room_id: &RoomId,
    data_type: &str,
) -> Result<Arc<str>, AccountDataError> {
    check_owner(requester, user_id)?;
    let room_nid = own_room(engine, requester, room_id)
        .await?
        .ok_or(AccountDataError::NotSet)?;
    let mut connection = engine.db.acquire().await?;
    let content = account_data::find(&mut connection, requester.user_nid, Some(room_nid), data_type).await?;
    content.ok_or(AccountDataError::NotSet)
}

/// Sets a type of the requester's global account data to `content`, JSON. All of the user's devices hear of it, also
/// when it says what it said before.
pub async fn set_global(
    engine: &Engine,
    requester: &Requester,
    user_id: &UserId,
    data_type: &str,
    content: &str,
) -> Result<(), AccountDataError> {
    check_owner(requester, user_id)?;
    check(data_type, content)?;
    {
        let mut connection = engine.db.acquire().await?;
        check_usage(&mut connection, requester, None, data_type, content).await?;
    }
    commit(engine, requester, None, data_type, content).await
}

/// The same as [`set_global`] for a room: one that the user is or was in, or is invited to.
pub async fn set_room(
    engine: &Engine,
    requester: &Requester,
    user_id: &UserId,
    room_id: &RoomId,
    data_type: &str,
    content: &str,
) -> Result<(), AccountDataError> {
    check_owner(requester, user_id)?;
    check(data_type, content)?;
    let room_nid = own_room(engine, requester, room_id)
        .await?
        .ok_or(AccountDataError::UnknownRoom)?;
    {
        let mut connection = engine.db.acquire().await?;
        check_usage(&mut connection, requester, Some(room_nid), data_type, content).await?;
    }
    commit(engine, requester, Some(room_nid), data_type, content).await
}

/// Commits a content that was checked.
pub(crate) async fn commit(
    engine: &Engine,
    requester: &Requester,
    room_nid: Option<RoomNid>,
    data_type: &str,
    content: &str,
) -> Result<(), AccountDataError> {
    let data = AccountData {
        user_nid: requester.user_nid,
        room_nid,
        data_type: data_type.into(),
        content: content.into(),
    };
    engine
        .log
        .commit(Change::of(Fact::AccountData(data)))
        .await
        .map_err(Error::from)?;
    Ok(())
}

/// The room, if the user has any membership in it. To others it is no different from one that isn't there.
pub(crate) async fn own_room(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
) -> Result<Option<RoomNid>, Error> {
    let Some(room) = rooms::by_id(engine, room_id).await? else {
        return Ok(None);
    };
    let user = users::load(engine, requester.user_nid).await?;
    Ok(user.rooms.contains_key(&room.nid).then_some(room.nid))
}

pub(crate) fn check_owner(requester: &Requester, user_id: &UserId) -> Result<(), AccountDataError> {
    if requester.user_id == user_id {
        Ok(())
    } else {
        Err(AccountDataError::NotYours)
    }
}

/// Whether a user may keep a content beside what they keep already. Contents set at once may go a little beyond.
///
/// On the caller's connection: whoever holds one and waits for another may wait in vain.
pub(crate) async fn check_usage(
    connection: &mut Connection,
    requester: &Requester,
    room_nid: Option<RoomNid>,
    data_type: &str,
    content: &str,
) -> Result<(), AccountDataError> {
    let replaced = (room_nid, data_type);
    let (count, bytes) =
        account_data::usage_beside(connection, requester.user_nid, replaced, &SERVER_MANAGED).await?;
    let added = i64::try_from(data_type.len() + content.len()).unwrap_or(i64::MAX);
    if count >= MAX_DATA || bytes.saturating_add(added) > MAX_DATA_BYTES {
        return Err(AccountDataError::TooMuch);
    }
    Ok(())
}

/// Whether a content may be stored under a type.
pub(crate) fn check(data_type: &str, content: &str) -> Result<(), AccountDataError> {
    if SERVER_MANAGED.contains(&data_type) {
        return Err(AccountDataError::ServerManaged(data_type.to_owned()));
    }
    if data_type.len() > MAX_TYPE_BYTES {
        return Err(AccountDataError::TypeTooLong);
    }
    if content.len() > MAX_CONTENT_BYTES {
        return Err(AccountDataError::TooLarge);
    }
    // Read whole, and not only skipped over: a sync with a string in it that is no text can't be read by clients.
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(content) {
        Ok(_) => Ok(()),
        Err(error) => Err(AccountDataError::BadContent(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::{AccountDataError, MAX_CONTENT_BYTES, check};

    #[test]
    fn content_is_an_object_that_every_client_can_read() {
        assert!(check("org.example", r#"{"a":[1.5,null,{"b":"\u0000"}]}"#).is_ok());
        for bad in ["[]", "1", "", "{", r#"{"a":"\ud800"}"#, r#"{"a":1e999}"#] {
            assert!(
                matches!(check("org.example", bad), Err(AccountDataError::BadContent(_))),
                "{bad}"
            );
        }
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_CONTENT_BYTES));
        assert!(matches!(
            check("org.example", &large),
            Err(AccountDataError::TooLarge)
        ));
    }

    #[test]
    fn types_are_short_and_not_the_servers_own() {
        for managed in ["m.fully_read", "m.push_rules"] {
            assert!(matches!(
                check(managed, "{}"),
                Err(AccountDataError::ServerManaged(_))
            ));
        }
        assert!(matches!(
            check(&"x".repeat(256), "{}"),
            Err(AccountDataError::TypeTooLong)
        ));
        assert!(check("m.direct", "{}").is_ok());
    }
}
