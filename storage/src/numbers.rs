//! Interned numbers: opaque to everyone above, who may hold and compare them, never make or print them as
//! anything but a number.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::Mutex;

use crate::{Database, Result};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
        #[sqlx(transparent)]
        pub struct $name(pub(crate) i64);

        impl From<i64> for $name {
            fn from(number: i64) -> Self {
                Self(number)
            }
        }

        impl From<$name> for i64 {
            fn from(number: $name) -> Self {
                number.0
            }
        }
    };
}

number!(
    /// Stands for a user ID.
    UserNid
);
number!(
    /// Stands for a device of a local user.
    DeviceNid
);
number!(
    /// Stands for a room ID.
    RoomNid
);
number!(
    /// Stands for an event ID.
    EventNid
);
number!(
    /// Stands for an event type.
    TypeNid
);
number!(
    /// Stands for a pair of event type and state key.
    KeyNid
);
number!(
    /// Stands for the state of a room at some event.
    StateNid
);

/// A place in the log. Positions are gap-free and in commit order; 0 is before everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, sqlx::Type)]
#[sqlx(transparent)]
pub struct Position(pub i64);

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// How many numbers one `nextval` of `event_nids` and `state_nids` stands for.
const BLOCK: i64 = 4096;

/// Gives out numbers for events and states before they are committed. Numbers are taken from the database in
/// blocks; those of a block that a stopped server leaves over are never used.
#[derive(Debug, Clone)]
pub struct NumberSource {
    db: Database,
    events: Arc<Mutex<VecDeque<(i64, i64)>>>,
    states: Arc<Mutex<VecDeque<(i64, i64)>>>,
}

impl NumberSource {
    pub(crate) fn new(db: Database) -> Self {
        Self {
            db,
            events: Arc::default(),
            states: Arc::default(),
        }
    }

    /// Gives up the blocks taken: a database that lost its end may give them out again.
    pub async fn begin_anew(&self) {
        self.events.lock().await.clear();
        self.states.lock().await.clear();
    }

    /// `count` fresh numbers for events.
    pub async fn events(&self, count: usize) -> Result<Vec<EventNid>> {
        let mut blocks = self.events.lock().await;
        while left(&blocks) < count {
            let mut connection = self.db.acquire().await?;
            let first = sqlx::query_scalar!(r#"SELECT nextval('event_nids') AS "n!""#)
                .fetch_one(&mut *connection)
                .await?;
            blocks.push_back((first, first + BLOCK));
        }
        Ok((0..count)
            .filter_map(|_| take(&mut blocks))
            .map(EventNid)
            .collect())
    }

    /// `count` fresh numbers for states.
    pub async fn states(&self, count: usize) -> Result<Vec<StateNid>> {
        let mut blocks = self.states.lock().await;
        while left(&blocks) < count {
            let mut connection = self.db.acquire().await?;
            let first = sqlx::query_scalar!(r#"SELECT nextval('state_nids') AS "n!""#)
                .fetch_one(&mut *connection)
                .await?;
            blocks.push_back((first, first + BLOCK));
        }
        Ok((0..count)
            .filter_map(|_| take(&mut blocks))
            .map(StateNid)
            .collect())
    }
}

fn left(blocks: &VecDeque<(i64, i64)>) -> usize {
    blocks
        .iter()
        .map(|(next, end)| usize::try_from(end - next).unwrap_or(0))
        .sum()
}

fn take(blocks: &mut VecDeque<(i64, i64)>) -> Option<i64> {
    let (next, end) = blocks.front_mut()?;
    let number = *next;
    *next += 1;
    if next == end {
        blocks.pop_front();
    }
    Some(number)
}
