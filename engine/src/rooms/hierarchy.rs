//! The rooms of a space, and of the spaces in it (client-server API, `GET …/hierarchy`).
//!
//! A walk in depth, begun anew for each page and silent up to where the last one ended: a token works on every node and
//! after a restart, and holds nothing in memory. What the walk comes by is in memory the second time
//! ([`super::descriptions`], [`super::elsewhere`]).

mod page;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use hearth_storage::directory;
use ruma::{
    OwnedRoomId, OwnedServerName, RoomId,
    events::space::child::HierarchySpaceChildEvent,
    room::{RoomSummary, RoomType},
    serde::Raw,
};
use tokio::time::Instant;

use page::{Filling, Terms};

use super::{
    descriptions::{self, Description},
    elsewhere::{self, RemoteRoom},
    space_children::Child,
    summary::{is_invited, may_know, membership_in, nid_of, ways_to},
};
use crate::{
    Engine, Error,
    accounts::Requester,
    users::{self, User},
};

/// Rooms on a page, at most and where nothing is said.
const MOST_ROOMS: usize = 50;
/// How deep a walk goes, at most and where nothing is said.
const MOST_DEPTH: usize = 20;
/// Rooms that one walk comes by.
const MOST_VISITED: usize = 2_000;
/// Children that are looked up together.
const AHEAD: usize = 50;
/// How long other servers are waited for, all together.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    /// The user may not see the room, or there is none.
    #[error("you may not see this room, or there is no such room")]
    NotAllowed,
    /// Nothing was asked for.
    #[error("a page has room for one at least")]
    NoLimit,
    /// The token is none of ours, or of another walk.
    #[error("{0}")]
    BadToken(&'static str),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// What to show.
#[derive(Debug, Default)]
pub struct HierarchyRequest<'a> {
    /// How many rooms.
    pub limit: Option<usize>,
    /// How deep to go: 0 for the room alone.
    pub max_depth: Option<usize>,
    /// Recommended children only.
    pub suggested_only: bool,
    /// Where the page before ended.
    pub from: Option<&'a str>,
}

/// A room of a space.
#[derive(Debug)]
pub struct HierarchyRoom {
    /// What it looks like.
    pub summary: RoomSummary,
    /// If it is a space itself: its children.
    pub children_state: Vec<Raw<HierarchySpaceChildEvent>>,
}

/// Some rooms of a space.
#[derive(Debug)]
pub struct HierarchyPage {
    /// The rooms.
    pub rooms: Vec<HierarchyRoom>,
    /// Where the next page begins; nothing when there is no more.
    pub next_batch: Option<String>,
}

/// The rooms of a space that the requester may know of, the space itself first.
pub async fn hierarchy(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
    request: HierarchyRequest<'_>,
) -> Result<HierarchyPage, HierarchyError> {
    if request.limit == Some(0) {
        return Err(HierarchyError::NoLimit);
    }
    let terms = Terms {
        max_depth: request.max_depth.unwrap_or(MOST_DEPTH).min(MOST_DEPTH),
        suggested_only: request.suggested_only,
    };
    let mut walk = Walk {
        engine,
        user: users::load(engine, requester.user_nid).await?,
        terms,
        deadline: Instant::now() + PATIENCE,
        visited: HashSet::new(),
        described: HashMap::new(),
        open: Vec::new(),
    };
    let mut page = Filling {
        limit: request.limit.unwrap_or(MOST_ROOMS).min(MOST_ROOMS),
        last: request.from.map(|token| terms.read(token)).transpose()?,
        rooms: Vec::new(),
        is_full: false,
    };
    let root = walk.begin(requester, room_id).await?;
    page.offer(root.ok_or(HierarchyError::NotAllowed)?);
    while !page.is_full
        && let Some(room) = walk.next().await?
    {
        page.offer(room);
    }
    page.finish(terms)
}
/// A space whose children are being walked through.
struct OpenSpace {
    space: Space,
    depth: usize,
    next: usize,
    /// Children up to here have been looked up.
    looked_up: usize,
}

enum Space {
    Here(Arc<Description>),
    Elsewhere(Arc<RemoteRoom>),
}

impl Space {
    fn children(&self) -> &[Child] {
        match self {
            Self::Here(room) => &room.children,
            Self::Elsewhere(room) => &room.children,
        }
    }

    /// What its server tells of one of its children.
    fn told(&self, room_id: &RoomId) -> Option<&RoomSummary> {
        match self {
            Self::Here(_) => None,
            Self::Elsewhere(room) => room.told.get(room_id),
        }
    }

    /// Whether nobody of this server can come to a child.
    fn withholds(&self, room_id: &RoomId) -> bool {
        match self {
            Self::Here(_) => false,
            Self::Elsewhere(room) => room.inaccessible.contains(room_id),
        }
    }
}

struct Walk<'a> {
    engine: &'a Engine,
    user: Arc<User>,
    terms: Terms,
    deadline: Instant,
    visited: HashSet<OwnedRoomId>,
    /// Rooms known here, as far as they were looked up.
    described: HashMap<OwnedRoomId, Arc<Description>>,
    /// The spaces from the first down to where the walk is.
    open: Vec<OpenSpace>,
}

impl Walk<'_> {
    /// The room to begin with; nothing if the user may not know of it.
    async fn begin(
        &mut self,
        requester: &Requester,
        room_id: &RoomId,
    ) -> Result<Option<HierarchyRoom>, HierarchyError> {
        let engine = self.engine;
        if let Some(room_nid) = nid_of(engine, room_id).await?
            && let Some(room) = descriptions::of_room(engine, room_nid).await?
        {
            let membership = membership_in(&self.user, Some(room_nid));
            if membership == Some(hearth_storage::log::Membership::Ban) && !room.summary.world_readable {
                return Ok(None);
            }
            self.described.insert(room_id.to_owned(), room);
        }
        self.visited.insert(room_id.to_owned());
        let is_here = self.described.get(room_id).is_some_and(|room| room.is_here);
        let via = match is_here {
            true => Vec::new(),
            false => ways_to(engine, requester, room_id, Vec::new()).await?,
        };
        self.visit(room_id, &via, None, 0).await
    }

    /// The next room that the user may know of.
    async fn next(&mut self) -> Result<Option<HierarchyRoom>, HierarchyError> {
        loop {
            let Some(space) = self.open.last_mut() else {
                return Ok(None);
            };
            if space.next >= space.space.children().len() {
                self.open.pop();
                continue;
            }
            if space.next == space.looked_up {
                self.look_ahead().await?;
                continue;
            }
            let (index, depth) = (space.next, space.depth);
            space.next += 1;
            let children = space.space.children();
            let Some(child) = children.get(index).filter(|child| is_wanted(self.terms, child)) else {
                continue;
            };
            if space.space.withholds(&child.room_id) || self.visited.contains(&child.room_id) {
                continue;
            }
            if self.visited.len() >= MOST_VISITED {
                self.open.clear();
                return Ok(None);
            }
            let (room_id, via) = (child.room_id.clone(), child.via.clone());
            let told = space.space.told(&room_id).cloned();
            self.visited.insert(room_id.clone());
            if let Some(room) = self.visit(&room_id, &via, told, depth + 1).await? {
                return Ok(Some(room));
            }
        }
    }

    /// What a room looks like to the user; if it is a space, and not too deep, its children come next.
    async fn visit(
        &mut self,
        room_id: &RoomId,
        via: &[OwnedServerName],
        told: Option<RoomSummary>,
        depth: usize,
    ) -> Result<Option<HierarchyRoom>, HierarchyError> {
        let known = self.described.get(room_id).cloned();
        let membership = membership_in(&self.user, known.as_ref().map(|room| room.room_nid));
        let is_invited = is_invited(membership);
        let (summary, space) = match known.filter(|room| room.is_here) {
            Some(room) => (room.summary.clone(), Some(Space::Here(room))),
            None => match told.filter(|told| !is_space(told)) {
                Some(told) => (told, None),
                None => match elsewhere::ask(self.engine, room_id, via, is_invited, self.deadline).await {
                    Some(room) => (room.summary.clone(), Some(Space::Elsewhere(room))),
                    None => return Ok(None),
                },
            },
        };
        if !may_know(self.engine, &self.user, membership, &summary).await? {
            return Ok(None);
        }
        let children = space.as_ref().map_or(&[][..], Space::children);
        let wanted = children.iter().filter(|child| is_wanted(self.terms, child));
        let children_state = wanted.map(|child| child.json.clone()).collect();
        if depth < self.terms.max_depth
            && let Some(space) = space.filter(|space| !space.children().is_empty())
        {
            self.open.push(OpenSpace {
                space,
                depth,
                next: 0,
                looked_up: 0,
            });
        }
        Ok(Some(HierarchyRoom {
            summary,
            children_state,
        }))
    }

    /// Looks up the next children of the innermost space together: those known here with few queries, the others at
    /// their servers at once.
    async fn look_ahead(&mut self) -> Result<(), HierarchyError> {
        let Some(space) = self.open.last_mut() else {
            return Ok(());
        };
        let from = space.looked_up;
        space.looked_up = (from + AHEAD).min(space.space.children().len());
        let is_new = |child: &&Child| {
            is_wanted(self.terms, child)
                && !self.visited.contains(&child.room_id)
                && !space.space.withholds(&child.room_id)
        };
        let children = &space.space.children()[from..space.looked_up];
        let children: Vec<&Child> = children.iter().filter(is_new).collect();
        self.described.extend(described(self.engine, &children).await?);
        let must_ask = |child: &&Child| {
            let is_here = self
                .described
                .get(&child.room_id)
                .is_some_and(|room| room.is_here);
            !is_here && space.space.told(&child.room_id).is_none_or(is_space)
        };
        let ask = children.into_iter().filter(must_ask);
        let ask = ask
            .map(|child| (child.room_id.clone(), child.via.clone()))
            .collect();
        elsewhere::ask_ahead(self.engine, ask, self.deadline).await;
        Ok(())
    }
}

fn is_space(summary: &RoomSummary) -> bool {
    summary.room_type == Some(RoomType::Space)
}

fn is_wanted(terms: Terms, child: &Child) -> bool {
    child.is_suggested || !terms.suggested_only
}

/// Those of some children that are known here.
async fn described(
    engine: &Engine,
    children: &[&Child],
) -> Result<Vec<(OwnedRoomId, Arc<Description>)>, Error> {
    let ids: Vec<&str> = children.iter().map(|child| child.room_id.as_str()).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let known = {
        let mut connection = engine.db.acquire().await?;
        directory::nids(&mut connection, &ids).await?
    };
    let room_nids: Vec<_> = known.iter().map(|(_, room_nid)| *room_nid).collect();
    let descriptions = descriptions::of_rooms(engine, &room_nids).await?;
    Ok(descriptions
        .into_values()
        .map(|room| (room.summary.room_id.clone(), room))
        .collect())
}
