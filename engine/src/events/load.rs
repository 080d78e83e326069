//! Loading events by number, through a bounded cache.

use std::{collections::HashMap, sync::Arc};

use hearth_storage::{
    Connection, EventNid, RoomNid, StorageError,
    events::{self, StoredEvent},
};
use quick_cache::{Weighter, sync::Cache};
use ruma::{RoomId, room_version_rules::RoomVersionRules};

use super::{Event, redact, serve::redacted_pdu, without_content};
use crate::{Clock, transactions};

#[derive(Debug, Clone)]
struct ByWeight;

impl Weighter<EventNid, Arc<Event>> for ByWeight {
    fn weight(&self, _: &EventNid, event: &Arc<Event>) -> u64 {
        event.weight() as u64
    }
}

/// Events in memory. An event never changes but by its redaction, which replaces it here.
#[derive(Debug)]
pub(crate) struct EventStore {
    cache: Cache<EventNid, Arc<Event>, ByWeight>,
    /// Events redacted lately: whoever read one of them just before must not put it back.
    redacted: Cache<EventNid, ()>,
    clock: Arc<dyn Clock>,
}

/// Redacted events that are remembered as such.
const REDACTED: usize = 10_000;

/// The room of an event, as reading one needs it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InRoom<'a> {
    pub room_id: &'a RoomId,
    pub rules: &'a RoomVersionRules,
}

impl EventStore {
    pub fn new(bytes: u64, clock: Arc<dyn Clock>) -> Self {
        let estimated_items = usize::try_from(bytes / 2048).unwrap_or(usize::MAX);
        Self {
            cache: Cache::with_weighter(estimated_items, bytes, ByWeight),
            redacted: Cache::new(REDACTED),
            clock,
        }
    }

    pub fn get(&self, event_nid: EventNid) -> Option<Arc<Event>> {
        self.cache.get(&event_nid)
    }

    pub fn insert(&self, event: Arc<Event>) {
        let event_nid = event.nid;
        if event.redacted_because.is_some() {
            // First, so that whoever inserts the event as it was either sees this or is overwritten.
            self.redacted.insert(event_nid, ());
            self.cache.insert(event_nid, event);
        } else {
            self.cache.insert(event_nid, event);
            if self.redacted.get(&event_nid).is_some() {
                self.cache.remove(&event_nid);
            }
        }
    }

    /// Forgets an event: what is stored of it has changed.
    pub fn forget(&self, event_nid: EventNid) {
        self.cache.remove(&event_nid);
    }

    /// Forgets everything: the log has parted from what was seen.
    pub fn clear(&self) {
        self.cache.clear();
    }

    /// Events of one room by number.
    pub async fn load(
        &self,
        connection: &mut Connection,
        room: InRoom<'_>,
        event_nids: impl IntoIterator<Item = EventNid>,
    ) -> Result<HashMap<EventNid, Arc<Event>>, StorageError> {
        self.load_of_rooms(connection, event_nids, |_| Some(room)).await
    }

    /// Events of many rooms by number, with one query.
    pub async fn load_of_rooms<'a>(
        &self,
        connection: &mut Connection,
        event_nids: impl IntoIterator<Item = EventNid>,
        room_of: impl Fn(RoomNid) -> Option<InRoom<'a>>,
    ) -> Result<HashMap<EventNid, Arc<Event>>, StorageError> {
        let (mut found, missing) = self.partition(event_nids);
        if !missing.is_empty() {
            let stored = events::by_nids(connection, &missing).await?;
            let events = self.admit(connection, stored, room_of).await?;
            found.extend(events.into_iter().map(|event| (event.nid, event)));
        }
        Ok(found)
    }

    /// The events that are in memory, and the numbers of those that aren't.
    pub fn partition(
        &self,
        event_nids: impl IntoIterator<Item = EventNid>,
    ) -> (HashMap<EventNid, Arc<Event>>, Vec<EventNid>) {
        let mut found = HashMap::new();
        let mut missing = Vec::new();
        for event_nid in event_nids {
            match self.cache.get(&event_nid) {
                Some(event) => drop(found.insert(event_nid, event)),
                None => missing.push(event_nid),
            }
        }
        (found, missing)
    }

    /// Turns rows into events, in their order: cached ones are taken from the cache, redacted ones get what redacted
    /// them, unreadable ones are passed over with a word in the log.
    pub async fn admit<'a>(
        &self,
        connection: &mut Connection,
        mut stored: Vec<StoredEvent>,
        room_of: impl Fn(RoomNid) -> Option<InRoom<'a>>,
    ) -> Result<Vec<Arc<Event>>, StorageError> {
        let redactions = self.redactions_of(connection, &stored, &room_of).await?;
        let unread = stored
            .iter_mut()
            .filter(|row| self.cache.get(&row.event.event_nid).is_none());
        self.add_transactions(connection, unread).await?;
        let mut admitted = Vec::with_capacity(stored.len());
        for row in stored {
            // The row may be a moment older than the cache, never newer in anything but its redaction.
            if let Some(event) = self.cache.get(&row.event.event_nid)
                && (row.redacted_by.is_none() || event.redacted_because.is_some())
            {
                admitted.push(event);
                continue;
            }
            let Some(room) = room_of(row.event.room_nid) else {
                continue;
            };
            match parse(&row, room, row.redacted_by.and_then(|nid| redactions.get(&nid))) {
                Ok(event) => {
                    let event = Arc::new(event);
                    self.insert(Arc::clone(&event));
                    admitted.push(event);
                }
                Err(error) => {
                    tracing::error!(%error, source = ?std::error::Error::source(&error), "passed over an event")
                }
            }
        }
        Ok(admitted)
    }

    /// Adds the requests that made events, where they may be remembered still.
    async fn add_transactions<'a>(
        &self,
        connection: &mut Connection,
        stored: impl Iterator<Item = &'a mut StoredEvent>,
    ) -> Result<(), StorageError> {
        let remembered_since = self.clock.now_ms() - transactions::KEEP_MS;
        let young = stored.filter(|row| row.event.origin_server_ts >= remembered_since);
        events::add_transactions(connection, young).await
    }

    async fn redactions_of<'a>(
        &self,
        connection: &mut Connection,
        stored: &[StoredEvent],
        room_of: &impl Fn(RoomNid) -> Option<InRoom<'a>>,
    ) -> Result<HashMap<EventNid, Arc<Event>>, StorageError> {
        let wanted: Vec<EventNid> = stored.iter().filter_map(|row| row.redacted_by).collect();
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        let mut rows = events::by_nids(connection, &wanted).await?;
        self.add_transactions(connection, rows.iter_mut()).await?;
        let mut redactions = HashMap::new();
        for row in rows {
            let Some(room) = room_of(row.event.room_nid) else {
                continue;
            };
            // A redaction that was itself redacted is shown in its redacted form, without saying by what.
            let mut event = Event::parse(&row.event, row.sub, room.room_id, room.rules);
            if row.redacted_by.is_some() {
                event = event.and_then(|event| without_content(&event, room.rules));
            }
            if let Ok(event) = event {
                redactions.insert(event.nid, Arc::new(event));
            }
        }
        Ok(redactions)
    }
}

fn parse(
    row: &StoredEvent,
    room: InRoom<'_>,
    redaction: Option<&Arc<Event>>,
) -> Result<Event, super::ParseError> {
    let event = Event::parse(&row.event, row.sub, room.room_id, room.rules)?.with_status(row.status);
    match redaction {
        Some(redaction) => redact(&event, redaction, room.rules),
        None => Ok(event),
    }
}

impl EventStore {
    /// An accepted event of `room` by its ID; nothing if it is unknown or in another room.
    pub async fn by_id(
        &self,
        connection: &mut Connection,
        room: &crate::rooms::Room,
        event_id: &ruma::EventId,
    ) -> Result<Option<Arc<Event>>, StorageError> {
        let Some(stored) = events::by_id(connection, event_id.as_str()).await? else {
            return Ok(None);
        };
        if stored.event.room_nid != room.nid {
            return Ok(None);
        }
        Ok(self
            .admit(connection, vec![stored], |_| Some(room.in_room()))
            .await?
            .pop())
    }
}

/// The redacted form of a stored event, as it is to be stored.
pub(crate) fn stored_redacted_form(
    row: &StoredEvent,
    room: InRoom<'_>,
) -> Result<Arc<str>, super::ParseError> {
    let event = Event::parse(&row.event, row.sub, room.room_id, room.rules)?;
    redacted_pdu(&event, room.rules)
}
