//! A follower of the tail, as the engine and other nodes are: it applies what connects, and reads gaps.

use hearth_storage::{
    Database, Position,
    log::{self, Entry, EntryKind, LogTail, NewEvent, TailMessage, TailReceiver},
};

use super::ground::PATIENCE;

pub struct Follower {
    db: Database,
    tail: TailReceiver,
    pub generation: i32,
    pub seen: Position,
    /// What it has seen, in its order.
    pub entries: Vec<Entry>,
    /// How many messages connected to what was seen, and brought something.
    pub connected: usize,
    /// How many gaps it read from the tables.
    pub gaps: usize,
}

impl Follower {
    /// Follows from `seen` on.
    pub fn new(db: &Database, tail: &dyn LogTail, (generation, seen): (i32, Position)) -> Self {
        Self {
            db: db.clone(),
            tail: tail.subscribe(),
            generation,
            seen,
            entries: Vec::new(),
            connected: 0,
            gaps: 0,
        }
    }

    /// Follows until it has seen `position`.
    pub async fn until(&mut self, position: Position) {
        while self.seen < position {
            self.step().await;
        }
    }

    /// Takes one message.
    pub async fn step(&mut self) -> TailMessage {
        let message = tokio::time::timeout(PATIENCE, self.tail.next())
            .await
            .expect("a message comes in time");
        let message = message.expect("the tail lives");
        if message.generation > self.generation {
            self.generation = message.generation;
            self.seen = self.seen.min(message.from);
            self.entries.retain(|entry| entry.position <= message.from);
        }
        if message.from > self.seen {
            self.read_gap(message.from).await;
        }
        if message.to > self.seen {
            self.connected += 1;
            self.entries.extend(
                message
                    .entries
                    .iter()
                    .filter(|entry| entry.position > self.seen)
                    .cloned(),
            );
            self.seen = message.to;
        }
        message
    }

    async fn read_gap(&mut self, to: Position) {
        self.gaps += 1;
        self.entries.extend(read(&self.db, self.seen, to).await);
        self.seen = to;
    }

    /// What it has seen, to be compared.
    pub fn seen_entries(&self) -> Vec<String> {
        describe(&self.entries)
    }
}

/// The log from the tables.
pub async fn read(db: &Database, from: Position, to: Position) -> Vec<Entry> {
    let mut transaction = db.begin_read().await.expect("the database answers");
    log::read_range(&mut transaction, from, to)
        .await
        .expect("the log can be read")
}

/// Entries in a form that can be compared: everything in them, and the changes of one state in one order.
pub fn describe(entries: &[Entry]) -> Vec<String> {
    let sorted = |changes: &[log::StateChange]| {
        let mut changes = changes.to_vec();
        changes.sort_unstable_by_key(|change| change.key_nid);
        changes.into()
    };
    let entries = entries.iter().map(|entry| {
        let kind = match &entry.kind {
            EntryKind::Event(event, changes) => EntryKind::Event(as_read(event).into(), sorted(changes)),
            EntryKind::State(room_nid, changes) => EntryKind::State(*room_nid, sorted(changes)),
            kind => kind.clone(),
        };
        format!("{} {kind:?}", entry.position)
    });
    entries.collect()
}

/// An event as it is read back: stored.
pub fn as_read(event: &NewEvent) -> NewEvent {
    NewEvent {
        auth_nids: Vec::new(),
        is_stored: true,
        ..event.clone()
    }
}

/// The positions of entries, each once.
pub fn positions(entries: &[Entry]) -> Vec<i64> {
    let mut positions: Vec<i64> = entries.iter().map(|entry| entry.position.0).collect();
    positions.dedup();
    positions
}
