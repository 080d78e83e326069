//! Pages of this server's directory: where one begins, and which rooms are told of.

use std::sync::Arc;

use hearth_storage::{RoomNid, directory::PublishedRoom};
use ruma::{
    RoomId,
    api::Direction,
    directory::{Filter, RoomNetwork, RoomTypeFilter},
};

use super::{Asker, DirectoryError, ListPage, ListRequest, page_size};
use crate::{
    Engine, Error,
    config::DirectoryAudience,
    rooms::descriptions::{self, Description, is_open},
};

/// Rooms looked at together.
const AT_ONCE: usize = 200;

/// A page of this server's directory.
pub(super) async fn list(
    engine: &Engine,
    asker: Asker<'_>,
    request: ListRequest,
) -> Result<ListPage, DirectoryError> {
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
