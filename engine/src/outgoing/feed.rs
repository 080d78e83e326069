//! From the log to the servers: what the follower notes as it brings memory up, given to the queue of each server that
//! it goes to. What was not noted, before this process or because too much came at once, is read off the log.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use hearth_storage::{
    Position, RoomNid, UserNid,
    device_lists::OutgoingChange,
    log::{DeviceListChange, Entry, EntryKind, Membership, OutgoingToDevice, Receipt},
    outgoing::{self as stored, OutgoingEvent},
    to_device,
};
use parking_lot::Mutex;
use ruma::OwnedServerName;
use tokio::sync::Notify;

use super::{
    edus::{self, Kind},
    lists,
    newcomer::{self, Newcomer},
    whom::{self, Recipients},
};
use crate::{
    Engine, Error,
    rooms::{self, Room},
    ticks,
};

/// What is noted at most and not given to queues yet; 100 bytes each. Nobody takes it where this server does not
/// federate any more.
const MOST_NOTED: usize = 10_000;
/// Events that are read off the log at once.
const PAGE: i64 = 500;
/// Receipts that are read off the log at most: those of the moment before a stop.
const RECEIPTS: i64 = 5_000;
/// How long the database is left alone after it failed.
const PAUSE: Duration = Duration::from_millis(500);
/// Servers take somebody to have stopped typing who has not said otherwise for half a minute or more.
const TYPING_AGAIN: Duration = Duration::from_secs(20);
/// Who types here, as it was told to others.
const MOST_TYPING: usize = 10_000;

/// What goes to other servers, as it is noted.
#[derive(Debug)]
enum Item {
    /// An event, and its recipients where its room is in memory.
    Event(OutgoingEvent, Option<Recipients>),
    /// A receipt, and the servers in the room where that is in memory.
    Receipt(Position, Receipt, Option<Arc<[OwnedServerName]>>),
    /// A user began to type, or stopped.
    Typing(RoomNid, UserNid, bool, Arc<[OwnedServerName]>),
    /// A server came into a room.
    Newcomer(Newcomer),
    /// Messages to devices of servers.
    Messages(Position, Vec<OwnedServerName>),
    /// Keys of a user changed, of this server perhaps.
    DeviceList(OutgoingChange),
}

/// What was noted and waits to be given to queues.
#[derive(Debug, Default)]
pub(super) struct Feed {
    state: Mutex<FeedState>,
    news: Notify,
    typing: Mutex<HashMap<(RoomNid, UserNid), Instant>>,
}

#[derive(Debug, Default)]
struct FeedState {
    items: Vec<Item>,
    /// The position of the last that was noted, or should have been.
    latest: Position,
    /// Something was not noted.
    is_short: bool,
}

impl Feed {
    fn note(&self, position: Option<Position>, item: Item) {
        {
            let mut state = self.state.lock();
            if let Some(position) = position {
                state.latest = state.latest.max(position);
            }
            if state.items.len() >= MOST_NOTED {
                state.items = Vec::new();
                state.is_short = true;
            }
            if !state.is_short {
                state.items.push(item);
            }
        }
        self.news.notify_one();
    }

    /// What was noted; or nothing, with the position up to which the log has to be read.
    fn take(&self) -> Result<Vec<Item>, Position> {
        let mut state = self.state.lock();
        match std::mem::take(&mut state.is_short) {
            true => Err(state.latest),
            false => Ok(std::mem::take(&mut state.items)),
        }
    }

    /// The log lost what was after `position`.
    pub fn cut_back(&self, position: Position) {
        *self.state.lock() = FeedState {
            items: Vec::new(),
            latest: position,
            is_short: true,
        };
        self.news.notify_one();
    }
}

/// Notes an entry about a room, if it goes to other servers. The room in memory has the entry by now, and of those at
/// its position not yet those that follow it: who joins by an event is not there before it.
pub(crate) fn note(engine: &Engine, room_nid: RoomNid, entry: &Entry) {
    match &entry.kind {
        // A join through another server, which sends it on.
        EntryKind::Event(stored, _) if stored.after_gap => {}
        EntryKind::Event(stored, _) => {
            let outgoing = OutgoingEvent {
                position: entry.position,
                room_nid,
                event_nid: stored.event_nid,
            };
            note_event(engine, outgoing, &stored.event_id);
        }
        EntryKind::Receipt(receipt) if Kind::of(&receipt.receipt_type).is_some() => {
            let room = engine.rooms.get(room_nid);
            let seen = room.and_then(|room| {
                room.read(|view| (view.members.is_local(receipt.user_nid), view.members.present()))
            });
            let present = match seen {
                Some((false, _)) => return,
                Some((true, present)) if is_alone(engine, &present) => return,
                Some((true, present)) => Some(present),
                None => None,
            };
            let item = Item::Receipt(entry.position, receipt.clone(), present);
            engine.outgoing.feed.note(Some(entry.position), item);
        }
        EntryKind::Membership(change) if change.membership == Membership::Join && !change.continues => {
            let room = engine.rooms.get(room_nid);
            let newcomer = room.and_then(|room| {
                room.read(|view| {
                    let server = view.members.only_one_of(change.user_nid)?.clone();
                    Some(Newcomer {
                        server,
                        room_nid,
                        position: entry.position,
                        sequence: view.sequence,
                    })
                })
                .flatten()
            });
            if let Some(newcomer) = newcomer {
                let item = Item::Newcomer(newcomer);
                engine.outgoing.feed.note(Some(entry.position), item);
            }
        }
        _ => {}
    }
}

/// Notes that keys of a user changed, for everyone to see.
pub(crate) fn note_device_list(engine: &Engine, position: Position, change: &DeviceListChange) {
    let change = OutgoingChange {
        position,
        user_nid: change.user_nid,
        device_id: Arc::clone(&change.device_id),
    };
    engine
        .outgoing
        .feed
        .note(Some(position), Item::DeviceList(change));
}

/// Notes messages to devices of other servers, which are rows by now.
pub(crate) fn note_messages(engine: &Engine, position: Position, messages: &[OutgoingToDevice]) {
    let servers: BTreeSet<&str> = messages.iter().map(|message| &*message.destination).collect();
    let servers: Vec<OwnedServerName> = servers
        .into_iter()
        .filter_map(|server| OwnedServerName::try_from(server).ok())
        .collect();
    if !servers.is_empty() {
        let item = Item::Messages(position, servers);
        engine.outgoing.feed.note(Some(position), item);
    }
}

fn owe_messages(engine: &Engine, position: Position, servers: &[OwnedServerName]) {
    engine.outgoing.each(engine, servers.iter(), |destination, _| {
        destination.messages.owe(position);
    });
}

fn note_event(engine: &Engine, outgoing: OutgoingEvent, event_id: &str) {
    let feed = &engine.outgoing.feed;
    let room = engine.rooms.get(outgoing.room_nid);
    let present = room.and_then(|room| room.read(|view| view.members.present()));
    let event = engine.events.get(outgoing.event_nid);
    let (Some(present), Some(event)) = (present, event) else {
        return feed.note(Some(outgoing.position), Item::Event(outgoing, None));
    };
    if event.membership().is_none() && is_alone(engine, &present) {
        return;
    }
    let is_ours = event.sender().server_name() == engine.config.server_name;
    if !is_ours && !engine.outgoing.relays(event_id) {
        return;
    }
    let recipients = Recipients::of(&event, present);
    if recipients
        .iter()
        .any(|server| *server != engine.config.server_name)
    {
        feed.note(Some(outgoing.position), Item::Event(outgoing, Some(recipients)));
    }
}

fn is_alone(engine: &Engine, present: &[OwnedServerName]) -> bool {
    present.iter().all(|server| *server == engine.config.server_name)
}

/// Notes that a user of this server began to type in a room, stopped, or goes on.
pub(crate) fn note_typing(
    engine: &Engine,
    room_nid: RoomNid,
    user_nid: UserNid,
    is_typing: bool,
    changed: bool,
) {
    let room = engine.rooms.get(room_nid);
    let present = room.and_then(|room| {
        room.read(|view| view.members.is_local(user_nid).then(|| view.members.present()))
            .flatten()
    });
    let Some(present) = present.filter(|present| !is_alone(engine, present)) else {
        return;
    };
    let feed = &engine.outgoing.feed;
    {
        let mut told = feed.typing.lock();
        let key = (room_nid, user_nid);
        if !is_typing {
            told.remove(&key);
        } else if !changed && told.get(&key).is_some_and(|at| at.elapsed() < TYPING_AGAIN) {
            return;
        } else if told.len() < MOST_TYPING || told.contains_key(&key) {
            told.insert(key, Instant::now());
        }
    }
    feed.note(None, Item::Typing(room_nid, user_nid, is_typing, present));
}

/// Gives what is noted to the queues, for as long as there is an engine. What comes after `served` was not noted before.
pub(super) async fn dispatch(engine: Weak<Engine>, served: Position) {
    let Some(alive) = engine.upgrade() else { return };
    let mut applied = alive.log.watch();
    let shutdown = alive.shutdown.clone();
    let upto = applied.borrow_and_update().position;
    if !insist(
        &engine,
        |engine| async move { read_log(&engine, served, upto).await },
    )
    .await
    {
        return;
    }
    alive.outgoing.set_dispatched(upto);
    drop(alive);
    loop {
        let Some(alive) = engine.upgrade() else { return };
        // All up to here is noted: the follower moves the head last.
        let head = applied.borrow_and_update().position;
        match alive.outgoing.feed.take() {
            Ok(items) => {
                for item in items {
                    let item = &item;
                    if !insist(&engine, |engine| async move { give(&engine, item).await }).await {
                        return;
                    }
                }
                alive.outgoing.set_dispatched(head);
            }
            Err(latest) => {
                let (from, upto) = (alive.outgoing.dispatched(), head.max(latest));
                if !insist(
                    &engine,
                    |engine| async move { read_log(&engine, from, upto).await },
                )
                .await
                {
                    return;
                }
                alive.outgoing.set_dispatched(upto);
            }
        }
        let outgoing = Arc::clone(&alive.outgoing);
        drop(alive);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = outgoing.feed.news.notified() => {}
            changed = applied.changed() => if changed.is_err() { return },
        }
    }
}

/// Tries until the database lets it be done; false where there is no engine any more.
async fn insist<F: Future<Output = Result<(), Error>>>(
    engine: &Weak<Engine>,
    attempt: impl Fn(Arc<Engine>) -> F,
) -> bool {
    loop {
        let Some(alive) = engine.upgrade() else {
            return false;
        };
        if alive.shutdown.is_cancelled() {
            return false;
        }
        match attempt(alive).await {
            Ok(()) => return true,
            Err(error) => {
                tracing::warn!(%error, "what goes to other servers could not be read; trying again")
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn give(engine: &Arc<Engine>, item: &Item) -> Result<(), Error> {
    match item {
        Item::Event(outgoing, Some(recipients)) => owe(engine, *outgoing, recipients),
        Item::Event(outgoing, None) => {
            if is_outgoing(engine, outgoing).await? {
                owe_of_room(engine, outgoing.room_nid, &[*outgoing]).await?;
            }
        }
        Item::Receipt(position, receipt, Some(present)) => owe_receipt(engine, *position, receipt, present),
        Item::Receipt(position, receipt, None) => {
            let Some(room) = rooms::by_nid(engine, receipt.room_nid).await? else {
                return Ok(());
            };
            let present = room.read(|view| (view.members.is_local(receipt.user_nid), view.members.present()));
            if let Some((true, present)) = present {
                owe_receipt(engine, *position, receipt, &present);
            }
        }
        Item::Typing(room_nid, user_nid, is_typing, present) => {
            let mut room_ids = rooms::ids(engine, &[*room_nid]).await?;
            let mut user_ids = engine.interner.user_ids(&[*user_nid]).await?;
            let ids = room_ids.remove(room_nid).zip(user_ids.remove(user_nid));
            let edu = ids.and_then(|(room_id, user_id)| edus::typing(&room_id, &user_id, *is_typing));
            if let Some(edu) = edu {
                engine.outgoing.add_ephemeral(engine, present.iter(), &edu);
            }
        }
        Item::Messages(position, servers) => owe_messages(engine, *position, servers),
        Item::DeviceList(change) => lists::give(engine, change).await?,
        Item::Newcomer(newcomer) => {
            if let Some(unseen) = newcomer::unseen_by(engine, newcomer).await? {
                let server = std::iter::once(&newcomer.server);
                engine
                    .outgoing
                    .each(engine, server, |destination, now| destination.owe(unseen, now));
            }
        }
    }
    Ok(())
}

/// Whether an event whose room was not in memory goes to other servers at all.
async fn is_outgoing(engine: &Engine, outgoing: &OutgoingEvent) -> Result<bool, Error> {
    let mut connection = engine.db.acquire().await?;
    let (own, position) = (engine.config.server_name.as_str(), outgoing.position);
    let before = Position(position.0 - 1);
    Ok(!stored::events(&mut connection, own, before, position, 1)
        .await?
        .is_empty())
}

fn owe(engine: &Engine, outgoing: OutgoingEvent, recipients: &Recipients) {
    engine
        .outgoing
        .each(engine, recipients.iter(), |destination, now| {
            destination.owe(outgoing, now)
        });
}

fn owe_receipt(engine: &Arc<Engine>, position: Position, receipt: &Receipt, present: &[OwnedServerName]) {
    let Some(kind) = Kind::of(&receipt.receipt_type) else {
        return;
    };
    let (key, pending) = edus::split(position, kind, receipt);
    let owe = move |engine: &Engine, servers: &mut dyn Iterator<Item = &OwnedServerName>| {
        engine.outgoing.each(engine, servers, |destination, now| {
            destination.owe_receipt(key.clone(), pending.clone(), now);
        });
    };
    match kind {
        Kind::Read => owe(engine, &mut present.iter()),
        Kind::Delivered => {
            let (known, unknown) = ticks::among(engine, present.iter());
            owe(engine, &mut known.into_iter());
            for server in unknown {
                let (engine, owe) = (Arc::clone(engine), owe.clone());
                tokio::spawn(async move {
                    if is_hearth(&engine, &server).await {
                        owe(&engine, &mut std::iter::once(&server));
                    }
                });
            }
        }
    }
}

/// Whether a server is one to be told what was delivered; not waited for when this one stops.
async fn is_hearth(engine: &Engine, server: &OwnedServerName) -> bool {
    tokio::select! {
        () = engine.shutdown.cancelled() => false,
        is_hearth = ticks::is_hearth(engine, server) => is_hearth,
    }
}

/// Gives events of one room, which were not noted with their recipients.
async fn owe_of_room(engine: &Arc<Engine>, room_nid: RoomNid, events: &[OutgoingEvent]) -> Result<(), Error> {
    let Some(room) = rooms::by_nid(engine, room_nid).await? else {
        return Ok(());
    };
    for (outgoing, recipients) in whom::recipients(engine, &room, events).await? {
        owe(engine, outgoing, &recipients);
    }
    Ok(())
}

/// Gives what waits of messages to devices, before anything that may have been said after them.
async fn give_all_messages(engine: &Engine) -> Result<(), Error> {
    let waiting = {
        let mut connection = engine.db.acquire().await?;
        to_device::destinations(&mut connection).await?
    };
    for (server, newest) in waiting {
        if let Ok(server) = OwnedServerName::try_from(server) {
            owe_messages(engine, newest, &[server]);
        }
    }
    Ok(())
}

/// Gives what the log says after `from` up to `upto`.
async fn read_log(engine: &Arc<Engine>, from: Position, upto: Position) -> Result<(), Error> {
    give_all_messages(engine).await?;
    lists::read_log(engine, from, upto).await?;
    let own = engine.config.server_name.as_str();
    let mut after = from;
    loop {
        let page = {
            let mut connection = engine.db.acquire().await?;
            stored::events(&mut connection, own, after, upto, PAGE).await?
        };
        let Some(last) = page.last() else { break };
        after = last.position;
        give_page(engine, &page).await?;
    }
    let receipts = {
        let mut connection = engine.db.acquire().await?;
        stored::receipts(&mut connection, own, None, (from, upto), RECEIPTS).await?
    };
    for (position, receipt) in receipts {
        give(engine, &Item::Receipt(position, receipt, None)).await?;
    }
    Ok(())
}

/// Gives events of several rooms in their order.
async fn give_page(engine: &Arc<Engine>, page: &[OutgoingEvent]) -> Result<(), Error> {
    let mut by_room: HashMap<RoomNid, Vec<OutgoingEvent>> = HashMap::new();
    for event in page {
        by_room.entry(event.room_nid).or_default().push(*event);
    }
    let mut all: Vec<(OutgoingEvent, Recipients)> = Vec::with_capacity(page.len());
    for (room_nid, events) in by_room {
        if let Some(room) = shared(engine, room_nid).await? {
            all.extend(whom::recipients(engine, &room, &events).await?);
        }
    }
    all.sort_by_key(|(event, _)| event.position);
    for (event, recipients) in all {
        owe(engine, event, &recipients);
    }
    Ok(())
}

/// A room in which other servers are, or were.
async fn shared(engine: &Arc<Engine>, room_nid: RoomNid) -> Result<Option<Arc<Room>>, Error> {
    let room = rooms::by_nid(engine, room_nid).await?;
    let is_shared = |room: &Arc<Room>| {
        let all_local = room.read(|view| view.members.iter().all(|(_, member)| member.is_local));
        all_local != Some(true)
    };
    Ok(room.filter(is_shared))
}
