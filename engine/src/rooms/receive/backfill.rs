//! History from before this server knew of it: fetched from other servers when a client pages past what is here, judged,
//! and put in its place before the live event it was missing from.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use hearth_storage::{
    events::{EventStatus, Place, QuietEvent, store_quietly},
    gaps::{self, StoredGap},
    log::{Change, Fact, NewEvent, Redaction},
    relations,
};
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedServerName, UInt, api::federation::backfill::get_backfill,
};

use super::{
    fetch,
    number::{Incoming, known, number},
    outliers,
    pdu::ReceivedPdu,
    prevs::{self, PrevStates},
    state::{self, KnownState},
};
use crate::{
    Engine, Error,
    events::Event,
    rooms::{Room, StateMap, gather::names_of_event, load::load_head, partial, power::Power, read},
    unread::class,
};

/// Events asked for at once.
const CHUNK: u32 = 100;
/// How long a client waits for other servers at most.
const PATIENCE: Duration = Duration::from_secs(15);

/// Fetches history that is missing before the live event at `sequence`. Whether there is more than before: false when
/// no server had any, or none in time.
pub(in crate::rooms) async fn fill(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    sequence: i64,
) -> Result<bool, Error> {
    let (filling, filled_room) = (Arc::clone(engine), Arc::clone(room));
    // A task of its own: what was begun is finished, and there for the next who asks.
    let task = tokio::spawn(async move { fill_now(&filling, &filled_room, sequence).await });
    match tokio::time::timeout(PATIENCE, task).await {
        Ok(Ok(filled)) => filled,
        Ok(Err(error)) => Err(Error::Damaged(format!("fetching history panicked: {error}"))),
        Err(_) => Ok(false),
    }
}

async fn fill_now(engine: &Arc<Engine>, room: &Arc<Room>, sequence: i64) -> Result<bool, Error> {
    // The states of history would be asked for one by one where the room's is not here.
    let room = &match partial::whole(engine, Arc::clone(room)).await {
        Err(Error::Incomplete) => return Ok(false),
        room => room?,
    };
    let _graph = room.graph.lock().await;
    let gap = {
        let mut connection = engine.db.acquire().await?;
        let gaps = gaps::of_rooms(&mut connection, &[room.nid]).await?;
        gaps.into_iter().find(|gap| gap.sequence == sequence)
    };
    let Some(gap) = gap else {
        room.view.fill_gap(sequence);
        return Ok(true);
    };
    load_head(engine, room).await?;
    for server in fetch::servers(engine, room, &[]) {
        let missing: Result<Vec<OwnedEventId>, _> = gap
            .missing
            .iter()
            .map(|id| OwnedEventId::try_from(id.as_str()))
            .collect();
        let missing = missing.map_err(|error| Error::Damaged(format!("an event ID: {error}")))?;
        let request = get_backfill::v1::Request::new(room.id.clone(), missing.clone(), UInt::from(CHUNK));
        let answered = match engine.remote.backfill(&server, request).await {
            Ok(answered) => answered,
            Err(error) => {
                tracing::debug!(%error, %server, room_id = %room.id, "could not get history");
                continue;
            }
        };
        let most = answered.pdus.len().min(CHUNK as usize);
        let pdus = fetch::verified(engine, room, &answered.pdus[..most]).await;
        let pdus = connected(pdus, &missing);
        if !pdus.is_empty() {
            let filling = Filling { engine, room, server };
            if filling.take(gap.clone(), missing, pdus).await? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Those of `pdus` that `wanted` are, or come after, oldest first.
fn connected(pdus: Vec<ReceivedPdu>, wanted: &[OwnedEventId]) -> Vec<ReceivedPdu> {
    let mut by_id: HashMap<OwnedEventId, ReceivedPdu> =
        pdus.into_iter().map(|pdu| (pdu.event_id.clone(), pdu)).collect();
    let mut next: Vec<OwnedEventId> = wanted.to_vec();
    let mut found = Vec::new();
    while let Some(event_id) = next.pop() {
        if let Some(pdu) = by_id.remove(&event_id) {
            next.extend(pdu.prev_events.iter().cloned());
            found.push(pdu);
        }
    }
    found.sort_by_key(|pdu| pdu.depth);
    prevs::in_order(found)
}

struct Filling<'a> {
    engine: &'a Arc<Engine>,
    room: &'a Arc<Room>,
    server: OwnedServerName,
}

impl Filling<'_> {
    /// Puts events in their places, and moves the gap before them.
    async fn take(
        &self,
        mut gap: StoredGap,
        asked: Vec<OwnedEventId>,
        pdus: Vec<ReceivedPdu>,
    ) -> Result<bool, Error> {
        let (engine, room) = (self.engine, self.room);
        let own: HashSet<OwnedEventId> = pdus.iter().map(|pdu| pdu.event_id.clone()).collect();
        let mut before: Vec<OwnedEventId> = Vec::new();
        let auth = pdus.iter().flat_map(|pdu| pdu.auth_events.iter());
        let missing_auth: Vec<OwnedEventId> = auth.filter(|id| !own.contains(*id)).cloned().collect();
        let servers = [self.server.clone()];
        if !outliers::fetch_authorising(engine, room, &servers, missing_auth).await?
            || !self.has_states_before(&pdus, &own).await?
        {
            // Nothing has a place yet: whoever asks again begins anew.
            return Ok(false);
        }

        let count = i32::try_from(pdus.len()).unwrap_or(i32::MAX);
        let (min_sub, first) = (gap.min_sub, gap.min_sub.saturating_sub(count));
        for (pdu, sub) in pdus.into_iter().zip(first..) {
            let prev_events = pdu.prev_events.clone();
            let place = Place {
                sequence: gap.sequence,
                sub,
            };
            self.take_one(pdu, place).await?;
            before.extend(prev_events.into_iter().filter(|id| !own.contains(id)));
        }
        before.extend(asked.into_iter().filter(|id| !own.contains(id)));
        before.sort_unstable();
        before.dedup();
        let placed = known(engine, before.iter().map(|id| id.as_str())).await?;
        before.retain(|id| {
            placed
                .get(id.as_str())
                .is_none_or(|known| known.status == EventStatus::Outlier)
        });
        gap.min_sub = first;
        gap.missing = before.iter().map(ToString::to_string).collect();
        let is_filled = gap.missing.is_empty();
        let mut connection = engine.db.acquire().await?;
        let moved = gaps::move_on(&mut connection, &gap, min_sub).await?;
        if is_filled {
            room.view.fill_gap(gap.sequence);
        }
        Ok(moved)
    }

    /// Sees to it that the states are here by which the first of the events are judged; false while the server does not
    /// answer.
    async fn has_states_before(
        &self,
        pdus: &[ReceivedPdu],
        own: &HashSet<OwnedEventId>,
    ) -> Result<bool, Error> {
        let servers = [self.server.clone()];
        for pdu in pdus {
            let others = pdu.prev_events.iter().filter(|event_id| !own.contains(*event_id));
            let others: Vec<OwnedEventId> = others.cloned().collect();
            if others.is_empty() {
                continue;
            }
            let states = prevs::with_states(self.engine, self.room, &servers, &others).await?;
            if matches!(states, PrevStates::NotNow) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Judges one event by what authorises it and by the state before it, and stores it.
    async fn take_one(&self, pdu: ReceivedPdu, place: Place) -> Result<(), Error> {
        let (engine, room) = (self.engine, self.room);
        let prev_events = pdu.prev_events.clone();
        let Some(incoming) = number(engine, room, vec![pdu]).await?.pop() else {
            return Ok(());
        };
        if incoming.is_judged() {
            return Ok(());
        }
        let servers = [self.server.clone()];
        let before = match prev_events.is_empty() {
            // The room begins here.
            true => Some(state::store(engine, None, &[], StateMap::default()).await?),
            false => match prevs::with_states(engine, room, &servers, &prev_events).await? {
                PrevStates::Known(prevs) => {
                    Some(state::before(engine, room, &prevs.states.iter().copied().collect()).await?)
                }
                PrevStates::Nothing | PrevStates::NotNow => None,
            },
        };
        let Some(before) = before else {
            tracing::info!(event_id = %incoming.event.event_id, room_id = %room.id, "nobody tells the state before an event of history");
            return Ok(());
        };
        let names = names_of_event(engine, &room.rules, &incoming.event).await?;
        let allowed = super::judge::check_authorised(engine, room, &incoming, &names, &before).await?;
        if let Err(reason) = allowed {
            tracing::info!(reason, event_id = %incoming.event.event_id, room_id = %room.id, "rejected an event of history");
            return self.store(&incoming, EventStatus::Rejected, &before, None).await;
        }
        let after = match incoming.event.key_nid {
            Some(key_nid) => state::after(engine, &before, key_nid, incoming.event.nid).await?,
            None => before,
        };
        self.store(&incoming, EventStatus::Accepted, &after, Some(place))
            .await?;
        self.redact(&incoming.event).await
    }

    async fn store(
        &self,
        incoming: &Incoming,
        status: EventStatus,
        after: &KnownState,
        place: Option<Place>,
    ) -> Result<(), Error> {
        let event = &incoming.event;
        let content: CanonicalJsonObject = serde_json::from_str(event.content().get()).unwrap_or_default();
        let push_class = class::class_of(
            &event.event_type().to_string(),
            event.state_key(),
            &content,
            || Ok::<_, Error>(false),
        )?;
        let quiet = QuietEvent {
            event: Arc::new(NewEvent {
                push_class,
                ..(*incoming.stored).clone()
            }),
            status,
            state_after: Some(after.nid),
            place,
        };
        let mut connection = self.engine.db.acquire().await?;
        store_quietly(&mut connection, &[quiet]).await?;
        if let (Some(place), Some(relation)) = (place, event.relation()) {
            let relation = hearth_storage::log::Relation {
                event_nid: event.nid,
                rel_type: relation.rel_type.into(),
                parent_id: relation.parent_id.as_str().into(),
                is_edit: relation.is_edit,
            };
            relations::store_quietly(&mut connection, &incoming.stored, place, &relation).await?;
        }
        self.engine.events.forget(event.nid);
        Ok(())
    }

    /// What the event redacts, and what redacts it, where both are known.
    async fn redact(&self, event: &Arc<Event>) -> Result<(), Error> {
        let (engine, room) = (self.engine, self.room);
        let waiting = {
            let mut connection = engine.db.acquire().await?;
            hearth_storage::events::redactions_waiting_for(&mut connection, event.event_id.as_str()).await?
        };
        let mut pairs: Vec<(Arc<Event>, Arc<Event>)> = read::events(engine, room, waiting)
            .await?
            .into_values()
            .map(|redaction| (redaction, Arc::clone(event)))
            .collect();
        if let Some(redacts) = event.redacts() {
            let mut connection = engine.db.acquire().await?;
            let redacted = engine.events.by_id(&mut connection, room, redacts).await?;
            pairs.extend(redacted.map(|redacted| (Arc::clone(event), redacted)));
        }
        if pairs.is_empty() {
            return Ok(());
        }
        let create = read::current_state_event(engine, room, "m.room.create", "").await?;
        let levels = read::current_state_event(engine, room, "m.room.power_levels", "").await?;
        let power = create.and_then(|create| Power::by(create, levels, &room.rules.authorization).ok());
        let Some(power) = power else { return Ok(()) };
        let mut change = Change::default();
        for (redaction, redacted) in pairs {
            if crate::rooms::decide::may_redact(&redaction, &redacted, &power).unwrap_or(false) {
                change.facts.push(Fact::Redaction(Redaction {
                    room_nid: room.nid,
                    event_nid: redacted.nid,
                    redaction_nid: redaction.nid,
                }));
            }
        }
        if !change.facts.is_empty() {
            engine.log.commit(change).await?;
        }
        Ok(())
    }
}
