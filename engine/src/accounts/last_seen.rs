//! When and where devices were last seen: noted at most once a minute per device, and written in the background,
//! whatever has gathered in a second in one statement.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use hearth_storage::{Database, DeviceNid, devices, devices::Sighting};
use tokio::{sync::watch, time::timeout};
use tokio_util::task::TaskTracker;

use super::Requester;
use crate::Engine;

/// What is written is that much behind at most.
const INTERVAL_MS: i64 = 60_000;

/// How long sightings gather before they are written: a write of its own for each would wait for the disk, and have
/// what somebody waits for wait with it.
const GATHERING: Duration = Duration::from_secs(1);

/// Sightings beyond this are dropped: the database has been away for long.
const MAX_PENDING: usize = 10_000;

/// How much of a User-Agent is kept.
const MAX_USER_AGENT_CHARS: usize = 256;

/// Sightings not yet written.
#[derive(Debug)]
pub(crate) struct LastSeen {
    pending: Arc<Mutex<Pending>>,
    writers: TaskTracker,
    /// Set: write at once what there is.
    hurry: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Pending {
    sightings: HashMap<DeviceNid, Sighting>,
    has_writer: bool,
}

impl LastSeen {
    pub(crate) fn new() -> Self {
        Self {
            pending: Arc::default(),
            writers: TaskTracker::new(),
            hurry: watch::Sender::new(false),
        }
    }
}

/// Notes that `requester` made a request just now. Does nothing within a minute of the last time.
pub fn note(engine: &Engine, requester: &Requester, address: Option<IpAddr>, user_agent: Option<&str>) {
    let now = engine.clock.now_ms();
    let last = requester.last_seen_at.load(Relaxed);
    // Whoever replaces the old time writes the new one. A clock that jumped back writes, too.
    if (0..INTERVAL_MS).contains(&(now - last))
        || requester
            .last_seen_at
            .compare_exchange(last, now, Relaxed, Relaxed)
            .is_err()
    {
        return;
    }
    let sighting = Sighting {
        device_nid: requester.device_nid,
        seen_at: now,
        address: address.map(|address| address.to_canonical().to_string()),
        user_agent: user_agent.map(|agent| {
            agent
                .chars()
                .filter(|c| *c != '\0')
                .take(MAX_USER_AGENT_CHARS)
                .collect()
        }),
    };
    let last_seen = &engine.accounts.last_seen;
    let mut pending = last_seen.pending.lock().unwrap_or_else(PoisonError::into_inner);
    if pending.sightings.len() < MAX_PENDING {
        pending.sightings.insert(sighting.device_nid, sighting);
    }
    if !pending.has_writer {
        pending.has_writer = true;
        last_seen.writers.spawn(write(
            engine.db.clone(),
            Arc::clone(&last_seen.pending),
            last_seen.hurry.subscribe(),
        ));
    }
}

/// Waits until what was noted is written. For the end of the server, and for tests.
pub async fn settle(engine: &Engine) {
    let LastSeen { writers, hurry, .. } = &engine.accounts.last_seen;
    hurry.send_replace(true);
    writers.close();
    writers.wait().await;
    writers.reopen();
    hurry.send_replace(false);
}

/// Writes until nothing is pending.
async fn write(db: Database, pending: Arc<Mutex<Pending>>, mut hurry: watch::Receiver<bool>) {
    loop {
        // Over time, or told to hurry, or the engine is gone: all of them mean to write.
        let _ = timeout(GATHERING, hurry.wait_for(|hurry| *hurry)).await;
        let sightings = {
            let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
            if pending.sightings.is_empty() {
                pending.has_writer = false;
                return;
            }
            std::mem::take(&mut pending.sightings)
        };
        let sightings: Vec<Sighting> = sightings.into_values().collect();
        let written = async { devices::note_seen(&mut *db.acquire().await?, &sightings).await };
        if let Err(error) = written.await {
            // Nobody waits for it, and the next request of each device tells again.
            tracing::warn!(%error, devices = sightings.len(), "could not write when devices were last seen");
        }
    }
}
