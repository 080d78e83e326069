//! The children of an event, and the threads of a room (client-server API, "Relationships API" and "Querying threads
//! in a room").

use std::{collections::HashMap, sync::Arc};

use hearth_storage::{
    Connection, EventNid, Position, RoomNid,
    events::Place,
    interned,
    relations::{self, Children, Reader},
};
use ruma::{EventId, RoomId, api::Direction};
use serde_json::value::RawValue;

use super::{
    Room,
    aggregations::ignored_by,
    by_id,
    messages::{MAX_LIMIT, ReadError, seen_event},
    serve,
    visibility::{self, Access, Sight},
    walk::place_of,
};
use crate::{
    Engine, Error,
    accounts::Requester,
    events::{Event, without_content},
    log::LogHead,
    tokens::HistoryToken,
};

/// Events of a page if the client says nothing.
const DEFAULT_LIMIT: usize = 50;
/// How many levels of children `recurse` reaches: the least that the spec asks for.
const MAX_DEPTH: u8 = 3;
/// Levels that bring the events of all of them over this number are left out: they are read whole for each page.
const MAX_DESCENDANTS: i64 = 5000;

/// Which children of an event to show.
#[derive(Debug)]
pub struct RelationsRequest<'a> {
    /// Where to begin: at the end of the room going backwards, and at its start going forwards, by default.
    pub from: Option<&'a str>,
    /// Where to stop.
    pub to: Option<&'a str>,
    /// Which way.
    pub direction: Direction,
    /// How many, at most.
    pub limit: Option<usize>,
    /// How they relate.
    pub rel_type: Option<&'a str>,
    /// Of what type they are.
    pub event_type: Option<&'a str>,
    /// Also the children of children.
    pub recurse: bool,
}

/// Children of an event in client format.
#[derive(Debug)]
pub struct RelationsPage {
    /// They, in the direction asked for.
    pub chunk: Vec<Box<RawValue>>,
    /// Where the next page begins; nothing when there is no more.
    pub next: Option<HistoryToken>,
    /// How deep the answer reaches, if children of children were asked for: less than the most where there are too many.
    pub depth: Option<u8>,
}

/// The children of an event that the requester may see.
pub async fn relations(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
    event_id: &EventId,
    request: RelationsRequest<'_>,
) -> Result<RelationsPage, ReadError> {
    let (room, _, sight, _) = seen_event(engine, requester, room_id, event_id).await?;
    let head = engine.log.head();
    let ignored = ignored_by(engine, requester.user_nid).await?;
    let ranges = ranges_of(&room, &sight, head);
    let reader = Reader {
        user_nid: requester.user_nid,
        ignored: &ignored,
        sight: &ranges,
    };
    let limit = request.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let backwards = request.direction == Direction::Backward;

    let mut transaction = engine.db.begin_read().await.map_err(Error::from)?;
    let (oldest, newest) = if backwards {
        (request.to, request.from)
    } else {
        (request.from, request.to)
    };
    let after = boundary(&mut transaction, &room, oldest, Place::START, head).await?;
    let before = boundary(&mut transaction, &room, newest, Place::END, head).await?;
    let mut page = RelationsPage {
        chunk: Vec::new(),
        next: None,
        depth: request.recurse.then_some(MAX_DEPTH),
    };
    let type_nid = match request.event_type {
        Some(event_type) => {
            let type_nid = interned::find_type(&mut transaction, event_type)
                .await
                .map_err(Error::from)?;
            // No event ever had this type.
            let Some(type_nid) = type_nid else { return Ok(page) };
            Some(type_nid)
        }
        None => None,
    };
    let mut wanted = Children {
        room_nid: room.nid,
        parent_id: event_id.as_str(),
        rel_type: request.rel_type,
        type_nid,
        depth: if request.recurse { MAX_DEPTH.into() } else { 1 },
    };
    if request.recurse {
        wanted.depth = relations::depth_within(&mut transaction, wanted, MAX_DESCENDANTS)
            .await
            .map_err(Error::from)?;
        page.depth = u8::try_from(wanted.depth).ok();
    }
    let places = (after, beyond(before));
    // One more than wanted tells whether there is more.
    let rows = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut found = relations::children(&mut transaction, wanted, reader, places, backwards, rows)
        .await
        .map_err(Error::from)?;
    let is_more = found.len() > limit;
    found.truncate(limit);
    let event_nids: Vec<EventNid> = found.iter().map(|child| child.event_nid).collect();
    let events = in_order(engine, &mut transaction, &room, &event_nids).await?;
    drop(transaction);

    page.next = found.last().filter(|_| is_more).map(|last| {
        HistoryToken::Place(match backwards {
            true => just_before(last.place),
            false => last.place,
        })
    });
    let positions: HashMap<EventNid, Position> = found
        .iter()
        .map(|child| (child.event_nid, child.position))
        .collect();
    let membership = |event: &Event| sight.membership_at(*positions.get(&event.nid)?);
    let shown = (&sight, head.position);
    page.chunk = serve::with_relations(engine, &room, &events, requester, shown, membership).await?;
    Ok(page)
}

/// Which threads to show.
#[derive(Debug)]
pub struct ThreadsRequest<'a> {
    /// Where to begin; with the thread that was written to last, by default.
    pub from: Option<&'a str>,
    /// How many, at most.
    pub limit: Option<usize>,
    /// Only those that the requester began or wrote to.
    pub participated: bool,
}

/// The roots of threads in client format.
#[derive(Debug)]
pub struct ThreadsPage {
    /// They; those that were written to last are first.
    pub chunk: Vec<Box<RawValue>>,
    /// Where the next page begins; nothing when there is no more.
    pub next: Option<HistoryToken>,
}

/// The threads of a room whose beginning the requester may see.
pub async fn threads(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
    request: ThreadsRequest<'_>,
) -> Result<ThreadsPage, ReadError> {
    let room = by_id(engine, room_id).await?.ok_or(ReadError::NotMember)?;
    if visibility::access(engine, &room, requester.user_nid).await? == Access::None {
        return Err(ReadError::NotMember);
    }
    let limit = match request.limit {
        Some(0) => return Err(ReadError::NoLimit),
        limit => limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT),
    };
    let head = engine.log.head();
    let ignored = ignored_by(engine, requester.user_nid).await?;
    let mut transaction = engine.db.begin_read().await.map_err(Error::from)?;
    let mut sights = visibility::load(
        engine,
        &mut transaction,
        &[&room],
        &requester.user_id,
        head.position,
    )
    .await?;
    let sight = sights.remove(&room.nid).unwrap_or_default();
    let ranges = ranges_of(&room, &sight, head);
    let reader = Reader {
        user_nid: requester.user_nid,
        ignored: &ignored,
        sight: &ranges,
    };
    let before = boundary(&mut transaction, &room, request.from, Place::END, head).await?;
    let rows = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let (before, participated) = (beyond(before), request.participated);
    let mut found = relations::threads(&mut transaction, room.nid, reader, before, participated, rows)
        .await
        .map_err(Error::from)?;
    let is_more = found.len() > limit;
    found.truncate(limit);
    let roots: Vec<EventNid> = found.iter().map(|(root, _)| *root).collect();
    let mut roots = in_order(engine, &mut transaction, &room, &roots).await?;
    drop(transaction);

    for root in &mut roots {
        if ignored.iter().any(|user_id| user_id == root.sender().as_str())
            && root.sender_nid != requester.user_nid
        {
            *root = Arc::new(without_content(root, &room.rules).map_err(Error::from)?);
        }
    }
    let next = found
        .last()
        .filter(|_| is_more)
        .map(|(_, latest)| HistoryToken::Place(just_before(*latest)));
    let shown = (&sight, head.position);
    let chunk = serve::with_relations(engine, &room, &roots, requester, shown, |_| None).await?;
    Ok(ThreadsPage { chunk, next })
}

fn ranges_of(room: &Room, sight: &Sight, head: LogHead) -> Vec<(RoomNid, Position, Position)> {
    sight
        .ranges(head.position)
        .into_iter()
        .map(|(from, to)| (room.nid, from, to))
        .collect()
}

async fn boundary(
    connection: &mut Connection,
    room: &Room,
    token: Option<&str>,
    default: Place,
    head: LogHead,
) -> Result<Place, ReadError> {
    match token {
        Some(token) => place_of(connection, room, token.parse()?, head).await,
        None => Ok(default),
    }
}

/// The first place after a boundary, which is after its own.
fn beyond(boundary: Place) -> Place {
    Place {
        sub: boundary.sub.saturating_add(1),
        ..boundary
    }
}

/// The boundary before a place.
fn just_before(place: Place) -> Place {
    Place {
        sub: place.sub.saturating_sub(1),
        ..place
    }
}

/// Events by number, in that order; those that can't be read are passed over.
async fn in_order(
    engine: &Engine,
    connection: &mut Connection,
    room: &Room,
    event_nids: &[EventNid],
) -> Result<Vec<Arc<Event>>, Error> {
    let events = engine
        .events
        .load(connection, room.in_room(), event_nids.iter().copied())
        .await?;
    Ok(event_nids
        .iter()
        .filter_map(|event_nid| events.get(event_nid).cloned())
        .collect())
}
