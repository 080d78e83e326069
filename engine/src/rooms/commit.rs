//! From drafts to committed events: gather, decide, commit, and again where the room moved meanwhile.

use std::sync::Arc;

use super::{
    Room,
    decide::{DecideError, Signer, Target, decide},
    draft::Draft,
    gather::gather,
    load::load_head,
    partial,
};
use crate::{Engine, Error, events::Event};
use hearth_storage::log::{Change, CommitError};

/// How often a change is decided anew because its room moved, or state was missing, before its caller is told to try
/// again later.
const ATTEMPTS: usize = 20;
/// How often one attempt fetches what deciding finds missing.
const ROUNDS: usize = 20;

/// Why events were not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// It was decided against.
    #[error(transparent)]
    Decided(#[from] DecideError),
    /// A constraint, by its name in the migrations, does not hold.
    #[error("constraint {0} does not hold")]
    Constraint(String),
}

impl From<Error> for SendError {
    fn from(error: Error) -> Self {
        Self::Decided(DecideError::Failed(error))
    }
}

/// Sends `drafts` to `room`, all or none. Memory reflects them when this returns. Goes on when the caller goes away.
pub(crate) async fn commit(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    drafts: Vec<Draft>,
) -> Result<Vec<Arc<Event>>, SendError> {
    commit_with(engine, room, drafts, None).await
}

/// The same, where `besides` becomes true with them, or not at all: a change of other rooms.
pub(super) async fn commit_with(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    drafts: Vec<Draft>,
    besides: Option<Change>,
) -> Result<Vec<Arc<Event>>, SendError> {
    partial::knows_subjects(engine, room, &drafts).await?;
    for _ in 0..ATTEMPTS {
        let deciding = partial::deciding(engine, room).await;
        load_head(engine, room).await?;
        let Some(state) = room.head.state() else { continue };
        let mut gathered = gather(engine, room, &state, &drafts).await?;
        let slot = engine.log.reserve().await.map_err(Error::from)?;
        let mut slot = Some(slot);
        // Deciding again on a head that moved is cheap; only what it misses is fetched. State that is still being
        // committed may be in memory no longer, and not in the database yet: then another attempt waits for it.
        let mut queued = None;
        for _ in 0..ROUNDS {
            let decided = room.head.decide(|head| {
                let target = Target {
                    room_nid: room.nid,
                    room_id: Some(&room.id),
                    rules: &room.rules,
                };
                let decided = decide(head, target, signer(engine), &drafts, &gathered)?;
                // Followers look for these before they would read them.
                for event in &decided.events {
                    engine.events.insert(Arc::clone(event));
                }
                let outcome = slot.take().map(|slot| {
                    slot.queue(match &besides {
                        None => decided.change,
                        Some(besides) => besides.clone().and(decided.change),
                    })
                });
                Ok::<_, DecideError>((decided.events, outcome))
            });
            match decided {
                Some(Err(DecideError::Missing(missing))) => gathered.add(engine, room, &missing).await?,
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(((events, Some(outcome)), incarnation))) => {
                    queued = Some((events, outcome, incarnation));
                    break;
                }
                Some(Ok(((_, None), _))) | None => break,
            }
        }
        drop(deciding);
        let Some((events, outcome, incarnation)) = queued else {
            continue;
        };
        // A task of its own: the head must hear how this ended even if the caller is gone.
        let (settling, settled_room) = (Arc::clone(engine), Arc::clone(room));
        let settled = tokio::spawn(async move {
            let result = settling.log.settle(outcome).await;
            settled_room.head.settled(incarnation, result.is_ok());
            result
        });
        match settled.await.unwrap_or(Err(CommitError::Unavailable)) {
            Ok(_) => return Ok(events),
            Err(CommitError::Conflict) => {}
            Err(CommitError::Constraint(name)) => return Err(SendError::Constraint(name)),
            Err(error) => return Err(Error::from(error).into()),
        }
    }
    Err(Error::from(CommitError::Unavailable).into())
}

/// Sends one draft; the answer is its event.
pub(crate) async fn commit_one(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    draft: Draft,
) -> Result<Arc<Event>, SendError> {
    let mut events = commit(engine, room, vec![draft]).await?;
    events
        .pop()
        .ok_or_else(|| Error::Damaged("a draft became no event".to_owned()).into())
}

pub(super) fn signer(engine: &Engine) -> Signer<'_> {
    Signer {
        server_name: &engine.config.server_name,
        key: &engine.signing_key,
        now: engine.clock.now(),
        entropy: &*engine.entropy,
    }
}

/// Queues the first change of a room and waits for it.
pub(super) async fn commit_first(engine: &Engine, change: Change) -> Result<(), SendError> {
    match engine.log.commit(change).await {
        Ok(_) => Ok(()),
        Err(CommitError::Constraint(name)) => Err(SendError::Constraint(name)),
        Err(error) => Err(Error::from(error).into()),
    }
}
