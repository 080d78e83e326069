//! How much of each room a user has not read (client-server API, "Receiving notifications").
//!
//! Nothing is written or evaluated per member when an event is committed: it gets one [`class`], and what is unread is
//! counted when somebody looks, from what came after the user's receipts. For those who keep looking the [`tally`] of a
//! room stays in memory and is brought up to date from the room's latest entries; else it is made with a fixed number of
//! queries, however many rooms. The push rules of a user who has some of their own are evaluated here, over what is
//! unread and no more.

pub(crate) mod class;
mod rules;
mod tally;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hearth_storage::{
    EventNid, Position, RoomNid, UserNid,
    unread::{self, Range, Wanted},
};
use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedUserId, events::TimelineEventType};
use serde::Deserialize;

use crate::{
    Engine, Error,
    accounts::Requester,
    events::Event,
    receipts::{self, READ, READ_PRIVATE},
    rooms::{Room, RoomEntryKind, View},
    users::User,
};
use class::{COUNTS, HIGHLIGHTS, MENTIONS, NOTIFIES, RELATES, SAID};
use rules::Rules;
use tally::{Basis, MAX_UNREAD, Marks, Tally, Unread};
pub use tally::{Count, Counts};

/// The memory that tallies may take, in bytes.
const CACHED_BYTES: u64 = 32 << 20;
/// Events looked at for one answer, at most, of all rooms together; but of each room a hundred.
const MAX_CANDIDATES: usize = 200_000;
const MIN_CANDIDATES: usize = 100;

/// Tallies in memory.
#[derive(Debug)]
pub(crate) struct Tallies(Cache<(UserNid, RoomNid), Arc<Tally>, ByBytes>);

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<(UserNid, RoomNid), Arc<Tally>> for ByBytes {
    fn weight(&self, _: &(UserNid, RoomNid), tally: &Arc<Tally>) -> u64 {
        tally.weight()
    }
}

impl Tallies {
    pub fn new() -> Self {
        Self(Cache::with_weighter(100_000, CACHED_BYTES, ByBytes))
    }

    pub fn clear(&self) {
        self.0.clear();
    }
}

/// Counts for one user, by the log up to a position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counter<'a> {
    pub engine: &'a Engine,
    pub requester: &'a Requester,
    pub user: &'a User,
    pub upto: Position,
}

/// A room that is being counted.
struct Work {
    room: Arc<Room>,
    basis: Basis,
    /// What was counted before.
    tally: Option<Tally>,
    /// What came since, in order.
    news: Vec<News>,
}

enum News {
    Event(Occurrence),
    /// The user read a thread, as receipts name it, up to a sequence number.
    Read(Arc<str>, i64),
    /// The event of a sequence number was redacted.
    Redacted(i64),
}

/// An event that may count. It is loaded only where its class doesn't say enough.
struct Occurrence {
    event_nid: EventNid,
    sequence: i64,
    sender_nid: UserNid,
    push_class: i16,
    event: Option<Arc<Event>>,
}

impl Counter<'_> {
    /// What is unread of rooms that the user is in, each with the position at which they came.
    pub async fn count(&self, rooms: Vec<(Arc<Room>, Position)>) -> Result<HashMap<RoomNid, Counts>, Error> {
        let mut works: Vec<Work> = rooms
            .into_iter()
            .map(|(room, joined_at)| self.begin(room, joined_at))
            .collect();
        self.read_tables(&mut works).await?;
        self.load_events(&mut works).await?;
        let ignored = self.ignored(&works).await?;
        let rules = match self.user.preferences.rules(&self.requester.user_id) {
            Some(ruleset) => Some(Rules::load(self, ruleset, works.iter().map(|work| &*work.room)).await?),
            None => None,
        };
        let mut counts = HashMap::with_capacity(works.len());
        for work in works {
            let room_nid = work.room.nid;
            let tally = self.finish(work, &ignored, rules.as_ref()).await?;
            counts.insert(room_nid, tally.counts());
            self.engine
                .unread
                .0
                .insert((self.requester.user_nid, room_nid), Arc::new(tally));
        }
        Ok(counts)
    }

    fn begin(&self, room: Arc<Room>, joined_at: Position) -> Work {
        let basis = Basis {
            preferences: self.user.preferences.position,
            joined_at,
        };
        let known = self
            .engine
            .unread
            .0
            .get(&(self.requester.user_nid, room.nid))
            .filter(|tally| tally.basis == basis);
        let news = known
            .as_ref()
            .and_then(|tally| room.read(|view| self.news(view, tally.upto)).flatten());
        let tally = known.filter(|_| news.is_some()).map(|tally| Tally::clone(&tally));
        Work {
            room,
            basis,
            tally,
            news: news.unwrap_or_default(),
        }
    }

    /// What came in a room after `since`, if memory reaches back that far and knows all that it speaks of.
    fn news(&self, view: &View, since: Position) -> Option<Vec<News>> {
        if view.recent_since > since {
            return None;
        }
        let mut news = Vec::new();
        let start = view.recent.partition_point(|entry| entry.position <= since);
        for entry in view
            .recent
            .range(start..)
            .take_while(|entry| entry.position <= self.upto)
        {
            match &entry.kind {
                RoomEntryKind::Event(event, _) => {
                    if *event.event_type() == TimelineEventType::RoomRedaction
                        && let Some(redacts) = event.redacts()
                    {
                        news.push(News::Redacted(sequence_of(view, redacts.as_str())?));
                    }
                    news.push(News::Event(Occurrence {
                        event_nid: event.nid,
                        sequence: event.place.sequence,
                        sender_nid: event.sender_nid,
                        push_class: event.push_class,
                        event: Some(Arc::clone(event)),
                    }));
                }
                RoomEntryKind::Receipt(receipt) => {
                    let is_own = receipt.user_nid == self.requester.user_nid;
                    if is_own && [READ, READ_PRIVATE].contains(&&*receipt.receipt_type) {
                        news.push(News::Read(
                            Arc::clone(&receipt.thread),
                            sequence_of(view, &receipt.event_id)?,
                        ));
                    }
                }
                RoomEntryKind::State(_) => {}
            }
        }
        Some(news)
    }

    /// Reads what is needed of rooms that were not counted before, or too long ago.
    async fn read_tables(&self, works: &mut [Work]) -> Result<(), Error> {
        let mut new: HashMap<RoomNid, &mut Work> = works
            .iter_mut()
            .filter(|work| work.tally.is_none())
            .map(|work| (work.room.nid, work))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let user_nid = self.requester.user_nid;
        let room_nids: Vec<RoomNid> = new.keys().copied().collect();
        let mut transaction = self.engine.db.begin_read().await?;
        let mut marks: HashMap<RoomNid, Marks> = HashMap::new();
        for mark in unread::marks(&mut transaction, user_nid, &room_nids, &[READ, READ_PRIVATE]).await? {
            marks
                .entry(mark.room_nid)
                .or_default()
                .raise(&mark.thread, mark.sequence);
        }
        let range = |(room_nid, work): (&RoomNid, &&mut Work)| Range {
            room_nid: *room_nid,
            after: marks.get(room_nid).map_or(0, Marks::whole_room),
            since: work.basis.joined_at,
            upto: self.upto,
        };
        let ranges: Vec<Range> = new.iter().map(range).collect();
        let limit = (MAX_CANDIDATES / ranges.len()).clamp(MIN_CANDIDATES, MAX_UNREAD);
        // Rules of a user's own may make something of any event.
        let has_rules = self.user.preferences.rules(&self.requester.user_id).is_some();
        let wanted = Wanted {
            classes: (!has_rules).then_some(COUNTS),
            own_classes: SAID,
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let candidates = unread::candidates(&mut transaction, user_nid, &ranges, wanted, limit).await?;
        drop(transaction);
        for (room_nid, work) in &mut new {
            work.tally = Some(Tally::new(
                self.upto,
                work.basis,
                marks.remove(room_nid).unwrap_or_default(),
            ));
        }
        for candidate in candidates {
            let Some(work) = new.get_mut(&candidate.room_nid) else {
                continue;
            };
            work.news.push(News::Event(Occurrence {
                event_nid: candidate.event_nid,
                sequence: candidate.sequence,
                sender_nid: candidate.sender_nid,
                push_class: candidate.push_class,
                event: None,
            }));
        }
        Ok(())
    }

    /// Loads the events whose class doesn't say enough.
    async fn load_events(&self, works: &mut [Work]) -> Result<(), Error> {
        let has_rules = self.user.preferences.rules(&self.requester.user_id).is_some();
        let own = self.requester.user_nid;
        let is_needed = |occurrence: &Occurrence| {
            let by_rules = has_rules && occurrence.sender_nid != own;
            occurrence.event.is_none() && (by_rules || occurrence.push_class & (MENTIONS | RELATES) != 0)
        };
        let wanted: Vec<EventNid> = occurrences(works)
            .filter(|occurrence| is_needed(occurrence))
            .map(|occurrence| occurrence.event_nid)
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let (mut events, missing) = self.engine.events.partition(wanted);
        if !missing.is_empty() {
            let rooms: HashMap<RoomNid, Arc<Room>> = works
                .iter()
                .map(|work| (work.room.nid, Arc::clone(&work.room)))
                .collect();
            let mut connection = self.engine.db.acquire().await?;
            let room_of = |room_nid| Some(rooms.get(&room_nid)?.in_room());
            events.extend(
                self.engine
                    .events
                    .load_of_rooms(&mut connection, missing, room_of)
                    .await?,
            );
        }
        for news in works.iter_mut().flat_map(|work| &mut work.news) {
            if let News::Event(occurrence) = news
                && occurrence.event.is_none()
            {
                occurrence.event = events.get(&occurrence.event_nid).cloned();
            }
        }
        Ok(())
    }

    /// The senders whom the user ignores.
    async fn ignored(&self, works: &[Work]) -> Result<HashSet<UserNid>, Error> {
        let preferences = &self.user.preferences;
        if !preferences.ignores_anybody() {
            return Ok(HashSet::new());
        }
        let senders: HashSet<UserNid> = occurrences(works)
            .map(|occurrence| occurrence.sender_nid)
            .collect();
        let senders: Vec<UserNid> = senders.into_iter().collect();
        let names: HashMap<UserNid, OwnedUserId> = self.engine.interner.user_ids(&senders).await?;
        let ignored = names
            .into_iter()
            .filter(|(_, user_id)| preferences.ignores(user_id));
        Ok(ignored.map(|(user_nid, _)| user_nid).collect())
    }

    /// Brings the tally of a room up to its news.
    async fn finish(
        &self,
        work: Work,
        ignored: &HashSet<UserNid>,
        rules: Option<&Rules<'_>>,
    ) -> Result<Tally, Error> {
        let Work {
            room,
            basis,
            tally,
            news,
        } = work;
        let mut tally = tally.unwrap_or_else(|| Tally::new(self.upto, basis, Marks::default()));
        for news in news {
            let occurrence = match news {
                News::Event(occurrence) => occurrence,
                News::Read(thread, sequence) => {
                    tally.read(&thread, sequence);
                    continue;
                }
                News::Redacted(sequence) => {
                    tally.redacted(sequence);
                    continue;
                }
            };
            if occurrence.sender_nid == self.requester.user_nid {
                if occurrence.push_class & SAID != 0 {
                    let thread = self.thread(&room, &occurrence).await?;
                    tally.said(thread.as_deref(), occurrence.sequence);
                }
                continue;
            }
            if ignored.contains(&occurrence.sender_nid) {
                continue;
            }
            let notifies = match (rules, &occurrence.event) {
                (Some(rules), Some(event)) => rules.notifies(&room, event).await,
                (Some(_), None) => None,
                (None, _) => self.notifies(&occurrence),
            };
            if let Some(highlights) = notifies {
                let thread = self.thread(&room, &occurrence).await?;
                tally.push(Unread {
                    sequence: occurrence.sequence,
                    thread,
                    highlights,
                });
            }
        }
        tally.upto = tally.upto.max(self.upto);
        Ok(tally)
    }

    /// Whether an event notifies the user by the server's rules, and if so, whether it is highlighted.
    fn notifies(&self, occurrence: &Occurrence) -> Option<bool> {
        let class = occurrence.push_class;
        let is_named = class & MENTIONS != 0
            && occurrence
                .event
                .as_ref()
                .is_some_and(|event| mentions(event, self.requester.user_id.as_str()));
        if is_named {
            Some(true)
        } else {
            (class & NOTIFIES != 0).then_some(class & HIGHLIGHTS != 0)
        }
    }

    /// The root of the thread that an event is in.
    async fn thread(&self, room: &Room, occurrence: &Occurrence) -> Result<Option<Arc<str>>, Error> {
        match &occurrence.event {
            Some(event) if occurrence.push_class & RELATES != 0 => {
                let root = receipts::thread_of(self.engine, room, event).await?;
                Ok(root.map(|root| root.as_str().into()))
            }
            _ => Ok(None),
        }
    }
}

fn occurrences(works: &[Work]) -> impl Iterator<Item = &Occurrence> {
    works
        .iter()
        .flat_map(|work| &work.news)
        .filter_map(|news| match news {
            News::Event(occurrence) => Some(occurrence),
            News::Read(..) | News::Redacted(_) => None,
        })
}

/// The sequence number of an event among the latest of a room.
fn sequence_of(view: &View, event_id: &str) -> Option<i64> {
    view.recent.iter().rev().find_map(|entry| match &entry.kind {
        RoomEntryKind::Event(event, _) if event.event_id == event_id => Some(event.place.sequence),
        _ => None,
    })
}

/// Whether an event names a user in `m.mentions`.
fn mentions(event: &Event, user_id: &str) -> bool {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.mentions")]
        mentions: Mentions,
    }
    #[derive(Deserialize)]
    struct Mentions {
        user_ids: Vec<serde_json::Value>,
    }
    serde_json::from_str::<Content>(event.content().get())
        .is_ok_and(|content| content.mentions.user_ids.iter().any(|named| named == user_id))
}
