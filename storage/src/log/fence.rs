//! The fence: the row `log_head`, by which at most one committer at a time can write, whatever its connection has
//! been through.

use std::time::Duration;

use crate::{Connection, Database, Position, Result, StorageError};

/// How long taking the row over may take before that attempt is given up.
pub(super) const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// The place of a commit in the log, and whose it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fence {
    pub generation: i32,
    pub epoch: i64,
    pub session: i64,
    pub position: Position,
}

/// Connects and takes the row. Without `mine` this is a new committer, whose epoch begins; with it, one that comes
/// back: nothing, if another has begun an epoch since.
pub(super) async fn connect(db: &Database, mine: Option<&Fence>) -> Result<Option<(Connection, Fence)>> {
    let attempt = async {
        let mut connection = db.dedicated().await?;
        let fence = take_over(&mut connection, mine).await?;
        Ok(fence.map(|fence| (connection, fence)))
    };
    tokio::time::timeout(TAKE_OVER_TIMEOUT, attempt)
        .await
        .unwrap_or_else(|_| {
            let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "the database does not answer");
            Err(StorageError::Unavailable(sqlx::Error::Io(error)))
        })
}

/// Locks the row, which waits for a commit that is still under way on an earlier connection, reads it, and begins a
/// session, so that a statement of an earlier one that has yet to arrive finds itself shut out. What the row says
/// after that about an earlier commit is final.
///
/// Where the timeline is another, or the position is behind one that was known to be committed, the end of the log
/// was lost, and a generation begins.
async fn take_over(connection: &mut Connection, mine: Option<&Fence>) -> Result<Option<Fence>> {
    use sqlx::Connection as _;
    let mut transaction = connection.begin().await?;
    let row = sqlx::query!(
        r#"SELECT generation, epoch, session, position, timeline, log_timeline() AS "current_timeline!"
           FROM log_head WHERE id = 1 FOR UPDATE"#
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| StorageError::Damaged("the table log_head has no row".to_owned()))?;
    if mine.is_some_and(|mine| mine.epoch != row.epoch) {
        return Ok(None);
    }
    let other_timeline = !row.timeline.is_empty() && row.timeline != row.current_timeline;
    let end_is_lost = other_timeline || mine.is_some_and(|mine| row.position < mine.position.0);
    let fence = Fence {
        generation: row.generation + i32::from(end_is_lost),
        epoch: mine.map_or(row.epoch + 1, |mine| mine.epoch),
        session: row.session + 1,
        position: Position(row.position),
    };
    sqlx::query!(
        "UPDATE log_head SET generation = $1, epoch = $2, session = $3, timeline = $4 WHERE id = 1",
        fence.generation,
        fence.epoch,
        fence.session,
        row.current_timeline
    )
    .execute(&mut *transaction)
    .await?;
    if end_is_lost {
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

/// Whether a commit on `connection` would still pass the fence.
pub(super) async fn holds(connection: &mut Connection, fence: &Fence) -> Result<bool> {
    let holds = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM log_head WHERE epoch = $1 AND session = $2) AND NOT pg_is_in_recovery() AS "holds!""#,
        fence.epoch,
        fence.session
    )
    .fetch_one(connection)
    .await?;
    Ok(holds)
}

/// Whether `commit_batch` found the fence to be another's, or elsewhere.
pub(super) fn is_fenced(error: &StorageError) -> bool {
    matches!(error, StorageError::Refused(sqlx::Error::Database(e)) if e.code().as_deref() == Some("HE001"))
}
