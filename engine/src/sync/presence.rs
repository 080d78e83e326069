//! Who is there, for a sync.

use hearth_storage::RoomNid;
use ruma::UserId;
use serde::Serialize;
use serde_json::value::to_raw_value;

use super::{Sync, response::Event};
use crate::{
    Error,
    events::matches_presence,
    presence::{self, Shown, State},
};

/// What is told.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub events: Vec<Event>,
    /// The version up to which that tells, in this run of the server.
    pub upto: u64,
    /// There is more.
    pub is_cut: bool,
}

#[derive(Serialize)]
struct PresenceEvent<'a> {
    #[serde(rename = "type")]
    event_type: &'static str,
    sender: &'a UserId,
    content: Content<'a>,
}

#[derive(Serialize)]
struct Content<'a> {
    presence: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_active_ago: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    currently_active: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_msg: Option<&'a str>,
}

/// The users of whom there is news since the token, of those who share a room with this one; where the token says nothing
/// of it or is from another run of the server, all of whom something is known. And who is there in rooms that came into
/// view.
pub(super) async fn tell(sync: &Sync<'_>) -> Result<Told, Error> {
    let engine = sync.engine;
    let told = sync.since_token.and_then(|token| token.ephemeral);
    let told = told.filter(|told| told.run == engine.typing.run() && told.presence > 0 && !sync.full_state);
    let told = presence::since(
        engine,
        (sync.requester.user_nid, &sync.user),
        told.map(|told| told.presence),
        sync.since.is_none(),
        came_into_view(sync),
    );
    let nids: Vec<_> = told.users.iter().map(|(user_nid, _)| *user_nid).collect();
    let ids = engine.interner.user_ids(&nids).await?;
    let now = engine.clock.now_ms();
    let is_wanted = |user_id: &UserId| {
        let is_heard = *user_id == *sync.requester.user_id || !sync.user.preferences.ignores(user_id);
        is_heard && matches_presence(&sync.filter.presence, user_id)
    };
    let events = told.users.iter().filter_map(|(user_nid, shown)| {
        let user_id = ids.get(user_nid).filter(|user_id| is_wanted(user_id))?;
        to_raw_value(&event(user_id, shown, now)).ok()
    });
    Ok(Told {
        events: events.collect(),
        upto: told.upto,
        is_cut: told.is_cut,
    })
}

/// The rooms that the user came into since the token.
fn came_into_view(sync: &Sync<'_>) -> Vec<RoomNid> {
    let Some(since) = sync.since.filter(|since| sync.user.newest > *since) else {
        return Vec::new();
    };
    let rooms = sync.user.rooms.iter();
    let came = rooms.filter(|(_, room)| room.joined_at.is_some_and(|joined_at| joined_at > since));
    came.map(|(room_nid, _)| *room_nid).collect()
}

fn event<'a>(sender: &'a UserId, shown: &'a Shown, now: i64) -> PresenceEvent<'a> {
    let ago = shown.last_active_ago(now);
    PresenceEvent {
        event_type: "m.presence",
        sender,
        content: Content {
            presence: shown.state.as_str(),
            last_active_ago: ago.and_then(|ago| u64::try_from(ago.as_millis()).ok()),
            currently_active: (shown.state == State::Online).then_some(shown.currently_active),
            status_msg: shown.status_msg.as_deref(),
        },
    }
}
