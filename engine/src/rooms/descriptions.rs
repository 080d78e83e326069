//! What rooms look like from outside: the little that the directory, spaces and summaries tell of them. Kept in memory,
//! bounded, without the rooms themselves: thousands can be looked through that nobody uses.
//!
//! Whoever follows the log drops the description of a room that changed ([`Descriptions::apply`]). One that is being
//! made at that moment has its place in the cache already, and loses it: it is used once and not kept.

mod make;

use std::{collections::HashMap, sync::Arc, time::Duration};

use hearth_storage::{RoomNid, log::EntryKind};
use quick_cache::{
    DefaultHashBuilder, Weighter,
    sync::{Cache, DefaultLifecycle, GuardResult, PlaceholderGuard},
};
use ruma::{
    ServerName,
    events::room::server_acl::RoomServerAclEventContent,
    room::{JoinRuleSummary, RoomSummary},
};

use super::space_children::Child;
use crate::{Engine, Error};

/// The memory that descriptions may take, in bytes.
const BUDGET: u64 = 32 << 20;
/// Rooms described at once, each with its whole state in memory for the moment.
const AT_ONCE: usize = 50;

/// What a room looks like from outside.
#[derive(Debug)]
pub(crate) struct Description {
    /// Its number.
    pub room_nid: RoomNid,
    /// What anybody is told who may know of it.
    pub summary: RoomSummary,
    /// Whether a user of this server is in it. If not, this is what it was like once, or nothing.
    pub is_here: bool,
    /// Of a space: its children, in the order in which they are shown.
    pub children: Vec<Child>,
    federates: bool,
    acl: Option<RoomServerAclEventContent>,
}

impl Description {
    /// Whether users of another server can be in it at all.
    pub fn admits(&self, server: &ServerName) -> bool {
        self.federates && self.acl.as_ref().is_none_or(|acl| acl.is_allowed(server))
    }

    fn weight(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let children: usize = self.children.iter().map(Child::weight).sum();
        512 + text(&self.summary.name) + text(&self.summary.topic) + children
    }
}

/// Whether anyone may know of a room: who comes to it needs nobody's leave, or may ask for it, or may read it as it is
/// (client-server API, `GET …/hierarchy`).
pub(crate) fn is_open(summary: &RoomSummary) -> bool {
    let may_come = matches!(
        summary.join_rule,
        JoinRuleSummary::Public | JoinRuleSummary::Knock | JoinRuleSummary::KnockRestricted(_)
    );
    may_come || summary.world_readable
}

#[derive(Debug, Clone)]
struct ByWeight;

impl Weighter<RoomNid, Arc<Description>> for ByWeight {
    fn weight(&self, _: &RoomNid, description: &Arc<Description>) -> u64 {
        description.weight() as u64
    }
}

type Place<'a> = PlaceholderGuard<
    'a,
    RoomNid,
    Arc<Description>,
    ByWeight,
    DefaultHashBuilder,
    DefaultLifecycle<RoomNid, Arc<Description>>,
>;

/// Descriptions in memory.
#[derive(Debug)]
pub(crate) struct Descriptions(Cache<RoomNid, Arc<Description>, ByWeight>);

impl Descriptions {
    pub fn new() -> Self {
        Self(Cache::with_weighter(1024, BUDGET, ByWeight))
    }

    /// Forgets everything: the log has parted from what was seen.
    pub fn clear(&self) {
        self.0.clear();
    }

    /// Forgets what an entry of the log may have changed. After the room in memory reflects it.
    pub fn apply(&self, entry: &EntryKind) {
        let room_nid = match entry {
            EntryKind::Event(event, changes) if event.after_gap || !changes.is_empty() => event.room_nid,
            EntryKind::State(room_nid, _) => *room_nid,
            EntryKind::Membership(membership) => membership.room_nid,
            EntryKind::Redaction(redaction) => redaction.room_nid,
            _ => return,
        };
        self.0.remove(&room_nid);
    }
}

/// What rooms look like from outside; numbers that stand for nothing are passed over.
pub(crate) async fn of_rooms(
    engine: &Engine,
    room_nids: &[RoomNid],
) -> Result<HashMap<RoomNid, Arc<Description>>, Error> {
    let mut found = HashMap::with_capacity(room_nids.len());
    let mut missing: Vec<(RoomNid, Option<Place<'_>>)> = Vec::new();
    for room_nid in room_nids {
        if found.contains_key(room_nid) || missing.iter().any(|(other, _)| other == room_nid) {
            continue;
        }
        match engine
            .descriptions
            .0
            .get_value_or_guard(room_nid, Some(Duration::ZERO))
        {
            GuardResult::Value(description) => drop(found.insert(*room_nid, description)),
            GuardResult::Guard(place) => missing.push((*room_nid, Some(place))),
            // Somebody else is making it. To wait for each other could have no end.
            GuardResult::Timeout => missing.push((*room_nid, None)),
        }
        if missing.len() == AT_ONCE {
            found.extend(make(engine, std::mem::take(&mut missing)).await?);
        }
    }
    found.extend(make(engine, missing).await?);
    Ok(found)
}

/// What one room looks like from outside.
pub(crate) async fn of_room(engine: &Engine, room_nid: RoomNid) -> Result<Option<Arc<Description>>, Error> {
    Ok(of_rooms(engine, &[room_nid]).await?.remove(&room_nid))
}

async fn make(
    engine: &Engine,
    missing: Vec<(RoomNid, Option<Place<'_>>)>,
) -> Result<Vec<(RoomNid, Arc<Description>)>, Error> {
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let room_nids: Vec<RoomNid> = missing.iter().map(|(room_nid, _)| *room_nid).collect();
    let mut descriptions = make::describe(engine, &room_nids).await?;
    let mut made = Vec::with_capacity(missing.len());
    for (room_nid, place) in missing {
        let Some(description) = descriptions.remove(&room_nid) else {
            continue;
        };
        if let Some(place) = place {
            // Refused where the room changed meanwhile.
            let _ = place.insert(Arc::clone(&description));
        }
        made.push((room_nid, description));
    }
    Ok(made)
}
