//! Account data, global and per room.

use std::sync::Arc;

use crate::{Connection, Position, Result, RoomNid, UserNid, log::AccountData, text};

/// The account data of a user that took its place in the log after `since` and up to `upto`, with positions, in no
/// order: global, and that of every room.
pub async fn of_user(
    connection: &mut Connection,
    user_nid: UserNid,
    since: Position,
    upto: Position,
) -> Result<Vec<(Position, AccountData)>> {
    let rows = sqlx::query!(
        "SELECT room_nid, data_type, position, content FROM account_data
         WHERE user_nid = $1 AND position > $2 AND position <= $3",
        user_nid.0,
        since.0,
        upto.0
    )
    .fetch_all(connection)
    .await?;
    let data = rows.into_iter().map(|row| {
        let data = AccountData {
            user_nid,
            room_nid: (row.room_nid != 0).then_some(RoomNid(row.room_nid)),
            data_type: text(row.data_type),
            content: text(row.content),
        };
        (Position(row.position), data)
    });
    Ok(data.collect())
}

/// Those of some types of a user's global account data that are set, with positions, in no order.
pub async fn of_types(
    connection: &mut Connection,
    user_nid: UserNid,
    data_types: &[&str],
) -> Result<Vec<(Position, AccountData)>> {
    let data_types: Vec<Vec<u8>> = data_types
        .iter()
        .map(|data_type| data_type.as_bytes().to_vec())
        .collect();
    let rows = sqlx::query!(
        "SELECT data_type, position, content FROM account_data
         WHERE user_nid = $1 AND room_nid = 0 AND data_type = ANY($2)",
        user_nid.0,
        &data_types
    )
    .fetch_all(connection)
    .await?;
    let data = rows.into_iter().map(|row| {
        let data = AccountData {
            user_nid,
            room_nid: None,
            data_type: text(row.data_type),
            content: text(row.content),
        };
        (Position(row.position), data)
    });
    Ok(data.collect())
}

/// Global account data of some types of some users, in no order; with positions.
pub async fn of_types_of_users(
    connection: &mut Connection,
    user_nids: &[UserNid],
    data_types: &[&str],
) -> Result<Vec<(Position, AccountData)>> {
    let nids: Vec<i64> = user_nids.iter().map(|nid| nid.0).collect();
    let data_types: Vec<Vec<u8>> = data_types
        .iter()
        .map(|data_type| data_type.as_bytes().to_vec())
        .collect();
    let rows = sqlx::query!(
        "SELECT user_nid, data_type, position, content FROM account_data
         WHERE user_nid = ANY($1) AND room_nid = 0 AND data_type = ANY($2)",
        &nids,
        &data_types
    )
    .fetch_all(connection)
    .await?;
    let data = rows.into_iter().map(|row| {
        let data = AccountData {
            user_nid: UserNid(row.user_nid),
            room_nid: None,
            data_type: text(row.data_type),
            content: text(row.content),
        };
        (Position(row.position), data)
    });
    Ok(data.collect())
}

/// The content of one type of account data.
pub async fn find(
    connection: &mut Connection,
    user_nid: UserNid,
    room_nid: Option<RoomNid>,
    data_type: &str,
) -> Result<Option<Arc<str>>> {
    let content = sqlx::query_scalar!(
        "SELECT content FROM account_data WHERE user_nid = $1 AND room_nid = $2 AND data_type = $3",
        user_nid.0,
        room_nid.map_or(0, |nid| nid.0),
        data_type.as_bytes()
    )
    .fetch_optional(connection)
    .await?;
    Ok(content.map(text))
}

/// The position of the newest account data of a user; 0 if there is none.
pub async fn newest(connection: &mut Connection, user_nid: UserNid) -> Result<Position> {
    let newest = sqlx::query_scalar!(
        "SELECT max(position) FROM account_data WHERE user_nid = $1",
        user_nid.0
    )
    .fetch_one(connection)
    .await?;
    Ok(Position(newest.unwrap_or(0)))
}

/// How many account data a user has, global and of rooms, and how long they are together, in bytes; without one that is to be
/// replaced, and without those of the types that are named.
pub async fn usage_beside(
    connection: &mut Connection,
    user_nid: UserNid,
    (room_nid, data_type): (Option<RoomNid>, &str),
    uncounted: &[&str],
) -> Result<(i64, i64)> {
    let uncounted: Vec<Vec<u8>> = uncounted
        .iter()
        .map(|data_type| data_type.as_bytes().to_vec())
        .collect();
    let row = sqlx::query!(
        r#"SELECT count(*) AS "count!", coalesce(sum(octet_length(content) + octet_length(data_type)), 0) AS "bytes!"
           FROM account_data
           WHERE user_nid = $1 AND NOT (room_nid = $2 AND data_type = $3) AND data_type <> ALL($4)"#,
        user_nid.0,
        room_nid.map_or(0, |nid| nid.0),
        data_type.as_bytes(),
        &uncounted
    )
    .fetch_one(connection)
    .await?;
    Ok((row.count, row.bytes))
}

/// Deletes all account data of a user, who will never sync again.
pub async fn delete_all(connection: &mut Connection, user_nid: UserNid) -> Result<()> {
    sqlx::query!("DELETE FROM account_data WHERE user_nid = $1", user_nid.0)
        .execute(connection)
        .await?;
    Ok(())
}
