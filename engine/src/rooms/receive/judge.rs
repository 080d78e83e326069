//! Judging one received event: the checks of the specification's list that need the room (server-server API, "Checks
//! performed on receipt of a PDU"), and what becomes of it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use hearth_storage::{
    EventNid, StateNid,
    events::{self, EventStatus, QuietEvent},
};
use ruma::{OwnedEventId, OwnedServerName, events::StateEventType};

use super::{
    number::{Incoming, number},
    outliers,
    pdu::ReceivedPdu,
    prevs::{self, PrevStates},
    state::{self, KnownState},
    take_in::take_in,
};
use crate::{
    Engine, Error,
    events::Event,
    rooms::{
        Room, StateMap,
        checks::check_auth_rules_by_state,
        gather::{Names, names_of_event},
        partial::{self, Vouched},
    },
};

/// What became of a received event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It was judged before.
    Known(EventStatus),
    /// It is an event of the room.
    Accepted,
    /// It is kept, and not shown.
    SoftFailed,
    /// It is not allowed.
    Rejected,
    /// Nothing is known of what was before it, and nobody tells: it may be judged when it is sent again.
    Unplaceable,
}

impl Judgement {
    /// Its name in the metrics; nothing for an event that was judged before.
    fn name(&self) -> Option<&'static str> {
        match self {
            Self::Known(_) => None,
            Self::Accepted => Some("accepted"),
            Self::SoftFailed => Some("soft_failed"),
            Self::Rejected => Some("rejected"),
            Self::Unplaceable => Some("unplaceable"),
        }
    }
}

/// Judges an event whose signatures were verified. `servers` are asked for what is missing, in their order. The room's
/// graph is held.
pub(super) async fn judge(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    servers: &[OwnedServerName],
    pdu: ReceivedPdu,
) -> Result<Judgement, Error> {
    let event_id = pdu.event_id.clone();
    let mut queue = vec![pdu];
    queue.extend(prevs::fetch_missing(engine, room, servers, &queue[0]).await?);
    // Oldest first: what was asked for on behalf of the event, then the event.
    queue.reverse();
    let mut last = Judgement::Unplaceable;
    for pdu in prevs::in_order(queue) {
        let is_it = pdu.event_id == event_id;
        let judged = judge_one(engine, room, servers, pdu).await?;
        if let Some(outcome) = judged.name() {
            metrics::counter!("hearth_federation_events_judged_total", "outcome" => outcome).increment(1);
        }
        if is_it {
            last = judged;
        }
    }
    Ok(last)
}

async fn judge_one(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    servers: &[OwnedServerName],
    pdu: ReceivedPdu,
) -> Result<Judgement, Error> {
    let Some(incoming) = authorised(engine, room, servers, &pdu).await? else {
        return Ok(Judgement::Unplaceable);
    };
    if let Some(known) = incoming.known.as_ref().filter(|_| incoming.is_judged()) {
        return Ok(Judgement::Known(known.status));
    }
    let partial = partial::of(engine, room).await;
    let prevs = match &partial {
        // Where it comes elsewhere, it waits for the whole state, and not for that at some other place.
        Some(partial) => partial::prevs(engine, room, partial, &pdu.prev_events).await?,
        None => match prevs::with_states(engine, room, servers, &pdu.prev_events).await? {
            PrevStates::Known(prevs) => Some(prevs),
            PrevStates::Nothing | PrevStates::NotNow => None,
        },
    };
    let Some(prevs) = prevs else {
        tracing::warn!(event_id = %pdu.event_id, room_id = %room.id, "nobody tells the state before an event; left it");
        return Ok(Judgement::Unplaceable);
    };
    let states: BTreeSet<StateNid> = prevs.states.iter().copied().collect();
    let mut before = state::before(engine, room, &states).await?;
    let names = names_of_event(engine, &room.rules, &incoming.event).await?;
    let mut vouched = Vouched::new();
    if partial.is_some() {
        vouched = partial::vouched(engine, room, &incoming, &names, &before.map).await?;
        before = partial::with_vouched(engine, before, &vouched).await?;
    }
    if let Err(reason) = check_authorised(engine, room, &incoming, &names, &before).await? {
        tracing::info!(reason, event_id = %pdu.event_id, room_id = %room.id, "rejected an event");
        keep(engine, &incoming, EventStatus::Rejected, before.nid).await?;
        return Ok(Judgement::Rejected);
    }
    let after = match incoming.event.key_nid {
        Some(key_nid) => state::after(engine, &before, key_nid, incoming.event.nid).await?,
        None => before,
    };
    match take_in(engine, room, &incoming, &names, (&prevs, &vouched), &after).await? {
        Ok(()) => Ok(Judgement::Accepted),
        Err(reason) => {
            tracing::info!(reason, event_id = %pdu.event_id, room_id = %room.id, "soft-failed an event");
            keep(engine, &incoming, EventStatus::SoftFailed, after.nid).await?;
            Ok(Judgement::SoftFailed)
        }
    }
}

/// The event with its numbers, once those that authorise it are known. What nobody has of them counts as not there.
/// Nothing while they can't be asked for.
async fn authorised(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    servers: &[OwnedServerName],
    pdu: &ReceivedPdu,
) -> Result<Option<Incoming>, Error> {
    let incoming = number(engine, room, vec![pdu.clone()]).await?.pop();
    let missing: Vec<OwnedEventId> = match &incoming {
        Some(incoming) if !incoming.is_judged() => incoming.auth_missing.clone(),
        _ => return Ok(incoming),
    };
    if missing.is_empty() {
        return Ok(incoming);
    }
    let complete = outliers::fetch_authorising(engine, room, servers, missing).await?;
    let incoming = number(engine, room, vec![pdu.clone()]).await?.pop();
    // What did not answer may tell later.
    Ok(incoming.filter(|incoming| complete || incoming.auth_missing.is_empty()))
}

/// "Passes authorisation rules based on the event's auth events", "based on the state before the event".
pub(super) async fn check_authorised(
    engine: &Engine,
    room: &Room,
    incoming: &Incoming,
    names: &Names,
    before: &KnownState,
) -> Result<Result<(), String>, Error> {
    if !incoming.auth_missing.is_empty() {
        return Ok(Err("an event that authorises it can't be had".to_owned()));
    }
    let event = &incoming.event;
    let auth_nids = &incoming.stored.auth_nids;
    let authorising = crate::rooms::read::events(engine, room, auth_nids.iter().copied()).await?;
    let create_key = engine.interner.key("m.room.create", "").await?;
    let unnamed_create = outliers::unnamed_create(room).and_then(|_| before.map.get(create_key));
    let unnamed_create = crate::rooms::read::events(engine, room, unnamed_create)
        .await?
        .into_values()
        .next();
    if let Err(reason) = outliers::check(event, auth_nids, unnamed_create.as_ref(), room, &authorising) {
        return Ok(Err(reason));
    }
    check_by_state(engine, room, event, names, &before.map).await
}

/// "Passes authorisation rules based on the state before the event".
pub(in crate::rooms) async fn check_by_state(
    engine: &Engine,
    room: &Room,
    event: &Arc<Event>,
    names: &Names,
    before: &StateMap,
) -> Result<Result<(), String>, Error> {
    let create_key = engine.interner.key("m.room.create", "").await?;
    let create = (StateEventType::RoomCreate, String::new(), create_key);
    let keys = names.auth_keys.iter().chain([&create]);
    let wanted: HashMap<(&StateEventType, &str), EventNid> = keys
        .filter_map(|(event_type, state_key, key_nid)| {
            Some(((event_type, state_key.as_str()), before.get(*key_nid)?))
        })
        .collect();
    let events = crate::rooms::read::events(engine, room, wanted.values().copied()).await?;
    let state = |event_type: &StateEventType, state_key: &str| -> Option<Arc<Event>> {
        events.get(wanted.get(&(event_type, state_key))?).cloned()
    };
    Ok(check_auth_rules_by_state(event, &room.rules.authorization, state).map_err(|error| error.to_string()))
}

/// Stores an event that does not count.
async fn keep(
    engine: &Engine,
    incoming: &Incoming,
    status: EventStatus,
    state_after: StateNid,
) -> Result<(), Error> {
    let quiet = QuietEvent {
        event: Arc::clone(&incoming.stored),
        status,
        state_after: Some(state_after),
        place: None,
    };
    let mut connection = engine.db.acquire().await?;
    events::store_quietly(&mut connection, &[quiet]).await?;
    engine.events.forget(incoming.event.nid);
    Ok(())
}
