//! Paging through the history of a room (client-server API, `GET …/messages`), and single events of it.

use std::sync::Arc;

use hearth_storage::{
    Connection, EventNid, Position,
    events::{self, Place},
};
use ruma::{
    EventId, RoomId,
    api::{Direction, client::filter::RoomEventFilter},
};
use serde_json::value::RawValue;

use super::{
    Room, by_id, read,
    receive::backfill,
    serve,
    visibility::{self, Access, Sight},
    walk::{Walk, Walked, place_of},
};
use crate::{
    Engine, Error,
    accounts::Requester,
    events::{ClientFormat, Event},
    log::LogHead,
    tokens::{HistoryToken, SyncToken},
    users,
};

/// Events on one page, at most.
pub(super) const MAX_LIMIT: usize = 1000;

/// How often one page asks other servers for history.
const MOST_FETCHES: usize = 5;

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The user is not in the room, and never was.
    #[error("you are not in this room, and were not in it before")]
    NotMember,
    /// The room has no such event or state, or the user may not see it.
    #[error("there is no such event in this room, or you may not see it")]
    NotFound,
    /// Nothing was asked for.
    #[error("a page has room for one at least")]
    NoLimit,
    /// This is none of our tokens.
    #[error("{0}")]
    BadToken(#[from] crate::tokens::BadToken),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// What to show.
#[derive(Debug)]
pub struct PageRequest<'a> {
    /// Where to begin: at the end of the room going backwards, and at its start going forwards, by default.
    pub from: Option<&'a str>,
    /// Where to stop.
    pub to: Option<&'a str>,
    /// Which way.
    pub direction: Direction,
    /// How many events.
    pub limit: usize,
    /// Which events.
    pub filter: &'a RoomEventFilter,
}

/// A page of events in client format.
#[derive(Debug)]
pub struct Page {
    /// Where it begins.
    pub start: HistoryToken,
    /// Where the next page begins; nothing when there is no more.
    pub end: Option<HistoryToken>,
    /// The events, in the direction asked for.
    pub chunk: Vec<Box<RawValue>>,
    /// The member events of the senders, for a client that loads members lazily.
    pub state: Vec<Box<RawValue>>,
}

/// A page of the history that `requester` may see.
pub async fn messages(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    request: PageRequest<'_>,
) -> Result<Page, ReadError> {
    let room = by_id(engine, room_id).await?.ok_or(ReadError::NotMember)?;
    let access = visibility::access(engine, &room, requester.user_nid).await?;
    let head = engine.log.head();
    let upto = match access {
        Access::None => return Err(ReadError::NotMember),
        Access::Current => head.position,
        Access::UntilLeft(_, left_at) => left_at,
    };
    let user = users::load(engine, requester.user_nid).await?;
    // Every query has the same end in the log: they need not see one moment.
    let mut connection = engine.db.acquire().await.map_err(Error::from)?;
    let sight = visibility::load(
        engine,
        &mut connection,
        &[&room],
        &requester.user_id,
        head.position,
    )
    .await?;
    let sight = sight.get(&room.nid).cloned().unwrap_or_default();
    // No further than the reader may look, whatever token they come with.
    let end = match access {
        Access::UntilLeft(..) => events::place_at(&mut connection, room.nid, upto)
            .await
            .map_err(Error::from)?,
        _ => Place::END,
    };
    let edge = match request.direction {
        Direction::Backward => end,
        Direction::Forward => Place::START,
    };
    let resolve = async |connection: &mut Connection, token: Option<&str>, default: Place| match token {
        Some(token) => place_of(connection, &room, token.parse()?, head).await,
        None => Ok(default),
    };
    let from = resolve(&mut connection, request.from, edge).await?.min(end);
    let far = match request.direction {
        Direction::Backward => Place::START,
        Direction::Forward => end,
    };
    let to = resolve(&mut connection, request.to, far).await?.min(end);
    let (filter, direction) = (request.filter, request.direction);
    let viewer = (requester.user_nid, &*user.preferences);
    let walk = Walk {
        engine,
        room: &room,
        sight: &sight,
        filter,
        viewer,
        direction,
        upto,
    };
    let limit = limit_within(request.limit, filter);
    drop(connection);
    let walked = match direction {
        Direction::Backward => past_gaps(engine, &room, &walk, (from, to), limit).await?,
        Direction::Forward => {
            let mut connection = engine.db.acquire().await.map_err(Error::from)?;
            walk.run(&mut connection, from, to, limit).await?
        }
    };

    let start = match request.from {
        Some(token) => token.parse()?,
        None if request.direction == Direction::Backward => HistoryToken::Sync(sync_token(head)),
        None => HistoryToken::Place(from),
    };
    let membership = |event: &Event| walked.membership_at(&sight, event);
    let shown = (&sight, head.position);
    let chunk = serve::with_relations(engine, &room, &walked.events, requester, shown, membership).await?;
    let state = match request.filter.lazy_load_options.is_disabled() {
        false => {
            let is_current = matches!(access, Access::Current);
            senders(engine, &room, &walked.events, requester, is_current).await?
        }
        true => Vec::new(),
    };
    Ok(Page {
        start,
        end: walked.end.map(HistoryToken::Place),
        chunk,
        state,
    })
}

/// Walks back; where history is missing here, it is fetched first. What no server has now is passed over.
async fn past_gaps(
    engine: &Arc<Engine>,
    room: &Arc<Room>,
    walk: &Walk<'_>,
    (from, to): (Place, Place),
    limit: usize,
) -> Result<Walked, Error> {
    let mut given_up: Option<i64> = None;
    for _ in 0..MOST_FETCHES {
        let is_ahead = |gap: &i64| {
            *gap <= from.sequence && *gap > to.sequence && given_up.is_none_or(|given_up| *gap < given_up)
        };
        let gap = room
            .read(|view| view.gaps.iter().rev().copied().find(is_ahead))
            .flatten();
        let Some(gap) = gap else { break };
        let edge = Place {
            sequence: gap,
            sub: i32::MIN,
        };
        let mut connection = engine.db.acquire().await?;
        let mut walked = walk.run(&mut connection, from, to.max(edge), limit).await?;
        drop(connection);
        if walked.events.len() >= limit {
            walked.end = walked.end.or(Some(edge));
            return Ok(walked);
        }
        if !backfill::fill(engine, room, gap).await? {
            given_up = Some(gap);
        }
    }
    let mut connection = engine.db.acquire().await?;
    walk.run(&mut connection, from, to, limit).await
}

fn sync_token(head: LogHead) -> SyncToken {
    SyncToken {
        part: None,
        to_device: None,
        generation: head.generation,
        position: head.position,
        ephemeral: None,
    }
}

/// How many events to show where a request and its filter both say so. A filter's limit is greater than zero.
pub(super) fn limit_within(limit: usize, filter: &RoomEventFilter) -> usize {
    let of_filter = filter.limit.map(u64::from).filter(|limit| *limit > 0);
    let of_filter = of_filter.and_then(|limit| usize::try_from(limit).ok());
    limit.min(of_filter.unwrap_or(MAX_LIMIT)).min(MAX_LIMIT)
}

/// The member events of the senders of `events`, each once: as they are now, or for a reader who may not see that, as
/// they were at the newest of these events.
async fn senders(
    engine: &Engine,
    room: &Room,
    events: &[Arc<Event>],
    requester: &Requester,
    is_current: bool,
) -> Result<Vec<Box<RawValue>>, Error> {
    let mut senders: Vec<&str> = events.iter().map(|event| event.sender().as_str()).collect();
    senders.sort_unstable();
    senders.dedup();
    let keys: Vec<(&str, &str)> = senders.iter().map(|sender| ("m.room.member", *sender)).collect();
    let keys = engine.interner.keys(&keys).await?;
    let newest = events.iter().max_by_key(|event| event.place);
    let state = match newest.filter(|_| !is_current) {
        Some(newest) => read::load_state(engine, newest.state_after).await?,
        None => room.read(|view| view.state.clone()).unwrap_or_default(),
    };
    let members: Vec<EventNid> = keys.iter().filter_map(|key_nid| state.get(*key_nid)).collect();
    let found = read::events(engine, room, members.iter().copied()).await?;
    let members: Vec<Arc<Event>> = members
        .iter()
        .filter_map(|event_nid| found.get(event_nid).cloned())
        .collect();
    let format = ClientFormat::WithRoomId;
    serve::to_client(engine, room, &members, requester, format, |_| None).await
}

/// One event (client-server API, `GET …/event/{eventId}`).
pub async fn event(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
    event_id: &EventId,
) -> Result<Box<RawValue>, ReadError> {
    let (room, event, sight, position) = seen_event(engine, requester, room_id, event_id).await?;
    let membership = |_: &Event| sight.membership_at(position);
    let shown = (&sight, engine.log.head().position);
    let served = serve::with_relations(engine, &room, &[event], requester, shown, membership).await?;
    served.into_iter().next().ok_or(ReadError::NotFound)
}

/// An event that the user may see, and where it stands.
pub(crate) async fn seen_event(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
    event_id: &EventId,
) -> Result<(Arc<Room>, Arc<Event>, Sight, Position), ReadError> {
    let room = by_id(engine, room_id).await?.ok_or(ReadError::NotFound)?;
    if visibility::access(engine, &room, requester.user_nid).await? == Access::None {
        return Err(ReadError::NotFound);
    }
    let mut connection = engine.db.acquire().await.map_err(Error::from)?;
    let stored = events::by_id(&mut connection, event_id.as_str())
        .await
        .map_err(Error::from)?;
    let stored = stored
        .filter(|stored| stored.event.room_nid == room.nid)
        .ok_or(ReadError::NotFound)?;
    let position = stored.position;
    let head = engine.log.head().position;
    let mut sights = visibility::load(engine, &mut connection, &[&room], &requester.user_id, head).await?;
    let sight = sights.remove(&room.nid).unwrap_or_default();
    if position > head || !sight.sees(position) {
        return Err(ReadError::NotFound);
    }
    let in_room = room.in_room();
    let events = engine
        .events
        .admit(&mut connection, vec![stored], |_| Some(in_room))
        .await
        .map_err(Error::from)?;
    let event = events.into_iter().next().ok_or(ReadError::NotFound)?;
    drop(connection);
    Ok((room, event, sight, position))
}
