//! Paging through the history of a room (client-server API, `GET …/messages`), and single events of it.

use std::sync::Arc;

use hearth_storage::{
    Connection, Position,
    events::{self, Place, StoredEvent},
};
use ruma::{EventId, RoomId, api::{Direction, client::filter::RoomEventFilter}};
use serde_json::value::RawValue;

use super::{
    Room, by_id, read, serve,
    visibility::{self, Access, Sight},
};
use crate::{
    Engine, Error,
    accounts::Requester,
    events::{ClientFormat, Event, excludes_room, matches},
    log::LogHead,
    tokens::{HistoryToken, SyncToken},
};

/// Events on one page, at most.
const MAX_LIMIT: usize = 1000;
/// Rows read for one page at most: a filter that lets hardly anything through ends the page early.
const MAX_ROWS: usize = 5000;
/// Rows read at once, at least.
const CHUNK: usize = 100;

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The user is not in the room, and never was.
    #[error("you are not in this room, and were not in it before")]
    NotMember,
    /// The room has no such event or state, or the user may not see it.
    #[error("there is no such event in this room, or you may not see it")]
    NotFound,
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
    engine: &Engine,
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
    let mut transaction = engine.db.begin_read().await.map_err(Error::from)?;
    let sight = visibility::load(engine, &mut transaction, &[&room], &requester.user_id, head.position).await?;
    let sight = sight.get(&room.nid).cloned().unwrap_or_default();
    // No further than the reader may look, whatever token they come with.
    let end = match access {
        Access::UntilLeft(..) => events::place_at(&mut transaction, room.nid, upto).await.map_err(Error::from)?,
        _ => Place::END,
    };
    let edge = match request.direction {
        Direction::Backward => end,
        Direction::Forward => Place::START,
    };
    let resolve = async |connection: &mut Connection, token: Option<&str>, default: Place| match token {
        Some(token) => place_of(engine, connection, &room, token.parse()?, head).await,
        None => Ok(default),
    };
    let from = resolve(&mut transaction, request.from, edge).await?.min(end);
    let far = match request.direction {
        Direction::Backward => Place::START,
        Direction::Forward => end,
    };
    let to = resolve(&mut transaction, request.to, far).await?.min(end);
    let walk = Walk { engine, room: &room, sight: &sight, filter: request.filter, direction: request.direction, upto };
    let walked = walk.run(&mut transaction, from, to, request.limit.min(MAX_LIMIT)).await?;
    drop(transaction);

    let start = match request.from {
        Some(token) => token.parse()?,
        None if request.direction == Direction::Backward => HistoryToken::Sync(sync_token(head)),
        None => HistoryToken::Place(from),
    };
    let membership = |event: &Event| walked.membership_at(&sight, event);
    let format = ClientFormat::WithRoomId;
    let chunk = serve::to_client(engine, &room, &walked.events, requester, format, membership).await?;
    let state = match request.filter.lazy_load_options.is_disabled() {
        false => senders(engine, &room, &walked.events, requester).await?,
        true => Vec::new(),
    };
    Ok(Page { start, end: walked.end.map(HistoryToken::Place), chunk, state })
}

fn sync_token(head: LogHead) -> SyncToken {
    SyncToken { generation: head.generation, position: head.position, ephemeral: None }
}

/// The boundary in `room` that a token stands for.
async fn place_of(
    engine: &Engine,
    connection: &mut Connection,
    room: &Room,
    token: HistoryToken,
    head: LogHead,
) -> Result<Place, ReadError> {
    match token {
        HistoryToken::Place(place) => Ok(place),
        HistoryToken::Sync(token) => {
            let (position, _) = crate::log::position_of(engine, &token, head).await?;
            Ok(events::place_at(connection, room.nid, position).await.map_err(Error::from)?)
        }
    }
}

/// Walks through the rows of a room for the events that a client may and wants to see.
struct Walk<'a> {
    engine: &'a Engine,
    room: &'a Room,
    sight: &'a Sight,
    filter: &'a RoomEventFilter,
    direction: Direction,
    upto: Position,
}

#[derive(Default)]
struct Walked {
    events: Vec<Arc<Event>>,
    positions: Vec<Position>,
    end: Option<Place>,
}

impl Walked {
    fn membership_at(&self, sight: &Sight, event: &Event) -> Option<hearth_storage::log::Membership> {
        let index = self.events.iter().position(|other| other.nid == event.nid)?;
        sight.membership_at(self.positions[index])
    }
}

impl Walk<'_> {
    async fn run(&self, connection: &mut Connection, from: Place, to: Place, limit: usize) -> Result<Walked, Error> {
        let mut walked = Walked::default();
        let mut boundary = from;
        let mut rows_read = 0;
        if excludes_room(self.filter, &self.room.id) || limit == 0 {
            return Ok(walked);
        }
        while rows_read < MAX_ROWS {
            // One more than wanted tells whether there is more.
            let wanted = (limit + 1 - walked.events.len()).max(CHUNK);
            let rows = self.rows(connection, boundary, to, wanted).await?;
            let exhausted = rows.len() < wanted;
            rows_read += rows.len();
            let places: Vec<(Place, Position)> = rows.iter().map(|row| (row.place(), row.position)).collect();
            let room = self.room.in_room();
            let events = self.engine.events.admit(connection, rows, |_| Some(room)).await?;
            let mut events = events.into_iter().peekable();
            for (place, position) in places {
                // Unreadable rows were passed over.
                let event = events.next_if(|event| event.place == place);
                let shown = event.filter(|event| self.sight.sees(position) && matches(self.filter, event));
                if let Some(event) = shown {
                    if walked.events.len() == limit {
                        walked.end = Some(boundary);
                        return Ok(walked);
                    }
                    walked.events.push(event);
                    walked.positions.push(position);
                }
                boundary = self.beyond(place);
            }
            if exhausted {
                return Ok(walked);
            }
        }
        walked.end = Some(boundary);
        Ok(walked)
    }

    /// The boundary on the far side of an event.
    fn beyond(&self, place: Place) -> Place {
        match self.direction {
            Direction::Backward => Place { sub: place.sub.saturating_sub(1), ..place },
            Direction::Forward => place,
        }
    }

    async fn rows(
        &self,
        connection: &mut Connection,
        from: Place,
        to: Place,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        // A boundary is after its place; the queries exclude both ends.
        let after = |place: Place| Place { sub: place.sub.saturating_add(1), ..place };
        Ok(match self.direction {
            Direction::Backward => {
                events::page_backwards(connection, self.room.nid, after(from), to, self.upto, limit).await?
            }
            Direction::Forward => {
                events::page_forwards(connection, self.room.nid, from, after(to), self.upto, limit).await?
            }
        })
    }
}

/// The current member events of the senders of `events`, each once.
async fn senders(
    engine: &Engine,
    room: &Room,
    events: &[Arc<Event>],
    requester: &Requester,
) -> Result<Vec<Box<RawValue>>, Error> {
    let mut senders: Vec<&str> = events.iter().map(|event| event.sender().as_str()).collect();
    senders.sort_unstable();
    senders.dedup();
    let mut members = Vec::with_capacity(senders.len());
    for sender in senders {
        members.extend(read::current_state_event(engine, room, "m.room.member", sender).await?);
    }
    serve::to_client(engine, room, &members, requester, ClientFormat::WithRoomId, |_| None).await
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
    let served = serve::to_client(engine, &room, &[event], requester, ClientFormat::WithRoomId, membership).await?;
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
    let stored = events::by_id(&mut connection, event_id.as_str()).await.map_err(Error::from)?;
    let stored = stored.filter(|stored| stored.event.room_nid == room.nid).ok_or(ReadError::NotFound)?;
    let position = stored.position;
    let head = engine.log.head().position;
    let mut sights = visibility::load(engine, &mut connection, &[&room], &requester.user_id, head).await?;
    let sight = sights.remove(&room.nid).unwrap_or_default();
    if position > head || !sight.sees(position) {
        return Err(ReadError::NotFound);
    }
    let in_room = room.in_room();
    let events = engine.events.admit(&mut connection, vec![stored], |_| Some(in_room)).await.map_err(Error::from)?;
    let event = events.into_iter().next().ok_or(ReadError::NotFound)?;
    drop(connection);
    Ok((room, event, sight, position))
}
