//! The directory of published rooms (client-server API, "Published room directory"): this server's, and, asked for its
//! users, those of others.
//!
//! Which rooms there are, and how many users each had, is read at once and kept for half a minute: pages are in that
//! order. What is told of a room is as it is now ([`super::descriptions`]); a room that nobody could come to, or read,
//! is told of to nobody.

mod pages;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hearth_storage::{
    directory::{self, PublishedRoom},
    log::{EntryKind, Membership},
};
use ruma::{
    OwnedServerName, RoomId, ServerName, UInt,
    api::federation::directory::get_public_rooms_filtered,
    directory::{Filter, PublicRoomsChunk, RoomNetwork},
};
use tokio::sync::Mutex;

use super::by_id;
use crate::{Engine, Error, accounts::Requester, aliases::may_set_aliases, remote::RemoteError};

/// Rooms on a page, at most and where nothing is said.
const MOST_ROOMS: usize = 500;
const ROOMS: usize = 100;
/// Rooms of the directory, at most: those with fewest users are left out.
const MOST_LISTED: i64 = 200_000;
/// How long the list of rooms counts, in milliseconds.
const FRESH_MS: i64 = 30_000;

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
        None => pages::list(engine, asker, request).await,
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
