//! Takes a changed name or avatar to the member events of its user's rooms, in the background.
//!
//! A user has at most one propagation under way. It reads the profile when it begins a round, and begins another when
//! the profile changed meanwhile, so that the last value is the one that stands in the end. A row in the database
//! outlives a stop of the server in the middle.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use hearth_storage::{
    RoomNid, UserNid,
    log::{CommitError, Membership},
    profiles,
};
use parking_lot::Mutex;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedUserId};
use tokio::sync::{Semaphore, watch};

use super::{AVATAR, NAME, Profile};
use crate::{
    Engine, Error,
    rooms::{self, DecideError, Draft, SendError},
    users,
};

/// Rooms told at once, of all users together, and of one.
const ROOMS_AT_ONCE: usize = 16;
const ROOMS_OF_ONE_USER: usize = 4;
/// How often one room is tried in a round, and how long to wait between: the member event was changed by another.
const ATTEMPTS: u32 = 5;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(50);
/// Between rounds that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The propagations under way.
#[derive(Debug)]
pub(crate) struct Propagations {
    /// Whether the profile changed since the round that is under way began.
    under_way: Mutex<HashMap<UserNid, bool>>,
    count: watch::Sender<usize>,
    rooms: Semaphore,
}

impl Propagations {
    pub fn new() -> Self {
        Self {
            under_way: Mutex::default(),
            count: watch::Sender::new(0),
            rooms: Semaphore::new(ROOMS_AT_ONCE),
        }
    }

    pub fn watch(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Whether a propagation is to be begun; otherwise the one under way has been told.
    fn begin(&self, user_nid: UserNid) -> bool {
        let mut under_way = self.under_way.lock();
        let known = under_way.insert(user_nid, false).is_some();
        if known {
            under_way.insert(user_nid, true);
        }
        self.count.send_replace(under_way.len());
        !known
    }

    /// Whether another round is to be made; otherwise the propagation has ended.
    fn begin_again(&self, user_nid: UserNid) -> bool {
        let mut under_way = self.under_way.lock();
        let again = under_way.insert(user_nid, false) == Some(true);
        if !again {
            under_way.remove(&user_nid);
            self.count.send_replace(under_way.len());
        }
        again
    }
}

/// Sees to it that the rooms of a user are told of their profile.
pub(super) fn start(engine: &Arc<Engine>, user_nid: UserNid) {
    if engine.propagations.begin(user_nid) {
        tokio::spawn(run(Arc::downgrade(engine), user_nid));
    }
}

/// Goes on with what was under way when the server stopped.
pub(crate) async fn resume(engine: Weak<Engine>) {
    loop {
        let Some(alive) = engine.upgrade() else { return };
        match unfinished(&alive).await {
            Ok(user_nids) => return user_nids.into_iter().for_each(|user_nid| start(&alive, user_nid)),
            Err(error) => {
                tracing::warn!(%error, "could not read which profiles are to be propagated; trying again")
            }
        }
        let shutdown = alive.shutdown.clone();
        drop(alive);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LONGEST_PAUSE) => {}
        }
    }
}

async fn unfinished(engine: &Engine) -> Result<Vec<UserNid>, Error> {
    let mut connection = engine.db.acquire().await?;
    Ok(profiles::propagations(&mut connection).await?)
}

async fn run(engine: Weak<Engine>, user_nid: UserNid) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(alive) = engine.upgrade() else { return };
        if alive.shutdown.is_cancelled() {
            return;
        }
        // A task of its own: should it panic, the user's later changes must not wait for it.
        let round = tokio::spawn(round(Arc::clone(&alive), user_nid)).await;
        let outcome =
            round.unwrap_or_else(|error| Err(Error::Damaged(format!("a propagation panicked: {error}"))));
        match outcome {
            Ok(()) if alive.propagations.begin_again(user_nid) => pause = FIRST_PAUSE,
            Ok(()) => return,
            Err(_) if alive.shutdown.is_cancelled() => return,
            Err(error) => {
                tracing::warn!(%error, "a profile could not be propagated to all rooms; trying again");
                let shutdown = alive.shutdown.clone();
                drop(alive);
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

async fn round(engine: Arc<Engine>, user_nid: UserNid) -> Result<(), Error> {
    let version = {
        let mut connection = engine.db.acquire().await?;
        profiles::propagation(&mut connection, user_nid).await?
    };
    // The version is read before the profile: what changes in between makes another round.
    let Some(version) = version else { return Ok(()) };
    let profile = super::of(&engine, user_nid).await?;
    let user_id = engine.interner.user_ids(&[user_nid]).await?.remove(&user_nid);
    let user_id = user_id.ok_or_else(|| Error::Damaged("a user without an ID".to_owned()))?;
    let joined: Vec<RoomNid> = users::load(&engine, user_nid)
        .await?
        .rooms_with(Membership::Join)
        .collect();
    let member = Teller {
        engine: &engine,
        user: (user_id, user_nid),
        profile,
    };
    let told: Vec<Result<(), Error>> = stream::iter(joined)
        .map(|room_nid| member.tell(room_nid))
        .buffer_unordered(ROOMS_OF_ONE_USER)
        .collect()
        .await;
    told.into_iter().collect::<Result<(), Error>>()?;
    let mut connection = engine.db.acquire().await?;
    profiles::propagated(&mut connection, user_nid, version).await?;
    Ok(())
}

/// What rooms are told.
struct Teller<'a> {
    engine: &'a Arc<Engine>,
    user: (OwnedUserId, UserNid),
    profile: Profile,
}

impl Teller<'_> {
    /// Brings the user's member event in a room up to the profile, if the user is still in the room.
    async fn tell(&self, room_nid: RoomNid) -> Result<(), Error> {
        // Never closed: the error can't come.
        let _permit = self.engine.propagations.rooms.acquire().await;
        for attempt in 1..=ATTEMPTS {
            if self.engine.shutdown.is_cancelled() {
                return Err(CommitError::SteppedDown.into());
            }
            let Some(room) = rooms::by_nid(self.engine, room_nid).await? else {
                return Ok(());
            };
            let member =
                rooms::read::current_state_event(self.engine, &room, "m.room.member", self.user.0.as_str())
                    .await?;
            let Some(member) = member else { return Ok(()) };
            let Some(content) = updated(member.content().get(), &self.profile) else {
                return Ok(());
            };
            let draft = Draft::state(self.user.clone(), "m.room.member", self.user.0.as_str(), content);
            // Only in place of that very event: who left meanwhile must not be brought back.
            match rooms::commit_one(self.engine, &room, draft.replacing(member.nid)).await {
                Ok(_) => return Ok(()),
                Err(SendError::Decided(DecideError::Failed(error))) => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, room_id = %room.id, attempt, "a room was not told of a profile")
                }
            }
            tokio::time::sleep(ATTEMPT_PAUSE * attempt).await;
        }
        // The room refuses it for good, which leaves nothing to be done.
        Ok(())
    }
}

/// The content of a member event with the profile in it; nothing if the user isn't joined, or it says so already.
fn updated(content: &str, profile: &Profile) -> Option<CanonicalJsonObject> {
    let before: CanonicalJsonObject = serde_json::from_str(content).ok()?;
    if before.get("membership").and_then(CanonicalJsonValue::as_str) != Some("join") {
        return None;
    }
    let mut after = before.clone();
    for (key, value) in [(NAME, &profile.displayname), (AVATAR, &profile.avatar_url)] {
        match value {
            Some(value) => after.insert(key.to_owned(), CanonicalJsonValue::String(value.clone())),
            None => after.remove(key),
        };
    }
    if after == before {
        return None;
    }
    // What explained the join doesn't explain this; and a join of someone who is in the room needs no server's word.
    after.remove("reason");
    after.remove("join_authorised_via_users_server");
    Some(after)
}

#[cfg(test)]
mod tests {
    use hearth_storage::UserNid;
    use ruma::api::client::room::create_room::v3::{Request, RoomPreset};
    use serde_json::{Value, json};

    use super::{DecideError, Draft, Profile, Propagations, SendError, updated};
    use crate::{
        accounts::authenticate,
        rooms::{self, membership},
        test_engine,
    };

    fn alice_profile() -> Profile {
        Profile {
            displayname: Some("Alice".to_owned()),
            avatar_url: None,
        }
    }

    fn updated_json(content: &Value) -> Option<Value> {
        updated(&content.to_string(), &alice_profile())
            .map(|content| serde_json::to_value(content).expect("JSON"))
    }

    #[test]
    fn other_keys_of_the_member_event_stay_and_what_explained_the_join_goes() {
        let before = json!({
            "membership": "join",
            "displayname": "Al",
            "avatar_url": "mxc://example.org/old",
            "org.example.custom": 1,
            "reason": "hello",
            "join_authorised_via_users_server": "@bob:example.org",
        });
        let after = json!({ "membership": "join", "displayname": "Alice", "org.example.custom": 1 });
        assert_eq!(updated_json(&before), Some(after));
    }

    #[test]
    fn nothing_is_sent_where_nothing_changes() {
        let told = json!({ "membership": "join", "displayname": "Alice", "reason": "hello" });
        assert_eq!(updated_json(&told), None);
        assert_eq!(updated_json(&json!({ "membership": "leave" })), None);
        assert_eq!(
            updated_json(&json!({ "membership": "invite", "displayname": "A" })),
            None
        );
    }

    #[test]
    fn a_change_during_a_round_makes_another_round() {
        let (propagations, user) = (Propagations::new(), UserNid::from(1));
        assert!(propagations.begin(user));
        assert!(!propagations.begin(user));
        assert!(propagations.begin_again(user));
        assert!(!propagations.begin_again(user));
        assert!(propagations.begin(user));
    }

    #[tokio::test]
    async fn a_member_event_made_from_one_that_was_replaced_is_refused() {
        let (engine, login) = test_engine::with_alice().await;
        let alice = authenticate(&engine, &login.access_token)
            .await
            .expect("alice is logged in");
        let mut request = Request::new();
        request.preset = Some(RoomPreset::PublicChat);
        let room_id = rooms::create::create_room(&engine, &alice, request)
            .await
            .expect("a room");
        let room = rooms::by_id(&engine, &room_id)
            .await
            .expect("a room")
            .expect("a room");
        let user = alice.user_id.as_str();
        let member = rooms::read::current_state_event(&engine, &room, "m.room.member", user).await;
        let member = member.expect("an answer").expect("a member event");
        let content = updated(member.content().get(), &alice_profile()).expect("another name");
        // What the room would let her do: anyone may join it.
        membership::leave(&engine, &alice, &room_id, None)
            .await
            .expect("she leaves");
        let sender = (alice.user_id.clone(), alice.user_nid);
        let draft = Draft::state(sender, "m.room.member", user, content);
        let late = rooms::commit_one(&engine, &room, draft.clone().replacing(member.nid)).await;
        assert!(matches!(late, Err(SendError::Decided(DecideError::Forbidden(_)))));
        rooms::commit_one(&engine, &room, draft)
            .await
            .expect("without the condition she joins");
    }
}
