//! Room summaries: how many are in a room, and for one without a name, of whom its name can be made.

use std::{collections::HashMap, sync::Arc};

use hearth_storage::{EventNid, RoomNid, UserNid, log::Membership};
use ruma::{OwnedUserId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::Value;

use super::response::Summary;
use crate::{Engine, Error, events::Event, rooms::Room};

/// Heroes of a summary, at most (client-server API, "Room summary").
const HEROES: usize = 5;

/// The types of the state that names a room: its name, else its alias.
pub(super) const NAMES: [&str; 2] = ["m.room.name", "m.room.canonical_alias"];

/// The summary of a room for one of its members.
pub(super) async fn summary(engine: &Engine, room: &Room, viewer: UserNid) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    let Some((joined, invited)) = room.read(|view| (view.members.joined(), view.members.invited())) else {
        return Ok(summary);
    };
    summary.joined_member_count = Some(joined);
    summary.invited_member_count = Some(invited);
    if !has_name(engine, room).await? {
        summary.heroes = Some(heroes(engine, room, viewer).await?);
    }
    Ok(summary)
}

/// The users a nameless room is called after: those who are in it or invited, else those who were, without the viewer;
/// the ones known here for longest.
pub(crate) async fn heroes(engine: &Engine, room: &Room, viewer: UserNid) -> Result<Vec<OwnedUserId>, Error> {
    let pick = |wanted: &[Membership]| {
        room.read(|view| {
            let others = view
                .members
                .iter()
                .filter(|(user_nid, member)| *user_nid != viewer && wanted.contains(&member.membership));
            let mut users: Vec<UserNid> = others.map(|(user_nid, _)| user_nid).collect();
            if users.len() > HEROES {
                users.select_nth_unstable(HEROES);
                users.truncate(HEROES);
            }
            users.sort_unstable();
            users
        })
        .unwrap_or_default()
    };
    let mut users = pick(&[Membership::Join, Membership::Invite]);
    if users.is_empty() {
        users = pick(&[Membership::Leave, Membership::Ban]);
    }
    let ids = engine.interner.user_ids(&users).await?;
    Ok(users
        .iter()
        .filter_map(|user_nid| ids.get(user_nid).cloned())
        .collect())
}

/// The current state events that name each of some rooms, [`NAMES`]; with one query if any is not in memory.
pub(super) async fn naming_events(
    engine: &Engine,
    rooms: &[&Room],
) -> Result<HashMap<RoomNid, Vec<Arc<Event>>>, Error> {
    let keys = engine.interner.keys(&NAMES.map(|name| (name, ""))).await?;
    let of_room = |room: &&Room| {
        let events: Option<Vec<_>> = room.read(|view| {
            keys.iter()
                .filter_map(|key_nid| view.state.get(*key_nid))
                .collect()
        });
        events.unwrap_or_default()
    };
    let wanted: Vec<EventNid> = rooms.iter().flat_map(of_room).collect();
    let (mut found, missing) = engine.events.partition(wanted);
    if !missing.is_empty() {
        let by_nid: HashMap<RoomNid, &Room> = rooms.iter().map(|room| (room.nid, *room)).collect();
        let room_of = |room_nid| Some(by_nid.get(&room_nid)?.in_room());
        let mut connection = engine.db.acquire().await?;
        found.extend(
            engine
                .events
                .load_of_rooms(&mut connection, missing, room_of)
                .await?,
        );
    }
    let mut events: HashMap<RoomNid, Vec<Arc<Event>>> = HashMap::new();
    for event in found.into_values() {
        events.entry(event.room_nid).or_default().push(event);
    }
    Ok(events)
}

/// Whether a room has a name, or an alias to be called by.
pub(crate) async fn has_name(engine: &Engine, room: &Room) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Content {
        name: Option<Value>,
        alias: Option<Value>,
    }
    let names = |event: &Arc<Event>| {
        let content = serde_json::from_str::<Content>(event.content().get()).ok()?;
        let name = match event.event_type() {
            TimelineEventType::RoomName => content.name,
            _ => content.alias,
        };
        name?.as_str().map(|name| !name.is_empty())
    };
    let events = naming_events(engine, &[room]).await?;
    Ok(events.values().flatten().any(|event| names(event) == Some(true)))
}
