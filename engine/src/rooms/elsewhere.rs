//! Rooms that this server is not in, as servers tell of them that are (server-server API, `GET …/hierarchy`). Answers
//! are kept for minutes, each as the word of the server that gave it: of a room that somebody's space names, another
//! space may name a more truthful witness.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use quick_cache::{Weighter, sync::Cache};
use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, ServerName,
    api::federation::space::get_hierarchy,
    room::{JoinRuleSummary, RoomSummary, RoomType},
};
use tokio::time::Instant;

use super::space_children::Child;
use crate::{Engine, remote::RemoteError};

/// The memory that answers may take, in bytes.
const BUDGET: u64 = 16 << 20;
/// How long an answer counts, a refusal, and that a server gave none.
const FRESH_MS: i64 = 5 * 60 * 1000;
const REFUSED_MS: i64 = 15 * 1000;
const FAILED_MS: i64 = 60 * 1000;
/// How long a server is waited for.
const PATIENCE: Duration = Duration::from_secs(8);
/// Servers asked for one room, one after another.
const MOST_SERVERS: usize = 3;
/// Rooms asked for at once.
const AT_ONCE: usize = 8;
/// Children of a space that are taken from an answer.
const MOST_CHILDREN: usize = 1_000;

/// A room as a server tells of it, and rooms that are in it if it is a space.
#[derive(Debug)]
pub(crate) struct RemoteRoom {
    /// What it looks like.
    pub summary: RoomSummary,
    /// Of a space: its children, in the order in which they are shown.
    pub children: Vec<Child>,
    /// What the server tells of the children itself.
    pub told: HashMap<OwnedRoomId, RoomSummary>,
    /// Children that this server's users can't come to, by the server's word.
    pub inaccessible: HashSet<OwnedRoomId>,
}

impl RemoteRoom {
    fn of(answer: get_hierarchy::v1::Response) -> Self {
        let mut summary = answer.room.summary;
        tame(&mut summary);
        let is_space = summary.room_type == Some(RoomType::Space);
        let children_state = answer.room.children_state.iter().filter(|_| is_space);
        let mut children: Vec<Child> = children_state.filter_map(Child::told).collect();
        children.sort_by(Child::compare);
        children.truncate(MOST_CHILDREN);
        let told = answer.children.into_iter().take(MOST_CHILDREN);
        Self {
            summary,
            children,
            told: told
                .map(|mut summary| {
                    tame(&mut summary);
                    (summary.room_id.clone(), summary)
                })
                .collect(),
            inaccessible: answer
                .inaccessible_children
                .into_iter()
                .take(MOST_CHILDREN)
                .collect(),
        }
    }

    fn weight(&self) -> usize {
        let children: usize = self.children.iter().map(Child::weight).sum();
        let told: usize = self.told.values().map(weight_of).sum();
        512 + weight_of(&self.summary) + children + told + 128 * self.inaccessible.len()
    }
}

fn weight_of(summary: &RoomSummary) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let allowed = match &summary.join_rule {
        JoinRuleSummary::Restricted(rule) | JoinRuleSummary::KnockRestricted(rule) => {
            rule.allowed_room_ids.len()
        }
        _ => 0,
    };
    512 + text(&summary.name) + text(&summary.topic) + 64 * allowed
}

/// A join rule that isn't known here lets in who is invited; and ruma could not write it down again.
fn tame(summary: &mut RoomSummary) {
    let is_known = matches!(
        summary.join_rule,
        JoinRuleSummary::Public
            | JoinRuleSummary::Invite
            | JoinRuleSummary::Knock
            | JoinRuleSummary::Private
            | JoinRuleSummary::Restricted(_)
            | JoinRuleSummary::KnockRestricted(_)
    );
    if !is_known {
        summary.join_rule = JoinRuleSummary::Invite;
    }
}

/// What came of asking one server.
#[derive(Debug, Clone)]
struct Answer {
    room: Option<Arc<RemoteRoom>>,
    /// Until when it counts, in milliseconds.
    until: i64,
}

#[derive(Debug, Clone)]
struct ByWeight;

type Question = (OwnedServerName, OwnedRoomId);

impl Weighter<Question, Answer> for ByWeight {
    fn weight(&self, _: &Question, answer: &Answer) -> u64 {
        answer.room.as_ref().map_or(256, |room| room.weight()) as u64
    }
}

/// Answers in memory.
#[derive(Debug)]
pub(crate) struct Elsewhere(Cache<Question, Answer, ByWeight>);

impl Elsewhere {
    pub fn new() -> Self {
        Self(Cache::with_weighter(256, BUDGET, ByWeight))
    }
}

/// A room as the first of `via` tells of it that does, by `deadline`; nothing if none does. That a server refused just
/// now counts no more once a user `is_invited`.
pub(crate) async fn ask(
    engine: &Engine,
    room_id: &RoomId,
    via: &[OwnedServerName],
    is_invited: bool,
    deadline: Instant,
) -> Option<Arc<RemoteRoom>> {
    let others = via.iter().filter(|server| **server != engine.config.server_name);
    let mut servers: Vec<&OwnedServerName> = Vec::new();
    for server in others {
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    servers.sort_by_key(|server| !engine.remote.is_reachable(server));
    for server in servers.into_iter().take(MOST_SERVERS) {
        let asked = ask_one(engine, server, room_id, is_invited);
        let asked = tokio::time::timeout_at(deadline, asked).await;
        if let Some(room) = asked.ok()?.room {
            return Some(room);
        }
    }
    None
}

/// Asks for several rooms at once: what they look like is known then, as far as somebody tells it.
pub(crate) async fn ask_ahead(
    engine: &Engine,
    rooms: Vec<(OwnedRoomId, Vec<OwnedServerName>)>,
    deadline: Instant,
) {
    let asked = rooms
        .into_iter()
        .map(|(room_id, via)| async move { drop(ask(engine, &room_id, &via, false, deadline).await) });
    stream::iter(asked)
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<()>>()
        .await;
}

async fn ask_one(engine: &Engine, server: &ServerName, room_id: &RoomId, is_invited: bool) -> Answer {
    let cache = &engine.elsewhere.0;
    let question = (server.to_owned(), room_id.to_owned());
    let now = engine.clock.now_ms();
    cache.remove_if(&question, |answer| {
        answer.until <= now || (is_invited && answer.room.is_none())
    });
    // Who asks the same meanwhile waits for this answer.
    let asked = async { Ok::<_, std::convert::Infallible>(ask_now(engine, server, room_id).await) };
    match cache.get_or_insert_async(&question, asked).await {
        Ok(answer) => answer,
    }
}

async fn ask_now(engine: &Engine, server: &ServerName, room_id: &RoomId) -> Answer {
    let request = get_hierarchy::v1::Request::new(room_id.to_owned());
    let asked = tokio::time::timeout(PATIENCE, engine.remote.hierarchy(server, request)).await;
    let (room, counts_ms) = match asked {
        Ok(Ok(answer)) if answer.room.summary.room_id == *room_id => {
            (Some(Arc::new(RemoteRoom::of(answer))), FRESH_MS)
        }
        Ok(Ok(_)) => {
            tracing::debug!(%server, %room_id, "a server told of another room than it was asked for");
            (None, FAILED_MS)
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, %server, %room_id, "a server told nothing of a room");
            let was_refused = matches!(error, RemoteError::Refused { .. });
            (None, if was_refused { REFUSED_MS } else { FAILED_MS })
        }
        Err(_) => (None, FAILED_MS),
    };
    Answer {
        room,
        until: engine.clock.now_ms().saturating_add(counts_ms),
    }
}
