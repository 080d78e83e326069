//! Walking through the rows of a room for the events that a client may and wants to see.

use std::sync::Arc;

use hearth_storage::{
    Connection, Position, UserNid,
    events::{self, Place, StoredEvent},
    log::Membership,
};
use ruma::api::{Direction, client::filter::RoomEventFilter};

use super::{Room, messages::ReadError, visibility::Sight};
use crate::{
    Engine, Error,
    events::{Event, excludes_room, matches},
    log::LogHead,
    tokens::HistoryToken,
    users::Preferences,
};

/// Rows read for one page at most: a filter that lets hardly anything through ends the page early.
const MAX_ROWS: usize = 5000;
/// Rows read at once, at least, after the first rows had too little to show.
const CHUNK: usize = 100;

/// The boundary in `room` that a token stands for.
pub(super) async fn place_of(
    connection: &mut Connection,
    room: &Room,
    token: HistoryToken,
    head: LogHead,
) -> Result<Place, ReadError> {
    match token {
        HistoryToken::Place(place) => Ok(place),
        HistoryToken::Sync(token) => {
            let (position, _) = crate::log::position_on(connection, &token, head).await?;
            Ok(events::place_at(connection, room.nid, position)
                .await
                .map_err(Error::from)?)
        }
    }
}

/// Walks through the rows of a room for the events that a client may and wants to see.
pub(super) struct Walk<'a> {
    pub engine: &'a Engine,
    pub room: &'a Room,
    pub sight: &'a Sight,
    pub filter: &'a RoomEventFilter,
    /// What the viewer doesn't want to hear is passed over.
    pub viewer: (UserNid, &'a Preferences),
    pub direction: Direction,
    /// Nothing beyond this in the log.
    pub upto: Position,
}

/// What a walk came upon.
pub(super) struct Walked {
    /// The events, in the direction of the walk.
    pub events: Vec<Arc<Event>>,
    positions: Vec<Position>,
    /// Where the walk stopped.
    pub reached: Place,
    /// Where to go on; nothing when there is no more.
    pub end: Option<Place>,
}

impl Walked {
    /// What the viewer was at one of the events.
    pub fn membership_at(&self, sight: &Sight, event: &Event) -> Option<Membership> {
        let index = self.events.iter().position(|other| other.nid == event.nid)?;
        sight.membership_at(self.positions[index])
    }
}

impl Walk<'_> {
    /// Walks from one boundary towards another until `limit` events are found.
    pub async fn run(
        &self,
        connection: &mut Connection,
        from: Place,
        to: Place,
        limit: usize,
    ) -> Result<Walked, Error> {
        let mut walked = Walked {
            events: Vec::new(),
            positions: Vec::new(),
            reached: from,
            end: None,
        };
        let mut boundary = from;
        let mut rows_read = 0;
        if excludes_room(self.filter, &self.room.id) || limit == 0 {
            return Ok(walked);
        }
        while rows_read < MAX_ROWS {
            // One more than wanted tells whether there is more.
            let missing = limit + 1 - walked.events.len();
            // Most pages show every row.
            let wanted = if rows_read == 0 {
                missing
            } else {
                missing.max(CHUNK)
            };
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
                let (viewer, preferences) = self.viewer;
                let shown = event.filter(|event| {
                    self.sight.sees(position)
                        && matches(self.filter, event)
                        && !preferences.withholds(event, viewer)
                });
                if let Some(event) = shown {
                    if walked.events.len() == limit {
                        walked.end = Some(boundary);
                        walked.reached = boundary;
                        return Ok(walked);
                    }
                    walked.events.push(event);
                    walked.positions.push(position);
                }
                boundary = self.beyond(place);
            }
            walked.reached = boundary;
            if exhausted {
                return Ok(walked);
            }
        }
        walked.end = Some(boundary);
        Ok(walked)
    }

    /// The boundary on the far side of an event.
    pub fn beyond(&self, place: Place) -> Place {
        match self.direction {
            Direction::Backward => Place {
                sub: place.sub.saturating_sub(1),
                ..place
            },
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
        let after = |place: Place| Place {
            sub: place.sub.saturating_add(1),
            ..place
        };
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
