//! The one writer of the log, as its callers see it: a queue with a bounded number of places, and outcomes.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    change::Change,
    fence,
    tail::LogTail,
    writer::{Pending, Writer},
};
use crate::{Database, Position, Result, StorageError};

/// Changes that may wait; a caller beyond it waits for a place before it decides.
const QUEUE: usize = 4096;

/// Where a change was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The position of its last fact.
    pub position: Position,
}

/// Why a change was not committed. None of it was, unless the variant says otherwise.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// A room has moved on since the change was decided: decide anew.
    #[error("the room has moved on")]
    Conflict,
    /// A constraint, by its name in the migrations, does not hold.
    #[error("constraint {0} does not hold")]
    Constraint(String),
    /// The database is away, or refuses all writes: the same request may succeed later. It may also have succeeded
    /// now, where the database went away in the middle of a commit and stayed away.
    #[error("the database is away")]
    Unavailable,
    /// Another committer has taken over the log. Where that happened in the middle of a commit, it may have succeeded.
    #[error("another server has taken over this database")]
    SteppedDown,
    /// The database refuses this change for its content.
    #[error("the database refused a change")]
    Refused(#[source] Arc<StorageError>),
}

/// What the committer can do at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitterStatus {
    /// It commits.
    Writable,
    /// The database is away; it tries again by itself.
    Away,
    /// Another committer has taken over; this one never writes again.
    SteppedDown,
}

/// How long the committer bears with its database.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// With one statement, before its connection is given up. The database itself ends one a little sooner than the
    /// default.
    pub statement: Duration,
    /// With a database that has gone away, before those who wait are answered with an error.
    pub away: Duration,
    /// With an empty queue, before it looks whether its connection lives and whether it still is the committer.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            statement: Duration::from_secs(10),
            away: Duration::from_secs(5),
            idle: Duration::from_secs(2),
        }
    }
}

/// The handle on the committer's task. Dropped, the task commits what is queued and ends.
#[derive(Debug, Clone)]
pub struct Committer {
    queue: mpsc::Sender<Pending>,
    status: watch::Receiver<CommitterStatus>,
    start: (i32, Position),
}

/// A place in the queue, taken before a change is decided so that deciding and queueing are one step.
#[derive(Debug)]
pub struct Slot(mpsc::OwnedPermit<Pending>);

/// Waits for the outcome of a queued change. Dropping it cancels nothing.
pub type Outcome = oneshot::Receiver<Result<Committed, CommitError>>;

impl Slot {
    /// Queues `change`.
    pub fn queue(self, change: Change) -> Outcome {
        let (answer, outcome) = oneshot::channel();
        self.0.send(Pending { change, answer });
        outcome
    }
}

impl Committer {
    /// Takes over the log of `db`, whoever had it before, and starts to commit.
    pub async fn start(db: &Database, tail: Arc<dyn LogTail>) -> Result<Self> {
        Self::start_with(db, tail, Patience::default()).await
    }

    /// [`Committer::start`], with this patience instead of the usual.
    pub async fn start_with(db: &Database, tail: Arc<dyn LogTail>, patience: Patience) -> Result<Self> {
        let (connection, fence) = fence::connect(db, None)
            .await?
            .ok_or_else(|| StorageError::Damaged("the log can't be taken over".to_owned()))?;
        let (queue, pending) = mpsc::channel(QUEUE);
        let (status_sender, status) = watch::channel(CommitterStatus::Writable);
        let start = (fence.generation, fence.position);
        let writer = Writer::new(db.clone(), (connection, fence), tail, status_sender, patience);
        tokio::spawn(writer.run(pending));
        Ok(Self { queue, status, start })
    }

    /// The generation and the last position of the log when this committer took it over.
    pub fn start_position(&self) -> (i32, Position) {
        self.start
    }

    /// Waits for a place in the queue.
    pub async fn reserve(&self) -> Result<Slot, CommitError> {
        self.queue
            .clone()
            .reserve_owned()
            .await
            .map(Slot)
            .map_err(|_| CommitError::SteppedDown)
    }

    /// Commits one change that depends on no head.
    pub async fn commit(&self, change: Change) -> Result<Committed, CommitError> {
        let outcome = self.reserve().await?.queue(change);
        outcome.await.unwrap_or(Err(CommitError::Unavailable))
    }

    /// What the committer can do at the moment.
    pub fn status(&self) -> CommitterStatus {
        *self.status.borrow()
    }

    /// Ends once the task has: everything queued was committed or refused, after the last other handle is gone.
    pub async fn finished(self) {
        let Self {
            queue, mut status, ..
        } = self;
        drop(queue);
        while status.changed().await.is_ok() {}
    }
}
