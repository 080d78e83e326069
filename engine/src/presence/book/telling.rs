//! Who hears what of whom.

use std::collections::{BTreeMap, HashSet};

use hearth_storage::{RoomNid, UserNid};

use super::{Book, News, entry::Of};
use crate::presence::{Shown, State};

/// So little news is looked through without asking whether there is a shorter way.
const SCANNED: usize = 64;

/// Who wants to know.
#[derive(Debug)]
pub(in crate::presence) struct Viewer<F> {
    pub user_nid: UserNid,
    /// Was told nothing yet: who is offline need not be told of.
    pub is_new: bool,
    /// The rooms that they are in.
    pub rooms: Vec<RoomNid>,
    /// Whether they are in a room.
    pub is_in: F,
    /// Those of the rooms that came into view: everybody in them who is there is told.
    pub came: Vec<RoomNid>,
}

impl Book {
    /// What another server is to know of the users of this one in any of some rooms: who is there, and who was when it was
    /// told of them and isn't any more, which it may have missed.
    pub fn there(&self, room_nids: &[RoomNid], limit: usize) -> Vec<News> {
        let members = room_nids.iter().filter_map(|room_nid| self.by_room.get(room_nid));
        let members: HashSet<UserNid> = members.flatten().copied().collect();
        let there = members.into_iter().filter_map(|user_nid| {
            let person = self.people.get(&user_nid)?;
            let may_be_missed = person.sent_at != 0 && !person.told.is_hidden;
            let is_there = person.told.state != State::Offline || may_be_missed;
            (is_there && matches!(person.of, Of::Local(_))).then(|| News {
                user_nid,
                shown: person.told.clone(),
                rooms: Box::default(),
            })
        });
        let mut there: Vec<News> = there.collect();
        there.sort_by_key(|news| news.shown.state == State::Offline);
        there.truncate(limit);
        there
    }

    /// What there is to tell who was told up to version `counter` of this run, or nothing of it: `limit` users at most.
    /// Gives the version up to which that tells.
    pub fn since(
        &self,
        viewer: &Viewer<impl Fn(RoomNid) -> bool>,
        counter: Option<u64>,
        limit: usize,
        now: i64,
    ) -> (Vec<(UserNid, Shown)>, u64) {
        let counter = counter.filter(|counter| *counter >= self.forgotten);
        let mut found: BTreeMap<u64, UserNid> = BTreeMap::new();
        let mut find = |user_nid: UserNid, since: u64, is_new: bool| {
            let Some(person) = self.people.get(&user_nid).filter(|person| person.version > since) else {
                return;
            };
            let is_self = user_nid == viewer.user_nid;
            let version = if is_self && since > 0 {
                person.own_version
            } else {
                person.version
            };
            if version > since && (!is_new || person.told.state != State::Offline || is_self) {
                found.insert(version, user_nid);
            }
        };
        let since = counter.unwrap_or(0);
        if counter.is_none() || self.may_have_news(viewer.user_nid, since) {
            match self.news_of_all(viewer, since) {
                Some(news) => news.for_each(|user_nid| find(user_nid, since, viewer.is_new)),
                None => {
                    let own = std::iter::once(viewer.user_nid);
                    let shared = self.members(&viewer.rooms).chain(own);
                    shared.for_each(|user_nid| find(user_nid, since, viewer.is_new));
                }
            }
        }
        self.members(&viewer.came)
            .for_each(|user_nid| find(user_nid, 0, true));
        let is_cut = found.len() > limit;
        let mut upto = self.version;
        let mut seen = Vec::with_capacity(found.len().min(limit));
        for (version, user_nid) in found.into_iter().take(limit) {
            let Some(person) = self.people.get(&user_nid) else {
                continue;
            };
            let is_self = user_nid == viewer.user_nid;
            seen.push((user_nid, person.shown_to(is_self, now, self.times)));
            if is_cut {
                upto = version;
            }
        }
        (seen, upto)
    }

    fn may_have_news(&self, user_nid: UserNid, since: u64) -> bool {
        let person = self.people.get(&user_nid);
        person.is_none_or(|person| person.rooms.is_none() || person.latest > since)
    }

    fn members(&self, room_nids: &[RoomNid]) -> impl Iterator<Item = UserNid> {
        let members = room_nids.iter().filter_map(|room_nid| self.by_room.get(room_nid));
        members.flatten().copied()
    }

    /// Of everything that was told after a version, what concerns a viewer; nothing where it is less work to look at
    /// everyone who shares a room with them.
    fn news_of_all<'a>(
        &'a self,
        viewer: &'a Viewer<impl Fn(RoomNid) -> bool>,
        since: u64,
    ) -> Option<impl Iterator<Item = UserNid> + 'a> {
        let members = viewer
            .rooms
            .iter()
            .filter_map(|room_nid| self.by_room.get(room_nid));
        let members: usize = members.map(HashSet::len).sum();
        // Each that is told anew leaves an earlier version behind: there is at most this.
        let news = usize::try_from(self.version.saturating_sub(since)).unwrap_or(usize::MAX);
        if news > members.max(SCANNED) {
            return None;
        }
        let news = self
            .changes
            .range(since.saturating_add(1)..)
            .map(|(_, user_nid)| *user_nid);
        Some(news.filter(|user_nid| {
            let person = self.people.get(user_nid);
            *user_nid == viewer.user_nid || person.is_some_and(|person| person.is_in_any(&viewer.is_in))
        }))
    }
}
