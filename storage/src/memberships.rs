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
