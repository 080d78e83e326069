//! How many one-time keys a device has, and which fallback keys nobody was given yet: told in every sync, from memory.

use std::{collections::BTreeMap, sync::Arc};

use hearth_storage::{DeviceNid, one_time_keys};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use serde::Serialize;

use crate::{Engine, Error};

/// Devices whose counts are in memory; some 300 bytes each.
const DEVICES: usize = 100_000;
/// The algorithm that is always counted: clients tell a server that counts none from one that does not count by it.
const ALWAYS: &str = "signed_curve25519";

/// What a device has for others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KeyCounts {
    /// One-time keys, by algorithm.
    #[serde(rename = "device_one_time_keys_count")]
    pub one_time: BTreeMap<String, u64>,
    /// Algorithms with a fallback key that was not used.
    #[serde(rename = "device_unused_fallback_key_types")]
    pub unused_fallback: Vec<String>,
}

/// The counts in memory.
#[derive(Debug)]
pub(crate) struct Counts(Cache<DeviceNid, Arc<Mutex<Counted>>>);

#[derive(Debug, Default)]
struct Counted {
    /// How often they changed: what was read before a change is not kept.
    changes: u64,
    counts: Option<Arc<KeyCounts>>,
}

impl Counts {
    pub fn new() -> Self {
        Self(Cache::new(DEVICES))
    }

    pub fn clear(&self) {
        self.0.clear();
    }

    /// The keys of a device changed: called after that was committed.
    pub fn changed(&self, device_nid: DeviceNid) {
        if let Some(counted) = self.0.get(&device_nid) {
            let mut counted = counted.lock();
            counted.changes += 1;
            counted.counts = None;
        }
    }

    fn of(&self, device_nid: DeviceNid) -> Arc<Mutex<Counted>> {
        if let Some(counted) = self.0.get(&device_nid) {
            return counted;
        }
        let made = self
            .0
            .get_or_insert_with(&device_nid, || Ok::<_, std::convert::Infallible>(Arc::default()));
        made.unwrap_or_default()
    }
}

/// What a device has for others, as of now.
pub(crate) async fn of_device(engine: &Engine, device_nid: DeviceNid) -> Result<Arc<KeyCounts>, Error> {
    let counted = engine.encryption.counts.of(device_nid);
    let before = {
        let counted = counted.lock();
        if let Some(counts) = &counted.counts {
            return Ok(Arc::clone(counts));
        }
        counted.changes
    };
    let mut connection = engine.db.acquire().await?;
    let stored = one_time_keys::counts(&mut connection, device_nid).await?;
    let unused_fallback = one_time_keys::unused_fallback(&mut connection, device_nid).await?;
    drop(connection);
    let mut one_time = BTreeMap::from([(ALWAYS.to_owned(), 0)]);
    one_time.extend(
        stored
            .into_iter()
            .map(|count| (count.algorithm, u64::try_from(count.count).unwrap_or(0))),
    );
    let counts = Arc::new(KeyCounts {
        one_time,
        unused_fallback,
    });
    let mut counted = counted.lock();
    if counted.changes == before {
        counted.counts = Some(Arc::clone(&counts));
    }
    Ok(counts)
}
