//! The rest of a room's state is here: from one commit on it is as if it had been told with the join.
//!
//! The states after all events since the join are found anew ([`Restating`]), the current one with them. Members of other
//! servers that were there all along become known without a word in the log; every other change of the current state is
//! an entry of it, and the memberships of this server's users are told again, so that who was told nothing of the room
//! yet is told now.

use std::{collections::HashMap, sync::Arc};

use hearth_storage::{
    EventNid, KeyNid, StateNid, UserNid,
    log::{Change, CommitError, Fact, HeadMove, Membership, MembershipChange, StateChange},
    memberships::{self, OtherMembership},
};
use ruma::{OwnedEventId, OwnedUserId, UserId};

use super::{Partial, restate::Restating};
use crate::{
    Engine, Error,
    events::Event,
    rooms::{
        Room, StateMap,
        head::Extremity,
        load::load_head,
        read,
        receive::{
            inbox, prevs,
            state::{self, KnownState},
        },
    },
};

/// How often it is tried because the room moved.
const ATTEMPTS: usize = 10;
/// Memberships stored in one transaction, and member events read at once.
const CHUNK: usize = 1_000;

/// Makes `state`, the events of the state before the join, count. They are stored. The room's graph is held.
pub(super) async fn complete(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    partial: &Arc<Partial>,
    join: &Arc<Event>,
    state: &[OwnedEventId],
) -> Result<(), Error> {
    let before = whole_before(engine, room, partial, state).await?;
    let mut completing = Completing {
        engine,
        room,
        partial,
        restating: Restating::new(engine, room, partial, Arc::clone(join), before).await?,
        noted: HashMap::new(),
    };
    for _ in 0..ATTEMPTS {
        // Nearly all of it, while this server's users go on.
        completing.restating.go_on().await?;
        load_head(engine, room).await?;
        let head = room
            .head
            .look(|head| (head.extremities.clone(), head.state.clone()));
        let Some((extremities, now)) = head else { continue };
        let extremities: Vec<Extremity> = completing.known(extremities);
        if !extremities.is_empty() {
            let (_, current) = completing.restating.current(&extremities).await?;
            completing.difference(&now, &current.map).await?;
        }
        if completing.commit().await?.is_ok() {
            completing.judge_again().await?;
            tracing::info!(room_id = %room.id, "the state of a room that was joined with a part of it is whole");
            return Ok(());
        }
    }
    Err(CommitError::Unavailable.into())
}

/// The whole state before the join: what was told of it with the join, and the members. That part stands: the join was
/// judged by it, and whoever tells the rest may only add.
async fn whole_before(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    partial: &Partial,
    state: &[OwnedEventId],
) -> Result<KnownState, Error> {
    let mut map = prevs::state_of(engine, room, state).await?;
    let told = state::load(engine, room, &[partial.stored.state_before].into())
        .await?
        .pop();
    let told = told.ok_or_else(|| Error::Damaged("a state is missing".to_owned()))?;
    let keys: Vec<KeyNid> = told.map.iter().map(|(key_nid, _)| key_nid).collect();
    let names = engine.interner.key_names(&keys).await?;
    let mut differing = 0;
    for (key_nid, event_nid) in told.map.iter() {
        let is_member = names
            .get(&key_nid)
            .is_some_and(|(event_type, _)| &**event_type == "m.room.member");
        // Of a member it may be what somebody cited, and old.
        if map.get(key_nid) != Some(event_nid) && (!is_member || map.get(key_nid).is_none()) {
            differing += 1;
            map.set(key_nid, Some(event_nid));
        }
    }
    if differing > 0 {
        tracing::warn!(differing, room_id = %room.id, "the whole state of a room is not the one that was told in part");
    }
    state::store(engine, None, &[], map).await
}

/// The room moved meanwhile.
struct Moved;

struct Completing<'a> {
    engine: &'a Arc<Engine>,
    room: &'a Arc<Room>,
    partial: &'a Arc<Partial>,
    restating: Restating<'a>,
    /// Members of other servers that were noted without a word in the log.
    noted: HashMap<KeyNid, EventNid>,
}

/// What becomes true in the log.
#[derive(Default)]
struct Difference {
    state: Vec<StateChange>,
    memberships: Vec<MembershipChange>,
}

impl Completing<'_> {
    /// Those of the forward extremities that were judged again, or need not be.
    fn known(&self, extremities: Vec<Extremity>) -> Vec<Extremity> {
        let is_known = |extremity: &Extremity| self.restating.is_done(extremity.nid);
        extremities.into_iter().filter(is_known).collect()
    }

    /// Changes the state under the room's head, at a moment at which nobody decides on it.
    async fn commit(&mut self) -> Result<Result<(), Moved>, Error> {
        let (engine, room) = (self.engine, self.room);
        let decided = {
            let _alone = self.partial.deciding.write().await;
            // What is queued is in the tables when this is.
            engine.log.commit(Change::default()).await?;
            self.restating.go_on().await?;
            load_head(engine, room).await?;
            let head = room.head.look(Clone::clone);
            let Some(head) = head else { return Ok(Err(Moved)) };
            let Some((old_state, _)) = head.stored_state else {
                return Ok(Err(Moved));
            };
            let (extremities, current) = self.restating.current(&head.extremities).await?;
            let difference = self.difference(&head.state, &current.map).await?;
            let memberships = self.local_members(&current.map, difference.memberships).await?;
            let mut change = Change::default();
            if !difference.state.is_empty() {
                change.facts.push(Fact::State(room.nid, difference.state));
            }
            change.facts.extend(memberships.into_iter().map(Fact::Membership));
            change.completed_rooms.push(room.nid);
            change.restated = self.restating.restated();
            change.heads.push(HeadMove {
                room_nid: room.nid,
                sequence_before: head.sequence,
                state_before: Some(old_state),
                sequence: head.sequence,
                forward_extremities: extremities.iter().map(|extremity| extremity.nid).collect(),
                state_nid: current.nid,
            });
            let mut slot = Some(engine.log.reserve().await?);
            room.head.decide_on(|now| {
                let is_same =
                    now.sequence == head.sequence && stored_nid(now.stored_state) == Some(old_state);
                if !is_same {
                    return Ok::<_, Error>(Err(Moved));
                }
                now.extremities = extremities;
                now.state = current.map.clone();
                now.stored_state = Some((current.nid, current.depth));
                now.permitted.clear();
                Ok(Ok(slot.take().map(|slot| slot.queue(change))))
            })
        };
        let (outcome, incarnation) = match decided {
            Some(Ok(Ok((Some(outcome), incarnation)))) => (outcome, incarnation),
            Some(Err(error)) => return Err(error),
            _ => return Ok(Err(Moved)),
        };
        for restated in self.restating.restated() {
            engine.events.forget(restated.event_nid);
        }
        // A task of its own: the head must hear how this ended even if the server is stopping.
        let (settling, settled_room) = (Arc::clone(engine), Arc::clone(room));
        let settled = tokio::spawn(async move {
            let result = settling.log.settle(outcome).await;
            settled_room.head.settled(incarnation, result.is_ok());
            result
        });
        let committed = settled.await.unwrap_or(Err(CommitError::Unavailable));
        for restated in self.restating.restated() {
            engine.events.forget(restated.event_nid);
        }
        match committed {
            Ok(_) => Ok(Ok(())),
            Err(CommitError::Conflict) => Ok(Err(Moved)),
            Err(error) => Err(error.into()),
        }
    }

    /// What changes from the state that the room has to the whole one. Members of other servers who were in neither are
    /// noted here and now.
    async fn difference(&mut self, now: &StateMap, whole: &StateMap) -> Result<Difference, Error> {
        let changed = whole.iter().filter(|(key_nid, event_nid)| {
            now.get(*key_nid) != Some(*event_nid) && self.noted.get(key_nid) != Some(event_nid)
        });
        let mut changes: Vec<StateChange> = changed
            .map(|(key_nid, event_nid)| StateChange {
                key_nid,
                old: now.get(key_nid),
                new: Some(event_nid),
            })
            .collect();
        let gone = now.iter().filter(|(key_nid, _)| whole.get(*key_nid).is_none());
        changes.extend(gone.map(|(key_nid, event_nid)| StateChange {
            key_nid,
            old: Some(event_nid),
            new: None,
        }));
        let mut difference = Difference::default();
        for chunk in changes.chunks(CHUNK) {
            self.sort_out(chunk, &mut difference).await?;
        }
        difference.state.sort_by_key(|change| change.key_nid);
        Ok(difference)
    }

    async fn sort_out(&mut self, changes: &[StateChange], difference: &mut Difference) -> Result<(), Error> {
        let (engine, room) = (self.engine, self.room);
        let nids = changes
            .iter()
            .flat_map(|change| [change.old, change.new])
            .flatten();
        let events = read::events(engine, room, nids.collect::<Vec<_>>()).await?;
        let event = |event_nid: Option<EventNid>| event_nid.and_then(|event_nid| events.get(&event_nid));
        let mut members: Vec<(&StateChange, OwnedUserId)> = Vec::new();
        for change in changes {
            let subject = event(change.new).or(event(change.old));
            let member = subject.filter(|event| event.membership().is_some());
            let user_id = member.and_then(|event| <&UserId>::try_from(event.state_key()?).ok());
            match user_id {
                Some(user_id) => members.push((change, user_id.to_owned())),
                None => difference.state.push(*change),
            }
        }
        let user_ids: Vec<&UserId> = members.iter().map(|(_, user_id)| &**user_id).collect();
        let user_nids = engine.interner.users(&user_ids).await?;
        let mut quiet = Vec::new();
        for ((change, user_id), user_nid) in members.into_iter().zip(user_nids) {
            let is_local = user_id.server_name() == engine.config.server_name;
            let (new, old) = (event(change.new), event(change.old));
            let membership = new
                .and_then(|event| event.membership())
                .unwrap_or(Membership::Leave);
            let event_nid = change.new.or(change.old);
            let event_nid = event_nid.ok_or_else(|| Error::Damaged("a change of nothing".to_owned()))?;
            if change.old.is_none() && !is_local {
                self.noted.insert(change.key_nid, event_nid);
                quiet.push(OtherMembership {
                    user_nid,
                    event_nid,
                    membership,
                });
                continue;
            }
            difference.state.push(*change);
            let was_joined = old.and_then(|event| event.membership()) == Some(Membership::Join);
            let is_known = is_local
                && change.old.is_none()
                && room.read(|view| view.members.get(user_nid)).flatten() == Some(membership);
            if !is_known {
                let continues = was_joined && membership == Membership::Join;
                difference
                    .memberships
                    .push(self.membership(user_nid, event_nid, membership, continues));
            }
        }
        if !quiet.is_empty() {
            let mut connection = engine.db.acquire().await?;
            memberships::store_quietly(&mut connection, room.nid, &quiet).await?;
        }
        Ok(())
    }

    fn membership(
        &self,
        user_nid: UserNid,
        event_nid: EventNid,
        membership: Membership,
        continues: bool,
    ) -> MembershipChange {
        MembershipChange {
            room_nid: self.room.nid,
            user_nid,
            event_nid,
            membership,
            continues,
            joined_at: None,
            forgotten: false,
            stripped_state: None,
        }
    }

    /// The memberships that change, and those of this server's users in the room, who are still in it.
    async fn local_members(
        &self,
        whole: &StateMap,
        mut changed: Vec<MembershipChange>,
    ) -> Result<Vec<MembershipChange>, Error> {
        let engine = self.engine;
        let joined = self.room.local_members().unwrap_or_default();
        let user_ids = engine.interner.user_ids(&joined).await?;
        for user_nid in joined.iter().copied() {
            let Some(user_id) = user_ids.get(&user_nid) else {
                continue;
            };
            let key_nid = engine.interner.key("m.room.member", user_id.as_str()).await?;
            let is_changed = changed.iter().any(|change| change.user_nid == user_nid);
            if let Some(event_nid) = whole.get(key_nid).filter(|_| !is_changed) {
                changed.push(self.membership(user_nid, event_nid, Membership::Join, true));
            }
        }
        Ok(changed)
    }

    /// Has what was refused by a part of the state judged by all of it.
    async fn judge_again(&self) -> Result<(), Error> {
        for event in self.restating.again() {
            inbox::put_back(self.engine, self.room, event).await?;
        }
        inbox::wake(self.engine, self.room.nid);
        Ok(())
    }
}

fn stored_nid(stored: Option<(StateNid, i16)>) -> Option<StateNid> {
    stored.map(|(state_nid, _)| state_nid)
}
