//! Which rooms a sync has to speak of, and from where on.

use std::collections::{HashMap, HashSet};

use hearth_storage::{Position, RoomNid, log::Membership, state_changes};
use ruma::OwnedRoomId;

use super::{Sync, account::Data};
use crate::{
    Error,
    log::Subject,
    rooms::{self, visibility::Sight},
    users::UserRoom,
};

/// A part of a room's history to tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub room_nid: RoomNid,
    /// Told up to here before; 0 when nothing was.
    pub since: Position,
    /// Told up to here now.
    pub upto: Position,
    /// The state is told whole, not as what changed since.
    pub whole: bool,
    /// The state is not told: the user was not in the room before the end.
    pub stateless: bool,
    /// The position at which the user's unbroken time in the room began; nothing for one who is not in it.
    pub joined_at: Option<Position>,
    /// The state here became whole in this part: who is in the room is known better than it was.
    pub became_whole: bool,
}

/// The rooms to speak of.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub joined: Vec<Span>,
    pub left: Vec<Span>,
    pub invited: Vec<RoomNid>,
    pub knocked: Vec<RoomNid>,
    /// The IDs of all of these.
    pub ids: HashMap<RoomNid, OwnedRoomId>,
}

impl Plan {
    /// Makes the plan of a sync. `typing` are the rooms in which who types has changed.
    pub async fn make(
        sync: &Sync<'_>,
        data: &Data,
        typing: impl IntoIterator<Item = RoomNid>,
    ) -> Result<Self, Error> {
        let mut plan = Self::default();
        let touched = match sync.since {
            // Rooms that were never told need no reason; of the others, those told least may have the most.
            Some(since) => {
                let since = sync.earliest().unwrap_or(since).min(since);
                Some(touched_rooms(sync, since, data, typing).await?)
            }
            None => None,
        };
        for (room_nid, room) in &sync.user.rooms {
            let is_touched = touched.as_ref().is_none_or(|touched| touched.contains(room_nid))
                || sync.since_of(*room_nid).is_none();
            plan.consider(sync, *room_nid, room, is_touched);
        }
        let all = plan.joined.iter().chain(&plan.left).map(|span| span.room_nid);
        let all: Vec<RoomNid> = all
            .chain(plan.invited.iter().copied())
            .chain(plan.knocked.iter().copied())
            .collect();
        plan.ids = rooms::ids(sync.engine, &all).await?;
        plan.drop_excluded(sync);
        Ok(plan)
    }

    fn consider(&mut self, sync: &Sync<'_>, room_nid: RoomNid, room: &UserRoom, is_touched: bool) {
        let told = sync.since_of(room_nid);
        let since = told.unwrap_or_default();
        let changed = told.is_none() || room.position > since;
        let upto = sync.upto();
        match room.membership {
            Membership::Join => {
                let whole_since = sync.engine.partial.whole_since(room_nid);
                let whole_since = whole_since.filter(|position| *position <= upto);
                if whole_since.is_none() && !sync.loads_lazily() {
                    // Told when all of its state is here.
                    return;
                }
                let became_whole = whole_since.is_some_and(|position| position > since);
                let came = told.is_none()
                    || room.joined_at.is_none_or(|joined_at| joined_at > since)
                    || (became_whole && !sync.loads_lazily());
                if came || is_touched || sync.full_state {
                    let whole = came || sync.full_state;
                    // What a room told before it was left and joined again is not told as known.
                    let since = if came { Position(0) } else { since };
                    self.joined.push(Span {
                        room_nid,
                        since,
                        upto,
                        whole,
                        stateless: false,
                        joined_at: room.joined_at,
                        became_whole,
                    });
                }
            }
            Membership::Invite if changed && !is_ignored(sync, room) => self.invited.push(room_nid),
            Membership::Knock if changed => self.knocked.push(room_nid),
            Membership::Leave | Membership::Ban => {
                // Without being asked, a client is told of a leave once, and not of those before its first sync.
                let asked = sync.filter.room.include_leave && (told.is_none() || sync.full_state);
                if (asked && !room.forgotten) || (told.is_some() && changed) {
                    let upto = room.position.min(upto);
                    self.left.push(Span {
                        room_nid,
                        since,
                        upto,
                        whole: asked,
                        stateless: false,
                        joined_at: None,
                        became_whole: false,
                    });
                }
            }
            _ => {}
        }
    }

    /// Leaves out what is more than `rooms` beside those that must be told. Gives the last room that stays in, if any was
    /// left out.
    pub fn cut(&mut self, sync: &Sync<'_>, rooms: usize) -> Option<RoomNid> {
        let spans = self.joined.iter().chain(&self.left).map(|span| span.room_nid);
        let others = self.invited.iter().chain(&self.knocked).copied();
        let mut further: Vec<RoomNid> = spans
            .chain(others)
            .filter(|room_nid| !sync.is_due(*room_nid))
            .collect();
        if further.len() <= rooms {
            return None;
        }
        let (_, last, _) = further.select_nth_unstable(rooms.saturating_sub(1));
        let last = *last;
        self.retain(|room_nid| room_nid <= last);
        Some(last)
    }

    fn retain(&mut self, kept: impl Fn(RoomNid) -> bool) {
        self.joined.retain(|span| kept(span.room_nid));
        self.left.retain(|span| kept(span.room_nid));
        self.invited.retain(|room_nid| kept(*room_nid));
        self.knocked.retain(|room_nid| kept(*room_nid));
    }

    fn drop_excluded(&mut self, sync: &Sync<'_>) {
        let filter = &sync.filter.room;
        let ids = std::mem::take(&mut self.ids);
        let kept = |room_nid: RoomNid| {
            ids.get(&room_nid).is_some_and(|room_id| {
                !filter.not_rooms.contains(room_id)
                    && filter.rooms.as_ref().is_none_or(|rooms| rooms.contains(room_id))
            })
        };
        self.retain(kept);
        self.ids = ids;
    }
}

impl Span {
    /// Of a room that was left, what may be told follows from when the user was in it. Nothing where the leave is no
    /// news: then the room was only forgotten since.
    pub fn of_left(self, sight: &Sight) -> Option<Self> {
        let Some(left_at) = sight.last_change() else {
            // An invite from elsewhere that was refused: the room's state, of which this server has none, knew nothing of it.
            return Some(Self {
                since: Position(self.upto.0 - 1),
                stateless: true,
                ..self
            });
        };
        if left_at <= self.since && !self.whole {
            return None;
        }
        let span = Self {
            upto: left_at.min(self.upto),
            ..self
        };
        let before = Position(left_at.0 - 1);
        Some(if sight.membership_at(before) != Some(Membership::Join) {
            // An invite that was refused, or a ban of one who was out of it: only that is told.
            Self {
                since: before,
                stateless: true,
                ..span
            }
        } else if span.whole || sight.membership_at(span.since) != Some(Membership::Join) {
            Self {
                since: Position(0),
                whole: true,
                ..span
            }
        } else {
            span
        })
    }
}

/// Whether an invite is of one whom the user ignores (client-server API, "Ignoring Users").
fn is_ignored(sync: &Sync<'_>, room: &UserRoom) -> bool {
    let preferences = &sync.user.preferences;
    let inviter = || room.invited_by(&sync.requester.user_id);
    preferences.ignores_anybody() && inviter().is_some_and(|inviter| preferences.ignores(&inviter))
}

/// The rooms of which there may be something to tell since `since`. From memory, unless that is too long ago.
async fn touched_rooms(
    sync: &Sync<'_>,
    since: Position,
    data: &Data,
    typing: impl IntoIterator<Item = RoomNid>,
) -> Result<HashSet<RoomNid>, Error> {
    let mut touched: HashSet<RoomNid> = match sync.engine.log.recent.subjects(since, sync.upto()) {
        Some(subjects) => subjects
            .into_iter()
            .filter_map(|subject| match subject {
                Subject::Room(room_nid) => Some(room_nid),
                Subject::User(_) => None,
            })
            .collect(),
        None => {
            let joined: Vec<RoomNid> = sync.user.rooms_with(Membership::Join).collect();
            let mut connection = sync.engine.db.acquire().await?;
            let changed =
                state_changes::rooms_that_changed(&mut connection, &joined, since, sync.upto()).await?;
            changed.into_iter().collect()
        }
    };
    touched.extend(data.by_room.keys().copied());
    touched.extend(typing);
    Ok(touched)
}
