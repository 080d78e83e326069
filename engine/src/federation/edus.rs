//! EDUs of other servers: who types there, what they have read, and what was delivered to them. Each is judged alone, and believed of the sending
//! server's users only, in rooms where they are. What isn't understood is ignored.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hearth_storage::log::Membership;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, UInt, UserId,
    api::federation::transactions::edu::Edu, presence::PresenceState, serde::Raw,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::acl;
use crate::{
    Engine, Error,
    encryption::{remote_lists, to_device::receive::DIRECT_TO_DEVICE},
    presence,
    receipts::{self, READ, RemoteReceipt},
    rooms::{self, Room},
    ticks, typing,
};

/// Receipts of one transaction that are looked at.
const MOST_RECEIPTS: usize = 2_000;

/// Applies the EDUs of a transaction, as far as they are understood and believed.
pub(super) async fn receive_edus(engine: &Arc<Engine>, origin: &ServerName, edus: &[Raw<Edu>]) {
    let mut receipts_left = MOST_RECEIPTS;
    for edu in edus {
        if let Err(error) = receive_edu(engine, origin, edu.json(), &mut receipts_left).await {
            tracing::warn!(%error, %origin, "an EDU could not be applied");
        }
    }
}

async fn receive_edu(
    engine: &Arc<Engine>,
    origin: &ServerName,
    edu: &RawValue,
    receipts_left: &mut usize,
) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Any<'a> {
        edu_type: std::borrow::Cow<'a, str>,
        #[serde(borrow)]
        content: &'a RawValue,
    }
    let Ok(any) = serde_json::from_str::<Any<'_>>(edu.get()) else {
        return Ok(());
    };
    let known = match &*any.edu_type {
        "m.typing" => "m.typing",
        "m.receipt" => "m.receipt",
        // Was taken before.
        DIRECT_TO_DEVICE => DIRECT_TO_DEVICE,
        "chat.hearth.delivery" => "chat.hearth.delivery",
        "m.device_list_update" => "m.device_list_update",
        "m.signing_key_update" => "m.signing_key_update",
        "m.presence" => "m.presence",
        _ => "other",
    };
    metrics::counter!("hearth_federation_edus_received_total", "type" => known).increment(1);
    match known {
        "m.typing" => typing_edu(engine, origin, any.content).await,
        "m.receipt" => receipt_edu(engine, origin, any.content, receipts_left).await,
        "m.device_list_update" => remote_lists::update_device(engine, origin, any.content).await,
        "m.signing_key_update" => remote_lists::update_signing_keys(engine, origin, any.content).await,
        "m.presence" => presence_edu(engine, origin, any.content, receipts_left).await,
        "chat.hearth.delivery" => ticks::receive(engine, origin, any.content, receipts_left).await,
        _ => Ok(()),
    }
}

/// The room, if this server is in it and the other may speak there.
pub(crate) async fn room_of(
    engine: &Arc<Engine>,
    origin: &ServerName,
    room_id: &RoomId,
) -> Result<Option<Arc<Room>>, Error> {
    let Some(room) = rooms::by_id(engine, room_id).await? else {
        return Ok(None);
    };
    let is_here = room.has_server(&engine.config.server_name) && room.has_server(origin);
    Ok((is_here && acl::allows(engine, &room, origin).await?).then_some(room))
}

/// The number of a user of `origin` who is in a room.
pub(crate) async fn joined(
    engine: &Engine,
    origin: &ServerName,
    room: &Room,
    user_id: &UserId,
) -> Result<Option<hearth_storage::UserNid>, Error> {
    if user_id.server_name() != origin {
        return Ok(None);
    }
    let Some(user_nid) = engine.interner.find_user(user_id).await? else {
        return Ok(None);
    };
    let membership = room.read(|view| view.members.get(user_nid)).flatten();
    Ok((membership == Some(Membership::Join)).then_some(user_nid))
}

async fn typing_edu(engine: &Arc<Engine>, origin: &ServerName, content: &RawValue) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Typing {
        room_id: OwnedRoomId,
        user_id: OwnedUserId,
        typing: bool,
    }
    let Ok(said) = serde_json::from_str::<Typing>(content.get()) else {
        return Ok(());
    };
    let Some(room) = room_of(engine, origin, &said.room_id).await? else {
        return Ok(());
    };
    if let Some(user_nid) = joined(engine, origin, &room, &said.user_id).await? {
        typing::set_remote(engine, room.nid, user_nid, said.typing);
    }
    Ok(())
}

#[derive(Deserialize)]
struct Update {
    user_id: OwnedUserId,
    presence: PresenceState,
    last_active_ago: Option<UInt>,
    #[serde(default)]
    currently_active: bool,
    status_msg: Option<String>,
    #[serde(rename = "chat.hearth.hidden", default)]
    is_hidden: bool,
}

async fn presence_edu(
    engine: &Arc<Engine>,
    origin: &ServerName,
    content: &RawValue,
    left: &mut usize,
) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        push: Vec<&'a RawValue>,
    }
    let Ok(said) = serde_json::from_str::<Content<'_>>(content.get()) else {
        return Ok(());
    };
    let count = said.push.len().min(*left);
    *left -= count;
    // One that isn't understood is no reason not to hear of the others.
    let said = said.push[..count].iter().filter_map(|update| {
        let update: Update = serde_json::from_str(update.get()).ok()?;
        Some(presence::Said {
            user_id: update.user_id,
            state: presence::State::of(&update.presence)?,
            last_active_ago: update
                .last_active_ago
                .filter(|_| !update.is_hidden)
                .map(i64::from),
            currently_active: update.currently_active,
            status_msg: presence::status_of(update.status_msg),
        })
    });
    presence::receive(engine, origin, said.collect()).await
}

#[derive(Deserialize)]
struct ByType {
    #[serde(rename = "m.read", default)]
    read: BTreeMap<OwnedUserId, Read>,
}

#[derive(Deserialize)]
struct Read {
    data: ReadData,
    event_ids: Vec<OwnedEventId>,
}

#[derive(Deserialize)]
struct ReadData {
    #[serde(default)]
    ts: UInt,
    thread_id: Option<String>,
}

async fn receipt_edu(
    engine: &Arc<Engine>,
    origin: &ServerName,
    content: &RawValue,
    left: &mut usize,
) -> Result<(), Error> {
    let Ok(by_room) = serde_json::from_str::<BTreeMap<OwnedRoomId, ByType>>(content.get()) else {
        return Ok(());
    };
    for (room_id, by_type) in by_room {
        if *left == 0 {
            return Ok(());
        }
        *left = left.saturating_sub(by_type.read.len().max(1));
        let Some(room) = room_of(engine, origin, &room_id).await? else {
            continue;
        };
        let mut said = Vec::new();
        for (user_id, read) in by_type.read {
            let Some(user_nid) = joined(engine, origin, &room, &user_id).await? else {
                continue;
            };
            said.extend(receipt_of(engine, user_nid, read));
        }
        receipts::set_remote(engine, &room, said).await?;
    }
    Ok(())
}

/// What a server says of one user, if it makes sense: a thread is `main` or the one that begins with an event.
fn receipt_of(engine: &Engine, user_nid: hearth_storage::UserNid, read: Read) -> Option<RemoteReceipt> {
    let thread = match read.data.thread_id {
        None => String::new(),
        Some(thread) if thread == "main" || <&ruma::EventId>::try_from(thread.as_str()).is_ok() => thread,
        Some(_) => return None,
    };
    // The specification has one event there. Of several distinct ones nobody says which is the latest.
    let events: BTreeSet<OwnedEventId> = read.event_ids.into_iter().collect();
    let event_id = events.into_iter().next()?;
    Some(RemoteReceipt {
        user_nid,
        receipt_type: READ,
        thread: thread.into(),
        event_id,
        // One from the future would stand for ever.
        ts: i64::from(read.data.ts).min(engine.clock.now_ms()),
    })
}
