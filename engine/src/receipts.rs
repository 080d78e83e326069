//! Receipts and read markers (client-server API, "Receipts" and "Read and unread markers").
//!
//! None of them moves backwards: one that points to an earlier event than before is no error, and ignored.

use std::{collections::BTreeMap, sync::Arc};

use hearth_storage::{
    Connection, UserNid, account_data,
    log::{AccountData, Change, Fact, Membership, Receipt},
    receipts,
};
use ruma::{EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedUserId, RoomId, UInt};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    Engine, Error,
    account_data::FULLY_READ,
    accounts::Requester,
    events::Event,
    presence,
    rooms::{self, Room, RoomEntryKind},
    ticks::DELIVERED,
    users::Preferences,
};

pub(crate) const READ: &str = "m.read";
pub(crate) const READ_PRIVATE: &str = "m.read.private";
const MAIN: &str = "main";
const UNTHREADED: &str = "";

/// How far an event is followed to one that is in a thread (client-server API, "Threaded read receipts").
const MAX_HOPS: usize = 3;
/// Users who share a turn at most wait for each other.
const TURNS: usize = 256;

/// What is set to an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marker {
    /// `m.read`, of a thread or of none.
    Read(Thread),
    /// `m.read.private`, of a thread or of none.
    ReadPrivate(Thread),
    /// `m.fully_read`.
    FullyRead,
}

/// The thread of a receipt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Thread {
    /// All of the room, regardless of threads.
    #[default]
    Unthreaded,
    /// What is in no thread.
    Main,
    /// The thread that begins with this event.
    Root(OwnedEventId),
}

/// Why a receipt was not set.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// The user isn't in the room, which may not exist.
    #[error("you are not in this room")]
    NotInRoom,
    /// There is no such event in the room.
    #[error("there is no such event in this room")]
    UnknownEvent,
    /// The event isn't in the thread of the receipt.
    #[error("this event is not in that thread")]
    NotInThread,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<hearth_storage::StorageError> for ReceiptError {
    fn from(error: hearth_storage::StorageError) -> Self {
        Self::Failed(error.into())
    }
}

/// Lets the receipts of one user be set one after the other, and their push rules: each depends on what was before.
#[derive(Debug)]
pub(crate) struct Turns(Vec<Mutex<()>>);

impl Turns {
    pub fn new() -> Self {
        Self((0..TURNS).map(|_| Mutex::default()).collect())
    }

    pub async fn of(&self, user_nid: UserNid) -> MutexGuard<'_, ()> {
        let index = i64::from(user_nid).unsigned_abs() % TURNS as u64;
        self.0[usize::try_from(index).unwrap_or_default()].lock().await
    }
}

/// Sets markers of the requester in a room to events of it, all or none.
pub async fn set(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
    markers: &[(Marker, &EventId)],
) -> Result<(), ReceiptError> {
    let room = rooms::by_id(engine, room_id)
        .await?
        .ok_or(ReceiptError::NotInRoom)?;
    let membership = room.read(|view| view.members.get(requester.user_nid)).flatten();
    if membership != Some(Membership::Join) {
        return Err(ReceiptError::NotInRoom);
    }
    let _turn = engine.receipt_turns.of(requester.user_nid).await;
    let facts = {
        let mut connection = engine.db.acquire().await?;
        let mut reader = Reader {
            engine,
            room: &room,
            connection: &mut connection,
        };
        let mut facts = Vec::with_capacity(markers.len());
        for (marker, event_id) in markers {
            facts.extend(reader.moved(requester.user_nid, marker, event_id).await?);
        }
        facts
    };
    if !facts.is_empty() {
        engine
            .log
            .commit(Change {
                facts,
                ..Change::default()
            })
            .await
            .map_err(Error::from)?;
        presence::acted(engine, requester);
    }
    Ok(())
}

/// A receipt of another server's user.
#[derive(Debug)]
pub(crate) struct RemoteReceipt {
    pub user_nid: UserNid,
    /// [`READ`], or what was delivered.
    pub receipt_type: &'static str,
    /// As it is stored: a root event's ID, `main`, or empty; of what was delivered, the first event.
    pub thread: Arc<str>,
    pub event_id: OwnedEventId,
    /// Milliseconds.
    pub ts: i64,
}

/// Sets receipts of other servers' users in a room, at most one of a user, type and thread, as far as none moves
/// backwards. Their events need not be known: they may be on their way, and then the later receipt counts.
///
/// Receipts of one user are all of one server; whoever calls this takes what a server sends one after the other.
pub(crate) async fn set_remote(
    engine: &Engine,
    room: &Room,
    receipts: Vec<RemoteReceipt>,
) -> Result<(), Error> {
    let mut facts = Vec::with_capacity(receipts.len());
    {
        let mut connection = engine.db.acquire().await?;
        let mut reader = Reader {
            engine,
            room,
            connection: &mut connection,
        };
        for receipt in receipts {
            facts.extend(reader.moved_remotely(receipt).await?);
        }
    }
    if !facts.is_empty() {
        engine
            .log
            .commit(Change {
                facts,
                ..Change::default()
            })
            .await?;
    }
    Ok(())
}

/// Reads what setting a marker depends on.
struct Reader<'a> {
    engine: &'a Engine,
    room: &'a Room,
    connection: &'a mut Connection,
}

impl Reader<'_> {
    /// The fact that a marker moves to an event; nothing if it is there already, or beyond.
    async fn moved(
        &mut self,
        user_nid: UserNid,
        marker: &Marker,
        event_id: &EventId,
    ) -> Result<Option<Fact>, ReceiptError> {
        let event = self.event(event_id).await?.ok_or(ReceiptError::UnknownEvent)?;
        let (receipt_type, thread) = match marker {
            Marker::FullyRead => return Ok(self.fully_read(user_nid, &event).await?),
            Marker::Read(thread) => (READ, thread),
            Marker::ReadPrivate(thread) => (READ_PRIVATE, thread),
        };
        self.check_thread(&event, thread).await?;
        let thread = match thread {
            Thread::Unthreaded => UNTHREADED,
            Thread::Main => MAIN,
            Thread::Root(root) => root.as_str(),
        };
        let stored = receipts::find(self.connection, self.room.nid, user_nid, receipt_type, thread).await?;
        if let Some(stored) = stored
            && self.is_at_or_after(&stored.event_id, &event).await?
        {
            return Ok(None);
        }
        Ok(Some(Fact::Receipt(Receipt {
            room_nid: self.room.nid,
            user_nid,
            receipt_type: receipt_type.into(),
            thread: thread.into(),
            event_id: event.event_id.as_str().into(),
            ts: self.engine.clock.now_ms(),
        })))
    }

    /// The fact that a receipt of another server's user moves; nothing if it does not.
    async fn moved_remotely(&mut self, receipt: RemoteReceipt) -> Result<Option<Fact>, Error> {
        let RemoteReceipt {
            user_nid,
            receipt_type,
            thread,
            event_id,
            ts,
        } = receipt;
        let stored = receipts::find(self.connection, self.room.nid, user_nid, receipt_type, &thread).await?;
        if let Some(stored) = stored {
            let is_past = match (
                self.event(&event_id).await?,
                self.event_named(&stored.event_id).await?,
            ) {
                _ if *stored.event_id == *event_id.as_str() => true,
                (Some(event), Some(at)) => at.place >= event.place,
                _ => stored.ts >= ts,
            };
            if is_past {
                return Ok(None);
            }
        }
        Ok(Some(Fact::Receipt(Receipt {
            room_nid: self.room.nid,
            user_nid,
            receipt_type: receipt_type.into(),
            thread,
            event_id: event_id.as_str().into(),
            ts,
        })))
    }

    async fn fully_read(&mut self, user_nid: UserNid, event: &Event) -> Result<Option<Fact>, Error> {
        let stored = account_data::find(self.connection, user_nid, Some(self.room.nid), FULLY_READ).await?;
        let stored = stored.and_then(|json| serde_json::from_str::<FullyRead>(&json).ok());
        if let Some(stored) = stored
            && self.is_at_or_after(&stored.event_id, event).await?
        {
            return Ok(None);
        }
        let content = FullyRead {
            event_id: event.event_id.to_string(),
        };
        let content = serde_json::to_string(&content).map_err(|error| Error::Damaged(error.to_string()))?;
        Ok(Some(Fact::AccountData(AccountData {
            user_nid,
            room_nid: Some(self.room.nid),
            data_type: FULLY_READ.into(),
            content: content.into(),
        })))
    }

    /// Whether the event that a marker is at is `event` or one after it in the room.
    async fn is_at_or_after(&mut self, at: &str, event: &Event) -> Result<bool, Error> {
        if at == event.event_id {
            return Ok(true);
        }
        Ok(self
            .event_named(at)
            .await?
            .is_some_and(|at| at.place >= event.place))
    }

    /// An event of the room, by what should be its ID.
    async fn event_named(&mut self, event_id: &str) -> Result<Option<Arc<Event>>, Error> {
        match <&EventId>::try_from(event_id) {
            Ok(event_id) => self.event(event_id).await,
            Err(_) => Ok(None),
        }
    }

    /// An event of the room. Most receipts are for the latest, which are in memory.
    async fn event(&mut self, event_id: &EventId) -> Result<Option<Arc<Event>>, Error> {
        let recent = self.room.read(|view| {
            view.recent.iter().rev().find_map(|entry| match &entry.kind {
                RoomEntryKind::Event(event, _) if event.event_id == event_id => Some(Arc::clone(event)),
                _ => None,
            })
        });
        if let Some(event) = recent.flatten() {
            return Ok(Some(event));
        }
        Ok(self
            .engine
            .events
            .by_id(self.connection, self.room, event_id)
            .await?)
    }

    async fn check_thread(&mut self, event: &Arc<Event>, thread: &Thread) -> Result<(), ReceiptError> {
        let root = match thread {
            Thread::Unthreaded => return Ok(()),
            Thread::Main => None,
            // Clients that show a thread count its root to it.
            Thread::Root(root) if *root == event.event_id => return Ok(()),
            Thread::Root(root) => Some(root),
        };
        let belongs = match (self.lineage(event).await?, root) {
            (Lineage::Main, None) | (Lineage::Lost, None) => true,
            (Lineage::Thread(thread), Some(root)) => thread == *root,
            // What it was a reply to is gone with its redaction, or isn't here: any thread of the room may be it.
            (Lineage::Lost, Some(root)) => self.event(root).await?.is_some(),
            (Lineage::Main, Some(_)) | (Lineage::Thread(_), None) => false,
        };
        if belongs {
            Ok(())
        } else {
            Err(ReceiptError::NotInThread)
        }
    }

    /// The thread that an event is in, by itself or by what it relates to.
    async fn lineage(&mut self, event: &Arc<Event>) -> Result<Lineage, Error> {
        let mut event = Arc::clone(event);
        for _ in 0..=MAX_HOPS {
            if event.redacted_because.is_some() {
                return Ok(Lineage::Lost);
            }
            let Some(relation) = relation_of(&event) else {
                return Ok(Lineage::Main);
            };
            if relation.rel_type == "m.thread" {
                return Ok(Lineage::Thread(relation.event_id));
            }
            match self.event(&relation.event_id).await? {
                Some(parent) => event = parent,
                None => return Ok(Lineage::Lost),
            }
        }
        Ok(Lineage::Main)
    }
}

/// The root of the thread that an event of a room is in, by itself or by what it relates to; nothing for one that is in
/// none, or where nobody can tell any more.
pub(crate) async fn thread_of(
    engine: &Engine,
    room: &Room,
    event: &Arc<Event>,
) -> Result<Option<OwnedEventId>, Error> {
    match relation_of(event) {
        None => return Ok(None),
        Some(relation) if relation.rel_type == "m.thread" => return Ok(Some(relation.event_id)),
        Some(_) => {}
    }
    let mut connection = engine.db.acquire().await?;
    let mut reader = Reader {
        engine,
        room,
        connection: &mut connection,
    };
    match reader.lineage(event).await? {
        Lineage::Thread(root) => Ok(Some(root)),
        Lineage::Main | Lineage::Lost => Ok(None),
    }
}

/// Which thread an event is in.
enum Lineage {
    Main,
    Thread(OwnedEventId),
    /// Nobody can tell any more.
    Lost,
}

#[derive(Serialize, Deserialize)]
struct FullyRead {
    event_id: String,
}

#[derive(Deserialize)]
struct Relation {
    rel_type: String,
    event_id: OwnedEventId,
}

fn relation_of(event: &Event) -> Option<Relation> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: Relation,
    }
    // A reply without a type relates to nothing here, as does what is no relation at all.
    serde_json::from_str::<Content>(event.content().get())
        .ok()
        .map(|content| content.relates_to)
}

/// `m.receipt` of an event: by event, type and user.
type Content<'a> = BTreeMap<&'a str, BTreeMap<&'a str, BTreeMap<OwnedUserId, Entry<'a>>>>;

#[derive(Serialize)]
struct Entry<'a> {
    ts: MilliSecondsSinceUnixEpoch,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<&'a str>,
    /// Of what was delivered: the first event that it stands for.
    #[serde(rename = "chat.hearth.from", skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
}

#[derive(Serialize)]
struct ReceiptEvent<'a> {
    content: Content<'a>,
    #[serde(rename = "type")]
    event_type: &'static str,
}

/// The `m.receipt` event that tells `viewer` of receipts of one room; nothing if none is for them to see. Those of
/// users whom they ignore are not.
pub async fn to_event(
    engine: &Engine,
    viewer: UserNid,
    preferences: &Preferences,
    receipts: &[Receipt],
) -> Result<Option<Box<RawValue>>, Error> {
    let visible: Vec<&Receipt> = receipts
        .iter()
        .filter(|receipt| &*receipt.receipt_type != READ_PRIVATE || receipt.user_nid == viewer)
        .collect();
    let user_nids: Vec<UserNid> = visible.iter().map(|receipt| receipt.user_nid).collect();
    let user_ids = engine.interner.user_ids(&user_nids).await?;
    let mut content = Content::new();
    for receipt in visible {
        let Some(user_id) = user_ids.get(&receipt.user_nid) else {
            continue;
        };
        if receipt.user_nid != viewer && preferences.ignores(user_id) {
            continue;
        }
        let by_user = content
            .entry(&receipt.event_id)
            .or_default()
            .entry(&receipt.receipt_type)
            .or_default();
        let thread_id = (&*receipt.thread != UNTHREADED).then_some(&*receipt.thread);
        // The format has one place for a user's receipts of a type on an event: that of the whole room stands for
        // those of threads (MSC4102).
        if by_user
            .get(user_id)
            .is_some_and(|known| rank(known.thread_id) >= rank(thread_id))
        {
            continue;
        }
        let ts = MilliSecondsSinceUnixEpoch(UInt::try_from(receipt.ts).unwrap_or_default());
        let (thread_id, from) = match &*receipt.receipt_type {
            DELIVERED => (None, thread_id),
            _ => (thread_id, None),
        };
        by_user.insert(user_id.clone(), Entry { ts, thread_id, from });
    }
    if content.is_empty() {
        return Ok(None);
    }
    let event = to_raw_value(&ReceiptEvent {
        content,
        event_type: "m.receipt",
    });
    event
        .map(Some)
        .map_err(|error| Error::Damaged(format!("receipts: {error}")))
}

fn rank(thread_id: Option<&str>) -> u8 {
    match thread_id {
        None => 2,
        Some(MAIN) => 1,
        Some(_) => 0,
    }
}
