//! Judging again, by the whole state, what came since a room was joined with a part of it: the states after those events
//! are what they would have been had the state been whole from the beginning.
//!
//! An event that was accepted, and that the whole state does not allow, counts as rejected from then on: it and what it
//! authorises are in no state any more. Where clients were shown it, it stays: what was seen was seen. One that was
//! refused, and that the whole state allows, is judged anew.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use hearth_storage::{
    EventNid, StateNid, TypeNid, UserNid,
    events::EventStatus,
    log::Restated,
    partial_rooms::{self, EventSince},
};
use ruma::OwnedEventId;

use super::{Partial, places};
use crate::{
    Engine, Error,
    events::Event,
    rooms::{
        Room,
        gather::names_of_event,
        head::Extremity,
        read,
        receive::{
            judge::check_by_state,
            number::known,
            state::{self, KnownState},
        },
    },
};

/// Events read at once.
const CHUNK: usize = 1_000;

pub(super) struct Restating<'a> {
    engine: &'a Engine,
    room: &'a Room,
    join: Arc<Event>,
    /// The whole state before the join.
    before: KnownState,
    /// The predecessors of the join.
    before_join: HashSet<OwnedEventId>,
    /// The states after what was judged again.
    after: HashMap<OwnedEventId, KnownState>,
    done: HashSet<EventNid>,
    refused: HashSet<OwnedEventId>,
    /// Who may send what that isn't state, by which state.
    permitted: HashSet<(StateNid, UserNid, TypeNid)>,
    /// What is to be noted of events.
    restated: BTreeMap<EventNid, Restated>,
    /// Events to be judged anew.
    again: Vec<Arc<Event>>,
}

impl<'a> Restating<'a> {
    pub async fn new(
        engine: &'a Engine,
        room: &'a Room,
        partial: &Partial,
        join: Arc<Event>,
        before: KnownState,
    ) -> Result<Self, Error> {
        Ok(Self {
            engine,
            room,
            join,
            before,
            before_join: places::before_join(engine, room, partial).await?,
            after: HashMap::new(),
            done: HashSet::new(),
            refused: HashSet::new(),
            permitted: HashSet::new(),
            restated: BTreeMap::new(),
            again: Vec::new(),
        })
    }

    pub fn restated(&self) -> Vec<Restated> {
        self.restated.values().copied().collect()
    }

    /// Whether an event was looked at.
    pub fn is_done(&self, event_nid: EventNid) -> bool {
        self.done.contains(&event_nid)
    }

    pub fn again(&self) -> &[Arc<Event>] {
        &self.again
    }

    /// Judges what was committed and wasn't judged again yet.
    pub async fn go_on(&mut self) -> Result<(), Error> {
        let mut rows = {
            let mut connection = self.engine.db.acquire().await?;
            let from = self.join.place.sequence;
            partial_rooms::events_since(&mut connection, self.room.nid, from).await?
        };
        rows.retain(|row| !self.done.contains(&row.event_nid));
        let mut events: HashMap<EventNid, Arc<Event>> = HashMap::with_capacity(rows.len());
        for chunk in rows.chunks(CHUNK) {
            let nids = chunk.iter().map(|row| row.event_nid);
            events.extend(read::events(self.engine, self.room, nids).await?);
        }
        let rows: HashMap<EventNid, EventSince> = rows.into_iter().map(|row| (row.event_nid, row)).collect();
        for event in in_order(events.into_values().collect()) {
            if let Some(row) = rows.get(&event.nid) {
                self.judge(&event, row).await?;
            }
            self.done.insert(event.nid);
        }
        Ok(())
    }

    async fn judge(&mut self, event: &Arc<Event>, row: &EventSince) -> Result<(), Error> {
        let Some(states) = self.states_before(event).await? else {
            // It hangs on nothing that came since the join.
            return Ok(());
        };
        let before = state::together(self.engine, self.room, states).await?;
        let allowed = self.is_allowed(event, row.status, &before).await?;
        let after = match event.key_nid.filter(|_| allowed.is_ok()) {
            Some(key_nid) => state::after(self.engine, &before, key_nid, event.nid).await?,
            None => before,
        };
        let status = match (row.status, allowed) {
            (EventStatus::Accepted, Err(reason)) => {
                tracing::warn!(
                    reason,
                    event_id = %event.event_id,
                    room_id = %self.room.id,
                    "the whole state of the room does not allow an event that a part of it did; it counts no more"
                );
                self.refused.insert(event.event_id.clone());
                EventStatus::Rejected
            }
            (EventStatus::SoftFailed | EventStatus::Rejected, Ok(())) => {
                self.again.push(Arc::clone(event));
                EventStatus::Outlier
            }
            (status, _) => status,
        };
        let restated = Restated {
            event_nid: event.nid,
            state_after: after.nid,
            status,
        };
        if row.state_after != after.nid || row.status != status {
            self.restated.insert(event.nid, restated);
        }
        self.after.insert(event.event_id.clone(), after);
        Ok(())
    }

    /// The states after its predecessors; nothing where none of them has another than it had.
    async fn states_before(&self, event: &Event) -> Result<Option<Vec<KnownState>>, Error> {
        if event.nid == self.join.nid {
            return Ok(Some(vec![self.before.clone()]));
        }
        let prevs: Vec<&OwnedEventId> = ruma::state_res::Event::prev_events(event).collect();
        let mut states: Vec<KnownState> = Vec::with_capacity(prevs.len());
        let mut others = Vec::new();
        for event_id in prevs {
            match self.after.get(event_id) {
                Some(after) => states.push(after.clone()),
                None => others.push(event_id),
            }
        }
        let mut is_touched = !states.is_empty();
        if !others.is_empty() {
            let known = known(self.engine, others.iter().map(|event_id| event_id.as_str())).await?;
            let mut unchanged = std::collections::BTreeSet::new();
            for event_id in others {
                let placed = known
                    .get(event_id.as_str())
                    .filter(|known| known.room_nid == self.room.nid && known.status != EventStatus::Outlier);
                match placed.and_then(|known| known.state_after) {
                    Some(state_after) => drop(unchanged.insert(state_after)),
                    None if self.before_join.contains(event_id) => {
                        is_touched = true;
                        states.push(self.before.clone());
                    }
                    None => {}
                }
            }
            if is_touched && !unchanged.is_empty() {
                states.extend(state::load(self.engine, self.room, &unchanged).await?);
            }
        }
        Ok(is_touched.then_some(states))
    }

    /// Whether an event is allowed by what authorises it, as far as that was judged again, and by the state before it.
    async fn is_allowed(
        &mut self,
        event: &Arc<Event>,
        status: EventStatus,
        before: &KnownState,
    ) -> Result<Result<(), String>, Error> {
        if let Some(refused) = self.refused_among_auth(event) {
            return Ok(Err(format!("{refused}, which authorises it, is not allowed")));
        }
        let permission = (before.nid, event.sender_nid, event.type_nid);
        if event.key_nid.is_none() && self.permitted.contains(&permission) {
            return Ok(Ok(()));
        }
        let names = match names_of_event(self.engine, &self.room.rules, event).await {
            Ok(names) => names,
            Err(Error::Damaged(reason)) if status != EventStatus::Accepted => return Ok(Err(reason)),
            Err(error) => return Err(error),
        };
        let checked = check_by_state(self.engine, self.room, event, &names, &before.map).await?;
        if event.key_nid.is_none() && checked.is_ok() {
            self.permitted.insert(permission);
        }
        Ok(checked)
    }

    fn refused_among_auth<'e>(&self, event: &'e Event) -> Option<&'e OwnedEventId> {
        let mut auth = ruma::state_res::Event::auth_events(event);
        auth.find(|event_id| self.refused.contains(*event_id))
    }

    /// The forward extremities with the states after them, and what those come to.
    pub async fn current(&self, extremities: &[Extremity]) -> Result<(Vec<Extremity>, KnownState), Error> {
        let mut restated = Vec::with_capacity(extremities.len());
        let mut states = Vec::with_capacity(extremities.len());
        for extremity in extremities {
            let after = match self.after.get(&extremity.event_id) {
                Some(after) => after.clone(),
                None => {
                    let wanted = [extremity.state_nid].into();
                    let loaded = state::load(self.engine, self.room, &wanted).await?.pop();
                    loaded.ok_or_else(|| Error::Damaged("a state is missing".to_owned()))?
                }
            };
            restated.push(Extremity {
                state_nid: after.nid,
                ..extremity.clone()
            });
            states.push(after);
        }
        let current = state::together(self.engine, self.room, states).await?;
        Ok((restated, current))
    }
}

/// Each after those of its predecessors that are among them.
fn in_order(mut events: Vec<Arc<Event>>) -> Vec<Arc<Event>> {
    events.sort_by_key(|event| (event.depth(), event.nid));
    let mut left: HashSet<OwnedEventId> = events.iter().map(|event| event.event_id.clone()).collect();
    let mut ordered = Vec::with_capacity(events.len());
    while !events.is_empty() {
        let before = events.len();
        // By depth they are in order already, unless somebody lied about it.
        events.retain(|event| {
            let mut prevs = ruma::state_res::Event::prev_events(&**event);
            let waits = prevs.any(|event_id| left.contains(event_id));
            if !waits {
                left.remove(&event.event_id);
                ordered.push(Arc::clone(event));
            }
            waits
        });
        if events.len() == before {
            break;
        }
    }
    ordered
}
