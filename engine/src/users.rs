//! What the log says of each user: their rooms, how new their account data is, and what of it the server goes by. In
//! memory, bounded.

mod preferences;

use std::{collections::HashMap, sync::Arc, time::Duration};

use hearth_storage::{
    EventNid, Position, RoomNid, UserNid, account_data,
    log::{self, AccountData, Membership, MembershipChange},
    memberships,
};
use parking_lot::Mutex;
use quick_cache::{
    Weighter,
    sync::{Cache, EntryAction},
};
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use serde::Deserialize;

use crate::{Engine, Error};
pub(crate) use preferences::PRESENCE;
pub use preferences::Preferences;

/// Memberships kept in memory, of all users together.
const BUDGET: u64 = 2_000_000;
/// What a user without rooms counts for.
const EMPTY_WEIGHT: u64 = 8;

/// A user's membership in a room.
#[derive(Debug, Clone)]
pub struct UserRoom {
    /// The position of its last change.
    pub position: Position,
    /// The member event.
    pub event_nid: EventNid,
    /// The membership.
    pub membership: Membership,
    /// For a joined user, the position at which this unbroken time in the room began.
    pub joined_at: Option<Position>,
    /// The user doesn't want to see the room again.
    pub forgotten: bool,
    /// For an invite or knock: a JSON array of stripped state events.
    pub stripped_state: Option<Arc<str>>,
}

/// What the log says of a user.
#[derive(Debug, Clone, Default)]
pub struct User {
    /// Every room with a membership of theirs.
    pub rooms: HashMap<RoomNid, UserRoom>,
    /// The position of the newest change of a membership.
    pub newest: Position,
    /// The position of their newest account data.
    pub account_data: Position,
    /// What of their account data the server goes by.
    pub preferences: Arc<Preferences>,
}

#[derive(Debug, Clone)]
struct Holder {
    state: Arc<Mutex<State>>,
    /// As the cache knows it: see [`Users::weigh`].
    weight: u64,
}

impl Holder {
    /// One to load a user into.
    fn new() -> Self {
        Self {
            state: Arc::new(Mutex::new(State::Loading(Vec::new(), Vec::new()))),
            weight: EMPTY_WEIGHT,
        }
    }
}

#[derive(Debug)]
enum State {
    /// Entries that came while the user is being loaded.
    Loading(Vec<(Position, MembershipChange)>, Vec<(Position, AccountData)>),
    Loaded(Arc<User>, Position),
}

#[derive(Debug, Clone)]
struct ByRooms;

impl Weighter<UserNid, Holder> for ByRooms {
    fn weight(&self, _: &UserNid, holder: &Holder) -> u64 {
        holder.weight
    }
}

/// Users in memory.
#[derive(Debug)]
pub struct Users {
    cache: Cache<UserNid, Holder, ByRooms>,
}

impl Users {
    pub(crate) fn new() -> Self {
        Self {
            cache: Cache::with_weighter(100_000, BUDGET, ByRooms),
        }
    }

    pub(crate) fn clear(&self) {
        self.cache.clear();
    }

    /// A user who is in memory.
    fn get(&self, user_nid: UserNid) -> Option<Arc<User>> {
        let holder = self.cache.get(&user_nid)?;
        match &*holder.state.lock() {
            State::Loaded(user, _) => Some(Arc::clone(user)),
            State::Loading(..) => None,
        }
    }

    /// Says what a holder weighs by now, if it is still the one that entries of the log reach. In place and in one step:
    /// put there anew, it could take the place of one that came after it, and never hear of what only that one heard.
    fn weigh(&self, user_nid: UserNid, holder: &Holder, weight: u64) {
        // Nobody holds a place in this cache for a user to come; if they did, there would be no holder to weigh.
        let _ = self
            .cache
            .entry(&user_nid, Some(Duration::ZERO), |_, cached: &mut Holder| {
                if Arc::ptr_eq(&cached.state, &holder.state) {
                    cached.weight = weight;
                }
                EntryAction::Retain(())
            });
    }

    /// Brings a user up to a change of membership.
    pub(crate) fn apply_membership(&self, position: Position, change: &MembershipChange) {
        let Some(holder) = self.cache.get(&change.user_nid) else {
            return;
        };
        match &mut *holder.state.lock() {
            State::Loading(pending, _) => pending.push((position, change.clone())),
            State::Loaded(user, loaded_at) if position > *loaded_at => {
                set(Arc::make_mut(user), position, change)
            }
            State::Loaded(..) => {}
        }
    }

    /// Brings a user up to a change of account data.
    pub(crate) fn apply_account_data(&self, position: Position, data: &AccountData) {
        let Some(holder) = self.cache.get(&data.user_nid) else {
            return;
        };
        match &mut *holder.state.lock() {
            State::Loading(_, pending) => pending.push((position, data.clone())),
            State::Loaded(user, loaded_at) if position > *loaded_at => {
                Arc::make_mut(user).set_account_data(position, data)
            }
            State::Loaded(..) => {}
        }
    }
}

fn set(user: &mut User, position: Position, change: &MembershipChange) {
    let before = user.rooms.get(&change.room_nid).and_then(|room| room.joined_at);
    let joined_at = change
        .joined_at
        .or(before)
        .filter(|_| change.membership == Membership::Join);
    let room = UserRoom {
        position,
        event_nid: change.event_nid,
        membership: change.membership,
        joined_at,
        forgotten: change.forgotten,
        stripped_state: change.stripped_state.clone(),
    };
    user.rooms.insert(change.room_nid, room);
    user.newest = user.newest.max(position);
}

/// What of their account data the server goes by, of some users: from memory, or with one query for those who aren't there.
pub(crate) async fn preferences(
    engine: &Engine,
    user_nids: &[UserNid],
) -> Result<HashMap<UserNid, Arc<Preferences>>, Error> {
    let (mut found, mut missing) = (HashMap::with_capacity(user_nids.len()), Vec::new());
    for user_nid in user_nids {
        match engine.users.get(*user_nid) {
            Some(user) => drop(found.insert(*user_nid, Arc::clone(&user.preferences))),
            None => missing.push(*user_nid),
        }
    }
    if missing.is_empty() {
        return Ok(found);
    }
    let mut connection = engine.db.acquire().await?;
    let stored = account_data::of_types_of_users(&mut connection, &missing, &Preferences::TYPES).await?;
    let mut others: HashMap<UserNid, User> = missing.into_iter().map(|nid| (nid, User::default())).collect();
    for (position, data) in stored {
        if let Some(user) = others.get_mut(&data.user_nid) {
            user.set_account_data(position, &data);
        }
    }
    found.extend(others.into_iter().map(|(nid, user)| (nid, user.preferences)));
    Ok(found)
}

/// What the log says of a user, at least up to now.
pub async fn load(engine: &Engine, user_nid: UserNid) -> Result<Arc<User>, Error> {
    // In the cache before the snapshot is taken: an entry that is not in the one reaches the other.
    let holder = match engine.users.cache.get(&user_nid) {
        Some(holder) => holder,
        None => {
            let holder = Holder::new();
            engine.users.cache.insert(user_nid, holder.clone());
            holder
        }
    };
    if let State::Loaded(user, _) = &*holder.state.lock() {
        return Ok(Arc::clone(user));
    }
    let mut transaction = engine.db.begin_read().await?;
    let (_, loaded_at) = log::head(&mut transaction).await?;
    let stored = memberships::of_user(&mut transaction, user_nid).await?;
    let account_data = account_data::newest(&mut transaction, user_nid).await?;
    let preferences = account_data::of_types(&mut transaction, user_nid, &Preferences::TYPES).await?;
    drop(transaction);
    let mut user = User {
        rooms: HashMap::with_capacity(stored.len()),
        account_data,
        ..User::default()
    };
    for (position, data) in preferences {
        user.set_account_data(position, &data);
    }
    for row in stored {
        set(&mut user, row.position, &row.membership);
    }
    let mut state = holder.state.lock();
    if let State::Loading(pending, pending_data) = &mut *state {
        for (position, data) in pending_data.iter().filter(|(position, _)| *position > loaded_at) {
            user.set_account_data(*position, data);
        }
        for (position, change) in pending.iter().filter(|(position, _)| *position > loaded_at) {
            set(&mut user, *position, change);
        }
        *state = State::Loaded(Arc::new(user), loaded_at);
    }
    let State::Loaded(user, _) = &*state else {
        return Err(Error::Damaged("a user that is not loaded".to_owned()));
    };
    let user = Arc::clone(user);
    drop(state);
    // It weighs more now than when it was put there.
    engine
        .users
        .weigh(user_nid, &holder, EMPTY_WEIGHT + user.rooms.len() as u64);
    Ok(user)
}

impl UserRoom {
    /// Whose invite it is, for an invite.
    pub(crate) fn invited_by(&self, user_id: &UserId) -> Option<OwnedUserId> {
        #[derive(Deserialize)]
        struct Stripped {
            #[serde(rename = "type")]
            event_type: String,
            state_key: String,
            sender: OwnedUserId,
        }
        let stripped: Vec<Stripped> = serde_json::from_str(self.stripped_state.as_deref()?).ok()?;
        let own =
            |event: &Stripped| event.event_type == "m.room.member" && event.state_key == user_id.as_str();
        stripped.into_iter().rev().find(own).map(|event| event.sender)
    }
}

impl User {
    fn set_account_data(&mut self, position: Position, data: &AccountData) {
        self.account_data = self.account_data.max(position);
        if data.room_nid.is_none()
            && let Some(preferences) = self.preferences.with(position, &data.data_type, &data.content)
        {
            self.preferences = Arc::new(preferences);
        }
    }

    /// The rooms in which the user has this membership.
    pub fn rooms_with(&self, membership: Membership) -> impl Iterator<Item = RoomNid> + '_ {
        self.rooms
            .iter()
            .filter(move |(_, room)| room.membership == membership)
            .map(|(room_nid, _)| *room_nid)
    }
}

/// The IDs of the rooms that a user is in.
pub async fn joined_rooms(engine: &Engine, user_nid: UserNid) -> Result<Vec<OwnedRoomId>, Error> {
    let user = load(engine, user_nid).await?;
    let joined: Vec<RoomNid> = user.rooms_with(Membership::Join).collect();
    Ok(crate::rooms::ids(engine, &joined).await?.into_values().collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hearth_storage::UserNid;

    use super::{EMPTY_WEIGHT, Holder, Users};

    #[test]
    fn a_holder_is_weighed_where_it_is_and_takes_nobodys_place() {
        let (users, user_nid) = (Users::new(), UserNid::from(1));
        let (older, newer) = (Holder::new(), Holder::new());
        users.cache.insert(user_nid, older.clone());
        users.weigh(user_nid, &older, 100);
        assert_eq!(users.cache.weight(), 100);

        // Evicted, and loaded by somebody else meanwhile.
        users.cache.insert(user_nid, newer.clone());
        users.weigh(user_nid, &older, 1000);
        let cached = users.cache.get(&user_nid).unwrap();
        assert!(Arc::ptr_eq(&cached.state, &newer.state), "the newer one stays");
        assert_eq!(users.cache.weight(), EMPTY_WEIGHT);

        users.clear();
        users.weigh(user_nid, &older, 1000);
        assert!(users.cache.get(&user_nid).is_none(), "nor does it come back");
    }
}
