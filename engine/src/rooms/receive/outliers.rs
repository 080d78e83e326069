//! Events without a place in the room: those that authorise others, and those that a state is made of. They are judged
//! by what authorises them alone.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use hearth_storage::{
    EventNid,
    events::{self, EventStatus, QuietEvent},
};
use ruma::{OwnedEventId, OwnedServerName, events::StateEventType};

use super::{
    fetch,
    number::{Incoming, number},
    pdu::ReceivedPdu,
};
use crate::{
    Engine, Error,
    events::Event,
    rooms::{Room, checks},
};

/// Events stored in one transaction.
const CHUNK: usize = 500;
/// How many steps back events that authorise others are asked for, one step after another.
const STEPS: usize = 50;
/// How many events are asked for on behalf of one.
const MOST: usize = 2_000;

/// Events that authorise others, by number.
pub(in crate::rooms) type Authorising = HashMap<EventNid, Arc<Event>>;

/// The ID of a room's create event where it authorises every other event without being named: since room version 12 the
/// ID of the room says it.
pub(super) fn unnamed_create(room: &Room) -> Option<OwnedEventId> {
    match room.rules.authorization.room_create_event_id_as_room_id {
        true => OwnedEventId::try_from(format!("${}", room.id.strip_sigil())).ok(),
        false => None,
    }
}

/// The create event, by its ID, if it is known.
async fn known_create(
    engine: &Engine,
    room: &Room,
    event_id: &OwnedEventId,
) -> Result<Option<Arc<Event>>, Error> {
    let known = super::number::known(engine, [event_id.as_str()]).await?;
    let known = known
        .get(event_id.as_str())
        .filter(|known| known.room_nid == room.nid);
    let Some(known) = known else { return Ok(None) };
    let mut events = crate::rooms::read::events(engine, room, [known.event_nid]).await?;
    Ok(events.remove(&known.event_nid))
}

/// Takes in PDUs of `room`, whose signatures were verified: those that aren't known are judged and stored. The answer is
/// all of them with their numbers. What authorises them and is neither known nor among them can't be had; unless they
/// are not `complete`: then those that want it are left out, to be judged when it is here.
pub(in crate::rooms) async fn admit(
    engine: &Engine,
    room: &Room,
    pdus: Vec<ReceivedPdu>,
    complete: bool,
) -> Result<Vec<Incoming>, Error> {
    let incoming = number(engine, room, pdus).await?;
    let mut authorising = Authorising::new();
    let new: Vec<&Incoming> = incoming.iter().filter(|one| one.known.is_none()).collect();
    let own: HashSet<EventNid> = new.iter().map(|one| one.event.nid).collect();
    let others = new.iter().flat_map(|one| &one.stored.auth_nids).copied();
    let others: HashSet<EventNid> = others.filter(|nid| !own.contains(nid)).collect();
    authorising.extend(crate::rooms::read::events(engine, room, others).await?);
    let unnamed = unnamed_create(room);
    let mut create = match &unnamed {
        Some(event_id) => known_create(engine, room, event_id).await?,
        None => None,
    };
    let mut ordered = in_order_of_authority(&new);
    if unnamed.is_some() {
        ordered.sort_by_key(|one| unnamed.as_ref() != Some(&one.event.event_id));
    }
    let mut quiet = Vec::with_capacity(new.len());
    let mut undecided: HashSet<EventNid> = HashSet::new();
    for one in ordered {
        let hangs_on = |nid| undecided.contains(nid);
        if !complete && (!one.auth_missing.is_empty() || one.stored.auth_nids.iter().any(hangs_on)) {
            undecided.insert(one.event.nid);
            continue;
        }
        let checked = match one.auth_missing.is_empty() {
            true => check(
                &one.event,
                &one.stored.auth_nids,
                create.as_ref(),
                room,
                &authorising,
            ),
            false => Err("an event that authorises it can't be had".to_owned()),
        };
        let allowed = checked
            .inspect_err(|reason| {
                tracing::info!(reason, event_id = %one.event.event_id, room_id = %room.id, "rejected an event");
            })
            .is_ok();
        let status = if allowed {
            EventStatus::Outlier
        } else {
            EventStatus::Rejected
        };
        let parsed = Event::parse(&one.stored, 0, &room.id, &room.rules)?;
        let parsed = Arc::new(parsed.with_status(status));
        if unnamed.as_ref() == Some(&parsed.event_id) {
            create = Some(Arc::clone(&parsed));
        }
        authorising.insert(parsed.nid, parsed);
        quiet.push(QuietEvent {
            event: Arc::clone(&one.stored),
            status,
            state_after: None,
            place: None,
        });
    }
    let mut connection = engine.db.acquire().await?;
    for chunk in quiet.chunks(CHUNK) {
        events::store_quietly(&mut connection, chunk).await?;
    }
    // A state is read soon after it came, as far as there is room for it.
    for event_nid in own {
        if let Some(event) = authorising.get(&event_nid) {
            engine.events.insert(Arc::clone(event));
        }
    }
    Ok(incoming)
}

/// "Passes authorisation rules based on the event's auth events", which none of may be rejected. `create` is the create
/// event where that need not be named ([`unnamed_create`]).
pub(super) fn check(
    event: &Arc<Event>,
    auth_nids: &[EventNid],
    create: Option<&Arc<Event>>,
    room: &Room,
    authorising: &Authorising,
) -> Result<(), String> {
    let mut by_key: HashMap<(StateEventType, &str), &Arc<Event>> = HashMap::with_capacity(auth_nids.len());
    let mut by_id = HashMap::with_capacity(auth_nids.len());
    if let Some(create) = create {
        by_key.insert((StateEventType::RoomCreate, ""), create);
        by_id.insert(create.event_id.clone(), create);
    }
    for auth_nid in auth_nids {
        let auth = authorising
            .get(auth_nid)
            .ok_or("an event that authorises it is not known")?;
        if auth.is_rejected() {
            return Err(format!("{}, which authorises it, is rejected", auth.event_id));
        }
        let Some(state_key) = auth.state_key() else {
            return Err(format!(
                "{}, which authorises it, is no state event",
                auth.event_id
            ));
        };
        by_key.insert((auth.event_type().to_string().into(), state_key), auth);
        by_id.insert(auth.event_id.clone(), auth);
    }
    checks::check_auth_rules_by_auth_events(
        event,
        &room.rules.authorization,
        |event_id| by_id.get(event_id).map(|event| Arc::clone(event)),
        |event_type, state_key| {
            by_key
                .get(&(event_type.clone(), state_key))
                .map(|event| Arc::clone(event))
        },
    )
    .map_err(|error| error.to_string())
}

/// Each after those of its authorising events that are among `new`. Events that authorise each other in a ring, which
/// no honest hash allows, come last.
fn in_order_of_authority<'a>(new: &[&'a Incoming]) -> Vec<&'a Incoming> {
    let by_nid: HashMap<EventNid, &Incoming> = new.iter().map(|one| (one.event.nid, *one)).collect();
    let mut waits: HashMap<EventNid, usize> = HashMap::with_capacity(new.len());
    let mut needed_by: HashMap<EventNid, Vec<&'a Incoming>> = HashMap::new();
    let mut ready = VecDeque::new();
    for one in new {
        let mut count = 0;
        for auth_nid in &one.stored.auth_nids {
            if by_nid.contains_key(auth_nid) {
                needed_by.entry(*auth_nid).or_default().push(one);
                count += 1;
            }
        }
        waits.insert(one.event.nid, count);
        if count == 0 {
            ready.push_back(*one);
        }
    }
    let mut ordered = Vec::with_capacity(new.len());
    while let Some(one) = ready.pop_front() {
        ordered.push(one);
        for other in needed_by.remove(&one.event.nid).unwrap_or_default() {
            if let Some(count) = waits.get_mut(&other.event.nid) {
                *count -= 1;
                if *count == 0 {
                    ready.push_back(other);
                }
            }
        }
    }
    ordered
}

/// Fetches events that authorise others, and those that authorise them, until all are known. False where some were not
/// had because a server did not answer, and may be later.
pub(in crate::rooms) async fn fetch_authorising(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    servers: &[OwnedServerName],
    missing: Vec<OwnedEventId>,
) -> Result<bool, Error> {
    let mut complete = true;
    let mut wanted: HashSet<OwnedEventId> = missing.into_iter().collect();
    let mut asked: HashSet<OwnedEventId> = HashSet::new();
    let mut pdus: Vec<ReceivedPdu> = Vec::new();
    for _ in 0..STEPS {
        wanted.retain(|event_id| !asked.contains(event_id));
        let known = super::number::known(engine, wanted.iter().map(|event_id| event_id.as_str())).await?;
        wanted.retain(|event_id| !known.contains_key(event_id.as_str()));
        if wanted.is_empty() || asked.len() + wanted.len() > MOST {
            break;
        }
        asked.extend(wanted.iter().cloned());
        let step = fetch::by_ids(engine, room, servers, std::mem::take(&mut wanted)).await;
        complete &= step.is_complete;
        let step = step.pdus;
        wanted = step
            .iter()
            .flat_map(|pdu| pdu.auth_events.iter().cloned())
            .collect();
        pdus.extend(step);
    }
    admit(engine, room, pdus, complete).await?;
    Ok(complete)
}

/// Numbers events that are not judged: nothing is known of their room but what another server says.
pub(in crate::rooms) async fn unjudged(
    engine: &Engine,
    room: &Room,
    pdus: Vec<ReceivedPdu>,
) -> Result<Vec<Incoming>, Error> {
    number(engine, room, pdus).await
}
