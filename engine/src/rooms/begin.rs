//! The beginning of a room: its first events, decided before anybody knows of it.

use std::sync::Arc;

use hearth_storage::{
    log::{Change, NewRoom},
    rooms,
};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomId, RoomId, RoomVersionId, room_version_rules::RoomVersionRules,
};

use super::{
    Room,
    commit::signer,
    decide::{DecideError, Decided, Signer, Target, decide},
    draft::Draft,
    gather::gather_for_new,
    head::Head,
    members::Members,
    state::StateMap,
    view::View,
};
use crate::{Engine, Error};

/// A room to be.
pub(super) struct Begun {
    /// The room, which nobody else knows.
    pub room: Room,
    /// Where it stands after its first events.
    pub head: Head,
    /// What makes it so.
    pub change: Change,
}

/// Decides on the first events of a room: `drafts`, the create event first.
pub(super) async fn begin(
    engine: &Engine,
    version: &RoomVersionId,
    rules: &RoomVersionRules,
    drafts: &[Draft],
    published: bool,
) -> Result<Begun, DecideError> {
    let room_nid = {
        let mut connection = engine.db.acquire().await.map_err(Error::from)?;
        rooms::next_nid(&mut connection).await.map_err(Error::from)?
    };
    let given_id = (!rules.authorization.room_create_event_id_as_room_id)
        .then(|| random_id(engine))
        .transpose()?;
    let gathered = gather_for_new(engine, rules, drafts).await?;
    let mut head = Head::of_new_room();
    let target = Target {
        room_nid,
        room_id: given_id.as_deref(),
        rules,
    };
    let now = engine.rooms.creation_time(engine.clock.now_ms());
    let signer = Signer {
        now: MilliSecondsSinceUnixEpoch(now.try_into().unwrap_or_default()),
        ..signer(engine)
    };
    let Decided {
        mut change,
        events,
        room_id,
    } = decide(&mut head, target, signer, drafts, &gathered)?;
    for event in events {
        engine.events.insert(event);
    }
    change.new_rooms.push(NewRoom {
        room_nid,
        room_id: room_id.to_string(),
        room_version: version.to_string(),
        published,
    });
    let room = Room::new(room_nid, room_id, version.clone(), rules.clone());
    Ok(Begun { room, head, change })
}

fn random_id(engine: &Engine) -> Result<OwnedRoomId, Error> {
    let room_id = format!(
        "!{}:{}",
        engine.entropy.alphanumeric(18),
        engine.config.server_name
    );
    <&RoomId>::try_from(room_id.as_str())
        .map(ToOwned::to_owned)
        .map_err(|error| Error::Damaged(format!("a room ID: {error}")))
}

/// Puts a room in memory that is about to be committed: the follower brings it up from nothing. Who does so withdraws it
/// where the commit fails.
pub(super) fn admit(engine: &Engine, room: Room, head: Head) -> Arc<Room> {
    let room = engine.rooms.admit(room);
    room.view.loaded(View::new(
        engine.log.head().position,
        0,
        StateMap::default(),
        Members::default(),
    ));
    room.head.offer(head);
    room
}
