//! Who may see which events (client-server API, "Room history visibility").

use std::collections::HashMap;

use hearth_storage::{
    Connection, EventNid, KeyNid, Position, RoomNid, UserNid, log::Membership, state_changes,
};
use serde::Deserialize;

use super::Room;
use crate::{Engine, Error, events::Event};

/// `history_visibility` of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HistoryVisibility {
    Invited,
    Joined,
    Shared,
    WorldReadable,
}

impl HistoryVisibility {
    /// What an event says; anything unreadable is the default.
    pub fn of(event: &Event) -> Self {
        #[derive(Deserialize)]
        struct Content<'a> {
            #[serde(borrow)]
            history_visibility: std::borrow::Cow<'a, str>,
        }
        let content = serde_json::from_str::<Content<'_>>(event.content().get());
        match content.as_ref().map(|content| &*content.history_visibility) {
            Ok("invited") => Self::Invited,
            Ok("joined") => Self::Joined,
            Ok("world_readable") => Self::WorldReadable,
            _ => Self::Shared,
        }
    }
}

/// What one user may see of one room: how visible it was, and what the user was in it, over time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    visibility: Vec<(Position, HistoryVisibility)>,
    membership: Vec<(Position, Membership)>,
    /// Where the user last ceased to be in the room, and the event by which; nothing while they are in it.
    departed: Option<(Position, EventNid)>,
}

impl Sight {
    /// The user's membership just after `position`; nothing before there was one.
    pub fn membership_at(&self, position: Position) -> Option<Membership> {
        at(&self.membership, position)
    }

    /// The position of the last change of the user's membership.
    pub fn last_change(&self) -> Option<Position> {
        self.membership.last().map(|(position, _)| *position)
    }

    /// Whether the user was in the room at some time up to `position`.
    pub fn was_in_by(&self, position: Position) -> bool {
        self.membership
            .iter()
            .any(|(joined, membership)| *joined <= position && *membership == Membership::Join)
    }

    fn change_membership(&mut self, position: Position, membership: Membership, event_nid: Option<EventNid>) {
        let was_in = self
            .membership
            .last()
            .is_some_and(|(_, membership)| *membership == Membership::Join);
        if membership == Membership::Join {
            self.departed = None;
        } else if was_in {
            self.departed = event_nid.map(|event_nid| (position, event_nid));
        }
        self.membership.push((position, membership));
    }

    /// Whether the user may see an event at `position` of the log.
    pub fn sees(&self, position: Position) -> bool {
        // An event that changes what counts here is seen if either what was or what comes would let it be seen.
        let before = Position(position.0 - 1);
        self.sees_as(position, position, position) || self.sees_as(before, before, position)
    }

    /// The ranges of the log up to `upto` of which the user sees the events, both ends included.
    pub fn ranges(&self, upto: Position) -> Vec<(Position, Position)> {
        let visibility = self.visibility.iter().map(|(position, _)| position.0);
        let changes = visibility.chain(self.membership.iter().map(|(position, _)| position.0));
        // What is seen is the same from one change to the next, but for the events that make the changes.
        let mut starts: Vec<i64> = changes
            .flat_map(|position| [position, position + 1])
            .chain([0])
            .filter(|start| *start <= upto.0)
            .collect();
        starts.sort_unstable();
        starts.dedup();
        let ends = starts.iter().skip(1).map(|next| next - 1).chain([upto.0]);
        let mut ranges: Vec<(Position, Position)> = Vec::new();
        for (start, end) in starts
            .iter()
            .zip(ends)
            .filter(|(start, _)| self.sees(Position(**start)))
        {
            match ranges.last_mut() {
                Some((_, last)) if last.0 + 1 == *start => *last = Position(end),
                _ => ranges.push((Position(*start), Position(end))),
            }
        }
        ranges
    }

    fn sees_as(&self, visibility_at: Position, membership_at: Position, event: Position) -> bool {
        let membership = at(&self.membership, membership_at);
        let visibility = at(&self.visibility, visibility_at).unwrap_or(HistoryVisibility::Shared);
        match visibility {
            HistoryVisibility::WorldReadable => true,
            _ if membership == Some(Membership::Join) => true,
            HistoryVisibility::Shared => self
                .membership
                .iter()
                .any(|(position, membership)| *position > event && *membership == Membership::Join),
            HistoryVisibility::Invited => membership == Some(Membership::Invite),
            HistoryVisibility::Joined => false,
        }
    }
}

fn at<T: Copy>(history: &[(Position, T)], position: Position) -> Option<T> {
    let after = history.partition_point(|(changed, _)| *changed <= position);
    after.checked_sub(1).map(|index| history[index].1)
}

/// What `user_nid` may see of `rooms`, by the log up to `upto`, with a fixed number of queries.
pub(crate) async fn load(
    engine: &Engine,
    connection: &mut Connection,
    rooms: &[&Room],
    user_id: &ruma::UserId,
    upto: Position,
) -> Result<HashMap<RoomNid, Sight>, Error> {
    // On the caller's connection, all of it: whoever waits for a second one while holding one may wait in vain.
    let find = async |connection: &mut Connection, event_type: &str, state_key: &str| {
        engine
            .interner
            .find_key_on(connection, event_type, state_key)
            .await
    };
    let visibility_key = find(connection, "m.room.history_visibility", "").await?;
    let member_key = find(connection, "m.room.member", user_id.as_str()).await?;
    let keys: Vec<KeyNid> = visibility_key.into_iter().chain(member_key).collect();
    let room_nids: Vec<RoomNid> = rooms.iter().map(|room| room.nid).collect();
    // What was set before this server came to a room is told by the first change since, wherever that is, or still holds.
    let all = state_changes::of_keys(connection, &room_nids, &keys, Position(i64::MAX)).await?;
    let first_of = |room: &Room| -> Option<EventNid> {
        let is_it = |room_nid: &RoomNid, key_nid| *room_nid == room.nid && Some(key_nid) == visibility_key;
        match all
            .iter()
            .find(|(room_nid, _, change)| is_it(room_nid, change.key_nid))
        {
            Some((_, _, first)) => first.old,
            None => room.read(|view| view.state.get(visibility_key?)).flatten(),
        }
    };
    let firsts: HashMap<RoomNid, EventNid> = rooms
        .iter()
        .filter_map(|room| Some((room.nid, first_of(room)?)))
        .collect();
    let changes: Vec<_> = all.iter().filter(|(_, position, _)| *position <= upto).collect();
    let wanted = changes.iter().filter_map(|(_, _, change)| change.new);
    let wanted = wanted.chain(firsts.values().copied());
    let in_rooms: HashMap<RoomNid, &Room> = rooms.iter().map(|room| (room.nid, *room)).collect();
    let room_of = |room_nid| Some(in_rooms.get(&room_nid)?.in_room());
    let events = engine.events.load_of_rooms(connection, wanted, room_of).await?;
    let mut sights: HashMap<RoomNid, Sight> = HashMap::with_capacity(rooms.len());
    for room in rooms {
        let of_room = || changes.iter().filter(|(room_nid, ..)| *room_nid == room.nid);
        let sight = sights.entry(room.nid).or_default();
        if let Some(first) = firsts.get(&room.nid).and_then(|event_nid| events.get(event_nid)) {
            // Before the first position of all, too: there is the history that is fetched from before that.
            sight
                .visibility
                .push((Position(-1), HistoryVisibility::of(first)));
        }
        for (_, position, change) in of_room() {
            let event = change.new.and_then(|event_nid| events.get(&event_nid));
            if Some(change.key_nid) == visibility_key {
                let visibility =
                    event.map_or(HistoryVisibility::Shared, |event| HistoryVisibility::of(event));
                sight.visibility.push((*position, visibility));
            } else {
                let membership = event
                    .and_then(|event| event.membership())
                    .unwrap_or(Membership::Leave);
                sight.change_membership(*position, membership, change.new);
            }
        }
    }
    Ok(sights)
}

/// What a user may do with a room's state and history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// All that is current: a member, or anyone where the room is readable to the world.
    Current,
    /// What was there when they left. That they were invited, refused or banned later shows them no more.
    UntilLeft(EventNid, Position),
    /// Nothing.
    None,
}

/// The access of a user to a room.
pub(crate) async fn access(engine: &Engine, room: &Room, user_nid: UserNid) -> Result<Access, Error> {
    let user = crate::users::load(engine, user_nid).await?;
    let known = user.rooms.get(&room.nid);
    if known.is_some_and(|known| known.membership == Membership::Join) {
        return Ok(Access::Current);
    }
    let visibility = super::read::current_state_event(engine, room, "m.room.history_visibility", "").await?;
    if visibility.is_some_and(|event| HistoryVisibility::of(&event) == HistoryVisibility::WorldReadable) {
        return Ok(Access::Current);
    }
    let Some(left) = known.filter(|known| !known.forgotten) else {
        return Ok(Access::None);
    };
    if !matches!(left.membership, Membership::Leave | Membership::Ban) {
        return Ok(Access::None);
    }
    let user_ids = engine.interner.user_ids(&[user_nid]).await?;
    let Some(user_id) = user_ids.get(&user_nid) else {
        return Ok(Access::None);
    };
    let mut connection = engine.db.acquire().await?;
    let sight = load(engine, &mut connection, &[room], user_id, left.position)
        .await?
        .remove(&room.nid)
        .unwrap_or_default();
    // A refused invite, or a ban of someone who never came, is no past membership.
    Ok(sight.departed.map_or(Access::None, |(position, event_nid)| {
        Access::UntilLeft(event_nid, position)
    }))
}

#[cfg(test)]
mod tests {
    use hearth_storage::{Position, log::Membership};

    use super::{HistoryVisibility, Sight};

    fn sight(visibility: &[(i64, HistoryVisibility)], membership: &[(i64, Membership)]) -> Sight {
        Sight {
            visibility: visibility
                .iter()
                .map(|(at, value)| (Position(*at), *value))
                .collect(),
            membership: membership
                .iter()
                .map(|(at, value)| (Position(*at), *value))
                .collect(),
            departed: None,
        }
    }

    fn seen(sight: &Sight, positions: std::ops::RangeInclusive<i64>) -> Vec<i64> {
        positions
            .filter(|position| sight.sees(Position(*position)))
            .collect()
    }

    #[test]
    fn ranges_hold_what_is_seen_and_nothing_else() {
        use HistoryVisibility::{Invited, Joined, Shared, WorldReadable};
        let sights = [
            sight(&[], &[]),
            sight(&[(2, Shared)], &[(5, Membership::Join), (8, Membership::Leave)]),
            sight(&[(2, Joined)], &[(4, Membership::Invite), (6, Membership::Join)]),
            sight(
                &[(1, Invited)],
                &[(4, Membership::Invite), (6, Membership::Leave)],
            ),
            sight(
                &[(1, WorldReadable), (5, Shared), (7, Joined)],
                &[(9, Membership::Join)],
            ),
            sight(
                &[(3, Joined), (6, WorldReadable)],
                &[(1, Membership::Join), (2, Membership::Ban)],
            ),
        ];
        for sight in sights {
            let ranges = sight.ranges(Position(10));
            let within = |position| {
                ranges
                    .iter()
                    .any(|(from, to)| from.0 <= position && position <= to.0)
            };
            assert_eq!(
                (0..=12).filter(|position| within(*position)).collect::<Vec<_>>(),
                seen(&sight, 0..=10),
                "{sight:?}"
            );
            assert!(
                ranges.windows(2).all(|pair| pair[0].1.0 + 1 < pair[1].0.0),
                "{ranges:?}"
            );
        }
    }

    #[test]
    fn shared_history_is_seen_by_who_joins_later_and_not_after_leaving() {
        let sight = sight(
            &[(2, HistoryVisibility::Shared)],
            &[(5, Membership::Join), (8, Membership::Leave)],
        );
        assert_eq!(seen(&sight, 1..=10), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn joined_history_begins_with_the_own_join() {
        let sight = sight(
            &[(2, HistoryVisibility::Joined)],
            &[(4, Membership::Invite), (6, Membership::Join)],
        );
        // Before the visibility was set it was shared.
        assert_eq!(seen(&sight, 1..=8), [1, 2, 6, 7, 8]);
    }

    #[test]
    fn history_from_before_the_first_position_is_seen_by_what_was_set_then() {
        let sight = sight(&[(-1, HistoryVisibility::Joined)], &[(1, Membership::Join)]);
        assert_eq!(seen(&sight, 0..=2), [1, 2]);
    }

    #[test]
    fn invited_history_begins_with_the_invite() {
        let sight = sight(
            &[(1, HistoryVisibility::Invited)],
            &[(4, Membership::Invite), (6, Membership::Leave)],
        );
        assert_eq!(seen(&sight, 2..=8), [4, 5, 6]);
    }

    #[test]
    fn the_world_reads_what_was_readable_and_no_more() {
        let sight = sight(
            &[
                (1, HistoryVisibility::WorldReadable),
                (5, HistoryVisibility::Shared),
            ],
            &[],
        );
        assert_eq!(seen(&sight, 1..=8), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_change_of_visibility_in_mid_history_counts_from_where_it_stands() {
        let sight = sight(
            &[(1, HistoryVisibility::Joined), (5, HistoryVisibility::Shared)],
            &[(9, Membership::Join)],
        );
        assert_eq!(seen(&sight, 2..=10), [5, 6, 7, 8, 9, 10]);
    }
}
