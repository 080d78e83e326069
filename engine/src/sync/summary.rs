//! Room summaries: how many are in a room, and for one without a name, of whom its name can be made.

use hearth_storage::{UserNid, log::Membership};
use ruma::OwnedUserId;

use super::response::Summary;
use crate::{
    Engine, Error,
    rooms::{Room, read},
};

/// Heroes of a summary, at most (client-server API, "Room summary").
const HEROES: usize = 5;

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
pub(super) async fn heroes(engine: &Engine, room: &Room, viewer: UserNid) -> Result<Vec<OwnedUserId>, Error> {
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

async fn has_name(engine: &Engine, room: &Room) -> Result<bool, Error> {
    for (event_type, field) in [("m.room.name", "name"), ("m.room.canonical_alias", "alias")] {
        let Some(event) = read::current_state_event(engine, room, event_type, "").await? else {
            continue;
        };
        let content: serde_json::Value = serde_json::from_str(event.content().get()).unwrap_or_default();
        if content
            .get(field)
            .and_then(serde_json::Value::as_str)
            .is_some_and(|name| !name.is_empty())
        {
            return Ok(true);
        }
    }
    Ok(false)
}
