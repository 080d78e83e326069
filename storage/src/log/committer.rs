//! The one writer of the log: drains a queue of changes and commits them in groups, fenced by the row `log_head`.
//!
//! After a commit whose answer was lost, the row is read before anyone is answered. A batch that fails for its
//! content is tried room by room, and the room that fails, change by change.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    change::Change,
    commit::{Batch, Fence},
    tail::{LogTail, TailMessage},
};
use crate::{Connection, Database, Position, Result, RoomNid, StorageError};

/// Changes that may wait; a caller beyond it waits for a place before it decides.
const QUEUE: usize = 4096;
/// Changes in one batch, and the bytes of their events, at most.
const BATCH_CHANGES: usize = 512;
const BATCH_BYTES: usize = 8 << 20;
/// How long a statement may take before its connection is given up.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long callers are kept waiting for a database that has gone away.
const AWAY_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Where a change was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The position of its last fact.
    pub position: Position,
}

/// Why a change was not committed. None of it was.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// A room has moved on since the change was decided: decide anew.
    #[error("the room has moved on")]
    Conflict,
    /// A constraint, by its name in the migrations, does not hold.
    #[error("constraint {0} does not hold")]
    Constraint(String),
    /// The database is away, or refuses all writes: the same request may succeed later. It may also have succeeded
    /// now, when the database went away for long in the middle of a commit.
    #[error("the database is away")]
    Unavailable,
    /// Another committer has taken over the log.
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

#[derive(Debug)]
struct Pending {
    change: Change,
    answer: oneshot::Sender<Result<Committed, CommitError>>,
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
        let mut connection = db.dedicated().await?;
        let fence = take_over(&mut connection, None).await?.ok_or_else(|| {
            StorageError::Damaged("the table log_head has no row".to_owned())
        })?;
        let (queue, pending) = mpsc::channel(QUEUE);
        let (status_sender, status) = watch::channel(CommitterStatus::Writable);
        let start = (fence.generation, fence.position);
        let task = Task {
            db: db.clone(),
            connection: Some(connection),
            published: fence.position,
            fence,
            tail,
            status: status_sender,
        };
        tokio::spawn(task.run(pending));
        Ok(Self { queue, status, start })
    }

    /// The generation and the last position of the log when this committer took it over.
    pub fn start_position(&self) -> (i32, Position) {
        self.start
    }

    /// Waits for a place in the queue.
    pub async fn reserve(&self) -> Result<Slot, CommitError> {
        self.queue.clone().reserve_owned().await.map(Slot).map_err(|_| CommitError::SteppedDown)
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
        let Self { queue, mut status, .. } = self;
        drop(queue);
        while status.changed().await.is_ok() {}
    }
}

/// What a batch came to.
enum BatchFailure {
    /// For its content: parts of it may still succeed.
    Content(StorageError),
    /// For all of it.
    Whole(CommitError),
}

struct Task {
    db: Database,
    connection: Option<Connection>,
    fence: Fence,
    /// The last position that the tail was told of.
    published: Position,
    tail: Arc<dyn LogTail>,
    status: watch::Sender<CommitterStatus>,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Pending>) {
        while let Some(first) = queue.recv().await {
            let mut bytes = size(&first.change);
            let mut batch = vec![first];
            while batch.len() < BATCH_CHANGES && bytes < BATCH_BYTES {
                let Ok(next) = queue.try_recv() else { break };
                bytes += size(&next.change);
                batch.push(next);
            }
            metrics::histogram!("hearth_commit_batch_changes").record(as_f64(batch.len()));
            let started = Instant::now();
            self.commit_batch(batch).await;
            metrics::histogram!("hearth_commit_seconds").record(started.elapsed());
            metrics::gauge!("hearth_log_position").set(as_f64(self.fence.position.0));
        }
    }

    async fn commit_batch(&mut self, batch: Vec<Pending>) {
        if *self.status.borrow() == CommitterStatus::SteppedDown {
            return fail(batch, &CommitError::SteppedDown);
        }
        let batch = refuse_broken_sequences(batch);
        if batch.is_empty() {
            return;
        }
        match self.try_commit(&batch).await {
            Ok(positions) => answer(batch, positions),
            Err(BatchFailure::Whole(error)) => fail(batch, &error),
            Err(BatchFailure::Content(error)) if batch.len() == 1 => fail(batch, &content_error(error)),
            Err(BatchFailure::Content(error)) => {
                tracing::warn!(changes = batch.len(), %error, "a batch was refused; its rooms are committed one by one");
                for group in by_room(batch) {
                    self.commit_group(group).await;
                }
            }
        }
    }

    /// Commits what touches one room; if that is refused, change by change.
    async fn commit_group(&mut self, group: Vec<Pending>) {
        match self.try_commit(&group).await {
            Ok(positions) => answer(group, positions),
            Err(BatchFailure::Whole(error)) => fail(group, &error),
            Err(BatchFailure::Content(error)) if group.len() == 1 => fail(group, &content_error(error)),
            Err(BatchFailure::Content(_)) => {
                for pending in group {
                    let alone = vec![pending];
                    match self.try_commit(&alone).await {
                        Ok(positions) => answer(alone, positions),
                        Err(BatchFailure::Whole(error)) => fail(alone, &error),
                        Err(BatchFailure::Content(error)) => fail(alone, &content_error(error)),
                    }
                }
            }
        }
    }

    /// Commits `batch` whole and tells the tail, or changes nothing. The positions are those of each change.
    async fn try_commit(&mut self, batch: &[Pending]) -> Result<Vec<Position>, BatchFailure> {
        let deadline = Instant::now() + AWAY_TIMEOUT;
        loop {
            self.connect_until(deadline).await.map_err(BatchFailure::Whole)?;
            let rows = Batch::build(self.fence.position, batch.iter().map(|pending| &pending.change));
            let Some(connection) = self.connection.as_mut() else { continue };
            let result = tokio::time::timeout(STATEMENT_TIMEOUT, rows.execute(connection, &self.fence)).await;
            match result {
                Ok(Ok(())) => {
                    self.fence.position = rows.to();
                    return Ok(self.publish(rows));
                }
                Ok(Err(error)) if is_fenced(&error) => {
                    // The row tells which: replaced, or an earlier commit whose answer was lost.
                    self.connection = None;
                    self.connect_until(deadline).await.map_err(BatchFailure::Whole)?;
                }
                Ok(Err(StorageError::Unavailable(error))) => {
                    tracing::warn!(%error, "the database went away during a commit");
                    if self.outcome_of_lost_commit(rows.to(), deadline).await? {
                        return Ok(self.publish(rows));
                    }
                }
                Ok(Err(error)) if error.is_transient() => {
                    tracing::error!(%error, "the database refuses all writes");
                    self.set_status(CommitterStatus::Away);
                    return Err(BatchFailure::Whole(CommitError::Unavailable));
                }
                Ok(Err(error)) => return Err(BatchFailure::Content(error)),
                Err(_) => {
                    tracing::warn!("a commit took longer than {STATEMENT_TIMEOUT:?}; its connection is given up");
                    if self.outcome_of_lost_commit(rows.to(), deadline).await? {
                        return Ok(self.publish(rows));
                    }
                }
            }
        }
    }

    /// Reads the fence on a new connection: whether the commit that should have moved it to `to` did.
    async fn outcome_of_lost_commit(&mut self, to: Position, deadline: Instant) -> Result<bool, BatchFailure> {
        let before = self.fence.position;
        self.connection = None;
        // A statement that was under way may take a moment to die with its old connection: while it lives it holds
        // the row, and `connect_until` waits for the row.
        self.connect_until(deadline).await.map_err(BatchFailure::Whole)?;
        Ok(self.fence.position == to && to > before)
    }

    fn publish(&mut self, rows: Batch) -> Vec<Position> {
        self.set_status(CommitterStatus::Writable);
        let from = std::mem::replace(&mut self.published, rows.to());
        self.tail.publish(TailMessage {
            generation: self.fence.generation,
            from,
            to: rows.to(),
            entries: rows.entries.into(),
        });
        rows.last_positions
    }

    fn set_status(&self, status: CommitterStatus) {
        self.status.send_if_modified(|old| std::mem::replace(old, status) != status);
    }

    /// Connects if need be and reads the fence, trying until `deadline`.
    async fn connect_until(&mut self, deadline: Instant) -> Result<(), CommitError> {
        while self.connection.is_none() {
            match self.connect().await {
                Ok(Some((connection, fence))) => {
                    self.connection = Some(connection);
                    self.accept_fence(fence);
                    self.set_status(CommitterStatus::Writable);
                }
                Ok(None) => {
                    tracing::error!("another server has taken over this database; this one writes no more");
                    self.set_status(CommitterStatus::SteppedDown);
                    return Err(CommitError::SteppedDown);
                }
                Err(error) => {
                    let was_away = *self.status.borrow() == CommitterStatus::Away;
                    if Instant::now() >= deadline || was_away {
                        if !was_away {
                            tracing::error!(%error, "the database is away; writes are refused until it is back");
                        }
                        self.set_status(CommitterStatus::Away);
                        return Err(CommitError::Unavailable);
                    }
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
        }
        Ok(())
    }

    async fn connect(&self) -> Result<Option<(Connection, Fence)>> {
        let attempt = async {
            let mut connection = self.db.dedicated().await?;
            let fence = take_over(&mut connection, Some(self.fence.epoch)).await?;
            Ok(fence.map(|fence| (connection, fence)))
        };
        tokio::time::timeout(AWAY_TIMEOUT, attempt).await.unwrap_or_else(|_| {
            let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "the database does not answer");
            Err(StorageError::Unavailable(sqlx::Error::Io(error)))
        })
    }

    /// Takes the row's word for where the log stands. What it holds beyond the last message was committed with its
    /// answer lost; followers read it as a gap. A log that is shorter than it was lost its end in a failover.
    fn accept_fence(&mut self, fence: Fence) {
        if fence.generation != self.fence.generation {
            tracing::error!(
                generation = fence.generation,
                position = fence.position.0,
                had = self.fence.position.0,
                "the database failed over; a new generation of the log begins"
            );
            self.published = fence.position;
            self.tail.publish(TailMessage {
                generation: fence.generation,
                from: fence.position,
                to: fence.position,
                entries: Arc::new([]),
            });
        }
        self.fence = fence;
    }
}

/// Reads and locks the fence. Without `epoch` this is a new committer, whose epoch begins; with it, one that comes
/// back: nothing, if another has begun an epoch since. Another PostgreSQL timeline than at the last commit begins a
/// generation.
async fn take_over(connection: &mut Connection, epoch: Option<i64>) -> Result<Option<Fence>> {
    use sqlx::Connection as _;
    let mut transaction = connection.begin().await?;
    let row = sqlx::query!(
        r#"SELECT generation, epoch, position, timeline,
                  left(pg_walfile_name(pg_current_wal_lsn()), 8) AS "current_timeline!"
           FROM log_head WHERE id = 1 FOR UPDATE"#
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(row) = row.filter(|row| epoch.is_none_or(|epoch| epoch == row.epoch)) else {
        return Ok(None);
    };
    let failed_over = !row.timeline.is_empty() && row.timeline != row.current_timeline;
    let fence = Fence {
        generation: row.generation + i32::from(failed_over),
        epoch: epoch.unwrap_or(row.epoch + 1),
        position: Position(row.position),
    };
    sqlx::query!(
        "UPDATE log_head SET generation = $1, epoch = $2, timeline = $3 WHERE id = 1",
        fence.generation,
        fence.epoch,
        row.current_timeline
    )
    .execute(&mut *transaction)
    .await?;
    if failed_over {
        sqlx::query!(
            "INSERT INTO log_generations (generation, parted_at) VALUES ($1, $2)",
            fence.generation,
            fence.position.0
        )
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    Ok(Some(fence))
}

/// `commit_batch` found the fence elsewhere.
fn is_fenced(error: &StorageError) -> bool {
    matches!(error, StorageError::Refused(sqlx::Error::Database(e)) if e.code().as_deref() == Some("HE001"))
}

fn content_error(error: StorageError) -> CommitError {
    match error {
        // The order of a room: in the head's row, or by the unique key of the events.
        StorageError::Constraint { name, .. } if name == "room_heads_follow" || name == "events_room_order_key" => {
            CommitError::Conflict
        }
        StorageError::Constraint { name, .. } => CommitError::Constraint(name),
        error => {
            tracing::error!(%error, source = ?std::error::Error::source(&error), "the database refused a change");
            CommitError::Refused(Arc::new(error))
        }
    }
}

/// Answers at once those whose head move does not follow the one before it in the batch.
fn refuse_broken_sequences(batch: Vec<Pending>) -> Vec<Pending> {
    let mut sequences: HashMap<RoomNid, i64> = HashMap::new();
    let mut kept = Vec::with_capacity(batch.len());
    for pending in batch {
        let follows = |head: &super::HeadMove| {
            sequences.get(&head.room_nid).is_none_or(|sequence| *sequence == head.sequence_before)
        };
        if pending.change.heads.iter().all(follows) {
            sequences.extend(pending.change.heads.iter().map(|head| (head.room_nid, head.sequence)));
            kept.push(pending);
        } else {
            let _ = pending.answer.send(Err(CommitError::Conflict));
        }
    }
    kept
}

/// Parts a batch into groups that share no room, each in the order of the batch.
fn by_room(batch: Vec<Pending>) -> Vec<Vec<Pending>> {
    let mut groups: Vec<Vec<Pending>> = Vec::new();
    let mut group_of: HashMap<RoomNid, usize> = HashMap::new();
    for pending in batch {
        let mut touched: Vec<usize> =
            pending.change.rooms().filter_map(|room_nid| group_of.get(&room_nid).copied()).collect();
        touched.sort_unstable();
        touched.dedup();
        let target = touched.first().copied().unwrap_or_else(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        for merged in touched.into_iter().skip(1) {
            let moved = std::mem::take(&mut groups[merged]);
            groups[target].extend(moved);
            for group in group_of.values_mut().filter(|group| **group == merged) {
                *group = target;
            }
        }
        group_of.extend(pending.change.rooms().map(|room_nid| (room_nid, target)));
        groups[target].push(pending);
    }
    groups.retain(|group| !group.is_empty());
    groups
}

// A caller that went away doesn't want its answer: that is no error.
fn answer(batch: Vec<Pending>, positions: Vec<Position>) {
    for (pending, position) in batch.into_iter().zip(positions) {
        let _ = pending.answer.send(Ok(Committed { position }));
    }
}

fn fail(batch: Vec<Pending>, error: &CommitError) {
    for pending in batch {
        let _ = pending.answer.send(Err(error.clone()));
    }
}

fn size(change: &Change) -> usize {
    let facts = change.facts.iter().map(|fact| match fact {
        super::Fact::Event(event, _) => event.pdu.len(),
        super::Fact::AccountData(data) => data.content.len(),
        super::Fact::Membership(membership) => membership.stripped_state.as_ref().map_or(0, |json| json.len()),
        _ => 0,
    });
    facts.sum::<usize>() + change.states.iter().map(|state| state.body.len()).sum::<usize>()
}

#[expect(clippy::cast_precision_loss, reason = "a metric")]
fn as_f64(number: impl TryInto<i64>) -> f64 {
    number.try_into().map_or(0.0, |number: i64| number as f64)
}
