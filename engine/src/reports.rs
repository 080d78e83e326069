//! Reports of events, rooms and users (client-server API, "Reporting Content"), kept for the administrator.

use hearth_storage::{
    accounts,
    log::Membership,
    reports::{self, Reported},
};
use ruma::{EventId, RoomId, UserId};

use crate::{
    Engine, Error,
    accounts::Requester,
    rooms::{
        self,
        messages::{ReadError, seen_event},
    },
};

/// A reason is at most this long, in bytes.
const MAX_REASON_BYTES: usize = 16 << 10;

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// There is no such event, or the user is not in its room.
    #[error("there is no such event, or you are not in its room")]
    UnknownEvent,
    /// This server knows no such room.
    #[error("this server knows no such room")]
    UnknownRoom,
    /// This server knows no such user.
    #[error("this server knows no such user")]
    UnknownUser,
    /// The reason is too long.
    #[error("a reason is at most {MAX_REASON_BYTES} bytes long")]
    TooLarge,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<hearth_storage::StorageError> for ReportError {
    fn from(error: hearth_storage::StorageError) -> Self {
        Self::Failed(error.into())
    }
}

/// Reports an event that the requester can see, in a room that they are in.
pub async fn report_event(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
    event_id: &EventId,
    reason: &str,
) -> Result<(), ReportError> {
    let (room, event, ..) = match seen_event(engine, requester, room_id, event_id).await {
        Ok(seen) => seen,
        Err(ReadError::Failed(error)) => return Err(error.into()),
        Err(_) => return Err(ReportError::UnknownEvent),
    };
    if room.read(|view| view.members.get(requester.user_nid)).flatten() != Some(Membership::Join) {
        return Err(ReportError::UnknownEvent);
    }
    keep(
        engine,
        requester,
        Reported::Event(room.nid, event.nid, &event.pdu),
        reason,
    )
    .await
}

/// Reports a room, whether the requester is in it or not.
pub async fn report_room(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
    reason: &str,
) -> Result<(), ReportError> {
    let room = rooms::by_id(engine, room_id)
        .await?
        .ok_or(ReportError::UnknownRoom)?;
    keep(engine, requester, Reported::Room(room.nid), reason).await
}

/// Reports a user: one of this server, or one of another whom it has met.
pub async fn report_user(
    engine: &Engine,
    requester: &Requester,
    user_id: &UserId,
    reason: &str,
) -> Result<(), ReportError> {
    let user_nid = engine
        .interner
        .find_user(user_id)
        .await?
        .ok_or(ReportError::UnknownUser)?;
    if user_id.server_name() == engine.config.server_name {
        // A name may be known without being anyone's, such as that of someone invited by mistake.
        let mut connection = engine.db.acquire().await?;
        if accounts::find(&mut connection, &[user_id.to_string()])
            .await?
            .is_empty()
        {
            return Err(ReportError::UnknownUser);
        }
    }
    keep(engine, requester, Reported::User(user_nid), reason).await
}

async fn keep(
    engine: &Engine,
    requester: &Requester,
    reported: Reported<'_>,
    reason: &str,
) -> Result<(), ReportError> {
    if reason.len() > MAX_REASON_BYTES {
        return Err(ReportError::TooLarge);
    }
    let mut connection = engine.db.acquire().await?;
    reports::insert(
        &mut connection,
        requester.user_nid,
        reported,
        reason,
        engine.clock.now_ms(),
    )
    .await?;
    Ok(())
}
