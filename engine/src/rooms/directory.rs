//! The directory of published rooms (client-server API, "Published room directory"): this server's, and, asked for its
//! users, those of others.
//!
//! Which rooms there are, and how many users each had, is read at once and kept for half a minute: pages are in that
//! order. What is told of a room is as it is now ([`super::descriptions`]); a room that nobody could come to, or read,
//! is told of to nobody.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hearth_storage::{
    RoomNid,
    directory::{self, PublishedRoom},
    log::{EntryKind, Membership},
};
use ruma::{
    OwnedServerName, RoomId, ServerName, UInt,
    api::{Direction, federation::directory::get_public_rooms_filtered},
    directory::{Filter, PublicRoomsChunk, RoomNetwork, RoomTypeFilter},
};
use tokio::sync::Mutex;

use super::{
    by_id,
    descriptions::{self, Description, is_open},
};
use crate::{
    Engine, Error, accounts::Requester, aliases::may_set_aliases, config::DirectoryAudience,
    remote::RemoteError,
};

/// Rooms on a page, at most and where nothing is said.
const MOST_ROOMS: usize = 500;
const ROOMS: usize = 100;
/// Rooms of the directory, at most: those with fewest users are left out.
const MOST_LISTED: i64 = 200_000;
/// How long the list of rooms counts, in milliseconds.
const FRESH_MS: i64 = 30_000;
/// Rooms looked at together.
const AT_ONCE: usize = 200;

/// Why nothing is listed, or published.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Who isn't logged in is told nothing.
    #[error("the directory is for users")]
    NeedsLogin,
    /// Other servers are told nothing.
    #[error("this server shows its directory to its own users alone")]
    NotForServers,
    /// The token is none of ours.
    #[error("`since` is not a token of this endpoint")]
    BadToken,
    /// The room is not known, or this server is not in it.
    #[error("this server is not in that room")]
    UnknownRoom,
    /// The requester may not publish the room.
    #[error("a room is published, or no longer, by a member who may set its aliases")]
    NotAllowed,
    /// The other server refused, or this one has nothing to do with it.
    #[error("{0}: {1}")]
    RefusedElsewhere(OwnedServerName, String),
    /// The other server can't make anything of the request: a token that is none of its.
    #[error("{0}: {1}")]
    BadElsewhere(OwnedServerName, String),
    /// The other server gave no answer.
    #[error("{0}: {1}")]
    Elsewhere(OwnedServerName, RemoteError),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<hearth_storage::StorageError> for DirectoryError {
    fn from(error: hearth_storage::StorageError) -> Self {
        Self::Failed(error.into())
    }
}

/// Who wants to see the directory.
#[derive(Debug, Clone, Copy)]
pub enum Asker<'a> {
    /// Somebody who isn't logged in.
    Anyone,
    /// A user of this server.
    User,
    /// Another server.
    Server(&'a ServerName),
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    /// How many rooms; 0 for as many as there may be.
    pub limit: Option<usize>,
    /// Where another page ended, or began.
    pub since: Option<String>,
    /// Which rooms.
    pub filter: Filter,
    /// Of which network.
    pub network: RoomNetwork,
}

/// A page of the directory.
#[derive(Debug, Default)]
pub struct ListPage {
    /// The rooms.
    pub chunk: Vec<PublicRoomsChunk>,
    /// The token for the page after; nothing when there is none.
    pub next_batch: Option<String>,
    /// The token for the page before; nothing when there is none.
    pub prev_batch: Option<String>,
    /// About how many rooms are published.
    pub total: Option<u64>,
}

/// The list of published rooms in memory.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    listed: Mutex<Option<Listed>>,
    /// Counts what may have changed the list.
    changes: AtomicU64,
}

#[derive(Debug)]
struct Listed {
    rooms: Arc<[PublishedRoom]>,
    read_at: i64,
    changes: u64,
}

impl Directory {
    /// Says that rooms were published, or no longer.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// A room that begins may be published from the start.
    pub fn apply(&self, entry: &EntryKind) {
        if let EntryKind::Event(event, _) = entry
            && event.sequence == 1
        {
            self.changed();
        }
    }

    async fn rooms(&self, engine: &Engine) -> Result<Arc<[PublishedRoom]>, Error> {
        let mut listed = self.listed.lock().await;
        let (now, changes) = (engine.clock.now_ms(), self.changes.load(Ordering::Relaxed));
        if let Some(listed) = &*listed
            && listed.changes == changes
            && now.saturating_sub(listed.read_at).saturating_abs() < FRESH_MS
        {
            return Ok(Arc::clone(&listed.rooms));
        }
        let mut connection = engine.db.acquire().await?;
        let rooms: Arc<[PublishedRoom]> = directory::published(&mut connection, MOST_LISTED).await?.into();
        *listed = Some(Listed {
            rooms: Arc::clone(&rooms),
            read_at: now,
            changes,
        });
        Ok(rooms)
    }
}

/// A page of this server's directory, or, for its users, of another's.
pub async fn public_rooms(
    engine: &Engine,
    asker: Asker<'_>,
    server: Option<&ServerName>,
    request: ListRequest,
) -> Result<ListPage, DirectoryError> {
    match server.filter(|server| **server != engine.config.server_name) {
        None => list(engine, asker, request).await,
        Some(server) => match asker {
            Asker::User => elsewhere(engine, server, request).await,
            _ => Err(DirectoryError::NeedsLogin),
        },
    }
}

/// A page of another server's directory.
async fn elsewhere(
    engine: &Engine,
    server: &ServerName,
    request: ListRequest,
) -> Result<ListPage, DirectoryError> {
    let limit = page_size(request.limit);
    let mut asked = get_public_rooms_filtered::v1::Request::new();
    asked.limit = Some(UInt::try_from(limit as u64).unwrap_or(UInt::MAX));
    asked.since = request.since;
    asked.filter = request.filter;
    asked.room_network = request.network;
    let answer = match engine.remote.public_rooms(server, asked).await {
        Ok(answer) => answer,
        Err(RemoteError::NotAllowed(reason)) => {
            return Err(DirectoryError::RefusedElsewhere(server.to_owned(), reason));
        }
        Err(RemoteError::Refused {
            status: 401 | 403,
            error,
            ..
        }) => {
            return Err(DirectoryError::RefusedElsewhere(server.to_owned(), error));
        }
        Err(RemoteError::Refused {
            status: 400, error, ..
        }) => {
            return Err(DirectoryError::BadElsewhere(server.to_owned(), error));
        }
        Err(error) => return Err(DirectoryError::Elsewhere(server.to_owned(), error)),
    };
    let mut chunk = answer.chunk;
    chunk.truncate(limit);
    Ok(ListPage {
        chunk,
        next_batch: answer.next_batch,
        prev_batch: answer.prev_batch,
        total: answer.total_room_count_estimate.map(u64::from),
    })
}

fn page_size(limit: Option<usize>) -> usize {
    match limit {
        Some(0) => MOST_ROOMS,
        limit => limit.unwrap_or(ROOMS).min(MOST_ROOMS),
    }
}

/// A page of this server's directory.
async fn list(engine: &Engine, asker: Asker<'_>, request: ListRequest) -> Result<ListPage, DirectoryError> {
    match (engine.config.directory, asker) {
        (DirectoryAudience::Users | DirectoryAudience::Servers, Asker::Anyone) => {
            return Err(DirectoryError::NeedsLogin);
        }
        (DirectoryAudience::Users, Asker::Server(_)) => return Err(DirectoryError::NotForServers),
        _ => {}
    }
    let since = request.since.as_deref().map(Since::read).transpose()?;
    if matches!(request.network, RoomNetwork::ThirdParty(_)) {
        // No other networks are bridged to here.
        return Ok(ListPage {
            total: Some(0),
            ..ListPage::default()
        });
    }
    let rooms = engine.directory.rooms(engine).await?;
    let wanted = Wanted::new(asker, &request.filter);
    let page = Page {
        engine,
        rooms: &rooms,
        wanted: &wanted,
        limit: page_size(request.limit),
    };
    let (direction, from) = match &since {
        Some(since) => (since.direction, since.index_in(&rooms)),
        None => (Direction::Forward, 0),
    };
    let (mut found, has_more) = page.walk(direction, from).await?;
    if direction == Direction::Backward {
        found.reverse();
    }
    let (before, after) = match direction {
        Direction::Forward => (since.is_some(), has_more),
        Direction::Backward => (has_more, true),
    };
    // A page without rooms ends where it began.
    let edge = |index: Option<usize>| match (index.and_then(|index| rooms.get(index)), &since) {
        (Some(room), _) => Some((room.joined, room.room_id.clone())),
        (None, Some(since)) => Some((since.joined, since.room_id.clone())),
        (None, None) => None,
    };
    let token = |direction, edge: Option<(i64, String)>| {
        edge.map(|(joined, room_id)| {
            Since {
                direction,
                joined,
                room_id,
            }
            .to_string()
        })
    };
    let (first, last) = (
        found.first().map(|found| found.0),
        found.last().map(|found| found.0),
    );
    Ok(ListPage {
        prev_batch: before.then(|| token(Direction::Backward, edge(first))).flatten(),
        next_batch: after.then(|| token(Direction::Forward, edge(last))).flatten(),
        total: Some(rooms.len() as u64),
        chunk: found
            .into_iter()
            .map(|(_, room)| room.summary.clone().into())
            .collect(),
    })
}

/// A place in the list: after or before a room, which need not be there any more.
#[derive(Debug, PartialEq, Eq)]
struct Since {
    direction: Direction,
    joined: i64,
    room_id: String,
}

impl Since {
    fn read(token: &str) -> Result<Self, DirectoryError> {
        let parse = || {
            let direction = match token.get(..1)? {
                "f" => Direction::Forward,
                "b" => Direction::Backward,
                _ => return None,
            };
            let (joined, room_id) = token.get(1..)?.split_once('_')?;
            Some(Self {
                direction,
                joined: joined.parse().ok()?,
                room_id: <&RoomId>::try_from(room_id).ok()?.to_string(),
            })
        };
        parse().ok_or(DirectoryError::BadToken)
    }

    /// Where the walk begins: the first room after the place, or, going back, how many are before it.
    fn index_in(&self, rooms: &[PublishedRoom]) -> usize {
        let compare = |room: &PublishedRoom| {
            self.joined
                .cmp(&room.joined)
                .then_with(|| room.room_id.as_str().cmp(&self.room_id))
        };
        rooms.partition_point(|room| match self.direction {
            Direction::Forward => compare(room).is_le(),
            Direction::Backward => compare(room).is_lt(),
        })
    }
}

impl std::fmt::Display for Since {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let direction = match self.direction {
            Direction::Forward => 'f',
            Direction::Backward => 'b',
        };
        write!(f, "{direction}{}_{}", self.joined, self.room_id)
    }
}

/// Which rooms are told of.
struct Wanted<'a> {
    asker: Asker<'a>,
    term: Option<String>,
    types: &'a [RoomTypeFilter],
}

impl<'a> Wanted<'a> {
    fn new(asker: Asker<'a>, filter: &'a Filter) -> Self {
        let term = filter.generic_search_term.as_deref().map(str::trim);
        Self {
            asker,
            term: term.filter(|term| !term.is_empty()).map(str::to_lowercase),
            types: &filter.room_types,
        }
    }

    fn has(&self, room: &Description) -> bool {
        let summary = &room.summary;
        let is_for_asker = match self.asker {
            Asker::Server(server) => room.admits(server),
            Asker::Anyone | Asker::User => true,
        };
        let is_of_type = self.types.is_empty()
            || self
                .types
                .contains(&RoomTypeFilter::from(summary.room_type.clone()));
        let mut texts = [
            summary.name.as_deref(),
            summary.topic.as_deref(),
            summary.canonical_alias.as_ref().map(|alias| alias.as_str()),
        ]
        .into_iter()
        .flatten();
        let is_found = self
            .term
            .as_ref()
            .is_none_or(|term| texts.any(|text| text.to_lowercase().contains(term.as_str())));
        room.is_here && is_open(summary) && is_for_asker && is_of_type && is_found
    }
}

struct Page<'a> {
    engine: &'a Engine,
    rooms: &'a [PublishedRoom],
    wanted: &'a Wanted<'a>,
    limit: usize,
}

impl Page<'_> {
    /// Up to `limit` rooms from a place on, in the direction of the walk, each with its place in the list; and whether
    /// there are more.
    async fn walk(
        &self,
        direction: Direction,
        from: usize,
    ) -> Result<(Vec<(usize, Arc<Description>)>, bool), Error> {
        let mut found = Vec::new();
        let places: Vec<usize> = match direction {
            Direction::Forward => (from..self.rooms.len()).collect(),
            Direction::Backward => (0..from).rev().collect(),
        };
        // Without a search most rooms are told of: no more are looked at than there is room for.
        let mut rest = places.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(AT_ONCE.min(self.limit + 1)));
            rest = later;
            let nids: Vec<RoomNid> = now.iter().map(|index| self.rooms[*index].room_nid).collect();
            let described = descriptions::of_rooms(self.engine, &nids).await?;
            for index in now {
                let room = described.get(&self.rooms[*index].room_nid);
                let Some(room) = room.filter(|room| self.wanted.has(room)) else {
                    continue;
                };
                if found.len() == self.limit {
                    return Ok((found, true));
                }
                found.push((*index, Arc::clone(room)));
            }
        }
        Ok((found, false))
    }
}

/// Whether a room is published; for anyone.
pub async fn is_published(engine: &Engine, room_id: &RoomId) -> Result<bool, DirectoryError> {
    let room = by_id(engine, room_id).await?.ok_or(DirectoryError::UnknownRoom)?;
    let mut connection = engine.db.acquire().await?;
    Ok(directory::is_published(&mut connection, room.nid).await?)
}

/// Publishes a room, or no longer: for members with the power to set its canonical alias, and for administrators.
pub async fn set_published(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
    published: bool,
) -> Result<(), DirectoryError> {
    let room = by_id(engine, room_id).await?;
    let room = room.filter(|room| room.has_server(&engine.config.server_name));
    let room = room.ok_or(DirectoryError::UnknownRoom)?;
    let membership = room.read(|view| view.members.get(requester.user_nid)).flatten();
    let may =
        membership == Some(Membership::Join) && may_set_aliases(engine, &room, &requester.user_id).await?;
    if !may && !requester.is_admin {
        return Err(DirectoryError::NotAllowed);
    }
    {
        let mut connection = engine.db.acquire().await?;
        directory::set_published(&mut connection, room.nid, published).await?;
    }
    engine.directory.changed();
    Ok(())
}

#[cfg(test)]
mod tests {
    use hearth_storage::{RoomNid, directory::PublishedRoom};
    use ruma::api::Direction;

    use super::Since;

    fn rooms(rooms: &[(&str, i64)]) -> Vec<PublishedRoom> {
        let room = |(room_id, joined): &(&str, i64)| PublishedRoom {
            room_nid: RoomNid::from(1),
            room_id: (*room_id).to_owned(),
            joined: *joined,
        };
        rooms.iter().map(room).collect()
    }

    #[test]
    fn a_place_in_the_list_is_found_though_its_room_is_gone() {
        let rooms = rooms(&[("!c:x", 9), ("!a:x", 5), ("!b:x", 5), ("!d:x", 1)]);
        let index = |token: &str| Since::read(token).unwrap().index_in(&rooms);
        assert_eq!(index("f9_!c:x"), 1);
        assert_eq!(index("f5_!a:x"), 2);
        assert_eq!(index("b5_!a:x"), 1);
        assert_eq!(index("f5_!aa:x"), 2);
        assert_eq!(index("b5_!aa:x"), 2);
        assert_eq!(index("f0_!z:x"), 4);
        assert_eq!(index("b100_!z:x"), 0);
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let since = Since {
            direction: Direction::Backward,
            joined: 42,
            room_id: "!a_b:example.org".to_owned(),
        };
        assert_eq!(Since::read(&since.to_string()).unwrap(), since);
        for token in ["", "f", "f1", "f1_", "f1_a", "x1_!a:b", "fx_!a:b", "\u{e9}1_!a:b"] {
            assert!(Since::read(token).is_err(), "{token}");
        }
    }
}
