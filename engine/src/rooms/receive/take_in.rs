//! Taking a received event into its room: decided on the room's head, committed to the log, and again where the room
//! moved meanwhile.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use hearth_storage::{
    EventNid, StateNid,
    events::{self as stored_events, EventStatus, QuietEvent},
    log::{Change, CommitError, NewEvent},
};
use ruma::UserId;

use super::{
    number::Incoming,
    prevs::Prevs,
    state::{self, KnownState},
};
use crate::{
    Engine, Error,
    rooms::{
        Room, StateMap,
        decide::{AcceptError, Accepted, Candidate, Known, Target, accept},
        gather::Names,
        load::load_head,
        partial::Vouched,
        read, resolve,
    },
};

/// How often an event is decided on anew because its room moved.
const ATTEMPTS: usize = 50;
/// How often one attempt fetches what deciding finds missing.
const ROUNDS: usize = 20;

/// Makes an event, which its own past allows, one of the room. The inner error says why it is soft-failed.
pub(in crate::rooms) async fn take_in(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    incoming: &Incoming,
    names: &Names,
    (prevs, vouched): (&Prevs, &Vouched),
    after: &KnownState,
) -> Result<Result<(), String>, Error> {
    let fixed = engine
        .interner
        .keys(&[("m.room.create", ""), ("m.room.power_levels", "")])
        .await?;
    let [create_key, power_levels_key] = fixed[..] else {
        return Err(Error::Damaged("state keys were not interned".to_owned()));
    };
    let mut stored = (*incoming.stored).clone();
    let mut known = gather(engine, room, incoming).await?;
    for _ in 0..ATTEMPTS {
        load_head(engine, room).await?;
        let state_nid = engine.numbers.states(1).await?.pop();
        let state_nid = state_nid.ok_or_else(|| Error::Damaged("no state number".to_owned()))?;
        let mut slot = Some(engine.log.reserve().await?);
        let mut queued = None;
        for _ in 0..ROUNDS {
            let candidate = Candidate {
                event: &incoming.event,
                stored: &stored,
                names,
                prev_nids: &prevs.nids,
                after: (after.nid, after.depth),
                state_after: &after.map,
                missing: &prevs.missing,
                vouched,
            };
            let decided = room.head.decide_on(|head| {
                let target = Target {
                    room_nid: room.nid,
                    room_id: Some(&room.id),
                    rules: &room.rules,
                };
                let keys = (create_key, power_levels_key);
                let accepted = accept(head, target, &candidate, &known, keys, state_nid)?;
                Ok::<_, AcceptError>(match accepted {
                    Accepted::SoftFailed(reason) => Err(reason),
                    Accepted::Yes(change, event) => {
                        // Followers look for it before they would read it.
                        engine.events.insert(event);
                        Ok(slot.take().map(|slot| slot.queue(*change)))
                    }
                })
            });
            match decided {
                Some(Err(AcceptError::Missing(missing))) => {
                    add_events(engine, room, &mut known, missing).await?
                }
                Some(Err(AcceptError::Unresolved(states))) => {
                    // Resolving reads what authorises the events of the states from the tables: this one's too, and
                    // those of events made here that are still being committed.
                    store_before(engine, &mut stored).await?;
                    engine.log.commit(Change::default()).await?;
                    add_resolved(engine, room, &mut known, states).await?;
                }
                Some(Err(AcceptError::Failed(error))) => return Err(error),
                Some(Ok(Err(reason))) => return Ok(Err(reason)),
                Some(Ok(Ok((Some(outcome), incarnation)))) => {
                    queued = Some((outcome, incarnation));
                    break;
                }
                Some(Ok(Ok((None, _)))) | None => break,
            }
        }
        let Some((outcome, incarnation)) = queued else {
            continue;
        };
        // A task of its own: the head must hear how this ended even if the caller is gone.
        let (settling, settled_room) = (Arc::clone(engine), Arc::clone(room));
        let settled = tokio::spawn(async move {
            let result = settling.log.settle(outcome).await;
            settled_room.head.settled(incarnation, result.is_ok());
            result
        });
        match settled.await.unwrap_or(Err(CommitError::Unavailable)) {
            Ok(_) => return Ok(Ok(())),
            Err(CommitError::Conflict) => {}
            // Another node took in the same event.
            Err(CommitError::Constraint(name)) if name.starts_with("events_") => return Ok(Ok(())),
            Err(error) => return Err(error.into()),
        }
    }
    Err(CommitError::Unavailable.into())
}

/// Stores an event as an outlier, until it is accepted.
async fn store_before(engine: &Engine, stored: &mut NewEvent) -> Result<(), Error> {
    if stored.is_stored {
        return Ok(());
    }
    let quiet = QuietEvent {
        event: Arc::new(stored.clone()),
        status: EventStatus::Outlier,
        state_after: None,
        place: None,
    };
    let mut connection = engine.db.acquire().await?;
    stored_events::store_quietly(&mut connection, &[quiet]).await?;
    stored.is_stored = true;
    Ok(())
}

/// What accepting an event surely needs. The rest is added when it is missed.
async fn gather(engine: &Engine, room: &Room, incoming: &Incoming) -> Result<Known, Error> {
    let mut known = Known::default();
    let event = &incoming.event;
    let mut connection = engine.db.acquire().await?;
    if let Some(redacts) = event.redacts() {
        known.redacted = engine.events.by_id(&mut connection, room, redacts).await?;
    }
    let waiting = stored_events::redactions_waiting_for(&mut connection, event.event_id.as_str()).await?;
    drop(connection);
    known.redactions = read::events(engine, room, waiting).await?.into_values().collect();
    if event.membership().is_some() {
        add_members(engine, &mut known, [Arc::clone(event)]).await?;
    }
    Ok(known)
}

async fn add_events(
    engine: &Engine,
    room: &Room,
    known: &mut Known,
    missing: Vec<EventNid>,
) -> Result<(), Error> {
    let missing: BTreeSet<EventNid> = missing.into_iter().collect();
    let count = missing.len();
    let events = read::events(engine, room, missing).await?;
    if events.len() < count {
        return Err(Error::Damaged(format!(
            "state events of room {} are missing",
            room.id
        )));
    }
    add_members(engine, known, events.values().cloned().collect::<Vec<_>>()).await?;
    known.events.extend(events);
    Ok(())
}

/// Notes whose member events are among `events`.
async fn add_members(
    engine: &Engine,
    known: &mut Known,
    events: impl IntoIterator<Item = Arc<crate::events::Event>>,
) -> Result<(), Error> {
    let members: HashMap<EventNid, Arc<crate::events::Event>> = events
        .into_iter()
        .filter(|event| event.membership().is_some())
        .map(|event| (event.nid, event))
        .collect();
    let users: Vec<(EventNid, &UserId)> = members
        .values()
        .filter_map(|event| Some((event.nid, <&UserId>::try_from(event.state_key()?).ok()?)))
        .collect();
    let user_ids: Vec<&UserId> = users.iter().map(|(_, user_id)| *user_id).collect();
    let user_nids = engine.interner.users(&user_ids).await?;
    known.members.extend(
        users
            .into_iter()
            .zip(user_nids)
            .map(|((event_nid, _), user_nid)| (event_nid, user_nid)),
    );
    Ok(())
}

async fn add_resolved(
    engine: &Engine,
    room: &Room,
    known: &mut Known,
    states: BTreeSet<StateNid>,
) -> Result<(), Error> {
    let maps = state::load(engine, room, &states).await?;
    let maps: Vec<StateMap> = maps.into_iter().map(|state| state.map).collect();
    let resolved = resolve::resolve(engine, room, &maps).await?;
    known.resolved.insert(states, resolved);
    Ok(())
}
