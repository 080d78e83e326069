//! The task that keeps presence: gathers changes for a moment, looks up who is concerned, tells them, has other servers
//! told, and stores when users were last seen. Nobody waits for it.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use hearth_storage::{RoomNid, UserNid, log::Membership, presence as stored};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Presence,
    book::{Found, Lookup},
    servers,
};
use crate::{Engine, Error, users};

/// How long changes gather before they are told: who comes and goes within it is no news.
const GATHERING: Duration = Duration::from_millis(200);
/// How long they gather at most, where many are told.
const LONGEST_GATHERING: Duration = Duration::from_secs(2);
/// Where many connections are told, it is done so seldom that no more than this number are told in a millisecond.
const TOLD_IN_A_MILLISECOND: usize = 1;
/// The clock is looked at that often, while something comes by itself. It may jump.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often what need not be remembered is forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How long the database is left alone after it failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Users who were there when the server ended and are waited for.
const MOST_EXPECTED: i64 = 100_000;

/// Keeps presence for as long as there is an engine.
pub(crate) async fn keep(engine: Weak<Engine>) {
    let Some(alive) = engine.upgrade() else { return };
    let (presence, shutdown) = (Arc::clone(&alive.presence), alive.shutdown.clone());
    drop(alive);
    if !presence.settings.enabled {
        return;
    }
    let mut is_begun = false;
    let mut swept = Instant::now();
    loop {
        if is_begun && shutdown.run_until_cancelled(presence.wait()).await.is_none() {
            return;
        }
        let Some(alive) = engine.upgrade() else { return };
        let told = match is_begun {
            true => round(&alive).await,
            false => begin(&alive).await,
        };
        if swept.elapsed() >= SWEEP_EVERY {
            presence.book.lock().sweep(alive.clock.now_ms());
            swept = Instant::now();
        }
        drop(alive);
        let pause = match told {
            Ok(told) => {
                is_begun = true;
                let many = Duration::from_millis((told / TOLD_IN_A_MILLISECOND) as u64);
                many.clamp(GATHERING, LONGEST_GATHERING)
            }
            Err(error) => {
                tracing::warn!(%error, "presence could not be looked up or stored; trying again");
                PAUSE
            }
        };
        if shutdown.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
    }
}

impl Presence {
    /// Returns when there is something to do, or may be.
    async fn wait(&self) {
        let (has_work, is_due) = {
            let book = self.book.lock();
            (
                book.has_work() || !self.came.lock().is_empty() || !self.arrived.lock().is_empty(),
                book.next_due().is_some(),
            )
        };
        if has_work {
            return;
        }
        match is_due {
            true => drop(timeout(LOOK_EVERY, self.work.notified()).await),
            false => self.work.notified().await,
        }
    }
}

/// Expects back who was there when the server ended.
async fn begin(engine: &Engine) -> Result<usize, Error> {
    let present = stored::present(&mut *engine.db.acquire().await?, MOST_EXPECTED).await?;
    let now = engine.clock.now_ms();
    let mut book = engine.presence.book.lock();
    for last_seen in present {
        book.expect_back(last_seen, now);
    }
    Ok(0)
}

/// Tells what there is to tell. Gives how many connections were told.
async fn round(engine: &Arc<Engine>) -> Result<usize, Error> {
    let presence = &engine.presence;
    take_in_arrived(engine).await?;
    let lookups = {
        let mut book = presence.book.lock();
        book.turn(engine.clock.now_ms());
        book.lookups()
    };
    look_up(engine, &lookups).await?;
    let announced = {
        let mut book = presence.book.lock();
        let announced = book.announce(engine.clock.now_ms());
        presence.version.send_replace(book.version());
        metrics::gauge!("hearth_presence_known").set(book.len() as f64);
        announced
    };
    for user_nid in &announced.concerned {
        engine.waiting.wake(*user_nid);
    }
    metrics::counter!("hearth_presence_changes_total").increment(announced.news.len() as u64);
    metrics::counter!("hearth_presence_told_total").increment(announced.connections as u64);
    if presence.settings.to_servers {
        servers::tell(engine, announced.news).await?;
        servers::tell_newcomers(engine).await?;
    } else {
        presence.came.lock().clear();
    }
    store(engine, false).await?;
    Ok(announced.connections)
}

/// Has those users of other servers looked up who are in a room that came to this server, or of which more is known.
async fn take_in_arrived(engine: &Engine) -> Result<(), Error> {
    let presence = &engine.presence;
    loop {
        let Some(room_nid) = presence.arrived.lock().first().copied() else {
            return Ok(());
        };
        let outside = presence.book.lock().remotes_outside(room_nid);
        if !outside.is_empty() {
            let inside = stored::among(&mut *engine.db.acquire().await?, room_nid, &outside).await?;
            let mut book = presence.book.lock();
            for user_nid in inside {
                book.doubt(user_nid, true);
            }
        }
        presence.arrived.lock().remove(&room_nid);
    }
}

async fn look_up(engine: &Engine, lookups: &[Lookup]) -> Result<(), Error> {
    if lookups.is_empty() {
        return Ok(());
    }
    let unread = lookups.iter().filter(|lookup| lookup.is_unread);
    let unread: Vec<UserNid> = unread.map(|lookup| lookup.user_nid).collect();
    let mut read = HashMap::new();
    if !unread.is_empty() {
        let rows = stored::of_users(&mut *engine.db.acquire().await?, &unread).await?;
        read.extend(rows.into_iter().map(|row| (row.user_nid, row)));
    }
    // What memory has of a user is what the log says: of others' users that is not all.
    let remote = lookups.iter().filter(|lookup| lookup.is_remote);
    let remote: Vec<UserNid> = remote.map(|lookup| lookup.user_nid).collect();
    let mut rooms_of_remote: HashMap<UserNid, Vec<RoomNid>> = HashMap::new();
    if !remote.is_empty() {
        let rows = stored::rooms_of(&mut *engine.db.acquire().await?, &remote).await?;
        for (user_nid, room_nid) in rows {
            rooms_of_remote.entry(user_nid).or_default().push(room_nid);
        }
    }
    for lookup in lookups {
        let mut found = Found {
            rooms: rooms_of_remote.remove(&lookup.user_nid).unwrap_or_default(),
            ..Found::default()
        };
        if !lookup.is_remote {
            let user = users::load(engine, lookup.user_nid).await?;
            found = Found {
                rooms: user.rooms_with(Membership::Join).collect(),
                is_hidden: user.preferences.hides_presence(),
                stored: read
                    .remove(&lookup.user_nid)
                    .map(|row| (row.last_active_at, row.status_msg)),
            };
        }
        let now = engine.clock.now_ms();
        engine.presence.book.lock().place(lookup, found, now);
    }
    Ok(())
}

/// Stores when users were last seen: those for whom it is time, or all.
async fn store(engine: &Engine, is_end: bool) -> Result<(), Error> {
    let now = engine.clock.now_ms();
    let all = {
        let mut book = engine.presence.book.lock();
        match is_end {
            true => book.take_all_to_store(now),
            false => book.take_to_store(now),
        }
    };
    if all.is_empty() {
        return Ok(());
    }
    let written = async { stored::store(&mut *engine.db.acquire().await?, &all).await };
    written.await.map_err(|error| {
        engine.presence.book.lock().not_stored(&all, now);
        error.into()
    })
}

/// Stores when everyone was last seen: the server ends.
pub(crate) async fn settle(engine: &Engine) {
    if let Err(error) = store(engine, true).await {
        tracing::warn!(%error, "it could not be stored when users were last seen");
    }
}
