//! Who is in which room.

use crate::{
    Connection, EventNid, Position, Result, RoomNid, UserNid,
    log::{Membership, MembershipChange},
    text,
};

/// A membership and the position of its last change.
#[derive(Debug, Clone)]
pub struct StoredMembership {
    /// Position of the last change.
    pub position: Position,
    /// The membership.
    pub membership: MembershipChange,
    /// The ID of the room.
    pub room_id: String,
}

/// Every membership of a user, forgotten rooms included, in no order.
pub async fn of_user(connection: &mut Connection, user_nid: UserNid) -> Result<Vec<StoredMembership>> {
    let rows = sqlx::query!(
        "SELECT m.room_nid, m.user_nid, m.position, m.event_nid, m.joined_at, m.membership, m.forgotten,
                m.stripped_state, r.room_id
         FROM memberships m JOIN rooms r USING (room_nid) WHERE m.user_nid = $1",
        user_nid.0
    )
    .fetch_all(connection)
    .await?;
    let memberships = rows.into_iter().map(|row| StoredMembership {
        position: Position(row.position),
        membership: MembershipChange {
            room_nid: RoomNid(row.room_nid),
            user_nid: UserNid(row.user_nid),
            event_nid: EventNid(row.event_nid),
            membership: Membership::from_number(row.membership),
            continues: row.joined_at.is_some_and(|joined_at| joined_at != row.position),
            joined_at: row.joined_at.map(Position),
            forgotten: row.forgotten,
            stripped_state: row.stripped_state.map(text),
        },
        room_id: row.room_id,
    });
    Ok(memberships.collect())
}

/// The users of each membership in rooms: number, user and ID, in no order.
pub async fn of_rooms(
    connection: &mut Connection,
    room_nids: &[RoomNid],
) -> Result<Vec<(RoomNid, UserNid, Membership, String)>> {
    let nids: Vec<i64> = room_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        "SELECT m.room_nid, m.user_nid, m.membership, u.user_id
         FROM memberships m JOIN users u USING (user_nid) WHERE m.room_nid = ANY($1)",
        &nids
    )
    .fetch_all(connection)
    .await?;
    let members = rows.into_iter().map(|row| {
        (
            RoomNid(row.room_nid),
            UserNid(row.user_nid),
            Membership::from_number(row.membership),
            row.user_id,
        )
    });
    Ok(members.collect())
}

/// The rooms that a user is in, in no order.
pub async fn joined_rooms(connection: &mut Connection, user_nid: UserNid) -> Result<Vec<RoomNid>> {
    let nids = sqlx::query_scalar!(
        "SELECT room_nid FROM memberships WHERE user_nid = $1 AND membership = 1",
        user_nid.0
    )
    .fetch_all(connection)
    .await?;
    Ok(nids.into_iter().map(RoomNid).collect())
}

/// The servers with joined users in rooms, in no order.
pub async fn servers_by_room(
    connection: &mut Connection,
    room_nids: &[RoomNid],
) -> Result<Vec<(RoomNid, String)>> {
    let nids: Vec<i64> = room_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        r#"SELECT DISTINCT m.room_nid, server_of(u.user_id) AS "server!"
           FROM memberships m JOIN users u USING (user_nid) WHERE m.room_nid = ANY($1) AND m.membership = 1"#,
        &nids
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (RoomNid(row.room_nid), row.server))
        .collect())
}

/// The users who are in a room and have been ever since before a position.
pub async fn in_room_since(
    connection: &mut Connection,
    room_nid: RoomNid,
    position: Position,
) -> Result<Vec<UserNid>> {
    let nids = sqlx::query_scalar!(
        "SELECT user_nid FROM memberships WHERE room_nid = $1 AND membership = 1 AND joined_at < $2",
        room_nid.0,
        position.0
    )
    .fetch_all(connection)
    .await?;
    Ok(nids.into_iter().map(UserNid).collect())
}

/// The servers that have joined users in any of these rooms.
pub async fn servers_of(connection: &mut Connection, room_nids: &[RoomNid]) -> Result<Vec<String>> {
    let nids: Vec<i64> = room_nids.iter().map(|nid| nid.0).collect();
    let servers = sqlx::query_scalar!(
        r#"SELECT DISTINCT server_of(u.user_id) AS "server!" FROM memberships m JOIN users u USING (user_nid)
           WHERE m.room_nid = ANY($1) AND m.membership = 1"#,
        &nids
    )
    .fetch_all(connection)
    .await?;
    Ok(servers)
}

/// Who came into rooms, or was away from them at the end, after `since`: room, user, and whether they are in it. A
/// change after the end of what is asked for may take the place of one within it, so that there is no other end.
pub async fn moved(
    connection: &mut Connection,
    room_nids: &[RoomNid],
    since: Position,
) -> Result<Vec<(RoomNid, UserNid, bool)>> {
    let nids: Vec<i64> = room_nids.iter().map(|nid| nid.0).collect();
    let rows = sqlx::query!(
        r#"SELECT room_nid, user_nid, membership = 1 AS "is_joined!" FROM memberships
           WHERE room_nid = ANY($1) AND position > $2 AND (membership IN (0, 4) OR membership = 1 AND joined_at > $2)"#,
        &nids,
        since.0
    )
    .fetch_all(connection)
    .await?;
    let moved = rows
        .into_iter()
        .map(|row| (RoomNid(row.room_nid), UserNid(row.user_nid), row.is_joined));
    Ok(moved.collect())
}

/// The membership of a user of another server.
#[derive(Debug, Clone)]
pub struct OtherMembership {
    /// The user.
    pub user_nid: UserNid,
    /// The member event.
    pub event_nid: EventNid,
    /// The membership.
    pub membership: Membership,
}

/// Stores memberships in a room without a position in the log: nobody here is told of them one by one.
pub async fn store_quietly(
    connection: &mut Connection,
    room_nid: RoomNid,
    others: &[OtherMembership],
) -> Result<()> {
    let users: Vec<i64> = others.iter().map(|other| other.user_nid.0).collect();
    let events: Vec<i64> = others.iter().map(|other| other.event_nid.0).collect();
    let memberships: Vec<i16> = others.iter().map(|other| other.membership as i16).collect();
    sqlx::query!(
        "INSERT INTO memberships AS old (room_nid, user_nid, position, event_nid, joined_at, membership, forgotten)
         SELECT $1, o.user_nid, 0, o.event_nid, CASE WHEN o.membership = 1 THEN 0 END, o.membership, false
         FROM unnest($2::bigint[], $3::bigint[], $4::smallint[]) AS o (user_nid, event_nid, membership)
         ORDER BY o.user_nid
         ON CONFLICT ON CONSTRAINT memberships_pkey DO UPDATE SET event_nid = excluded.event_nid,
             joined_at = excluded.joined_at, membership = excluded.membership, stripped_state = NULL",
        room_nid.0,
        &users,
        &events,
        &memberships
    )
    .execute(connection)
    .await?;
    Ok(())
}
