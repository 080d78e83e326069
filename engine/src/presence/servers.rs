//! Presence between servers (server-server API, "Presence"): which servers are told of whom, and what they say of their
//! own users.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use hearth_storage::{
    RoomNid, UserNid,
    log::{Entry, EntryKind, Membership},
    memberships, outgoing as owed,
};
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

use super::{State, book::News, person::Shown};
use crate::{Engine, Error, outgoing::PresenceUpdate};

/// Rooms that are not in memory, and whose servers are remembered.
const MOST_ROOMS: usize = 10_000;
/// For how long they are.
const REMEMBERED: Duration = Duration::from_secs(5 * 60);
/// A room of more servers is none by which they are told: each that comes or goes would have this server ask all of them,
/// for users who hardly know each other.
const MOST_SERVERS: usize = 100;
/// Users of whom a server is told that came into a room, or back.
const MOST_AT_ONCE: usize = 500;
/// Servers that wait to be told.
const MOST_CAME: usize = 1_000;

/// The servers in rooms that are not in memory: such a room need not be loaded because somebody in it came online.
#[derive(Debug)]
pub(super) struct KnownServers(Cache<RoomNid, (Instant, Arc<[OwnedServerName]>)>);

impl KnownServers {
    pub fn new() -> Self {
        Self(Cache::new(MOST_ROOMS))
    }
}

/// A server that is to be told who is there.
#[derive(Debug)]
pub(super) struct Newcomer {
    server: OwnedServerName,
    /// The room that it came into; nothing for one that is back.
    room_nid: Option<RoomNid>,
}

/// What a server says of one of its users.
#[derive(Debug)]
pub(crate) struct Said {
    pub user_id: OwnedUserId,
    pub state: State,
    /// Milliseconds; nothing for a user who hides.
    pub last_active_ago: Option<i64>,
    pub currently_active: bool,
    pub status_msg: Option<Arc<str>>,
}

/// Takes note of an entry of the log about a room, which memory has by now.
pub(crate) fn note(engine: &Engine, room_nid: RoomNid, entry: &Entry) {
    let EntryKind::Membership(change) = &entry.kind else {
        return;
    };
    if change.continues {
        return;
    }
    let presence = &engine.presence;
    presence.servers.0.remove(&room_nid);
    let has_joined = change.membership == Membership::Join;
    presence.change(|book| book.doubt(change.user_nid, has_joined));
    let room = engine.rooms.peek(room_nid).filter(|_| has_joined);
    let newcomer = room.and_then(|room| {
        room.read(|view| view.members.only_one_of(change.user_nid).cloned())
            .flatten()
    });
    if let Some(server) = newcomer {
        came(engine, server, Some(room_nid));
    }
}

/// A room came to this server through another, or more of its state is known, without a word in the log about each member.
pub(crate) fn arrived(engine: &Engine, room_nid: RoomNid) {
    let presence = &engine.presence;
    if presence.settings.enabled && presence.settings.from_servers {
        presence.arrived.lock().insert(room_nid);
        presence.work.notify_one();
    }
}

/// A server takes again what it is sent.
pub(crate) fn recovered(engine: &Engine, server: &ServerName) {
    came(engine, server.to_owned(), None);
}

fn came(engine: &Engine, server: OwnedServerName, room_nid: Option<RoomNid>) {
    let presence = &engine.presence;
    if !presence.settings.enabled || !presence.settings.to_servers {
        return;
    }
    let mut came = presence.came.lock();
    if came.len() < MOST_CAME {
        came.push(Newcomer { server, room_nid });
    }
    drop(came);
    presence.work.notify_one();
}

/// A server can't be reached for a while: its users are offline, for all that is known.
pub(crate) fn unreachable(engine: &Engine, server: &ServerName) {
    let now = engine.clock.now_ms();
    engine.presence.change(|book| book.lose(server, now));
}

/// Has other servers told of this one's users.
pub(super) async fn tell(engine: &Engine, news: Vec<News>) -> Result<(), Error> {
    let rooms: BTreeSet<RoomNid> = news.iter().flat_map(|one| one.rooms.iter().copied()).collect();
    let servers = servers_in(engine, &rooms).await?;
    let updates = updates(engine, &news).await?;
    for one in &news {
        let Some(update) = updates.get(&one.user_nid) else {
            continue;
        };
        let there = one.rooms.iter().filter_map(|room_nid| servers.get(room_nid));
        let there = there.filter(|servers| servers.len() <= MOST_SERVERS);
        let there: BTreeSet<&OwnedServerName> = there.flat_map(|servers| servers.iter()).collect();
        engine
            .outgoing
            .add_presence(engine, there.into_iter(), one.user_nid, update);
    }
    Ok(())
}

/// Tells servers that came into a room, or back, who is there.
pub(super) async fn tell_newcomers(engine: &Engine) -> Result<(), Error> {
    let came = std::mem::take(&mut *engine.presence.came.lock());
    for Newcomer { server, room_nid } in came {
        let rooms = match room_nid {
            Some(room_nid) => BTreeSet::from([room_nid]),
            None => {
                let mut connection = engine.db.acquire().await?;
                let head = engine.log.head().position;
                let shared = owed::rooms_shared(&mut connection, server.as_str(), head).await?;
                shared.into_iter().collect()
            }
        };
        let servers = servers_in(engine, &rooms).await?;
        let is_small = |room_nid: &RoomNid| {
            let servers = servers.get(room_nid);
            servers.is_some_and(|servers| servers.len() <= MOST_SERVERS)
        };
        let rooms: Vec<RoomNid> = rooms.into_iter().filter(is_small).collect();
        let there = engine.presence.book.lock().there(&rooms, MOST_AT_ONCE);
        let updates = updates(engine, &there).await?;
        for (user_nid, update) in &updates {
            engine
                .outgoing
                .add_presence(engine, std::iter::once(&server), *user_nid, update);
        }
    }
    Ok(())
}

/// The servers in rooms, this one not among them.
async fn servers_in(
    engine: &Engine,
    rooms: &BTreeSet<RoomNid>,
) -> Result<HashMap<RoomNid, Arc<[OwnedServerName]>>, Error> {
    let known = &engine.presence.servers.0;
    let mut servers = HashMap::with_capacity(rooms.len());
    let mut missing = Vec::new();
    for room_nid in rooms {
        let room = engine.rooms.peek(*room_nid);
        let present = room.and_then(|room| room.read(|view| view.members.present()));
        let present = present.or_else(|| {
            let (at, present) = known.get(room_nid)?;
            (at.elapsed() < REMEMBERED).then_some(present)
        });
        match present {
            Some(present) => drop(servers.insert(*room_nid, present)),
            None => missing.push(*room_nid),
        }
    }
    if !missing.is_empty() {
        let mut connection = engine.db.acquire().await?;
        let mut found: HashMap<RoomNid, Vec<OwnedServerName>> = HashMap::new();
        for (room_nid, server) in memberships::servers_by_room(&mut connection, &missing).await? {
            if let Ok(server) = ServerName::parse(&server) {
                found.entry(room_nid).or_default().push(server);
            }
        }
        for (room_nid, present) in found {
            let present: Arc<[OwnedServerName]> = present.into();
            known.insert(room_nid, (Instant::now(), Arc::clone(&present)));
            servers.insert(room_nid, present);
        }
    }
    Ok(servers)
}

async fn updates(engine: &Engine, news: &[News]) -> Result<HashMap<UserNid, Arc<PresenceUpdate>>, Error> {
    let nids: Vec<UserNid> = news.iter().map(|one| one.user_nid).collect();
    let ids = engine.interner.user_ids(&nids).await?;
    let updates = news.iter().filter_map(|one| {
        let update = PresenceUpdate {
            user_id: ids.get(&one.user_nid)?.clone(),
            shown: one.shown.clone(),
        };
        Some((one.user_nid, Arc::new(update)))
    });
    Ok(updates.collect())
}

/// Notes what a server says of its users, as far as they are users that are known here.
pub(crate) async fn receive(engine: &Engine, origin: &ServerName, said: Vec<Said>) -> Result<(), Error> {
    let settings = &engine.presence.settings;
    if !settings.enabled || !settings.from_servers {
        return Ok(());
    }
    let own = said.iter().filter(|said| said.user_id.server_name() == origin);
    let ids: Vec<&UserId> = own.map(|said| &*said.user_id).collect();
    let known = engine.interner.find_users(&ids).await?;
    let now = engine.clock.now_ms();
    engine.presence.change(|book| {
        for said in said {
            let Some(user_nid) = known.get(&said.user_id) else {
                continue;
            };
            let shown = Shown {
                state: said.state,
                // One from the future would never be long ago.
                last_active_at: said
                    .last_active_ago
                    .map(|ago| now.saturating_sub(ago.max(0)).max(0)),
                currently_active: said.currently_active && said.state == State::Online,
                status_msg: said.status_msg,
                is_hidden: false,
            };
            book.hear(*user_nid, origin, shown, now);
        }
    });
    Ok(())
}
