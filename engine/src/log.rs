//! The engine's side of the log: committing changes, and knowing how far memory has followed.

mod follow;
mod recent;

use std::sync::Arc;

use hearth_storage::{
    Connection, Database, Position, StorageError,
    log::{self, Change, CommitError, Committer, CommitterStatus, LogTail, Outcome, Slot, TailReceiver},
};
use tokio::sync::watch;

use crate::{Engine, Error, tokens::SyncToken};

pub(crate) use follow::follow;
pub(crate) use recent::{RecentLog, Subject};

/// How far the log has come: what memory, and so every read, reflects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogHead {
    /// The generation of the log.
    pub generation: i32,
    /// The last position.
    pub position: Position,
}

/// The log, as the engine's verbs use it.
#[derive(Debug)]
pub struct Log {
    /// Nothing in a process that only works beside a server.
    committer: Option<Committer>,
    applied: watch::Sender<LogHead>,
    pub(crate) recent: RecentLog,
}

impl Log {
    /// Takes over the log of `db`. The receiver is for [`follow`].
    pub(crate) async fn start(
        db: &Database,
        tail: Arc<dyn LogTail>,
    ) -> Result<(Self, TailReceiver), StorageError> {
        let receiver = tail.subscribe();
        let committer = Committer::start(db, tail).await?;
        let (generation, position) = committer.start_position();
        let applied = watch::Sender::new(LogHead { generation, position });
        Ok((
            Self {
                committer: Some(committer),
                applied,
                recent: RecentLog::new(position),
            },
            receiver,
        ))
    }

    /// The log of a process that commits nothing and follows nothing.
    pub(crate) fn beside() -> Self {
        let head = LogHead {
            generation: 0,
            position: Position(0),
        };
        Self {
            committer: None,
            applied: watch::Sender::new(head),
            recent: RecentLog::new(head.position),
        }
    }

    /// Whether this process commits at all, if not at the moment.
    pub(crate) fn has_committer(&self) -> bool {
        self.committer.is_some()
    }

    /// A handle by which to hear that everything queued is done, once the engine is gone.
    pub(crate) fn committer(&self) -> Option<Committer> {
        self.committer.clone()
    }

    /// How far the log has come.
    pub fn head(&self) -> LogHead {
        *self.applied.borrow()
    }

    /// Follows how far the log has come.
    pub fn watch(&self) -> watch::Receiver<LogHead> {
        self.applied.subscribe()
    }

    /// Whether changes are committed at the moment.
    pub fn is_writable(&self) -> bool {
        self.committer
            .as_ref()
            .is_some_and(|committer| committer.status() == CommitterStatus::Writable)
    }

    /// Waits for a place in the queue of changes.
    pub(crate) async fn reserve(&self) -> Result<Slot, CommitError> {
        match &self.committer {
            Some(committer) => committer.reserve().await,
            None => Err(CommitError::SteppedDown),
        }
    }

    /// Commits a change that depends on no room's head. Memory reflects it when this returns.
    pub async fn commit(&self, change: Change) -> Result<Position, CommitError> {
        let outcome = self.reserve().await?.queue(change);
        self.settle(outcome).await
    }

    /// Waits for the outcome of a queued change, and for memory to reflect it.
    pub(crate) async fn settle(&self, outcome: Outcome) -> Result<Position, CommitError> {
        let generation = self.head().generation;
        // The committer's task answers everything that it takes; without an answer it has ended.
        let committed = outcome.await.unwrap_or(Err(CommitError::SteppedDown))?;
        let mut applied = self.applied.subscribe();
        // In another generation the position may be one that was lost. Fails only when the engine is going away with
        // its sender.
        let _ = applied
            .wait_for(|head| head.position >= committed.position || head.generation > generation)
            .await;
        Ok(committed.position)
    }

    pub(crate) fn set_head(&self, head: LogHead) {
        self.applied.send_replace(head);
    }
}

/// The position in the present log of a token, and whether it was cut back: one of an earlier generation may be ahead
/// of where the log parted from it.
pub(crate) async fn position_of(
    engine: &Engine,
    token: &SyncToken,
    head: LogHead,
) -> Result<(Position, bool), Error> {
    if token.generation < head.generation {
        let mut connection = engine.db.acquire().await?;
        return position_on(&mut connection, token, head).await;
    }
    let position = token.position.min(head.position);
    Ok((position, position < token.position))
}

/// [`position_of`], for who has a connection.
pub(crate) async fn position_on(
    connection: &mut Connection,
    token: &SyncToken,
    head: LogHead,
) -> Result<(Position, bool), Error> {
    let mut position = token.position;
    if token.generation < head.generation
        && let Some(parted_at) = log::parted_at(connection, token.generation).await?
    {
        position = position.min(parted_at);
    }
    // Ahead of the log in its own generation: the end was lost where nobody noticed, or the token is made up.
    position = position.min(head.position);
    Ok((position, position < token.position))
}
