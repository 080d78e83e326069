//! What a server is owed that fell behind: read off the log, some rooms at a time.
//!
//! Of a room in which little happened it gets all. Of one in which more did, the newest: it asks for what it misses
//! before that, as far as it wants it.

use std::{collections::BTreeMap, sync::Arc};

use hearth_storage::{
    Position, RoomNid, UserNid,
    outgoing::{self as stored, OutgoingEvent},
};
use ruma::ServerName;

use super::{
    destination::ToRead,
    edus::{self, Kind, PendingReceipt, ReceiptKey},
    lists, whom,
};
use crate::{
    Engine, Error,
    rooms::{self, Room},
    ticks, users,
};

/// The most events of a room that are all sent.
const ALL_OF_ROOM: usize = 50;
/// Rooms that are looked at at once.
pub(super) const ROOMS: usize = 50;
/// Receipts of some rooms that are sent, the newest.
const RECEIPTS: i64 = 200;

type Owed = (Vec<OutgoingEvent>, Vec<(ReceiptKey, PendingReceipt)>);

/// What `server` is owed of some rooms, after and up to some positions; events in order.
pub(super) async fn owed(
    engine: &Arc<Engine>,
    server: &ServerName,
    room_nids: &[RoomNid],
    range: (Position, Position),
) -> Result<Owed, Error> {
    let own = engine.config.server_name.as_str();
    let limit = i64::try_from(ALL_OF_ROOM).unwrap_or(i64::MAX).saturating_add(1);
    let (newest, receipts) = {
        let mut connection = engine.db.acquire().await?;
        let newest = stored::newest_events(&mut connection, own, room_nids, range, limit).await?;
        let receipts = stored::receipts(&mut connection, own, Some(room_nids), range, RECEIPTS).await?;
        (newest, receipts)
    };
    let mut by_room: BTreeMap<RoomNid, Vec<OutgoingEvent>> = BTreeMap::new();
    for event in newest {
        by_room.entry(event.room_nid).or_default().push(event);
    }
    let mut owed = Vec::new();
    for (room_nid, events) in by_room {
        let Some(room) = rooms::by_nid(engine, room_nid).await? else {
            continue;
        };
        let recipients = whom::recipients(engine, &room, &events).await?;
        let theirs = recipients
            .into_iter()
            .filter(|(_, recipients)| recipients.include(server));
        let theirs: Vec<OutgoingEvent> = theirs.map(|(event, _)| event).collect();
        if events.len() <= ALL_OF_ROOM {
            owed.extend(theirs);
        } else if let Some(newest) = theirs.last() {
            let skipped = (range.0, Position(newest.position.0 - 1));
            let mut connection = engine.db.acquire().await?;
            stored::skip(&mut connection, server.as_str(), room_nid, skipped).await?;
            owed.push(*newest);
        }
    }
    owed.sort_by_key(|event| event.position);
    let mut theirs = Vec::with_capacity(receipts.len());
    for (position, receipt) in receipts {
        let room = rooms::by_nid(engine, receipt.room_nid).await?;
        let Some(kind) = Kind::of(&receipt.receipt_type) else {
            continue;
        };
        let Some(room) = room.filter(|room| room.has_server(server)) else {
            continue;
        };
        if kind == Kind::Read
            || (ticks::is_hearth(engine, server).await && gives(engine, &room, receipt.user_nid).await?)
        {
            theirs.push(edus::split(position, kind, &receipt));
        }
    }
    Ok((owed, theirs))
}

/// Whether a user gives what was delivered to them in a room: they may have thought better of it since.
async fn gives(engine: &Engine, room: &Room, user_nid: UserNid) -> Result<bool, Error> {
    let preferences = users::preferences(engine, &[user_nid]).await?;
    let theirs = preferences.get(&user_nid);
    Ok(theirs.is_some_and(|theirs| ticks::may_count(engine, theirs, room)))
}

/// Reads off the log what `server` is to get next, until there is enough for a transaction or no more.
pub(super) async fn read(engine: &Arc<Engine>, server: &ServerName) -> Result<(), Error> {
    loop {
        let to_read = engine.outgoing.with(server, |destination, dispatched| {
            destination.read_next(dispatched, ROOMS)
        });
        let read = match to_read.flatten() {
            None => return Ok(()),
            Some(ToRead::Rooms { since }) => read_rooms(engine, server, since).await,
            Some(ToRead::Events { rooms, since, upto }) => {
                let owed = owed(engine, server, &rooms, (since, upto)).await;
                owed.map(|(events, receipts)| {
                    engine
                        .outgoing
                        .with(server, |destination, _| destination.read_events(events, receipts));
                })
            }
        };
        if let Err(error) = read {
            engine
                .outgoing
                .with(server, |destination, _| destination.drop_plan());
            return Err(error);
        }
    }
}

async fn read_rooms(engine: &Engine, server: &ServerName, since: Position) -> Result<(), Error> {
    lists::catch_up(engine, server, since).await?;
    let rooms = {
        let mut connection = engine.db.acquire().await?;
        stored::rooms_shared(&mut connection, server.as_str(), since).await?
    };
    engine
        .outgoing
        .with(server, |destination, _| destination.read_rooms(rooms));
    Ok(())
}
