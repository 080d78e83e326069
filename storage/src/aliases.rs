//! Aliases of this server.

use crate::{Connection, Result, RoomNid, UserNid};

/// An alias: the room it points to, and who made it.
#[derive(Debug, Clone)]
pub struct StoredAlias {
    /// The room.
    pub room_nid: RoomNid,
    /// The ID of the room.
    pub room_id: String,
    /// Who made it.
    pub creator_nid: UserNid,
}

/// Makes an alias. The constraint `aliases_pkey` says that it exists.
pub async fn insert(
    connection: &mut Connection,
    alias: &str,
    room_nid: RoomNid,
    creator_nid: UserNid,
    created_at: i64,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO aliases (alias, room_nid, creator_nid, created_at) VALUES ($1, $2, $3, $4)",
        alias,
        room_nid.0,
        creator_nid.0,
        created_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The alias of that name.
pub async fn find(connection: &mut Connection, alias: &str) -> Result<Option<StoredAlias>> {
    let row = sqlx::query!(
        "SELECT a.room_nid, r.room_id, a.creator_nid FROM aliases a JOIN rooms r USING (room_nid) WHERE a.alias = $1",
        alias
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| StoredAlias {
        room_nid: RoomNid(row.room_nid),
        room_id: row.room_id,
        creator_nid: UserNid(row.creator_nid),
    }))
}

/// The aliases of a room, in alphabetical order.
pub async fn of_room(connection: &mut Connection, room_nid: RoomNid) -> Result<Vec<String>> {
    let aliases = sqlx::query_scalar!(
        "SELECT alias FROM aliases WHERE room_nid = $1 ORDER BY alias",
        room_nid.0
    )
    .fetch_all(connection)
    .await?;
    Ok(aliases)
}

/// Deletes an alias; the answer is whether there was one.
pub async fn delete(connection: &mut Connection, alias: &str) -> Result<bool> {
    let done = sqlx::query!("DELETE FROM aliases WHERE alias = $1", alias)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}
