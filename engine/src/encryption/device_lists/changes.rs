//! `device_lists` of a sync, and `keys/changes`: of whom the requester has to ask for devices anew, and of whom they
//! need not know them any more (client-server API, "Extensions to /sync").
//!
//! Who changed keys is told to all who share a room with them. Who comes to share an encrypted room counts as changed:
//! what they did before was told to nobody here. From memory, as long as that reaches back far enough.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use hearth_storage::{
    KeyNid, Position, RoomNid, UserNid, device_lists,
    log::{Membership, StateChange},
    memberships, state_changes,
};
use ruma::OwnedUserId;
use serde::Serialize;

use super::rooms_of;
use crate::{
    Engine, Error,
    rooms::{self, Room},
    users::User,
};

/// Changes of device lists.
#[derive(Debug, Default, Serialize)]
pub struct DeviceLists {
    /// Whose devices have to be asked for.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub changed: BTreeSet<OwnedUserId>,
    /// Who shares no encrypted room any more.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub left: BTreeSet<OwnedUserId>,
}

impl DeviceLists {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

/// A change of who is in a room, or that it became encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Move {
    Joined(UserNid),
    Left(UserNid),
    Encrypted,
}

/// What has to be told of.
struct Range<'a> {
    engine: &'a Arc<Engine>,
    user_nid: UserNid,
    user: &'a User,
    since: Position,
    upto: Position,
    /// Stands for the state event that has a room encrypted.
    encryption: KeyNid,
}

/// What changed for a user after `since` up to `upto`; `user` is what the log says of them up to there.
pub(crate) async fn between(
    engine: &Arc<Engine>,
    (user_nid, user): (UserNid, &User),
    since: Position,
    upto: Position,
) -> Result<DeviceLists, Error> {
    if since >= upto {
        return Ok(DeviceLists::default());
    }
    let Some(encryption) = engine.encryption.key() else {
        return Ok(DeviceLists::default());
    };
    let range = Range {
        engine,
        user_nid,
        user,
        since,
        upto,
        encryption,
    };
    let mut changed = range.changed_keys().await?;
    let mut gone = HashSet::new();
    range.changed_company(&mut changed, &mut gone).await?;
    if !gone.is_empty() {
        range.retain_strangers(&mut gone).await?;
    }
    let told: Vec<UserNid> = changed.iter().chain(&gone).copied().collect();
    let ids = engine.interner.user_ids(&told).await?;
    let ids_of = |nids: HashSet<UserNid>| nids.iter().filter_map(|nid| ids.get(nid).cloned()).collect();
    changed.retain(|nid| !gone.contains(nid));
    Ok(DeviceLists {
        changed: ids_of(changed),
        left: ids_of(gone),
    })
}

impl Range<'_> {
    fn is_joined(&self, room_nid: RoomNid) -> bool {
        self.user
            .rooms
            .get(&room_nid)
            .is_some_and(|room| room.membership == Membership::Join)
    }

    /// Who changed their keys and shares a room, or is the user.
    async fn changed_keys(&self) -> Result<HashSet<UserNid>, Error> {
        let recent = self.engine.encryption.changes.range(self.since, self.upto);
        let Some(recent) = recent else {
            let mut connection = self.engine.db.acquire().await?;
            let changed =
                device_lists::changed_for(&mut connection, self.user_nid, self.since, self.upto).await?;
            return Ok(changed.into_iter().collect());
        };
        let mut changed = HashSet::new();
        for (_, change) in recent {
            let is_theirs = match change.only_for {
                Some(viewer) => viewer == self.user_nid,
                None => change.user_nid == self.user_nid,
            };
            let concerns = is_theirs
                || change.only_for.is_none() && {
                    let room_nids = rooms_of(self.engine, &change).await?;
                    room_nids.iter().any(|room_nid| self.is_joined(*room_nid))
                };
            if concerns {
                changed.insert(change.user_nid);
            }
        }
        Ok(changed)
    }

    /// Who came to share an encrypted room, and who may share none any more.
    async fn changed_company(
        &self,
        changed: &mut HashSet<UserNid>,
        gone: &mut HashSet<UserNid>,
    ) -> Result<(), Error> {
        let moves = self.moves().await?;
        let is_news = |position: Position| position > self.since && position <= self.upto;
        let (mut entered, mut quit) = (HashSet::new(), HashSet::new());
        for (room_nid, room) in &self.user.rooms {
            match room.membership {
                Membership::Join => {
                    let whole_since = self.engine.partial.whole_since(*room_nid);
                    if room.joined_at.is_some_and(is_news) || whole_since.is_some_and(is_news) {
                        entered.insert(*room_nid);
                    }
                }
                Membership::Leave | Membership::Ban if is_news(room.position) => {
                    quit.insert(*room_nid);
                }
                _ => {}
            }
        }
        let mut moved: HashMap<RoomNid, Vec<Move>> = HashMap::new();
        for (room_nid, one) in moves {
            if one == Move::Encrypted {
                entered.insert(room_nid);
            }
            moved.entry(room_nid).or_default().push(one);
        }
        let mut room_nids: Vec<RoomNid> = moved.keys().chain(&entered).chain(&quit).copied().collect();
        room_nids.sort_unstable();
        room_nids.dedup();
        if room_nids.is_empty() {
            return Ok(());
        }
        for room in rooms::load_views(self.engine, &room_nids).await? {
            if !self.is_encrypted(&room) {
                continue;
            }
            if entered.contains(&room.nid) {
                changed.extend(self.others_in(&room));
            }
            if quit.contains(&room.nid) {
                gone.extend(self.others_in(&room));
            }
            for one in moved.remove(&room.nid).unwrap_or_default() {
                match one {
                    Move::Joined(user_nid) if user_nid != self.user_nid && is_in(&room, user_nid) => {
                        changed.insert(user_nid);
                    }
                    Move::Left(user_nid) if user_nid != self.user_nid => {
                        gone.insert(user_nid);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The changes of the rooms that the user is in.
    async fn moves(&self) -> Result<Vec<(RoomNid, Move)>, Error> {
        if let Some(recent) = self.engine.encryption.moves.range(self.since, self.upto) {
            let moves = recent.into_iter().map(|(_, one)| one);
            return Ok(moves.filter(|(room_nid, _)| self.is_joined(*room_nid)).collect());
        }
        let joined: Vec<RoomNid> = self.user.rooms_with(Membership::Join).collect();
        let mut connection = self.engine.db.acquire().await?;
        let moved = memberships::moved(&mut connection, &joined, self.since).await?;
        let keys = [self.encryption];
        let states = state_changes::of_keys(&mut connection, &joined, &keys, self.upto).await?;
        let moved = moved.into_iter().map(|(room_nid, user_nid, is_joined)| {
            let one = match is_joined {
                true => Move::Joined(user_nid),
                false => Move::Left(user_nid),
            };
            (room_nid, one)
        });
        let encrypted = states
            .into_iter()
            .filter(|(_, position, change)| *position > self.since && begins(change))
            .map(|(room_nid, ..)| (room_nid, Move::Encrypted));
        Ok(moved.chain(encrypted).collect())
    }

    /// Keeps those who share no encrypted room with the user.
    async fn retain_strangers(&self, gone: &mut HashSet<UserNid>) -> Result<(), Error> {
        let joined: Vec<RoomNid> = self.user.rooms_with(Membership::Join).collect();
        for room in rooms::load_views(self.engine, &joined).await? {
            if self.is_encrypted(&room) {
                gone.retain(|user_nid| !is_in(&room, *user_nid));
            }
            if gone.is_empty() {
                break;
            }
        }
        Ok(())
    }

    fn is_encrypted(&self, room: &Room) -> bool {
        let encrypted = room.read(|view| view.state.get(self.encryption).is_some());
        encrypted.unwrap_or(false)
    }

    fn others_in(&self, room: &Room) -> Vec<UserNid> {
        let members = room.read(|view| {
            let joined = view
                .members
                .iter()
                .filter(|(_, member)| member.membership == Membership::Join);
            joined.map(|(user_nid, _)| user_nid).collect::<Vec<_>>()
        });
        let mut others = members.unwrap_or_default();
        others.retain(|user_nid| *user_nid != self.user_nid);
        others
    }
}

fn is_in(room: &Room, user_nid: UserNid) -> bool {
    room.read(|view| view.members.get(user_nid)).flatten() == Some(Membership::Join)
}

/// Whether a change of the encryption of a room is its beginning.
pub(super) fn begins(change: &StateChange) -> bool {
    change.old.is_none() && change.new.is_some()
}
