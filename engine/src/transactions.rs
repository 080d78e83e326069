//! Transaction ids: a request that a device sends again is answered as the first was (client-server API,
//! "Transaction identifiers").

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use hearth_storage::{DeviceNid, events};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::OwnedEventId;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OnceCell, watch};

use crate::{Engine, Error};

/// How long a transaction id is remembered, in milliseconds: a phone that was off for days may try again.
pub(crate) const KEEP_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// Devices whose transactions are in memory, and transactions of each.
const DEVICES: usize = 20_000;
const PER_DEVICE: usize = 1000;

/// What identifies a request among those of a device: a hash of its path.
pub(crate) type RequestKey = [u8; 16];

/// The transactions of recently active devices.
#[derive(Debug)]
pub(crate) struct Transactions {
    devices: Cache<DeviceNid, Arc<Device>>,
}

#[derive(Debug, Default)]
struct Device {
    loaded: OnceCell<()>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_key: HashMap<RequestKey, State>,
    order: VecDeque<RequestKey>,
}

#[derive(Debug, Clone)]
enum State {
    Done(OwnedEventId),
    UnderWay(watch::Receiver<()>),
}

/// How a request stands to those before it.
pub(crate) enum Begun {
    /// It is new: do it, and tell [`Doing::done`].
    New(Doing),
    /// It was done before, with this event.
    Repeated(OwnedEventId),
}

/// A request being done. Dropped, it was not done, and may be tried again.
pub(crate) struct Doing {
    device: Arc<Device>,
    key: RequestKey,
    _done: watch::Sender<()>,
}

impl Transactions {
    pub fn new() -> Self {
        Self {
            devices: Cache::new(DEVICES),
        }
    }

    /// Forgets everything: the database may have lost what was done last.
    pub fn clear(&self) {
        self.devices.clear();
    }
}

/// The key of a request by the parts of its path: endpoint, room, type, transaction id.
pub(crate) fn request_key(parts: &[&str]) -> RequestKey {
    let mut hash = Sha256::new();
    for part in parts {
        // The length before each part: no two paths give the same bytes.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut key = RequestKey::default();
    key.copy_from_slice(&hash.finalize()[..16]);
    key
}

/// Begins a request of a device. Waits for the same request, if it is under way.
pub(crate) async fn begin(engine: &Engine, device_nid: DeviceNid, key: RequestKey) -> Result<Begun, Error> {
    let device = match engine
        .transactions
        .devices
        .get_value_or_guard_async(&device_nid)
        .await
    {
        Ok(device) => device,
        Err(guard) => {
            let device = Arc::new(Device::default());
            // Fails only if the entry was removed meanwhile: then this one serves this request alone.
            let _ = guard.insert(Arc::clone(&device));
            device
        }
    };
    device
        .loaded
        .get_or_try_init(|| load(engine, device_nid, &device))
        .await?;
    loop {
        let mut under_way = {
            let mut known = device.known.lock();
            match known.by_key.get(&key).cloned() {
                Some(State::Done(event_id)) => return Ok(Begun::Repeated(event_id)),
                Some(State::UnderWay(done)) => done,
                // Perhaps done before, and no longer in memory: the database will say so when it is committed.
                None => return Ok(Begun::New(start(&device, &mut known, key))),
            }
        };
        // Ends when the sender is dropped: done or given up.
        while under_way.changed().await.is_ok() {}
    }
}

fn start(device: &Arc<Device>, known: &mut Known, key: RequestKey) -> Doing {
    let (sender, receiver) = watch::channel(());
    known.by_key.insert(key, State::UnderWay(receiver));
    Doing {
        device: Arc::clone(device),
        key,
        _done: sender,
    }
}

/// What the database knows of a request.
pub(crate) async fn find(
    engine: &Engine,
    device_nid: DeviceNid,
    key: &RequestKey,
) -> Result<Option<OwnedEventId>, Error> {
    let mut connection = engine.db.acquire().await?;
    let event_id = events::by_transaction(&mut connection, device_nid, key).await?;
    Ok(event_id.and_then(|event_id| event_id.try_into().ok()))
}

async fn load(engine: &Engine, device_nid: DeviceNid, device: &Device) -> Result<(), Error> {
    let since = engine.clock.now_ms() - KEEP_MS;
    let mut connection = engine.db.acquire().await?;
    let recent = events::recent_transactions(&mut connection, device_nid, since, PER_DEVICE as i64).await?;
    let mut known = device.known.lock();
    for transaction in recent.into_iter().rev() {
        let Ok(event_id) = OwnedEventId::try_from(transaction.event_id) else {
            continue;
        };
        known
            .by_key
            .insert(transaction.request_key, State::Done(event_id));
        known.order.push_back(transaction.request_key);
    }
    Ok(())
}

/// Forgets transaction ids that are too old to be sent again.
pub(crate) async fn drop_old(engine: &Engine) -> Result<(), Error> {
    let mut connection = engine.db.acquire().await?;
    events::drop_transactions(&mut connection, engine.clock.now_ms() - KEEP_MS).await?;
    Ok(())
}

impl Doing {
    /// The request was done, with this event.
    pub fn done(self, event_id: OwnedEventId) {
        let mut known = self.device.known.lock();
        known.by_key.insert(self.key, State::Done(event_id));
        known.order.push_back(self.key);
        if known.order.len() > PER_DEVICE
            && let Some(oldest) = known.order.pop_front()
        {
            known.by_key.remove(&oldest);
        }
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        let mut known = self.device.known.lock();
        if matches!(known.by_key.get(&self.key), Some(State::UnderWay(_))) {
            known.by_key.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::request_key;

    #[test]
    fn parts_of_a_path_do_not_run_into_each_other() {
        assert_ne!(
            request_key(&["send", "ab", "c"]),
            request_key(&["send", "a", "bc"])
        );
        assert_eq!(request_key(&["send", "a", "b"]), request_key(&["send", "a", "b"]));
    }
}
