//! `chat.hearth.delivery`: what another server says was delivered to its users. By room and user, the last event that
//! they have, and the first since which they have all:
//! `{"!room:a":{"@bob:b":{"event_id":"$last","from":"$first","ts":1700000000000}}}`.

use std::{collections::BTreeMap, sync::Arc};

use hearth_storage::receipts as stored;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, ServerName, UInt};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{DELIVERED, coverage::MOST_PARTS, giving};
use crate::{
    Engine, Error,
    federation::{joined, room_of},
    receipts::{self, RemoteReceipt},
    users::Preferences,
};

#[derive(Debug, Deserialize)]
struct Delivered {
    event_id: OwnedEventId,
    from: OwnedEventId,
    #[serde(default)]
    ts: UInt,
}

/// Believes of a server what it says of its own users, in rooms where they are and ticks are; at most `left` times.
pub(crate) async fn receive(
    engine: &Arc<Engine>,
    origin: &ServerName,
    content: &RawValue,
    left: &mut usize,
) -> Result<(), Error> {
    let Ok(by_room) =
        serde_json::from_str::<BTreeMap<OwnedRoomId, BTreeMap<OwnedUserId, Delivered>>>(content.get())
    else {
        return Ok(());
    };
    for (room_id, by_user) in by_room {
        if *left == 0 {
            return Ok(());
        }
        *left = left.saturating_sub(by_user.len().max(1));
        let Some(room) = room_of(engine, origin, &room_id).await? else {
            continue;
        };
        if !giving::may_count(engine, &Preferences::default(), &room) {
            continue;
        }
        let mut said = Vec::new();
        for (user_id, delivered) in by_user {
            let Some(user_nid) = joined(engine, origin, &room, &user_id).await? else {
                continue;
            };
            said.push(RemoteReceipt {
                user_nid,
                receipt_type: DELIVERED,
                thread: delivered.from.as_str().into(),
                event_id: delivered.event_id,
                ts: i64::from(delivered.ts).min(engine.clock.now_ms()),
            });
        }
        let users: Vec<_> = said.iter().map(|receipt| receipt.user_nid).collect();
        receipts::set_remote(engine, &room, said).await?;
        let kept = i64::try_from(MOST_PARTS).unwrap_or(i64::MAX);
        let mut connection = engine.db.acquire().await?;
        for user_nid in users {
            stored::thin_out(&mut connection, room.nid, user_nid, DELIVERED, kept).await?;
        }
    }
    Ok(())
}
