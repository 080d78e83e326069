//! What was delivered to whom, gathered for a moment and then written to the log: however much was confirmed within it,
//! there is one receipt for each part of a room's order that grew.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Weak},
    time::Duration,
};

use hearth_storage::{
    EventNid, RoomNid, UserNid, events as stored_events,
    log::{Change, Fact, Membership, Receipt},
    receipts,
};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::sync::Notify;

use super::{
    DELIVERED, RoomTold, Stretch,
    coverage::{Coverage, Part},
    giving,
};
use crate::{
    Engine, Error,
    rooms::{self, Room, RoomEntryKind},
    users,
};

/// How long what is confirmed waits for more.
const GATHERING: Duration = Duration::from_millis(500);
/// Before what could not be written is tried again.
const PAUSE: Duration = Duration::from_secs(5);
/// Users in rooms of whom something waits, at most; 200 bytes each.
const MOST_WAITING: usize = 100_000;
/// Stretches that wait of one user in a room.
const MOST_STRETCHES: usize = 64;
/// Users in rooms of whom it is remembered what they have; it is stored as well.
const MOST_KNOWN: usize = 50_000;
/// Receipts in one change of the log.
const AT_ONCE: usize = 500;

type Whose = (RoomNid, UserNid);

/// What was confirmed and is not written yet, and what is.
#[derive(Debug)]
pub(super) struct Marks {
    waiting: Mutex<HashMap<Whose, Confirmed>>,
    news: Notify,
    known: Cache<Whose, Arc<Coverage>>,
}

/// What a user confirmed of a room.
#[derive(Debug)]
struct Confirmed {
    stretches: Vec<Stretch>,
    /// When, in milliseconds.
    ts: i64,
}

impl Marks {
    pub fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            news: Notify::new(),
            known: Cache::new(MOST_KNOWN),
        }
    }

    pub fn clear(&self) {
        self.waiting.lock().clear();
        self.known.clear();
    }

    /// A user confirmed this, at `ts`, in milliseconds.
    pub fn add(&self, user_nid: UserNid, rooms: Vec<RoomTold>, ts: i64) {
        {
            let mut waiting = self.waiting.lock();
            for room in rooms {
                put(&mut waiting, (room.room_nid, user_nid), room.stretches, ts);
            }
        }
        self.news.notify_one();
    }

    fn take(&self) -> HashMap<Whose, Confirmed> {
        std::mem::take(&mut *self.waiting.lock())
    }

    /// It could not be written.
    fn put_back(&self, confirmed: HashMap<Whose, Confirmed>) {
        let mut waiting = self.waiting.lock();
        for (whose, confirmed) in confirmed {
            put(&mut waiting, whose, confirmed.stretches, confirmed.ts);
        }
    }
}

fn put(waiting: &mut HashMap<Whose, Confirmed>, whose: Whose, stretches: Vec<Stretch>, ts: i64) {
    let is_full = waiting.len() >= MOST_WAITING;
    match waiting.entry(whose) {
        Entry::Occupied(known) => {
            let known = known.into_mut();
            known.stretches.extend(stretches);
            let surplus = known.stretches.len().saturating_sub(MOST_STRETCHES);
            known.stretches.drain(..surplus);
            known.ts = known.ts.max(ts);
        }
        Entry::Vacant(place) if !is_full => {
            place.insert(Confirmed { stretches, ts });
        }
        Entry::Vacant(_) => {}
    }
}

/// Writes what is confirmed, as long as there is an engine.
pub(crate) async fn keep(engine: Weak<Engine>) {
    let Some(alive) = engine.upgrade() else { return };
    let (ticks, shutdown) = (Arc::clone(&alive.ticks), alive.shutdown.clone());
    drop(alive);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = ticks.marks.news.notified() => {}
        }
        // What is confirmed while the server stops is written as well, without waiting for more.
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(GATHERING) => {}
        }
        let Some(alive) = engine.upgrade() else { return };
        let confirmed = ticks.marks.take();
        if let Err(unwritten) = write(&alive, confirmed).await {
            let (error, unwritten) = *unwritten;
            tracing::warn!(%error, "what was delivered could not be written; trying again");
            ticks.marks.put_back(unwritten);
            if shutdown
                .run_until_cancelled(tokio::time::sleep(PAUSE))
                .await
                .is_some()
            {
                ticks.marks.news.notify_one();
            }
        }
        if shutdown.is_cancelled() {
            return;
        }
    }
}

type Unwritten = (Error, HashMap<Whose, Confirmed>);

async fn write(engine: &Arc<Engine>, confirmed: HashMap<Whose, Confirmed>) -> Result<(), Box<Unwritten>> {
    let mut by_room: HashMap<RoomNid, HashMap<Whose, Confirmed>> = HashMap::new();
    for (whose, confirmed) in confirmed {
        by_room.entry(whose.0).or_default().insert(whose, confirmed);
    }
    let mut moves = Vec::new();
    for (room_nid, confirmed) in &by_room {
        match moves_in(engine, *room_nid, confirmed).await {
            Ok(found) => moves.extend(found),
            Err(error) => return Err(Box::new((error, by_room.into_values().flatten().collect()))),
        }
    }
    for moves in moves.chunks(AT_ONCE) {
        if let Err(error) = commit(engine, moves).await {
            return Err(Box::new((error, by_room.into_values().flatten().collect())));
        }
    }
    Ok(())
}

/// What a user has of a room that they did not have before.
#[derive(Debug)]
struct Move {
    whose: Whose,
    now: Arc<Coverage>,
    receipts: Vec<Receipt>,
    /// Of what there was before, something stands for nothing any more.
    gives_up: bool,
}

async fn commit(engine: &Arc<Engine>, moves: &[Move]) -> Result<(), Error> {
    let receipts = moves.iter().flat_map(|one| one.receipts.iter().cloned());
    let change = Change {
        facts: receipts.map(Fact::Receipt).collect(),
        ..Change::default()
    };
    engine.log.commit(change).await?;
    for one in moves {
        engine.ticks.marks.known.insert(one.whose, Arc::clone(&one.now));
    }
    let lessened: Vec<&Move> = moves.iter().filter(|one| one.gives_up).collect();
    if !lessened.is_empty() {
        let mut connection = engine.db.acquire().await?;
        for one in lessened {
            let (room_nid, user_nid) = one.whose;
            let kept: Vec<&str> = one.now.parts().iter().map(|part| &*part.first.1).collect();
            receipts::keep_threads(&mut connection, room_nid, user_nid, DELIVERED, &kept).await?;
        }
    }
    Ok(())
}

async fn moves_in(
    engine: &Arc<Engine>,
    room_nid: RoomNid,
    confirmed: &HashMap<Whose, Confirmed>,
) -> Result<Vec<Move>, Error> {
    let Some(room) = rooms::by_nid(engine, room_nid).await? else {
        return Ok(Vec::new());
    };
    let mut counted = Vec::with_capacity(confirmed.len());
    for (whose, confirmed) in confirmed {
        if counts(engine, &room, whose.1).await? {
            counted.push((*whose, confirmed));
        }
    }
    if counted.is_empty() {
        return Ok(Vec::new());
    }
    let stretches = counted.iter().flat_map(|(_, confirmed)| &confirmed.stretches);
    let ends: HashSet<EventNid> = stretches
        .flat_map(|stretch| [stretch.first.event_nid, stretch.last.event_nid])
        .collect();
    let events = rooms::read::events(engine, &room, ends).await?;
    let id = |event_nid: EventNid| Some(Arc::<str>::from(events.get(&event_nid)?.event_id.as_str()));
    let all: Vec<Whose> = counted.iter().map(|(whose, _)| *whose).collect();
    let before = known(engine, &all).await?;
    let mut moves = Vec::new();
    for (whose, confirmed) in counted {
        let before = before.get(&whose).cloned().unwrap_or_default();
        let mut now = Coverage::clone(&before);
        for stretch in &confirmed.stretches {
            let ends = id(stretch.first.event_nid).zip(id(stretch.last.event_nid));
            let Some((first, last)) = ends else { continue };
            let part = Part {
                after: stretch.after,
                first: (stretch.first.sequence, first),
                last: (stretch.last.sequence, last),
                upto: stretch.upto,
            };
            join(engine, &room, whose.1, &mut now, part).await?;
        }
        let news: Vec<&Part> = now.news(&before).collect();
        let mut earlier = before.parts().iter();
        let gives_up = earlier.any(|part| !now.begins_with(&part.first.1));
        let receipts: Vec<Receipt> = news
            .iter()
            .map(|part| receipt_of(whose, part, confirmed.ts))
            .collect();
        if !receipts.is_empty() {
            let now = Arc::new(now);
            moves.push(Move {
                whose,
                now,
                receipts,
                gives_up,
            });
        }
    }
    Ok(moves)
}

fn receipt_of((room_nid, user_nid): Whose, part: &Part, ts: i64) -> Receipt {
    Receipt {
        room_nid,
        user_nid,
        receipt_type: DELIVERED.into(),
        thread: Arc::clone(&part.first.1),
        event_id: Arc::clone(&part.last.1),
        ts,
    }
}

/// Whether anybody is to know what this user has of this room, as things are now.
async fn counts(engine: &Engine, room: &Room, user_nid: UserNid) -> Result<bool, Error> {
    let membership = room.read(|view| view.members.get(user_nid)).flatten();
    if membership != Some(Membership::Join) {
        return Ok(false);
    }
    let user = users::load(engine, user_nid).await?;
    Ok(giving::may_count(engine, &user.preferences, room))
}

/// What users have, from memory or with two queries.
async fn known(engine: &Engine, wanted: &[Whose]) -> Result<HashMap<Whose, Arc<Coverage>>, Error> {
    let marks = &engine.ticks.marks;
    let (mut found, mut missing) = (HashMap::new(), Vec::new());
    for whose in wanted {
        match marks.known.get(whose) {
            Some(coverage) => drop(found.insert(*whose, coverage)),
            None => missing.push(*whose),
        }
    }
    if missing.is_empty() {
        return Ok(found);
    }
    let mut stored: HashMap<Whose, Coverage> = HashMap::new();
    let rows = {
        let mut connection = engine.db.acquire().await?;
        receipts::stretches(&mut connection, DELIVERED, &missing).await?
    };
    for row in rows {
        let part = Part {
            after: row.first.1 - 1,
            first: (row.first.1, row.first.0),
            last: (row.last.1, row.last.0),
            upto: row.last.1,
        };
        stored
            .entry((row.room_nid, row.user_nid))
            .or_default()
            .add(part, false, false);
    }
    found.extend(
        stored
            .into_iter()
            .map(|(whose, coverage)| (whose, Arc::new(coverage))),
    );
    Ok(found)
}

/// Adds a part to what a user has; it is one with its neighbours if nobody else spoke in between.
async fn join(
    engine: &Engine,
    room: &Room,
    user_nid: UserNid,
    coverage: &mut Coverage,
    part: Part,
) -> Result<(), Error> {
    let between = coverage.between(&part);
    let mut joins = [false, false];
    for (joins, between) in joins.iter_mut().zip([between.before, between.after]) {
        if let Some(between) = between {
            *joins = !others_spoke(engine, room, user_nid, between).await?;
        }
    }
    let [before, after] = joins;
    coverage.add(part, before, after);
    Ok(())
}

/// Whether somebody else spoke between two sequence numbers; from the latest entries where they reach back far enough.
async fn others_spoke(
    engine: &Engine,
    room: &Room,
    user_nid: UserNid,
    (after, before): (i64, i64),
) -> Result<bool, Error> {
    let recent = room.read(|view| {
        let events = view.recent.iter().rev().filter_map(|entry| match &entry.kind {
            RoomEntryKind::Event(event, _) => Some(event),
            _ => None,
        });
        for event in events {
            let sequence = event.place.sequence;
            if sequence <= after {
                return Some(false);
            }
            if sequence < before && event.key_nid.is_none() && event.sender_nid != user_nid {
                return Some(true);
            }
            if sequence == after + 1 {
                return Some(false);
            }
        }
        None
    });
    if let Some(spoke) = recent.flatten() {
        return Ok(spoke);
    }
    let mut connection = engine.db.acquire().await?;
    Ok(stored_events::others_spoke_between(&mut connection, room.nid, user_nid, (after, before)).await?)
}
