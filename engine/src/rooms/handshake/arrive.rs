//! Arriving in a room: the state that another server tells becomes the room's, and the join its first event here.
//!
//! The bulk, events and state and the memberships of others, is stored before in small transactions; one small change
//! makes it count.
//!
//! Where only a part of the state was told, the room is a partial one from then on (`rooms/partial/`).

use std::{collections::HashMap, sync::Arc};

use hearth_storage::{
    EventNid, KeyNid, StateNid, UserNid,
    events::EventStatus,
    log::{
        Change, CommitError, Fact, Gap, HeadMove, Membership, MembershipChange, NewEvent, PartialRoom,
        StateChange,
    },
    memberships::{self, OtherMembership},
};
use ruma::{OwnedEventId, OwnedServerName, UserId};
use serde_json::value::RawValue;

use super::{
    HandshakeError,
    outsider::{is_new, new_room},
};
use crate::{
    Engine, Error,
    events::Event,
    rooms::{
        Room, StateMap,
        gather::{Names, names_of_event},
        load::load_head,
        partial::{self, vouched},
        read,
        receive::{
            fetch,
            judge::check_by_state,
            number::Incoming,
            outliers,
            pdu::ReceivedPdu,
            state::{self, KnownState},
        },
    },
};

/// How often arriving is tried again because the room moved: others of this server may arrive at the same time.
const ATTEMPTS: usize = 10;
/// Memberships stored in one transaction.
const CHUNK: usize = 1_000;

/// A join that another server accepted, and what it told.
pub(super) struct Arrival<'a> {
    pub server: &'a OwnedServerName,
    /// The join, signed.
    pub event: ReceivedPdu,
    /// The state before it.
    pub state: Vec<Box<RawValue>>,
    /// What authorises the join and the state.
    pub auth_chain: Vec<Box<RawValue>>,
    /// Where members were left out of the state: the servers that are in the room.
    pub servers_in_room: Option<Vec<OwnedServerName>>,
}

/// Makes the join the room's latest event, after the state that was told.
pub(super) async fn arrive(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    arrival: Arrival<'_>,
) -> Result<(), HandshakeError> {
    let Arrival {
        server,
        event,
        state,
        auth_chain,
        servers_in_room,
    } = arrival;
    let _graph = room.graph.lock().await;
    let pdus = fetch::verified(engine, room, &state).await;
    let in_state: Vec<OwnedEventId> = pdus.iter().map(|pdu| pdu.event_id.clone()).collect();
    let mut all = fetch::verified(engine, room, &auth_chain).await;
    all.extend(pdus);
    let known = outliers::admit(engine, room, all, true).await?;
    let by_id: HashMap<&OwnedEventId, &Incoming> =
        known.iter().map(|one| (&one.event.event_id, one)).collect();
    let events: Vec<&Incoming> = in_state.iter().filter_map(|id| by_id.get(id).copied()).collect();
    let nids: Vec<EventNid> = events.iter().map(|one| one.event.nid).collect();
    let mut stored = read::events(engine, room, nids).await?;
    let mut before: StateMap = stored
        .values()
        .filter(|event| !event.is_rejected())
        .filter_map(|event| Some((event.key_nid?, event.nid)))
        .collect();
    check_create(engine, room, &before, &stored)
        .await?
        .map_err(|reason| HandshakeError::bad(server, reason))?;

    let own = outliers::admit(engine, room, vec![event.clone()], true)
        .await?
        .pop();
    let own = own.ok_or_else(|| HandshakeError::bad(server, "the join is an event of another room"))?;
    let names = names_of_event(engine, &room.rules, &own.event).await?;
    if servers_in_room.is_some() {
        let vouched = vouched(engine, room, &own, &names, &before).await?;
        stored.extend(read::events(engine, room, vouched.values().copied()).await?);
        for (key_nid, event_nid) in vouched {
            before.set(key_nid, Some(event_nid));
        }
    }
    check_join(engine, room, &own, &names, &before)
        .await?
        .map_err(|reason| HandshakeError::bad(server, reason))?;
    let key_nid = own
        .event
        .key_nid
        .ok_or_else(|| Error::Damaged("a join without a state key".to_owned()))?;
    let before = state::store(engine, None, &[], before).await?;
    let partial = servers_in_room.map(|servers| PartialRoom {
        room_nid: room.nid,
        join_nid: own.event.nid,
        state_before: before.nid,
        since: engine.clock.now_ms(),
        via: server.to_string(),
        servers: servers.iter().map(ToString::to_string).collect(),
    });
    let after = {
        let mut map = before.map.clone();
        map.set(key_nid, Some(own.event.nid));
        let delta = [(key_nid, Some(own.event.nid))];
        state::store(engine, Some((before.nid, before.depth)), &delta, map).await?
    };
    let arriving = Arriving {
        engine,
        room,
        own: &own,
        after: &after,
        events: &stored,
        partial,
    };
    arriving.commit(&event.prev_events).await?;
    partial::begin(engine, room.nid);
    Ok(())
}

/// The room is what it was said to be: of its version, and in version 12 of its ID.
async fn check_create(
    engine: &Engine,
    room: &Room,
    state: &StateMap,
    events: &HashMap<EventNid, Arc<Event>>,
) -> Result<Result<(), String>, Error> {
    #[derive(serde::Deserialize)]
    struct Create {
        room_version: Option<String>,
    }
    let create_key = engine.interner.key("m.room.create", "").await?;
    let Some(create) = state.get(create_key).and_then(|nid| events.get(&nid)) else {
        return Ok(Err("the state has no create event".to_owned()));
    };
    let version = serde_json::from_str::<Create>(create.content().get())
        .ok()
        .and_then(|create| create.room_version)
        .unwrap_or_else(|| "1".to_owned());
    Ok(match version == room.version.as_str() {
        true => Ok(()),
        false => Err(format!(
            "the room was said to be of version {}, and is of {version}",
            room.version
        )),
    })
}

/// The join is allowed by the state that was told.
async fn check_join(
    engine: &Engine,
    room: &Room,
    own: &Incoming,
    names: &Names,
    state: &StateMap,
) -> Result<Result<(), String>, Error> {
    let rejected = own
        .known
        .as_ref()
        .is_some_and(|known| known.status == EventStatus::Rejected);
    if rejected || !own.auth_missing.is_empty() {
        return Ok(Err("what authorises the join does not allow it".to_owned()));
    }
    let checked = check_by_state(engine, room, &own.event, names, state).await?;
    Ok(checked.map_err(|error| format!("the state does not allow the join: {error}")))
}

struct Arriving<'a> {
    engine: &'a Arc<Engine>,
    room: &'a Arc<Room>,
    own: &'a Incoming,
    after: &'a KnownState,
    events: &'a HashMap<EventNid, Arc<Event>>,
    partial: Option<PartialRoom>,
}

/// Where the room stood.
struct Standing {
    sequence: i64,
    state_nid: Option<StateNid>,
    state: StateMap,
}

impl Arriving<'_> {
    async fn commit(&self, prev_events: &[OwnedEventId]) -> Result<(), Error> {
        let (engine, room) = (self.engine, self.room);
        let is_new = is_new(engine, room);
        for _ in 0..ATTEMPTS {
            let standing = match is_new {
                true => Standing {
                    sequence: 0,
                    state_nid: None,
                    state: StateMap::default(),
                },
                false => {
                    load_head(engine, room).await?;
                    let standing = room.head.look(|head| Standing {
                        sequence: head.sequence,
                        state_nid: head.stored_state.map(|(state_nid, _)| state_nid),
                        state: head.state.clone(),
                    });
                    let Some(standing) = standing else { continue };
                    standing
                }
            };
            let memberships = self.memberships(&standing.state).await?;
            let change = self.change(&standing, memberships, prev_events, is_new);
            let committed = engine.log.commit(change).await;
            // What is in memory of the room is not what the tables say now.
            engine.rooms.withdraw(room);
            match committed {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Unavailable.into())
    }

    /// The memberships that differ from those before. Those of other servers' users are stored here and now: no sync
    /// tells of them but the one that tells the room whole. The answer is those of this server's users.
    async fn memberships(&self, current: &StateMap) -> Result<Vec<MembershipChange>, Error> {
        let changed: Vec<&Arc<Event>> = self
            .after
            .map
            .iter()
            .filter(|(key_nid, event_nid)| current.get(*key_nid) != Some(*event_nid))
            .filter_map(|(_, event_nid)| self.event(event_nid))
            .filter(|event| event.membership().is_some())
            .collect();
        let members: Vec<(&UserId, &Arc<Event>)> = changed
            .into_iter()
            .filter_map(|event| Some((<&UserId>::try_from(event.state_key()?).ok()?, event)))
            .collect();
        let user_ids: Vec<&UserId> = members.iter().map(|(user_id, _)| *user_id).collect();
        let user_nids = self.engine.interner.users(&user_ids).await?;
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for ((user_id, event), user_nid) in members.into_iter().zip(user_nids) {
            let Some(membership) = event.membership() else {
                continue;
            };
            if user_id.server_name() == self.engine.config.server_name {
                ours.push(self.membership(user_nid, event, membership));
            } else {
                others.push(OtherMembership {
                    user_nid,
                    event_nid: event.nid,
                    membership,
                });
            }
        }
        if self.partial.is_some() {
            others.extend(self.unknown(current).await?);
        }
        let mut connection = self.engine.db.acquire().await?;
        for chunk in others.chunks(CHUNK) {
            memberships::store_quietly(&mut connection, self.room.nid, chunk).await?;
        }
        // The join's own takes the position of the event.
        ours.sort_by_key(|membership| membership.event_nid != self.own.event.nid);
        Ok(ours)
    }

    /// Members of other servers in the state that this server knew from before, of whom it was told nothing now: they
    /// count as gone, until the whole state says otherwise.
    async fn unknown(&self, current: &StateMap) -> Result<Vec<OtherMembership>, Error> {
        let unknown = current
            .iter()
            .filter(|(key_nid, _)| self.after.map.get(*key_nid).is_none());
        let unknown: Vec<EventNid> = unknown.map(|(_, event_nid)| event_nid).collect();
        let events = read::events(self.engine, self.room, unknown).await?;
        let members: Vec<(&UserId, EventNid)> = events
            .values()
            .filter(|event| event.membership().is_some())
            .filter_map(|event| Some((<&UserId>::try_from(event.state_key()?).ok()?, event.nid)))
            .filter(|(user_id, _)| user_id.server_name() != self.engine.config.server_name)
            .collect();
        let user_ids: Vec<&UserId> = members.iter().map(|(user_id, _)| *user_id).collect();
        let user_nids = self.engine.interner.users(&user_ids).await?;
        let gone = members
            .iter()
            .zip(user_nids)
            .map(|((_, event_nid), user_nid)| OtherMembership {
                user_nid,
                event_nid: *event_nid,
                membership: Membership::Leave,
            });
        Ok(gone.collect())
    }

    fn membership(&self, user_nid: UserNid, event: &Event, membership: Membership) -> MembershipChange {
        MembershipChange {
            room_nid: self.room.nid,
            user_nid,
            event_nid: event.nid,
            membership,
            continues: false,
            joined_at: None,
            forgotten: false,
            stripped_state: None,
        }
    }

    fn event(&self, event_nid: EventNid) -> Option<&Arc<Event>> {
        match event_nid == self.own.event.nid {
            true => Some(&self.own.event),
            false => self.events.get(&event_nid),
        }
    }

    /// Where the room was known, every change of its state; else the join's alone: the state before it has no past here.
    fn state_changes(&self, current: &StateMap, is_first: bool) -> Vec<StateChange> {
        let own = StateChange {
            key_nid: self.own.event.key_nid.unwrap_or(KeyNid::from(0)),
            old: self.own.event.key_nid.and_then(|key_nid| current.get(key_nid)),
            new: Some(self.own.event.nid),
        };
        let mut changes = vec![own];
        if is_first {
            return changes;
        }
        let map = &self.after.map;
        let set = map.iter().filter(|(key_nid, event_nid)| {
            *event_nid != self.own.event.nid && current.get(*key_nid) != Some(*event_nid)
        });
        changes.extend(set.map(|(key_nid, event_nid)| StateChange {
            key_nid,
            old: current.get(key_nid),
            new: Some(event_nid),
        }));
        let gone = current.iter().filter(|(key_nid, _)| map.get(*key_nid).is_none());
        changes.extend(gone.map(|(key_nid, event_nid)| StateChange {
            key_nid,
            old: Some(event_nid),
            new: None,
        }));
        changes
    }

    fn change(
        &self,
        standing: &Standing,
        memberships: Vec<MembershipChange>,
        prev_events: &[OwnedEventId],
        is_new: bool,
    ) -> Change {
        let sequence = standing.sequence;
        let state_changes = self.state_changes(&standing.state, sequence == 0);
        let mut change = Change::default();
        if is_new {
            change.new_rooms.push(new_room(self.room));
        }
        change.heads.push(HeadMove {
            room_nid: self.room.nid,
            sequence_before: sequence,
            state_before: standing.state_nid,
            sequence: sequence + 1,
            forward_extremities: vec![self.own.event.nid],
            state_nid: self.after.nid,
        });
        change.gaps.push(Gap {
            room_nid: self.room.nid,
            sequence: sequence + 1,
            missing: prev_events.iter().map(ToString::to_string).collect(),
        });
        let stored = Arc::new(NewEvent {
            sequence: sequence + 1,
            state_after: self.after.nid,
            replaces: state_changes.first().and_then(|change| change.old),
            // It was stored to be judged.
            is_stored: true,
            after_gap: true,
            ..(*self.own.stored).clone()
        });
        self.engine.events.forget(self.own.event.nid);
        match &self.partial {
            Some(partial) => change.partial_rooms.push(partial.clone()),
            // Left with a part of its state, and joined again with all of it.
            None if self.room.is_partial() => {
                change.completed_rooms.push(self.room.nid);
            }
            None => {}
        }
        change.facts.push(Fact::Event(stored, state_changes));
        change.facts.extend(memberships.into_iter().map(Fact::Membership));
        change
    }
}
