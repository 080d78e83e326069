//! Rooms that this server is not in: what is known of them, and what its users are to them.

use std::{collections::BTreeSet, sync::Arc};

use hearth_storage::{
    EventNid, StateNid,
    events::{self, EventStatus, QuietEvent},
    log::{Change, CommitError, Fact, HeadMove, Membership, MembershipChange, NewRoom},
    rooms,
};
use ruma::{OwnedServerName, OwnedUserId, RoomId, RoomVersionId};

use crate::{
    Engine, Error,
    rooms::{Room, by_id, create::SUPPORTED_VERSIONS, receive::number::Incoming},
    users,
};

use super::HandshakeError;

/// The state of a room of which nothing is known.
pub(super) const NO_STATE: i64 = 0;

/// The room of that ID, or a new one of that version, which nobody but the caller knows.
pub(super) async fn known_or_new(
    engine: &Arc<Engine>,
    room_id: &RoomId,
    version: &RoomVersionId,
) -> Result<Arc<Room>, HandshakeError> {
    if let Some(room) = by_id(engine, room_id).await? {
        if room.version == *version {
            return Ok(room);
        }
        if let Some(room) = of_the_other_old_version(engine, &room, version).await? {
            return Ok(room);
        }
        return Err(HandshakeError::UnsupportedVersion(format!(
            "{version}, and was of version {} before",
            room.version
        )));
    }
    let rules = version.rules().filter(|_| SUPPORTED_VERSIONS.contains(version));
    let rules = rules.ok_or_else(|| HandshakeError::UnsupportedVersion(version.to_string()))?;
    let room_nid = {
        let mut connection = engine.db.acquire().await.map_err(Error::from)?;
        rooms::next_nid(&mut connection).await.map_err(Error::from)?
    };
    Ok(Arc::new(Room::new(
        room_nid,
        room_id.to_owned(),
        version.clone(),
        rules,
    )))
}

/// An invite in the old way is to a room of version 1 or 2, and doesn't say which. Until there is an event of the room here,
/// nothing hangs on it: then it may turn out to be the other.
async fn of_the_other_old_version(
    engine: &Engine,
    room: &Room,
    version: &RoomVersionId,
) -> Result<Option<Arc<Room>>, Error> {
    let are_old = [&room.version, version]
        .into_iter()
        .all(|version| [RoomVersionId::V1, RoomVersionId::V2].contains(version));
    let is_empty = room.read(|view| view.sequence == 0).unwrap_or(false);
    if !are_old || !is_empty {
        return Ok(None);
    }
    {
        let mut connection = engine.db.acquire().await?;
        rooms::set_version(&mut connection, room.nid, version.as_str()).await?;
    }
    engine.rooms.withdraw(room);
    by_id(engine, &room.id).await
}

/// What makes a room known, where it isn't: a room without events.
pub(super) fn new_room(room: &Room) -> NewRoom {
    NewRoom {
        room_nid: room.nid,
        room_id: room.id.to_string(),
        room_version: room.version.to_string(),
        published: false,
    }
}

/// Whether it is new: [`known_or_new`] made it.
pub(super) fn is_new(engine: &Engine, room: &Room) -> bool {
    engine.rooms.nid(&room.id).is_none()
}

/// Gives a user of this server a membership in a room that this server is not in, or sees as from outside: an invite, a
/// knock, or the end of one. The event is stored without a place in the room.
pub(super) async fn set_membership(
    engine: &Arc<Engine>,
    room: &Room,
    incoming: &Incoming,
    (user_id, membership): (&OwnedUserId, Membership),
    stripped_state: Option<Arc<str>>,
) -> Result<(), Error> {
    let quiet = QuietEvent {
        event: Arc::clone(&incoming.stored),
        status: EventStatus::Outlier,
        state_after: None,
        place: None,
    };
    {
        let mut connection = engine.db.acquire().await?;
        events::store_quietly(&mut connection, &[quiet]).await?;
    }
    note_membership(
        engine,
        room,
        incoming.event.nid,
        (user_id, membership),
        stripped_state,
    )
    .await
}

/// The same for an event that is stored.
pub(super) async fn note_membership(
    engine: &Arc<Engine>,
    room: &Room,
    event_nid: EventNid,
    (user_id, membership): (&OwnedUserId, Membership),
    stripped_state: Option<Arc<str>>,
) -> Result<(), Error> {
    let user_nid = engine.interner.user(user_id).await?;
    let mut change = Change::of(Fact::Membership(MembershipChange {
        room_nid: room.nid,
        user_nid,
        event_nid,
        membership,
        continues: false,
        joined_at: None,
        forgotten: false,
        stripped_state,
    }));
    if is_new(engine, room) {
        change.new_rooms.push(new_room(room));
        change.heads.push(HeadMove {
            room_nid: room.nid,
            sequence_before: 0,
            state_before: None,
            sequence: 0,
            forward_extremities: Vec::new(),
            state_nid: StateNid::from(NO_STATE),
        });
    }
    match engine.log.commit(change).await {
        Ok(_) => Ok(()),
        Err(CommitError::Constraint(name)) if name == "rooms_room_id_key" => {
            // Somebody else made it known meanwhile.
            let known = by_id(engine, &room.id).await?;
            let known =
                known.ok_or_else(|| Error::Damaged(format!("room {} is known and isn't", room.id)))?;
            let again = note_membership(engine, &known, event_nid, (user_id, membership), None);
            Box::pin(again).await
        }
        Err(error) => Err(error.into()),
    }
}

/// The servers that a user's invite to a room, or knock on it, leads to: of who sent it, and of whom its stripped state
/// speaks.
pub(crate) async fn inviting_servers(
    engine: &Engine,
    room: &Room,
    user_nid: hearth_storage::UserNid,
) -> Result<Vec<OwnedServerName>, Error> {
    let user = users::load(engine, user_nid).await?;
    let Some(known) = user.rooms.get(&room.nid) else {
        return Ok(Vec::new());
    };
    let mut servers = Vec::new();
    let event = crate::rooms::read::events(engine, room, [known.event_nid]).await?;
    let sender = event
        .get(&known.event_nid)
        .map(|event| event.sender().server_name().to_owned());
    servers.extend(sender);
    #[derive(serde::Deserialize)]
    struct Stripped {
        sender: OwnedUserId,
    }
    let stripped = known.stripped_state.as_deref().unwrap_or("[]");
    let stripped: Vec<Stripped> = serde_json::from_str(stripped).unwrap_or_default();
    let more: BTreeSet<OwnedServerName> = stripped
        .into_iter()
        .map(|stripped| stripped.sender.server_name().to_owned())
        .collect();
    servers.extend(more);
    servers.retain(|server| *server != engine.config.server_name);
    servers.dedup();
    Ok(servers)
}
