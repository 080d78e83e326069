//! What became of a message, for the one who sent it.
//!
//! Counted are those who are in the room and have been since before the message.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use hearth_storage::{
    Connection, Position, RoomNid, UserNid, events,
    log::{Membership, Receipt},
    memberships, receipts as stored,
};
use ruma::{EventId, OwnedServerName, OwnedUserId, RoomId};

use super::{DELIVERED, giving};
use crate::{
    Engine, Error,
    accounts::Requester,
    events::Event,
    outgoing,
    receipts::{self, READ},
    rooms::{self, Room},
    users,
};

/// Receipts that are looked at, the newest.
const MOST_RECEIPTS: i64 = 10_000;

/// What became of a message. Times are in milliseconds; each is one by which it was so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageStatus {
    /// The servers that have it.
    pub received: BTreeMap<OwnedServerName, i64>,
    /// The users to one of whose devices it was delivered. Nobody, of a state event.
    pub delivered: BTreeMap<OwnedUserId, i64>,
    /// The users who have read it, by their public receipts.
    pub read: BTreeMap<OwnedUserId, i64>,
}

/// Why that is not told.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The user isn't in the room, which may not exist.
    #[error("you are not in this room")]
    NotInRoom,
    /// There is no such event in the room.
    #[error("there is no such event in this room")]
    UnknownEvent,
    /// Somebody else sent it.
    #[error("this is somebody else's message")]
    NotYours,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<hearth_storage::StorageError> for StatusError {
    fn from(error: hearth_storage::StorageError) -> Self {
        Self::Failed(error.into())
    }
}

/// What became of a message of the requester.
pub async fn of_message(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    event_id: &EventId,
) -> Result<MessageStatus, StatusError> {
    let room = rooms::by_id(engine, room_id)
        .await?
        .ok_or(StatusError::NotInRoom)?;
    let membership = room.read(|view| view.members.get(requester.user_nid)).flatten();
    if membership != Some(Membership::Join) {
        return Err(StatusError::NotInRoom);
    }
    let (event, position, mut told, members) = {
        let mut connection = engine.db.acquire().await?;
        let (event, position) = find(engine, &mut connection, &room, event_id)
            .await?
            .ok_or(StatusError::UnknownEvent)?;
        if event.sender_nid != requester.user_nid {
            return Err(StatusError::NotYours);
        }
        let types = [READ, DELIVERED];
        let told = stored::of_room_since(&mut connection, room.nid, &types, position, MOST_RECEIPTS).await?;
        let members = memberships::in_room_since(&mut connection, room.nid, position).await?;
        (event, position, told, members)
    };
    let members: HashSet<UserNid> = members.into_iter().collect();
    told.retain(|receipt| receipt.user_nid != requester.user_nid && members.contains(&receipt.user_nid));
    let preferences = Arc::clone(&users::load(engine, requester.user_nid).await?.preferences);
    giving::withhold(engine, requester, &preferences, &mut [&mut told]).await?;
    let covering = covering(engine, &room, &event, &told).await?;
    let user_nids: Vec<UserNid> = covering.iter().map(|receipt| receipt.user_nid).collect();
    let user_ids = engine.interner.user_ids(&user_nids).await?;
    let mut status = MessageStatus {
        received: outgoing::received(engine, &room, &event, position).await?,
        ..MessageStatus::default()
    };
    for receipt in covering {
        let Some(user_id) = user_ids.get(&receipt.user_nid) else {
            continue;
        };
        if preferences.ignores(user_id) {
            continue;
        }
        let by_user = match &*receipt.receipt_type {
            DELIVERED => &mut status.delivered,
            _ => &mut status.read,
        };
        let ts = by_user.entry(user_id.clone()).or_insert(receipt.ts);
        *ts = receipt.ts.min(*ts);
    }
    Ok(status)
}

/// A live event of the room, and its position in the log.
async fn find(
    engine: &Engine,
    connection: &mut Connection,
    room: &Room,
    event_id: &EventId,
) -> Result<Option<(Arc<Event>, Position)>, Error> {
    let Some(row) = events::by_id(connection, event_id.as_str()).await? else {
        return Ok(None);
    };
    let is_live =
        row.event.room_nid == room.nid && row.status == events::EventStatus::Accepted && row.sub == 0;
    if !is_live {
        return Ok(None);
    }
    let position = row.position;
    let admitted = engine
        .events
        .admit(connection, vec![row], |_| Some(room.in_room()))
        .await?;
    Ok(admitted.into_iter().next().map(|event| (event, position)))
}

/// The receipts among `told` that stand for an event.
async fn covering<'a>(
    engine: &Engine,
    room: &Room,
    event: &Arc<Event>,
    told: &'a [Receipt],
) -> Result<Vec<&'a Receipt>, Error> {
    let thread = receipts::thread_of(engine, room, event).await?;
    let ends = told.iter().flat_map(|receipt| match is_delivered(receipt) {
        true => vec![&*receipt.event_id, &*receipt.thread],
        false => vec![&*receipt.event_id],
    });
    let sequences = {
        let mut connection = engine.db.acquire().await?;
        stored::sequences(&mut connection, ends).await?
    };
    let sequence = event.place.sequence;
    let begins_by = |event_id: &str| at(&sequences, room.nid, event_id).is_some_and(|at| at <= sequence);
    let reaches = |event_id: &str| at(&sequences, room.nid, event_id).is_some_and(|at| at >= sequence);
    let covers = |receipt: &&Receipt| {
        reaches(&receipt.event_id)
            && match is_delivered(receipt) {
                true => event.state_key().is_none() && begins_by(&receipt.thread),
                false => match &*receipt.thread {
                    "" => true,
                    "main" => thread.is_none(),
                    // Clients that show a thread count its root to it.
                    root => thread.as_ref().is_some_and(|thread| thread == root) || event.event_id == root,
                },
            }
    };
    Ok(told.iter().filter(covers).collect())
}

fn is_delivered(receipt: &Receipt) -> bool {
    &*receipt.receipt_type == DELIVERED
}

fn at(sequences: &HashMap<String, (RoomNid, i64)>, room_nid: RoomNid, event_id: &str) -> Option<i64> {
    let (of, sequence) = sequences.get(event_id)?;
    (*of == room_nid).then_some(*sequence)
}
