//! Follows the log's tail and brings memory up to it: rooms, users, and who waits.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use hearth_storage::{
    Position, StorageError,
    log::{self, Entry, EntryKind, Membership, TailMessage, TailReceiver},
};

use super::{LogHead, Subject};
use crate::{Engine, accounts, encryption, outgoing, presence, rooms, typing};

/// A tail that is silent for this long is checked against the table.
const SILENCE: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Follows `tail` until it or the engine is gone. Messages may be lost, doubled or late: what is missing is read from
/// the tables.
pub(crate) async fn follow(engine: Weak<Engine>, mut tail: TailReceiver) {
    loop {
        let next = tokio::time::timeout(SILENCE, tail.next()).await;
        let Some(engine) = engine.upgrade() else { return };
        match next {
            Ok(Some(message)) => accept(&engine, message).await,
            Ok(None) => return,
            Err(_) => check_silence(&engine).await,
        }
    }
}

async fn accept(engine: &Arc<Engine>, message: TailMessage) {
    let head = engine.log.head();
    if message.generation < head.generation {
        return;
    }
    if message.generation > head.generation {
        begin_generation(engine, message.generation).await;
    }
    let head = engine.log.head();
    if message.from > head.position {
        catch_up(engine, message.from).await;
    }
    let seen = engine.log.head().position;
    if message.to > seen {
        apply(
            engine,
            message.entries.iter().filter(|entry| entry.position > seen),
            message.to,
        )
        .await;
    }
}

/// The database failed over and the log lost its end: what memory holds may never have been committed. Goes back to
/// where the generations parted, which only the table knows: the message that told of it may be lost.
async fn begin_generation(engine: &Engine, generation: i32) {
    let seen = engine.log.head();
    let parted_at = loop {
        let read = async {
            let mut connection = engine.db.acquire().await?;
            log::parted_at(&mut connection, seen.generation).await
        };
        match read.await {
            Ok(parted_at) => break parted_at.unwrap_or(seen.position),
            Err(error) => {
                tracing::warn!(%error, "could not read where the log parted; trying again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    };
    let position = parted_at.min(seen.position);
    tracing::error!(
        generation,
        position = position.0,
        "a new generation of the log: memory starts anew"
    );
    while let Err(error) = rooms::partial::load(engine).await {
        tracing::warn!(%error, "could not see whose state is whole; trying again");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    engine.rooms.clear();
    engine.users.clear();
    engine.events.clear();
    engine.states.clear();
    engine.descriptions.clear();
    engine.directory.changed();
    engine.unread.clear();
    engine.transactions.clear();
    engine.told_members.clear();
    engine.ticks.cut_back();
    engine.presence.doubt_all();
    // Not of the log, and written by the same database that lost its end.
    engine.interner.clear();
    engine.numbers.begin_anew().await;
    while let Err(error) = encryption::begin(engine).await {
        tracing::warn!(%error, "could not see which rooms are encrypted; trying again");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    accounts::invalidate_all(&engine.accounts);
    engine.outgoing.cut_back(position);
    engine.encryption.cut_back(position);
    engine.log.recent.reset(position);
    engine.log.set_head(LogHead { generation, position });
    // A room that was put in memory meanwhile takes itself to be further than the log is.
    engine.rooms.clear();
}

async fn check_silence(engine: &Arc<Engine>) {
    let read = async {
        let mut connection = engine.db.acquire().await?;
        log::head(&mut connection).await
    };
    match read.await {
        Ok((generation, position)) => {
            if generation > engine.log.head().generation {
                begin_generation(engine, generation).await;
            }
            if position > engine.log.head().position {
                catch_up(engine, position).await;
            }
        }
        Err(error) => tracing::debug!(%error, "could not check the log's end"),
    }
}

/// Reads the gap up to `to` from the tables; tries until the database answers, since nothing may be passed over.
async fn catch_up(engine: &Arc<Engine>, to: Position) {
    loop {
        let from = engine.log.head().position;
        match read_gap(engine, from, to).await {
            Ok(entries) => return apply(engine, entries.iter(), to).await,
            Err(error) => {
                tracing::warn!(%error, from = from.0, to = to.0, "could not read a gap in the log; trying again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

async fn read_gap(engine: &Engine, from: Position, to: Position) -> Result<Vec<Entry>, StorageError> {
    let mut transaction = engine.db.begin_read().await?;
    log::read_range(&mut transaction, from, to).await
}

async fn apply(engine: &Arc<Engine>, entries: impl Iterator<Item = &Entry>, to: Position) {
    let mut woken = Vec::new();
    for entry in entries {
        match &entry.kind {
            EntryKind::AccountData(data) => {
                engine
                    .log
                    .recent
                    .push(entry.position, Subject::User(data.user_nid));
                engine.users.apply_account_data(entry.position, data);
                presence::note_account_data(engine, data);
                woken.push(Subject::User(data.user_nid));
            }
            EntryKind::Account(user_nid) => {
                accounts::invalidate(&engine.accounts, *user_nid);
                // Who waits finds out whether they still may.
                woken.push(Subject::User(*user_nid));
            }
            EntryKind::DeviceList(change) => encryption::device_lists::apply(engine, entry.position, change),
            EntryKind::ToDevice(sent) => {
                for message in &sent.messages {
                    engine.encryption.queues.note(message.device_nid, entry.position);
                    woken.push(Subject::User(message.user_nid));
                }
                outgoing::note_messages(engine, entry.position, &sent.outgoing);
            }
            kind => {
                let Some(room_nid) = kind.room() else { continue };
                engine.log.recent.push(entry.position, Subject::Room(room_nid));
                if let EntryKind::Membership(membership) = kind {
                    engine.users.apply_membership(entry.position, membership);
                    if membership.membership != Membership::Join {
                        typing::stop(engine, room_nid, membership.user_nid);
                    }
                    woken.push(Subject::User(membership.user_nid));
                }
                if rooms::partial::may_change(engine, room_nid, kind) {
                    rooms::partial::look_again(engine, room_nid).await;
                    presence::arrived(engine, room_nid);
                }
                rooms::apply(engine, room_nid, entry).await;
                encryption::device_lists::note(engine, room_nid, entry.position, kind);
                engine.descriptions.apply(kind);
                engine.directory.apply(kind);
                outgoing::note(engine, room_nid, entry);
                presence::note(engine, room_nid, entry);
                woken.push(Subject::Room(room_nid));
            }
        }
    }
    let head = engine.log.head();
    engine.log.set_head(LogHead { position: to, ..head });
    woken.dedup();
    for subject in woken {
        match subject {
            Subject::User(user_nid) => engine.waiting.wake(user_nid),
            Subject::Room(room_nid) => rooms::wake(engine, room_nid),
        }
    }
}
