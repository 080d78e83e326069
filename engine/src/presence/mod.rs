//! Presence: who is there, and when they were last seen (client-server API, "Presence").
//!
//! In memory, and gone with the process but for when users were last seen and what they say of themselves. A user's
//! state is merged from their devices ([`person`]); news gathers for a moment and wakes those who share a room with whom
//! it is about and are connected, which costs as much as they are ([`book`], [`keeper`]). Members who aren't connected,
//! and events, cost nothing. Other servers are told, and believed of their own users ([`servers`]).
//!
//! What is news has a version, which means something only together with [`Typing::run`](crate::typing::Typing::run).

mod book;
mod connected;
mod keeper;
mod person;
mod servers;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hearth_storage::{
    RoomNid, UserNid,
    log::{AccountData, Membership},
    presence as stored,
};
use parking_lot::Mutex;
use ruma::{UserId, presence::PresenceState};
use tokio::sync::{Notify, watch};

use crate::{Engine, Error, PresenceSettings, accounts::Requester, users};
use book::{Book, Viewer};
use person::Times;
use servers::{KnownServers, Newcomer};

use crate::users::PRESENCE;
pub use connected::{Connected, connected};
pub(crate) use keeper::{keep, settle};
pub use person::{Shown, State};
pub(crate) use servers::{Said, arrived, note, receive, recovered, unreachable};

/// How long a message of a user may be, in bytes.
const MAX_STATUS_BYTES: usize = 2_048;
/// Users of whom one sync tells; of the others, the next.
const MOST_TOLD: usize = 1_000;

/// Who is there.
#[derive(Debug)]
pub struct Presence {
    settings: PresenceSettings,
    book: Mutex<Book>,
    version: watch::Sender<u64>,
    /// There is something to do for the keeper.
    work: Notify,
    /// Servers that are to be told who is there.
    came: Mutex<Vec<Newcomer>>,
    /// Rooms that came to this server, or of which more is known: others' users in them may be known already.
    arrived: Mutex<BTreeSet<RoomNid>>,
    servers: KnownServers,
}

/// Why a user's presence was not set.
#[derive(Debug, thiserror::Error)]
pub enum SetPresenceError {
    /// It is another user.
    #[error("you can set your own presence only")]
    NotYou,
    /// The specification has no such state.
    #[error("there is no such state")]
    UnknownState,
    /// The message is too long.
    #[error("a status message is at most {MAX_STATUS_BYTES} bytes long")]
    TooLong,
}

/// Why a user's presence is not told.
#[derive(Debug, thiserror::Error)]
pub enum GetPresenceError {
    /// There is no such user, as far as is known.
    #[error("there is no such user")]
    UnknownUser,
    /// They share no room with who asks.
    #[error("you share no room with this user")]
    NothingShared,
    /// Their server has said nothing of them.
    #[error("nothing is known of this user's presence")]
    NothingKnown,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<hearth_storage::StorageError> for GetPresenceError {
    fn from(error: hearth_storage::StorageError) -> Self {
        Self::Failed(error.into())
    }
}

impl Presence {
    pub(crate) fn new(settings: PresenceSettings) -> Self {
        let times = Times {
            idle_ms: milliseconds(settings.idle),
            grace_ms: milliseconds(settings.offline_after),
        };
        let book = Book::new(times);
        Self {
            settings,
            version: watch::Sender::new(book.version()),
            book: Mutex::new(book),
            work: Notify::new(),
            came: Mutex::default(),
            arrived: Mutex::default(),
            servers: KnownServers::new(),
        }
    }

    /// Follows the versions of what is told.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Changes something, and has the keeper look at what comes of it.
    fn change(&self, change: impl FnOnce(&mut Book)) {
        if !self.settings.enabled {
            return;
        }
        change(&mut self.book.lock());
        // It finds out by itself that there is nothing to do.
        self.work.notify_one();
    }

    /// An account is closed: nothing is kept of its user.
    pub(crate) fn forget(&self, user_nid: UserNid) {
        self.change(|book| book.forget(user_nid));
    }

    /// The log lost its end: who is in which room is looked up anew.
    pub(crate) fn doubt_all(&self) {
        self.change(Book::doubt_all);
    }
}

/// Takes note of account data, which memory has by now: its user may hide now, or not any more.
pub(crate) fn note_account_data(engine: &Engine, data: &AccountData) {
    if data.room_nid.is_none() && &*data.data_type == PRESENCE {
        engine.presence.change(|book| book.doubt(data.user_nid, false));
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Sets what the requester is from now on, and what they say of themselves.
pub fn set(
    engine: &Engine,
    requester: &Requester,
    user_id: &UserId,
    state: &PresenceState,
    status_msg: Option<String>,
) -> Result<(), SetPresenceError> {
    if requester.user_id != user_id {
        return Err(SetPresenceError::NotYou);
    }
    let state = State::of(state).ok_or(SetPresenceError::UnknownState)?;
    if status_msg
        .as_ref()
        .is_some_and(|status| status.len() > MAX_STATUS_BYTES)
    {
        return Err(SetPresenceError::TooLong);
    }
    let status_msg = status_of(status_msg);
    let now = engine.clock.now_ms();
    engine.presence.change(|book| {
        book.change(requester.user_nid, now, |local, times| {
            local.set(requester.device_nid, state, status_msg, now, times);
        });
    });
    Ok(())
}

/// What a user says of themselves, if that isn't too long. To say nothing is the same as to have nothing to say.
pub(crate) fn status_of(said: Option<String>) -> Option<Arc<str>> {
    let said = said.filter(|said| !said.is_empty() && said.len() <= MAX_STATUS_BYTES);
    said.map(Arc::from)
}

/// The requester did something that others see.
pub(crate) fn acted(engine: &Engine, requester: &Requester) {
    let now = engine.clock.now_ms();
    engine.presence.change(|book| {
        book.change(requester.user_nid, now, |local, _| {
            local.act(requester.device_nid, now)
        });
    });
}

/// What the requester sees of a user: themselves, or one who shares a room with them.
pub async fn get(
    engine: &Engine,
    requester: &Requester,
    user_id: &UserId,
) -> Result<Shown, GetPresenceError> {
    let user_nid = engine.interner.find_user(user_id).await?;
    let user_nid = user_nid.ok_or(GetPresenceError::UnknownUser)?;
    let is_self = user_nid == requester.user_nid;
    let is_local = user_id.server_name() == engine.config.server_name;
    if !is_self {
        let mut connection = engine.db.acquire().await?;
        if !stored::share_a_room(&mut connection, requester.user_nid, user_nid).await? {
            return Err(GetPresenceError::NothingShared);
        }
    }
    let presence = &engine.presence;
    let now = engine.clock.now_ms();
    let is_hidden = is_local && !is_self && users::load(engine, user_nid).await?.preferences.hides_presence();
    if !presence.settings.enabled || is_hidden {
        return Ok(Shown::hidden());
    }
    let (known, is_read) = {
        let book = presence.book.lock();
        (book.shown(user_nid, is_self, now), book.is_read(user_nid))
    };
    if !is_local {
        return known.ok_or(GetPresenceError::NothingKnown);
    }
    if let (Some(known), true) = (&known, is_read) {
        return Ok(known.clone());
    }
    let rows = stored::of_users(&mut *engine.db.acquire().await?, &[user_nid]).await?;
    let mut shown = known.unwrap_or_default();
    if let Some(row) = rows.into_iter().next() {
        shown.last_active_at = shown.last_active_at.max(Some(row.last_active_at));
        shown.status_msg = shown.status_msg.or(row.status_msg);
    }
    Ok(shown)
}

/// What a sync is told of presence.
#[derive(Debug)]
pub(crate) struct Told {
    pub users: Vec<(UserNid, Shown)>,
    /// The version up to which this tells.
    pub upto: u64,
    /// There is more.
    pub is_cut: bool,
}

/// The news for a user since a version of this run, or all there is; and who is there of the rooms that came into view.
/// `is_new` is a client that was told nothing ever.
pub(crate) fn since(
    engine: &Engine,
    (user_nid, user): (UserNid, &users::User),
    counter: Option<u64>,
    is_new: bool,
    came: Vec<RoomNid>,
) -> Told {
    let presence = &engine.presence;
    if !presence.settings.enabled {
        return Told {
            users: Vec::new(),
            upto: 0,
            is_cut: false,
        };
    }
    let viewer = Viewer {
        user_nid,
        is_new,
        rooms: user.rooms_with(Membership::Join).collect(),
        is_in: |room_nid| is_joined(user, room_nid),
        came,
    };
    let now = engine.clock.now_ms();
    let book = presence.book.lock();
    let (users, upto) = book.since(&viewer, counter, MOST_TOLD, now);
    let is_cut = upto < book.version();
    Told { users, upto, is_cut }
}

fn is_joined(user: &users::User, room_nid: RoomNid) -> bool {
    let room = user.rooms.get(&room_nid);
    room.is_some_and(|room| room.membership == Membership::Join)
}
