//! Everyone whose presence is known: who of them shares rooms with whom, what is news of whom, and what comes by itself
//! next. Pure: rooms are looked up and news is told by the [keeper](super::keeper).
//!
//! Each piece of news has a version, and a client's token says up to which it was told. Who is offline for long is
//! forgotten; a token from before that is told everything anew.

mod entry;
mod telling;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use hearth_storage::{DeviceNid, RoomNid, UserNid, presence::LastSeen};
use ruma::ServerName;

use super::person::{Local, Remote, Shown, State, Times};
use entry::{Of, Person};
pub(super) use telling::Viewer;

/// Users of other servers beyond this number are not noted; some 300 bytes each, and 8 for each of their rooms.
const MOST_PEOPLE: usize = 200_000;
/// Those who are offline are remembered, up to this number, so that it can be told.
const MOST_QUIET: usize = 20_000;
/// What is stored of a user is that much behind at most.
const STORE_EVERY_MS: i64 = 60_000;
/// Users are stored together that become due within this.
const STORE_TOGETHER_MS: i64 = 5_000;

/// Everyone whose presence is known.
#[derive(Debug)]
pub(super) struct Book {
    times: Times,
    people: HashMap<UserNid, Person>,
    by_room: HashMap<RoomNid, HashSet<UserNid>>,
    /// Users by the version of what was told of them last.
    changes: BTreeMap<u64, UserNid>,
    version: u64,
    /// Of those who were told of up to this version, some may be forgotten.
    forgotten: u64,
    queue: Vec<UserNid>,
    /// Those whose rooms have become known, and who may have missed news until then.
    arrived: Vec<UserNid>,
    due: BTreeSet<(i64, UserNid)>,
    store_due: BTreeSet<(i64, UserNid)>,
}

/// A user whose rooms have to be looked up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lookup {
    pub user_nid: UserNid,
    /// One of another server.
    pub is_remote: bool,
    /// What is stored of the user is to be read as well.
    pub is_unread: bool,
    change: u32,
}

/// What was looked up.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The rooms that the user is in.
    pub rooms: Vec<RoomNid>,
    pub is_hidden: bool,
    /// When one of this server's was last seen, and their message.
    pub stored: Option<(i64, Option<Arc<str>>)>,
}

/// News of one of this server's users, for other servers.
#[derive(Debug)]
pub(super) struct News {
    pub user_nid: UserNid,
    pub shown: Shown,
    pub rooms: Box<[RoomNid]>,
}

/// What comes of news.
#[derive(Debug, Default)]
pub(super) struct Announced {
    pub news: Vec<News>,
    /// For whom there is something.
    pub concerned: HashSet<UserNid>,
    /// How many connections they have.
    pub connections: usize,
}

impl Book {
    pub fn new(times: Times) -> Self {
        // Version 0 is before everything: a counter of 0 is older than what is remembered.
        Self {
            times,
            people: HashMap::new(),
            by_room: HashMap::new(),
            changes: BTreeMap::new(),
            version: 1,
            forgotten: 1,
            queue: Vec::new(),
            arrived: Vec::new(),
            due: BTreeSet::new(),
            store_due: BTreeSet::new(),
        }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many are known, and how many of them are there.
    pub fn len(&self) -> usize {
        self.people.len()
    }

    /// Whether somebody has to be looked at.
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When the clock is to look next.
    pub fn next_due(&self) -> Option<i64> {
        let first = |due: &BTreeSet<(i64, UserNid)>| due.first().map(|(at, _)| *at);
        [first(&self.due), first(&self.store_due)]
            .into_iter()
            .flatten()
            .min()
    }

    /// One who was there when the server ended.
    pub fn expect_back(&mut self, last_seen: LastSeen, now: i64) {
        let LastSeen {
            user_nid,
            last_active_at,
            status_msg,
            is_present,
        } = last_seen;
        // Who was faster is there already.
        if self.people.contains_key(&user_nid) {
            return;
        }
        let local = Local::returning(last_active_at, status_msg.clone(), now, self.times);
        let mut person = Person::new(Of::Local(local));
        person.stored = Some((last_active_at, status_msg, is_present));
        self.people.insert(user_nid, person);
        self.look(user_nid, now);
    }

    /// Changes something about one of this server's users.
    pub fn change(&mut self, user_nid: UserNid, now: i64, change: impl FnOnce(&mut Local, Times)) {
        let times = self.times;
        let person = self
            .people
            .entry(user_nid)
            .or_insert_with(|| Person::new(Of::Local(Local::default())));
        if let Of::Local(local) = &mut person.of {
            local.settle(now);
            change(local, times);
        }
        self.look(user_nid, now);
    }

    /// One of this server's users has a connection.
    pub fn listen(&mut self, user_nid: UserNid, device_nid: DeviceNid, said: Option<State>, now: i64) {
        self.change(user_nid, now, |local, _| {
            if let Some(said) = said {
                local.connect(device_nid, said, now);
            }
        });
        if let Some(person) = self.people.get_mut(&user_nid) {
            person.listeners += 1;
        }
    }

    /// That connection is gone.
    pub fn leave(&mut self, user_nid: UserNid, device_nid: DeviceNid, said: Option<State>, now: i64) {
        if let Some(person) = self.people.get_mut(&user_nid) {
            person.listeners = person.listeners.saturating_sub(1);
        }
        if said.is_some() {
            self.change(user_nid, now, |local, times| {
                local.disconnect(device_nid, now, times);
            });
        }
    }

    /// What another server says of one of its users.
    pub fn hear(&mut self, user_nid: UserNid, server: &ServerName, said: Shown, now: i64) {
        let remote = Remote::new(server.to_owned(), said, now);
        let is_full = self.people.len() >= MOST_PEOPLE;
        match self.people.entry(user_nid) {
            Entry::Occupied(mut known) => known.get_mut().of = Of::Remote(remote),
            Entry::Vacant(_) if is_full => return,
            Entry::Vacant(new) => drop(new.insert(Person::new(Of::Remote(remote)))),
        }
        self.look(user_nid, now);
    }

    /// A server can't be reached: its users are offline for all that is known.
    pub fn lose(&mut self, server: &ServerName, now: i64) {
        let mut lost = Vec::new();
        for (user_nid, person) in &mut self.people {
            if let Of::Remote(remote) = &mut person.of
                && remote.server == server
                && remote.due().is_some()
            {
                remote.lose();
                lost.push(*user_nid);
            }
        }
        for user_nid in lost {
            self.look(user_nid, now);
        }
    }

    /// What is shown of one of this server's users, if it is all known: to themselves, or to others.
    pub fn shown(&self, user_nid: UserNid, is_self: bool, now: i64) -> Option<Shown> {
        let person = self.people.get(&user_nid)?;
        Some(person.shown_to(is_self, now, self.times))
    }

    /// Whether it is known what is stored of one of this server's users.
    pub fn is_read(&self, user_nid: UserNid) -> bool {
        let person = self.people.get(&user_nid);
        person.is_some_and(|person| matches!(&person.of, Of::Local(local) if local.is_read))
    }

    /// Finds out whether there is news of a user, and when to look at them again.
    fn look(&mut self, user_nid: UserNid, now: i64) {
        let times = self.times;
        let Some(person) = self.people.get_mut(&user_nid) else {
            return;
        };
        let is_news = person.told.is_outdated_by(&person.shown(now, times));
        if (is_news || person.lookup.is_some()) && !person.is_queued {
            person.is_queued = true;
            self.queue.push(user_nid);
        }
        // A later one is found out when this one comes.
        if let Some(due) = person.due(now, times).map(|due| due.max(now.saturating_add(1)))
            && person.due.is_none_or(|known| due < known)
        {
            if let Some(known) = person.due.replace(due) {
                self.due.remove(&(known, user_nid));
            }
            self.due.insert((due, user_nid));
        }
        if person.store_due.is_none()
            && let Some(to_store) = person.to_store(now, times)
            && person.stored.as_ref() != Some(&to_store)
        {
            // That somebody is here again must be known after a kill: they are the ones who are to be told offline then.
            let is_back = to_store.2
                && person
                    .stored
                    .as_ref()
                    .is_none_or(|(.., was_present)| !was_present);
            let due = match is_back {
                true => now,
                false => now.max(person.stored_at.saturating_add(STORE_EVERY_MS)),
            };
            let due = (due / STORE_TOGETHER_MS + 1).saturating_mul(STORE_TOGETHER_MS);
            person.store_due = Some(due);
            self.store_due.insert((due, user_nid));
        }
    }

    /// Looks at those for whom it is time.
    pub fn turn(&mut self, now: i64) {
        while let Some((due, user_nid)) = self.due.first().copied()
            && due <= now
        {
            self.due.pop_first();
            let Some(person) = self.people.get_mut(&user_nid) else {
                continue;
            };
            person.due = None;
            match &mut person.of {
                Of::Local(local) => local.settle(now),
                Of::Remote(remote) if remote.due().is_some_and(|due| due <= now) => remote.lose(),
                Of::Remote(_) => {}
            }
            let repeats = person.told.state != State::Offline && person.is_to_be_repeated(now);
            if repeats && !person.is_queued {
                person.is_queued = true;
                self.queue.push(user_nid);
            }
            self.look(user_nid, now);
        }
    }

    /// A user's rooms changed, or whether they hide. If they came into a room, those who are there are to hear of them.
    pub fn doubt(&mut self, user_nid: UserNid, is_due_again: bool) {
        let Some(person) = self.people.get_mut(&user_nid) else {
            return;
        };
        person.lookup = Some(person.lookup.unwrap_or_default().wrapping_add(1));
        person.is_due_again |= is_due_again;
        if !person.is_queued {
            person.is_queued = true;
            self.queue.push(user_nid);
        }
    }

    /// The users of other servers that aren't known to be in a room.
    pub fn remotes_outside(&self, room_nid: RoomNid) -> Vec<UserNid> {
        let inside = self.by_room.get(&room_nid);
        let is_outside = |user_nid: &UserNid| inside.is_none_or(|inside| !inside.contains(user_nid));
        let remotes = self
            .people
            .iter()
            .filter(|(_, person)| matches!(person.of, Of::Remote(_)));
        remotes
            .map(|(user_nid, _)| *user_nid)
            .filter(is_outside)
            .collect()
    }

    /// Everyone's rooms may have changed.
    pub fn doubt_all(&mut self) {
        let all: Vec<UserNid> = self.people.keys().copied().collect();
        for user_nid in all {
            self.doubt(user_nid, false);
        }
    }

    /// Those whose rooms have to be looked up before there can be news of them.
    pub fn lookups(&self) -> Vec<Lookup> {
        let queued = self.queue.iter();
        let lookup = queued.filter_map(|user_nid| {
            let person = self.people.get(user_nid)?;
            Some(Lookup {
                user_nid: *user_nid,
                is_remote: matches!(person.of, Of::Remote(_)),
                is_unread: matches!(&person.of, Of::Local(local) if !local.is_read),
                change: person.lookup?,
            })
        });
        lookup.collect()
    }

    /// Takes what was looked up. What changed meanwhile is to be looked up again.
    pub fn place(&mut self, lookup: &Lookup, found: Found, now: i64) {
        let user_nid = lookup.user_nid;
        let Some(person) = self.people.get_mut(&user_nid) else {
            return;
        };
        let Found {
            mut rooms,
            is_hidden,
            stored,
        } = found;
        rooms.sort_unstable();
        let was_there = person.stored.as_ref().is_some_and(|(.., is_present)| *is_present);
        let mut is_nothing_new = false;
        if let Of::Local(local) = &mut person.of {
            local.is_hidden = is_hidden;
            if lookup.is_unread {
                local.read(stored);
            }
            is_nothing_new = is_hidden || !(was_there || local.is_set);
        }
        if person.lookup == Some(lookup.change) {
            person.lookup = None;
        }
        let before = person.rooms.replace(rooms.into());
        if before.is_none() {
            person.latest = self.version;
            self.arrived.push(user_nid);
            // Whoever was told nothing of a user takes them to be offline: saying so would tell that they are here.
            let shown = person.shown(now, self.times);
            if is_nothing_new && shown.state == State::Offline {
                person.told = shown;
            }
        }
        let after = person.rooms.clone();
        self.index(user_nid, before.as_deref(), after.as_deref());
        self.look(user_nid, now);
    }

    fn index(&mut self, user_nid: UserNid, before: Option<&[RoomNid]>, after: Option<&[RoomNid]>) {
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        for room_nid in before
            .iter()
            .filter(|room_nid| after.binary_search(room_nid).is_err())
        {
            if let Some(people) = self.by_room.get_mut(room_nid) {
                people.remove(&user_nid);
                if people.is_empty() {
                    self.by_room.remove(room_nid);
                }
            }
        }
        for room_nid in after
            .iter()
            .filter(|room_nid| before.binary_search(room_nid).is_err())
        {
            self.by_room.entry(*room_nid).or_default().insert(user_nid);
        }
    }

    /// Forgets a user. Clients that were told of them up to now are told everything anew.
    pub fn forget(&mut self, user_nid: UserNid) {
        let Some(person) = self.people.remove(&user_nid) else {
            return;
        };
        self.index(user_nid, person.rooms.as_deref(), None);
        self.changes.remove(&person.version);
        self.forgotten = self.forgotten.max(person.version);
        if let Some(due) = person.due {
            self.due.remove(&(due, user_nid));
        }
        if let Some(due) = person.store_due {
            self.store_due.remove(&(due, user_nid));
        }
    }

    /// Forgets some of those who are offline, if they are many; and users of other servers who share no room with anybody
    /// here. Not at once: their server may know sooner than this one that they do.
    pub fn sweep(&mut self, now: i64) {
        let mut quiet: Vec<(u64, UserNid)> = Vec::new();
        let mut strays: Vec<UserNid> = Vec::new();
        for (user_nid, person) in &self.people {
            if person.is_quiet() {
                quiet.push((person.version, *user_nid));
            } else if person.is_stray(now) {
                strays.push(*user_nid);
            }
        }
        for user_nid in strays {
            self.forget(user_nid);
        }
        if quiet.len() > MOST_QUIET {
            quiet.sort_unstable();
            // Half of them at once, so that this is seldom.
            quiet.truncate(quiet.len() - MOST_QUIET / 2);
            for (_, user_nid) in quiet {
                self.forget(user_nid);
            }
        }
    }

    /// Gives versions to what is news, of those whose rooms are known.
    pub fn announce(&mut self, now: i64) -> Announced {
        let mut announced = Announced::default();
        announced.concerned.extend(self.arrived.drain(..));
        // With the user whom all the news of a room is of, if that is one.
        let mut rooms: HashMap<RoomNid, Option<UserNid>> = HashMap::new();
        for user_nid in std::mem::take(&mut self.queue) {
            let Some(person) = self.people.get_mut(&user_nid) else {
                continue;
            };
            if person.lookup.is_some() {
                self.queue.push(user_nid);
                continue;
            }
            person.is_queued = false;
            let is_due_again = std::mem::take(&mut person.is_due_again);
            let is_own = match &mut person.of {
                Of::Local(local) => std::mem::take(&mut local.is_set),
                Of::Remote(_) => false,
            };
            let shown = person.shown(now, self.times);
            let is_news = person.told.is_outdated_by(&shown)
                || (is_due_again && (shown.state != State::Offline || shown.status_msg.is_some()));
            let in_rooms = person.rooms.clone().unwrap_or_default();
            let repeats = shown.state != State::Offline && person.is_to_be_repeated(now);
            if is_news {
                self.version += 1;
                self.changes.remove(&person.version);
                self.changes.insert(self.version, user_nid);
                person.version = self.version;
                person.told = shown.clone();
                if is_own {
                    person.own_version = self.version;
                    person.latest = self.version;
                    announced.concerned.insert(user_nid);
                }
                for room_nid in &in_rooms {
                    let only = rooms.entry(*room_nid).or_insert(Some(user_nid));
                    *only = only.filter(|only| *only == user_nid);
                }
            }
            if (is_news || repeats) && matches!(person.of, Of::Local(_)) {
                person.sent_at = now;
                announced.news.push(News {
                    user_nid,
                    shown,
                    rooms: in_rooms,
                });
            }
            self.look(user_nid, now);
        }
        for (room_nid, only) in rooms {
            let members = self.by_room.get(&room_nid).into_iter().flatten();
            for user_nid in members.filter(|user_nid| Some(**user_nid) != only) {
                if let Some(person) = self.people.get_mut(user_nid) {
                    person.latest = self.version;
                    if person.listeners > 0 {
                        announced.concerned.insert(*user_nid);
                    }
                }
            }
        }
        let concerned = announced.concerned.iter();
        let listeners = concerned.filter_map(|user_nid| Some(self.people.get(user_nid)?.listeners as usize));
        announced.connections = listeners.sum();
        announced
    }

    /// What is to be stored now.
    pub fn take_to_store(&mut self, now: i64) -> Vec<LastSeen> {
        let mut all = Vec::new();
        while let Some((due, user_nid)) = self.store_due.first().copied()
            && due <= now
        {
            self.store_due.pop_first();
            if let Some(person) = self.people.get_mut(&user_nid) {
                person.store_due = None;
                all.extend(person.store(user_nid, now, self.times));
            }
        }
        all
    }

    /// What is to be stored where the server ends.
    pub fn take_all_to_store(&mut self, now: i64) -> Vec<LastSeen> {
        let mut all = Vec::new();
        for (user_nid, person) in &mut self.people {
            if let Of::Local(local) = &mut person.of {
                let _ = local.take_to_store_at_end(now, self.times);
                all.extend(person.store(*user_nid, now, self.times));
            }
        }
        all
    }

    /// This was not stored after all.
    pub fn not_stored(&mut self, all: &[LastSeen], now: i64) {
        for one in all {
            if let Some(person) = self.people.get_mut(&one.user_nid) {
                person.stored = None;
                person.stored_at = 0;
            }
            self.look(one.user_nid, now);
        }
    }
}
