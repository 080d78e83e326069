//! Which servers a room admits (client-server API, "m.room.server_acl").

use ruma::{ServerName, events::room::server_acl::RoomServerAclEventContent};

use crate::{
    Engine, Error,
    rooms::{Room, read::current_state_event},
};

/// Whether the room's server ACL admits a server. Without one, or with one that can't be read, all are admitted.
pub async fn allows(engine: &Engine, room: &Room, server: &ServerName) -> Result<bool, Error> {
    let Some(event) = current_state_event(engine, room, "m.room.server_acl", "").await? else {
        return Ok(true);
    };
    Ok(
        match serde_json::from_str::<RoomServerAclEventContent>(event.content().get()) {
            Ok(acl) => acl.is_allowed(server),
            Err(_) => true,
        },
    )
}
