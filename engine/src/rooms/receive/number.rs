//! Received PDUs as events with numbers. They have no place in their room yet.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use hearth_storage::{
    EventNid, StateNid,
    events::{self, EventStatus, KnownEvent},
    log::NewEvent,
};
use ruma::{OwnedEventId, UserId};

use super::pdu::ReceivedPdu;
use crate::{Engine, Error, events::Event, rooms::Room};

/// How many IDs are looked up at once.
const CHUNK: usize = 2_000;

/// A received event.
#[derive(Debug, Clone)]
pub(in crate::rooms) struct Incoming {
    /// The event, without a place in the room.
    pub event: Arc<Event>,
    /// What is stored of it.
    pub stored: Arc<NewEvent>,
    /// What was known of it before.
    pub known: Option<KnownEvent>,
    /// Events it says authorise it that are not known, nor among those it came with.
    pub auth_missing: Vec<OwnedEventId>,
}

impl Incoming {
    /// Whether it was judged before; an outlier was not, for its place in the room.
    pub fn is_judged(&self) -> bool {
        self.known
            .as_ref()
            .is_some_and(|known| known.status != EventStatus::Outlier)
    }
}

/// Which of some events are known here, by ID.
pub(in crate::rooms) async fn known(
    engine: &Engine,
    event_ids: impl IntoIterator<Item = &str>,
) -> Result<HashMap<String, KnownEvent>, Error> {
    let wanted: Vec<&str> = event_ids.into_iter().collect();
    let mut found = HashMap::with_capacity(wanted.len());
    if wanted.is_empty() {
        return Ok(found);
    }
    let mut connection = engine.db.acquire().await?;
    for chunk in wanted.chunks(CHUNK) {
        let known = events::known(&mut connection, chunk).await?;
        found.extend(known.into_iter().map(|known| (known.event_id.clone(), known)));
    }
    Ok(found)
}

/// Gives PDUs of `room` their numbers, in their order. One that is there twice is taken once; one whose ID is that of an
/// event of another room is left out.
pub(in crate::rooms) async fn number(
    engine: &Engine,
    room: &Room,
    mut pdus: Vec<ReceivedPdu>,
) -> Result<Vec<Incoming>, Error> {
    let mut seen = BTreeSet::new();
    pdus.retain(|pdu| seen.insert(pdu.event_id.clone()));
    let auth_ids = pdus.iter().flat_map(|pdu| &pdu.auth_events);
    let wanted: BTreeSet<&str> = auth_ids.chain(&seen).map(|event_id| event_id.as_str()).collect();
    let known = known(engine, wanted).await?;
    let is_elsewhere = |pdu: &ReceivedPdu| {
        known
            .get(pdu.event_id.as_str())
            .is_some_and(|known| known.room_nid != room.nid)
    };
    pdus.retain(|pdu| !is_elsewhere(pdu));

    let new = pdus
        .iter()
        .filter(|pdu| !known.contains_key(pdu.event_id.as_str()));
    let mut fresh = engine.numbers.events(new.count()).await?.into_iter();
    let mut nids: HashMap<&str, EventNid> = known
        .iter()
        .filter(|(_, known)| known.room_nid == room.nid)
        .map(|(event_id, known)| (event_id.as_str(), known.event_nid))
        .collect();
    for pdu in &pdus {
        if let std::collections::hash_map::Entry::Vacant(vacant) = nids.entry(pdu.event_id.as_str()) {
            let nid = fresh.next();
            vacant.insert(nid.ok_or_else(|| Error::Damaged("too few event numbers".to_owned()))?);
        }
    }
    let types: Vec<&str> = pdus.iter().map(|pdu| pdu.event_type.as_str()).collect();
    let types = engine.interner.types(&types).await?;
    let senders: Vec<&UserId> = pdus.iter().map(|pdu| &*pdu.sender).collect();
    let senders = engine.interner.users(&senders).await?;
    let keys: Vec<(&str, &str)> = pdus
        .iter()
        .filter_map(|pdu| Some((pdu.event_type.as_str(), pdu.state_key.as_deref()?)))
        .collect();
    let mut keys = engine.interner.keys(&keys).await?.into_iter();

    let mut incoming = Vec::with_capacity(pdus.len());
    for ((pdu, type_nid), sender_nid) in pdus.iter().zip(types).zip(senders) {
        let event_nid = nids[pdu.event_id.as_str()];
        let auth_nids = pdu.auth_events.iter();
        let auth_nids = auth_nids.filter_map(|event_id| nids.get(event_id.as_str()).copied());
        let known = known.get(pdu.event_id.as_str()).cloned();
        let stored = Arc::new(NewEvent {
            event_nid,
            event_id: pdu.event_id.to_string(),
            room_nid: room.nid,
            sequence: 0,
            type_nid,
            key_nid: pdu.state_key.is_some().then(|| keys.next()).flatten(),
            sender_nid,
            state_after: StateNid::from(0),
            origin_server_ts: pdu.origin_server_ts,
            replaces: None,
            pdu: Arc::clone(&pdu.json),
            push_class: 0,
            transaction: None,
            auth_nids: auth_nids.collect(),
            is_stored: known.is_some(),
            after_gap: false,
        });
        let event = match Event::parse(&stored, 0, &room.id, &room.rules) {
            Ok(event) => Arc::new(event),
            Err(error) => {
                tracing::warn!(%error, room_id = %room.id, "left out an event that passed the check of its format");
                continue;
            }
        };
        let auth_missing = pdu.auth_events.iter();
        let auth_missing = auth_missing.filter(|event_id| !nids.contains_key(event_id.as_str()));
        incoming.push(Incoming {
            event,
            stored,
            known,
            auth_missing: auth_missing.cloned().collect(),
        });
    }
    Ok(incoming)
}
