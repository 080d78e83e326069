//! Account data for a sync: what changed, and for rooms that come into view, all of it.

use std::collections::{HashMap, HashSet};

use hearth_storage::{Position, RoomNid, account_data, log::AccountData};
use ruma::RoomId;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::Sync;
use crate::{
    Error,
    events::{matches_global, matches_in_room},
    push_rules::{self, PUSH_RULES},
};

/// Account data to tell.
#[derive(Debug, Default)]
pub(super) struct Data {
    pub global: Vec<AccountData>,
    pub by_room: HashMap<RoomNid, Vec<AccountData>>,
}

#[derive(Serialize)]
struct Event<'a> {
    content: &'a RawValue,
    #[serde(rename = "type")]
    event_type: &'a str,
}

/// What is to be told. Costs no query when nothing changed.
pub(super) async fn data(sync: &Sync<'_>) -> Result<Data, Error> {
    let mut data = stored(sync).await?;
    let rules = data.global.iter_mut().find(|data| &*data.data_type == PUSH_RULES);
    let user_id = &sync.requester.user_id;
    match rules {
        Some(rules) => rules.content = push_rules::told(user_id, Some(&rules.content))?,
        // A user who never changed a rule has the server's, and nothing is stored.
        None if sync.since.is_none() || sync.full_state => data.global.push(AccountData {
            user_nid: sync.requester.user_nid,
            room_nid: None,
            data_type: PUSH_RULES.into(),
            content: push_rules::told(user_id, None)?,
        }),
        None => {}
    }
    Ok(data)
}

async fn stored(sync: &Sync<'_>) -> Result<Data, Error> {
    // A room that comes into view is told whole, however old its data is.
    let came = rooms_in_view(sync);
    let since = if sync.full_state {
        Position(0)
    } else {
        sync.since.unwrap_or_default()
    };
    // Rooms that were told less far than the rest may have older news.
    let earliest = match sync.part {
        Some(part) if !sync.full_state => part.since.unwrap_or_default().min(since),
        _ => since,
    };
    let from = if came.is_empty() { earliest } else { Position(0) };
    if sync.user.account_data <= from {
        return Ok(Data::default());
    }
    let mut connection = sync.engine.db.acquire().await?;
    let rows = account_data::of_user(&mut connection, sync.requester.user_nid, from, sync.upto()).await?;
    let is_news = |room_nid: RoomNid, position: Position| {
        sync.full_state || sync.since_of(room_nid).is_none_or(|since| position > since)
    };
    let mut data = Data::default();
    for (position, row) in rows {
        match row.room_nid {
            None if position > since => data.global.push(row),
            Some(room_nid) if is_news(room_nid, position) || came.contains(&room_nid) => {
                data.by_room.entry(room_nid).or_default().push(row);
            }
            _ => {}
        }
    }
    Ok(data)
}

fn rooms_in_view(sync: &Sync<'_>) -> HashSet<RoomNid> {
    let came = sync.user.rooms.iter().filter(|(room_nid, room)| {
        let Some(since) = sync.since_of(**room_nid) else {
            return false;
        };
        let whole_since = sync.engine.partial.whole_since(**room_nid);
        let became_whole = whole_since.is_some_and(|position| position > since) && !sync.loads_lazily();
        room.joined_at
            .is_some_and(|joined_at| joined_at > since || became_whole)
    });
    came.map(|(room_nid, _)| *room_nid).collect()
}

/// Global account data that the client's filter lets through.
pub(super) fn global(sync: &Sync<'_>, data: &[AccountData]) -> Vec<Box<RawValue>> {
    data.iter()
        .filter(|data| matches_global(&sync.filter.account_data, &data.data_type))
        .filter_map(to_event)
        .collect()
}

/// A room's account data that the client's filter lets through.
pub(super) fn of_room(sync: &Sync<'_>, room_id: &RoomId, data: &[AccountData]) -> Vec<Box<RawValue>> {
    let filter = &sync.filter.room.account_data;
    let is_wanted = |data: &&AccountData| {
        serde_json::from_str(&data.content)
            .is_ok_and(|content| matches_in_room(filter, room_id, &data.data_type, content))
    };
    data.iter().filter(is_wanted).filter_map(to_event).collect()
}

fn to_event(data: &AccountData) -> Option<Box<RawValue>> {
    let content: &RawValue = serde_json::from_str(&data.content).ok()?;
    to_raw_value(&Event {
        content,
        event_type: &data.data_type,
    })
    .ok()
}
