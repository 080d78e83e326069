//! Joins through other servers, one of a room at a time: the first brings the room, and those after it find it here.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, RoomId};
use tokio::sync::OwnedMutexGuard;

/// Who is joining which room.
#[derive(Debug, Default)]
pub(crate) struct JoinTurns(Mutex<HashMap<OwnedRoomId, Arc<tokio::sync::Mutex<()>>>>);

impl JoinTurns {
    /// Waits for those who are joining the room.
    pub async fn of(&self, room_id: &RoomId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock();
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(room_id.to_owned()).or_default())
        };
        turn.lock_owned().await
    }
}
