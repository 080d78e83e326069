//! The task behind a [`super::Committer`]: drains the queue and commits in groups.
//!
//! After a commit whose answer was lost, the fence is read before anyone is answered. A batch that fails for its
//! content is tried again in halves, in order, until each change that is at fault has failed alone.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    change::{Change, Fact},
    commit::Batch,
    committer::{CommitError, Committed, CommitterStatus, Patience},
    fence::{self, Fence},
    sequences::{Sequences, flaw},
    tail::{LogTail, TailMessage},
};
use crate::{Connection, Database, Position, Result, RoomNid, StorageError};

/// Changes in one batch, and the bytes of their events, at most.
const BATCH_CHANGES: usize = 512;
const BATCH_BYTES: usize = 8 << 20;
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long the queue may be empty before a database that is away is tried again.
const AWAY_PAUSE: Duration = Duration::from_millis(500);

/// A queued change. It belongs to the committer: that its caller goes away cancels nothing.
#[derive(Debug)]
pub(super) struct Pending {
    pub change: Change,
    pub answer: oneshot::Sender<Result<Committed, CommitError>>,
}

/// What a batch failed for.
enum BatchFailure {
    /// For its content: parts of it may still succeed.
    Content(StorageError),
    /// For all of it.
    Whole(CommitError),
}

pub(super) struct Writer {
    db: Database,
    connection: Option<Connection>,
    fence: Fence,
    tail: Arc<dyn LogTail>,
    status: watch::Sender<CommitterStatus>,
    patience: Patience,
    /// When a connection was last tried for.
    tried: Instant,
}

impl Writer {
    pub fn new(
        db: Database,
        (connection, fence): (Connection, Fence),
        tail: Arc<dyn LogTail>,
        status: watch::Sender<CommitterStatus>,
        patience: Patience,
    ) -> Self {
        Self {
            db,
            connection: Some(connection),
            fence,
            tail,
            status,
            patience,
            tried: Instant::now(),
        }
    }

    pub async fn run(mut self, mut queue: mpsc::Receiver<Pending>) {
        loop {
            metrics::gauge!("hearth_log_position").set(as_f64(self.fence.position.0));
            let first = match tokio::time::timeout(self.idle_time(), queue.recv()).await {
                Ok(Some(first)) => first,
                Ok(None) => return,
                Err(_) => {
                    self.look().await;
                    continue;
                }
            };
            let batch = drain(first, &mut queue);
            metrics::histogram!("hearth_commit_batch_changes").record(as_f64(batch.len()));
            let started = Instant::now();
            self.commit_batch(batch).await;
            metrics::histogram!("hearth_commit_seconds").record(started.elapsed());
            if *self.status.borrow() == CommitterStatus::Away {
                // Those queued meanwhile have waited as long.
                while let Ok(pending) = queue.try_recv() {
                    respond(pending, Err(CommitError::Unavailable));
                }
            }
        }
    }

    fn idle_time(&self) -> Duration {
        match *self.status.borrow() {
            CommitterStatus::Writable => self.patience.idle,
            CommitterStatus::Away => AWAY_PAUSE,
            CommitterStatus::SteppedDown => Duration::MAX,
        }
    }

    /// While nothing is queued: finds out that the connection has died, or that another has taken over, before a
    /// caller has to, and repeats to followers where the log stands, should a message have been lost.
    async fn look(&mut self) {
        if let Some(connection) = &mut self.connection {
            let holds =
                tokio::time::timeout(self.patience.statement, fence::holds(connection, &self.fence)).await;
            if !matches!(holds, Ok(Ok(true))) {
                self.connection = None;
            }
        }
        if self.connect_until(Instant::now()).await.is_ok() {
            self.announce();
        }
    }

    async fn commit_batch(&mut self, batch: Vec<Pending>) {
        // What is left to do, the next last. Parts keep the order of the batch, so that what a change builds on has
        // been tried before it.
        let mut parts = vec![self.admissible(batch)];
        let mut failed_rooms = HashSet::new();
        while let Some(mut part) = parts.pop() {
            if !failed_rooms.is_empty() {
                part = refuse_dependent(part, &mut failed_rooms);
            }
            if part.is_empty() {
                continue;
            }
            match self.try_commit(&part).await {
                Ok(positions) => {
                    for (pending, position) in part.into_iter().zip(positions) {
                        respond(pending, Ok(Committed { position }));
                    }
                }
                Err(BatchFailure::Content(error)) if part.len() > 1 => {
                    tracing::debug!(changes = part.len(), %error, "a batch was refused; it is tried again in halves");
                    let later = part.split_off(part.len() / 2);
                    parts.extend([later, part]);
                }
                Err(failure) => {
                    let error = match failure {
                        BatchFailure::Whole(error) => error,
                        BatchFailure::Content(error) => {
                            failed_rooms.extend(part.iter().flat_map(|pending| pending.change.rooms()));
                            content_error(error)
                        }
                    };
                    for pending in part {
                        respond(pending, Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Answers at once those that can't succeed, and leaves the others.
    fn admissible(&self, batch: Vec<Pending>) -> Vec<Pending> {
        let mut sequences = Sequences::default();
        let mut admissible = Vec::with_capacity(batch.len());
        for pending in batch {
            if let Some(flaw) = flaw(&pending.change) {
                tracing::error!(flaw, "a change is not consistent in itself");
                let error = StorageError::Damaged(format!("a change is not consistent in itself: {flaw}"));
                respond(pending, Err(CommitError::Refused(Arc::new(error))));
            } else if sequences.admit(&pending.change) {
                admissible.push(pending);
            } else {
                respond(pending, Err(CommitError::Conflict));
            }
        }
        admissible
    }

    /// Commits `batch` whole and tells the tail, or changes nothing. The positions are those of each change.
    async fn try_commit(&mut self, batch: &[Pending]) -> Result<Vec<Position>, BatchFailure> {
        let deadline = Instant::now() + self.patience.away;
        let mut attempted = false;
        loop {
            if attempted && Instant::now() >= deadline {
                return Err(self.refuse_writes("the database did not take a commit in time"));
            }
            attempted = true;
            self.connect_until(deadline).await.map_err(BatchFailure::Whole)?;
            let rows = Batch::build(self.fence.position, batch.iter().map(|pending| &pending.change));
            let Some(connection) = self.connection.as_mut() else {
                continue;
            };
            let result =
                tokio::time::timeout(self.patience.statement, rows.execute(connection, &self.fence)).await;
            match result {
                Ok(Ok(())) => {
                    self.fence.position = rows.to();
                    return Ok(self.publish(rows));
                }
                // The row tells who has it.
                Ok(Err(error)) if fence::is_fenced(&error) => self.connection = None,
                Ok(Err(error)) if error.is_contention() => {
                    tracing::warn!(%error, "a commit met another transaction");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Ok(Err(error)) if error.leaves_outcome_open() => {
                    tracing::warn!(%error, "the database went away during a commit");
                    if self.outcome_of_lost_commit(&rows, deadline).await? {
                        return Ok(self.publish(rows));
                    }
                }
                Ok(Err(error)) if error.is_transient() => {
                    self.connection = None;
                    return Err(
                        self.refuse_writes(&format!("{error}: {:?}", std::error::Error::source(&error)))
                    );
                }
                Ok(Err(error)) => return Err(BatchFailure::Content(error)),
                Err(_) => {
                    tracing::warn!(
                        "a commit took longer than {:?}; its connection is given up",
                        self.patience.statement
                    );
                    if self.outcome_of_lost_commit(&rows, deadline).await? {
                        return Ok(self.publish(rows));
                    }
                }
            }
        }
    }

    /// Reads the fence on a new connection: whether the commit of `rows` counts. If it does not, it never will.
    async fn outcome_of_lost_commit(
        &mut self,
        rows: &Batch,
        deadline: Instant,
    ) -> Result<bool, BatchFailure> {
        self.connection = None;
        self.connect_until(deadline).await.map_err(BatchFailure::Whole)?;
        if rows.to() == rows.from() {
            // Without a fact it has no position, and the row doesn't tell.
            return Err(BatchFailure::Whole(CommitError::Unavailable));
        }
        Ok(self.fence.position == rows.to())
    }

    fn publish(&mut self, rows: Batch) -> Vec<Position> {
        self.set_status(CommitterStatus::Writable);
        self.tail.publish(TailMessage {
            generation: self.fence.generation,
            from: rows.from(),
            to: rows.to(),
            entries: rows.entries.into(),
        });
        rows.last_positions
    }

    /// Tells followers where the log stands; one that is not there reads what it lacks.
    fn announce(&self) {
        self.tail.publish(TailMessage {
            generation: self.fence.generation,
            from: self.fence.position,
            to: self.fence.position,
            entries: Arc::new([]),
        });
    }

    fn set_status(&self, status: CommitterStatus) -> bool {
        self.status
            .send_if_modified(|old| std::mem::replace(old, status) != status)
    }

    fn refuse_writes(&self, reason: &str) -> BatchFailure {
        if self.set_status(CommitterStatus::Away) {
            tracing::error!(
                reason,
                "the database takes no writes; they are refused until it does again"
            );
        }
        BatchFailure::Whole(CommitError::Unavailable)
    }

    /// Connects if need be and takes the fence, trying until `deadline`, or if the database was away already, once and
    /// not too often.
    async fn connect_until(&mut self, deadline: Instant) -> Result<(), CommitError> {
        while self.connection.is_none() {
            if *self.status.borrow() == CommitterStatus::SteppedDown {
                return Err(CommitError::SteppedDown);
            }
            let was_away = *self.status.borrow() == CommitterStatus::Away;
            if was_away && self.tried.elapsed() < RETRY_PAUSE {
                return Err(CommitError::Unavailable);
            }
            self.tried = Instant::now();
            match fence::connect(&self.db, Some(&self.fence)).await {
                Ok(Some((connection, fence))) => {
                    self.connection = Some(connection);
                    self.accept_fence(fence);
                    if self.set_status(CommitterStatus::Writable) {
                        tracing::info!("the database is back");
                    }
                }
                Ok(None) => {
                    tracing::error!("another server has taken over this database; this one writes no more");
                    self.set_status(CommitterStatus::SteppedDown);
                }
                Err(error) => {
                    if was_away || Instant::now() >= deadline {
                        self.refuse_writes(&format!("{error}: {:?}", std::error::Error::source(&error)));
                        return Err(CommitError::Unavailable);
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
        Ok(())
    }

    /// Takes the row's word for where the log stands. What it holds beyond the last message was committed with its
    /// answer lost; followers find the gap at the next message. A log that has lost its end begins a generation, of which followers hear at once.
    fn accept_fence(&mut self, fence: Fence) {
        let had = std::mem::replace(&mut self.fence, fence);
        if fence.generation != had.generation {
            tracing::error!(
                generation = fence.generation,
                position = fence.position.0,
                had = had.position.0,
                "the database failed over; a new generation of the log begins"
            );
            self.announce();
        }
    }
}

/// `first` and what else is queued by now, within the limits of a batch.
fn drain(first: Pending, queue: &mut mpsc::Receiver<Pending>) -> Vec<Pending> {
    let mut bytes = size(&first.change);
    let mut batch = vec![first];
    while batch.len() < BATCH_CHANGES && bytes < BATCH_BYTES {
        let Ok(next) = queue.try_recv() else { break };
        bytes += size(&next.change);
        batch.push(next);
    }
    batch
}

/// In each room a change builds on the one before it: where that failed, so do those after it.
fn refuse_dependent(part: Vec<Pending>, failed_rooms: &mut HashSet<RoomNid>) -> Vec<Pending> {
    let mut kept = Vec::with_capacity(part.len());
    for pending in part {
        if pending
            .change
            .rooms()
            .any(|room_nid| failed_rooms.contains(&room_nid))
        {
            failed_rooms.extend(pending.change.rooms());
            respond(pending, Err(CommitError::Conflict));
        } else {
            kept.push(pending);
        }
    }
    kept
}

fn size(change: &Change) -> usize {
    let facts = change.facts.iter().map(|fact| match fact {
        Fact::Event(event, _) => event.pdu.len(),
        Fact::AccountData(data) => data.content.len(),
        Fact::Membership(membership) => membership.stripped_state.as_ref().map_or(0, |json| json.len()),
        Fact::ToDevice(sent) => {
            let here = sent.messages.iter().map(|message| message.content.len());
            let elsewhere = sent.outgoing.iter().map(|message| message.content.len());
            here.chain(elsewhere).sum()
        }
        _ => 0,
    });
    facts.sum::<usize>() + change.states.iter().map(|state| state.body.len()).sum::<usize>()
}

fn content_error(error: StorageError) -> CommitError {
    match error {
        // The order of a room: in the head's row, or by the unique key of the events.
        StorageError::Constraint { name, .. }
            if name == "room_heads_follow" || name == "events_room_order_key" =>
        {
            CommitError::Conflict
        }
        StorageError::Constraint { name, .. } => CommitError::Constraint(name),
        error => {
            tracing::error!(%error, source = ?std::error::Error::source(&error), "the database refused a change");
            CommitError::Refused(Arc::new(error))
        }
    }
}

fn respond(pending: Pending, answer: Result<Committed, CommitError>) {
    if let Err(error) = &answer {
        let cause = match error {
            CommitError::Conflict => "conflict",
            CommitError::Constraint(_) => "constraint",
            CommitError::Unavailable => "unavailable",
            CommitError::SteppedDown => "stepped_down",
            CommitError::Refused(_) => "refused",
        };
        metrics::counter!("hearth_changes_failed_total", "cause" => cause).increment(1);
    }
    // A caller that went away doesn't want its answer: that is no error.
    let _ = pending.answer.send(answer);
}

#[expect(clippy::cast_precision_loss, reason = "a metric")]
fn as_f64(number: impl TryInto<i64>) -> f64 {
    number.try_into().map_or(0.0, |number: i64| number as f64)
}
