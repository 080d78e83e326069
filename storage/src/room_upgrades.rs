//! What this server keeps of a room that goes on in another.

use crate::{Connection, Result, RoomNid};

/// Has the aliases of a room point to the one that replaces it, which is published in its stead if it was.
pub async fn hand_over(connection: &mut Connection, from: RoomNid, to: RoomNid) -> Result<()> {
    sqlx::query!(
        "UPDATE aliases SET room_nid = $2 WHERE room_nid = $1",
        from.0,
        to.0
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "WITH unpublished AS (UPDATE rooms SET published = false WHERE room_nid = $1 AND published RETURNING room_nid)
         UPDATE rooms SET published = true WHERE room_nid = $2 AND EXISTS (SELECT FROM unpublished)",
        from.0,
        to.0
    )
    .execute(connection)
    .await?;
    Ok(())
}
