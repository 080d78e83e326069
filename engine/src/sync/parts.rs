//! Telling a large sync in parts: whole rooms, in the order of their numbers, until a part is large enough. The token of
//! a part says which rooms are told up to its position, so that whoever goes on from it misses nothing and is told
//! nothing twice, whatever happened meanwhile.

use hearth_storage::{Position, RoomNid};
use ruma::OwnedRoomId;

use super::{Response, Sync};
use crate::{ticks::Stretch, tokens::Part};

/// How much is told at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    /// Rooms beside those that were told in the parts before.
    pub rooms: usize,
    /// Bytes, about; a room is told whole, however large it is.
    pub bytes: usize,
}

/// A room of an answer.
#[derive(Debug)]
pub(super) struct ToldRoom {
    pub room_nid: RoomNid,
    pub room_id: OwnedRoomId,
    /// What it comes to in bytes, about.
    pub weight: usize,
    /// Of what others said, the parts that it tells without a hole.
    pub stretches: Vec<Stretch>,
}

impl Sync<'_> {
    /// The position up to which the client has been told of a room; nothing where it never was.
    pub fn since_of(&self, room_nid: RoomNid) -> Option<Position> {
        match self.part {
            Some(part) if room_nid > part.upto_room => part.since,
            _ => self.since,
        }
    }

    /// The earliest position from which any room is told; nothing where some were never told.
    pub fn earliest(&self) -> Option<Position> {
        match self.part {
            Some(part) => part.since,
            None => self.since,
        }
    }

    /// Whether a room was told in the parts before, and now must be again: the token speaks for all of them.
    pub fn is_due(&self, room_nid: RoomNid) -> bool {
        self.part.is_some_and(|part| room_nid <= part.upto_room)
    }

    /// What the token says that comes after a part which ended with `upto_room`.
    pub fn part_upto(&self, upto_room: RoomNid) -> Part {
        Part {
            since: self.earliest(),
            upto_room,
        }
    }
}

/// Takes the last rooms out of an answer that is too large. Gives the last one that stays, if any was taken out.
pub(super) fn cut(
    sync: &Sync<'_>,
    bytes: usize,
    mut told: Vec<ToldRoom>,
    response: &mut Response,
) -> Option<RoomNid> {
    told.sort_unstable_by_key(|room| room.room_nid);
    let mut sum = 0_usize;
    let mut last = None;
    let mut stays = |room: &ToldRoom| {
        sum += room.weight;
        // One further room at least, or there would be no end to it.
        let stays = sync.is_due(room.room_nid) || last.is_none() || sum <= bytes;
        if stays && !sync.is_due(room.room_nid) {
            last = Some(room.room_nid);
        }
        stays
    };
    let kept = told.iter().take_while(|room| stays(room)).count();
    if kept == told.len() {
        return None;
    }
    for room in &told[kept..] {
        response.rooms.remove(&room.room_id);
    }
    last
}
