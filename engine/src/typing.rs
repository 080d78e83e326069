//! Who is typing where (client-server API, "Typing Notifications").
//!
//! Not in the log, and gone with the process: a counter says how new each room's typing is, and means something only
//! together with [`Typing::run`].

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use hearth_storage::{RoomNid, UserNid, log::Membership};
use parking_lot::Mutex;
use ruma::{RoomId, UserId};
use tokio::{sync::watch, task::AbortHandle};

use crate::{Engine, Entropy, Error, accounts::Requester, outgoing, presence, rooms};

/// How long someone types whose client doesn't say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long someone types at most without saying so again.
const MAX_TIMEOUT: Duration = Duration::from_secs(120);
/// How long someone of another server types who doesn't say so again.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(60);
/// Rooms that fell quiet are remembered, up to this number, so that a sync can say so. Some 100 bytes each.
const QUIET_ROOMS: usize = 10_000;
/// Changes of one room of which it is remembered whose they were.
const LAST_CHANGES: usize = 16;

/// Why it was not noted that someone is typing.
#[derive(Debug, thiserror::Error)]
pub enum TypingError {
    /// It is another user.
    #[error("you can say of yourself only that you are typing")]
    NotYou,
    /// The user isn't in the room, which may not exist.
    #[error("you are not in this room")]
    NotInRoom,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Who is typing.
#[derive(Debug)]
pub struct Typing {
    run: u32,
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    version: u64,
    rooms: HashMap<RoomNid, TypingRoom>,
    /// The rooms by the version of their last change.
    changes: BTreeMap<u64, RoomNid>,
    quiet: usize,
    quiet_limit: usize,
    /// Of rooms whose last change is not after this, those that are quiet may have been forgotten.
    forgotten: u64,
    /// Tells one announcement from the next.
    serial: u64,
}

#[derive(Debug, Default)]
struct TypingRoom {
    changed: u64,
    /// In the order in which they began.
    typists: Vec<Typist>,
    /// Who began or stopped last, and at which version, up to [`LAST_CHANGES`] of them.
    last: VecDeque<(u64, UserNid)>,
    /// Changes up to this version are no longer among the last.
    last_since: u64,
}

/// What changed in a room about who is typing.
#[derive(Debug, PartialEq, Eq)]
pub struct Changed {
    /// The room.
    pub room_nid: RoomNid,
    /// Who is typing in it; nobody in one that fell quiet.
    pub typists: Vec<UserNid>,
    /// Who began or stopped, if it is known.
    pub by: Option<Vec<UserNid>>,
}

#[derive(Debug)]
struct Typist {
    user_nid: UserNid,
    serial: u64,
    timer: Option<AbortHandle>,
}

impl Drop for Typist {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            timer.abort();
        }
    }
}

impl Typing {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        let mut run = [0; 4];
        entropy.fill(&mut run);
        let state = State::new(QUIET_ROOMS);
        Self {
            run: u32::from_le_bytes(run),
            version: watch::Sender::new(state.version),
            state: Mutex::new(state),
        }
    }

    /// Names this run of the server: counters of another say nothing here.
    pub fn run(&self) -> u32 {
        self.run
    }

    /// How far typing has come. Read it before the rooms, so that nothing is missed in between.
    pub fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Follows [`Typing::version`].
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The rooms whose typing changed after `counter`, a version of this run. A counter older than what is remembered
    /// gets what [`Typing::present`] gives. Rooms that `is_wanted` doesn't want are passed over.
    pub fn changed_since(&self, counter: u64, is_wanted: impl Fn(RoomNid) -> bool) -> Vec<Changed> {
        self.state.lock().changed_since(counter, is_wanted)
    }

    /// The rooms in which someone types; by those who do.
    pub fn present(&self, is_wanted: impl Fn(RoomNid) -> bool) -> Vec<Changed> {
        self.state.lock().present(is_wanted)
    }

    /// Applies a change, and wakes the room if there was one, which it says.
    fn apply(&self, engine: &Engine, room_nid: RoomNid, change: impl FnOnce(&mut State) -> bool) -> bool {
        let changed = {
            let mut state = self.state.lock();
            let changed = change(&mut state);
            self.version
                .send_if_modified(|version| std::mem::replace(version, state.version) != state.version);
            changed
        };
        if changed {
            rooms::wake(engine, room_nid);
        }
        changed
    }
}

impl State {
    fn new(quiet_limit: usize) -> Self {
        // Version 0 is before everything: a counter of 0 is older than what is remembered.
        Self {
            version: 1,
            rooms: HashMap::new(),
            changes: BTreeMap::new(),
            quiet: 0,
            quiet_limit,
            forgotten: 1,
            serial: 0,
        }
    }

    /// A user types, or goes on typing. `timer` is begun for this announcement.
    fn start(
        &mut self,
        room_nid: RoomNid,
        user_nid: UserNid,
        timer: impl FnOnce(u64) -> Option<AbortHandle>,
    ) -> bool {
        self.serial += 1;
        let serial = self.serial;
        let typist = Typist {
            user_nid,
            serial,
            timer: timer(serial),
        };
        let room = self.rooms.entry(room_nid).or_default();
        if let Some(known) = room.typists.iter_mut().find(|known| known.user_nid == user_nid) {
            *known = typist;
            return false;
        }
        if room.changed != 0 && room.typists.is_empty() {
            self.quiet -= 1;
        }
        room.typists.push(typist);
        self.note_change(room_nid, user_nid);
        true
    }

    /// A user stops typing; with a `serial`, only if nothing was announced after that.
    fn stop(&mut self, room_nid: RoomNid, user_nid: UserNid, serial: Option<u64>) -> bool {
        let Some(room) = self.rooms.get_mut(&room_nid) else {
            return false;
        };
        let before = room.typists.len();
        room.typists.retain(|known| {
            known.user_nid != user_nid || serial.is_some_and(|serial| known.serial != serial)
        });
        if room.typists.len() == before {
            return false;
        }
        if room.typists.is_empty() {
            self.quiet += 1;
        }
        self.note_change(room_nid, user_nid);
        self.forget();
        true
    }

    fn note_change(&mut self, room_nid: RoomNid, user_nid: UserNid) {
        self.version += 1;
        if let Some(room) = self.rooms.get_mut(&room_nid) {
            self.changes
                .remove(&std::mem::replace(&mut room.changed, self.version));
            self.changes.insert(self.version, room_nid);
            room.note(self.version, user_nid);
        }
    }

    /// Forgets the rooms that have been quiet for longest while there are too many.
    fn forget(&mut self) {
        if self.quiet <= self.quiet_limit {
            return;
        }
        // Half of them at once: rooms in which someone types are passed over each time.
        let quiet = self
            .changes
            .iter()
            .filter(|(_, room_nid)| self.is_quiet(**room_nid));
        let forgotten: Vec<(u64, RoomNid)> = quiet
            .map(|(version, room_nid)| (*version, *room_nid))
            .take(self.quiet - self.quiet_limit / 2)
            .collect();
        for (version, room_nid) in forgotten {
            self.changes.remove(&version);
            self.rooms.remove(&room_nid);
            self.quiet -= 1;
            self.forgotten = version;
        }
    }

    fn is_quiet(&self, room_nid: RoomNid) -> bool {
        self.rooms
            .get(&room_nid)
            .is_none_or(|room| room.typists.is_empty())
    }

    fn changed_since(&self, counter: u64, is_wanted: impl Fn(RoomNid) -> bool) -> Vec<Changed> {
        if counter < self.forgotten {
            return self.present(is_wanted);
        }
        let changed = self.changes.range(counter.saturating_add(1)..);
        changed
            .filter_map(|(_, room_nid)| Some((*room_nid, self.rooms.get(room_nid)?)))
            .filter(|(room_nid, _)| is_wanted(*room_nid))
            .map(|(room_nid, room)| Changed {
                room_nid,
                typists: room.who(),
                by: room.changed_by(counter),
            })
            .collect()
    }

    fn present(&self, is_wanted: impl Fn(RoomNid) -> bool) -> Vec<Changed> {
        let typing = self
            .rooms
            .iter()
            .filter(|(room_nid, room)| !room.typists.is_empty() && is_wanted(**room_nid));
        typing
            .map(|(room_nid, room)| Changed {
                room_nid: *room_nid,
                typists: room.who(),
                by: Some(room.who()),
            })
            .collect()
    }
}

impl TypingRoom {
    fn who(&self) -> Vec<UserNid> {
        self.typists.iter().map(|typist| typist.user_nid).collect()
    }

    fn note(&mut self, version: u64, user_nid: UserNid) {
        self.last.push_back((version, user_nid));
        if self.last.len() > LAST_CHANGES
            && let Some((version, _)) = self.last.pop_front()
        {
            self.last_since = version;
        }
    }

    /// Who began or stopped after a version, if that isn't too long ago.
    fn changed_by(&self, since: u64) -> Option<Vec<UserNid>> {
        let last = self.last.iter().filter(|(version, _)| *version > since);
        (self.last_since <= since).then(|| last.map(|(_, user_nid)| *user_nid).collect())
    }
}

/// Notes that the requester types in a room for `timeout` from now, or with nothing that they stopped.
pub async fn set(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    user_id: &UserId,
    timeout: Option<Duration>,
) -> Result<(), TypingError> {
    if requester.user_id != user_id {
        return Err(TypingError::NotYou);
    }
    let room = rooms::by_id(engine, room_id)
        .await?
        .ok_or(TypingError::NotInRoom)?;
    let membership = room.read(|view| view.members.get(requester.user_nid)).flatten();
    if membership != Some(Membership::Join) {
        return Err(TypingError::NotInRoom);
    }
    match timeout {
        Some(timeout) => {
            start(engine, room.nid, requester.user_nid, timeout.min(MAX_TIMEOUT));
            presence::acted(engine, requester);
        }
        None => stop(engine, room.nid, requester.user_nid),
    }
    Ok(())
}

fn start(engine: &Arc<Engine>, room_nid: RoomNid, user_nid: UserNid, timeout: Duration) {
    let weak = Arc::downgrade(engine);
    let timer = |serial| {
        let expiry = tokio::spawn(async move {
            tokio::time::sleep(timeout).await;
            let Some(engine) = weak.upgrade() else { return };
            stopped(&engine, room_nid, user_nid, Some(serial));
        });
        Some(expiry.abort_handle())
    };
    let changed = engine
        .typing
        .apply(engine, room_nid, |state| state.start(room_nid, user_nid, timer));
    outgoing::note_typing(engine, room_nid, user_nid, true, changed);
}

/// A user no longer types in a room: they sent a message, or left.
pub(crate) fn stop(engine: &Engine, room_nid: RoomNid, user_nid: UserNid) {
    stopped(engine, room_nid, user_nid, None);
}

fn stopped(engine: &Engine, room_nid: RoomNid, user_nid: UserNid, serial: Option<u64>) {
    let changed = engine
        .typing
        .apply(engine, room_nid, |state| state.stop(room_nid, user_nid, serial));
    if changed {
        outgoing::note_typing(engine, room_nid, user_nid, false, true);
    }
}

/// Notes what another server says of one of its users, who is in the room. One who types does so for a minute, unless
/// that server says otherwise before.
pub(crate) fn set_remote(engine: &Arc<Engine>, room_nid: RoomNid, user_nid: UserNid, is_typing: bool) {
    match is_typing {
        true => start(engine, room_nid, user_nid, REMOTE_TIMEOUT),
        false => stop(engine, room_nid, user_nid),
    }
}

#[cfg(test)]
mod tests {
    use hearth_storage::{RoomNid, UserNid};

    use super::{Changed, LAST_CHANGES, State};

    const fn any(_: RoomNid) -> bool {
        true
    }

    type Typing = Vec<(RoomNid, Vec<UserNid>)>;

    /// Who types, without who changed it.
    fn who(changed: Vec<Changed>) -> Typing {
        changed
            .into_iter()
            .map(|room| (room.room_nid, room.typists))
            .collect()
    }

    fn room(number: i64) -> RoomNid {
        RoomNid::from(number)
    }

    fn user(number: i64) -> UserNid {
        UserNid::from(number)
    }

    #[test]
    fn each_change_is_told_once_and_silence_is_a_change() {
        let mut state = State::new(10);
        let before = state.version;
        assert!(state.start(room(1), user(1), |_| None));
        assert!(state.start(room(1), user(2), |_| None));
        assert_eq!(
            who(state.changed_since(before, any)),
            [(room(1), vec![user(1), user(2)])]
        );
        let seen = state.version;
        assert_eq!(who(state.changed_since(seen, any)), []);
        assert!(state.stop(room(1), user(1), None));
        assert!(state.stop(room(1), user(2), None));
        assert_eq!(who(state.changed_since(seen, any)), [(room(1), vec![])]);
        assert!(!state.stop(room(1), user(2), None));
    }

    #[test]
    fn it_is_known_who_changed_it_unless_that_is_too_much() {
        let mut state = State::new(10);
        let by = |state: &State, since| state.changed_since(since, any).pop().unwrap().by;
        let before = state.version;
        state.start(room(1), user(1), |_| None);
        let between = state.version;
        state.start(room(1), user(2), |_| None);
        state.stop(room(1), user(1), None);
        assert_eq!(by(&state, before), Some(vec![user(1), user(2), user(1)]));
        assert_eq!(by(&state, between), Some(vec![user(2), user(1)]));
        for _ in 0..LAST_CHANGES / 2 {
            state.start(room(1), user(3), |_| None);
            state.stop(room(1), user(3), None);
        }
        assert_eq!(by(&state, between), None, "the last changes are all of user 3");
        assert_eq!(by(&state, state.version - 1), Some(vec![user(3)]));
        assert_eq!(state.present(any)[0].by, Some(vec![user(2)]));
    }

    #[test]
    fn going_on_typing_is_no_change_and_outlives_the_first_announcement() {
        let mut state = State::new(10);
        let mut first = 0;
        state.start(room(1), user(1), |serial| {
            first = serial;
            None
        });
        let seen = state.version;
        assert!(!state.start(room(1), user(1), |_| None));
        assert!(!state.stop(room(1), user(1), Some(first)));
        assert_eq!(who(state.changed_since(seen, any)), []);
        assert_eq!(who(state.present(any)), [(room(1), vec![user(1)])]);
    }

    #[test]
    fn only_wanted_rooms_are_told() {
        let mut state = State::new(10);
        let before = state.version;
        state.start(room(1), user(1), |_| None);
        state.start(room(2), user(1), |_| None);
        let wanted = |room_nid| room_nid == room(2);
        assert_eq!(
            who(state.changed_since(before, wanted)),
            [(room(2), vec![user(1)])]
        );
        assert_eq!(who(state.present(wanted)), [(room(2), vec![user(1)])]);
    }

    #[test]
    fn a_first_sync_hears_of_no_quiet_rooms() {
        let mut state = State::new(10);
        state.start(room(1), user(1), |_| None);
        state.start(room(2), user(1), |_| None);
        state.stop(room(1), user(1), None);
        assert_eq!(who(state.changed_since(0, any)), [(room(2), vec![user(1)])]);
    }

    #[test]
    fn quiet_rooms_are_forgotten_and_older_counters_get_what_is_present() {
        let mut state = State::new(4);
        state.start(room(100), user(1), |_| None);
        let before = state.version;
        for number in 1..=5 {
            state.start(room(number), user(1), |_| None);
            state.stop(room(number), user(1), None);
        }
        assert_eq!((state.quiet, state.rooms.len(), state.changes.len()), (2, 3, 3));
        assert_eq!(
            who(state.changed_since(before, any)),
            [(room(100), vec![user(1)])]
        );
        assert_eq!(
            who(state.changed_since(state.forgotten, any)),
            [(room(4), vec![]), (room(5), vec![])]
        );
        // A forgotten room begins anew.
        assert!(state.start(room(1), user(1), |_| None));
        assert!(state.stop(room(1), user(1), None));
        assert_eq!(state.quiet, 3);
    }
}
