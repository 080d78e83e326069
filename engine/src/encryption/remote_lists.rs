//! The devices of other servers' users, as far as they are known here: what their servers told when they were asked,
//! and what they tell by themselves from then on, for as long as a room is shared (server-server API, "Device
//! Management").

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use hearth_storage::{
    Position, Transaction, UserNid,
    cross_signing::{self, Usage},
    device_lists,
    remote_devices::{self as stored, RemoteDevice},
};
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, DeviceId, OwnedUserId, ServerName, UserId,
    api::federation::device::get_devices::v1 as get_devices,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::{
    announce,
    objects::{self, MAX_ID_BYTES},
    published::{self, Published},
};
use crate::{Engine, Error};

/// Devices of one user; beyond them a list is nonsense.
const MAX_DEVICES: usize = 1_000;
/// The longest name of a device that is kept.
const MAX_NAME_CHARS: usize = 256;
/// Lists that are asked for at once.
const AT_ONCE: usize = 4;
/// Lists that are looked at in one round.
const ROUND: i64 = 100;
/// How long it takes until a list is asked for again that could not be had: doubling.
const RETRY_MS: i64 = 5_000;
const MOST_RETRY_MS: i64 = 3_600_000;
/// How often those are looked for that are due.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a server tells of a user.
#[derive(Debug, Default)]
pub(super) struct UserKeys {
    devices: BTreeMap<String, (CanonicalJsonObject, Option<String>)>,
    master: Option<CanonicalJsonObject>,
    self_signing: Option<CanonicalJsonObject>,
}

/// What was told can't be understood.
#[derive(Debug)]
pub(super) struct Nonsense;

impl UserKeys {
    /// Reads what `/user/keys/query` told.
    pub fn read(
        user_id: &UserId,
        devices: Option<Box<RawValue>>,
        master: Option<Box<RawValue>>,
        self_signing: Option<Box<RawValue>>,
    ) -> Result<Self, Nonsense> {
        #[derive(Deserialize)]
        struct Unsigned {
            device_display_name: Option<String>,
        }
        #[derive(Deserialize)]
        struct WithUnsigned {
            unsigned: Option<Unsigned>,
        }
        let mut keys = Self::default();
        let devices: BTreeMap<String, Box<RawValue>> = match devices {
            Some(devices) => serde_json::from_str(devices.get()).map_err(|_| Nonsense)?,
            None => BTreeMap::new(),
        };
        for (device_id, object) in devices {
            let name = serde_json::from_str::<WithUnsigned>(object.get()).ok();
            let name = name.and_then(|object| object.unsigned?.device_display_name);
            keys.add_device(user_id, &device_id, object.get(), name)?;
        }
        keys.add_cross_signing(user_id, master.as_deref(), self_signing.as_deref())?;
        Ok(keys)
    }

    /// Reads what `/user/devices` told.
    fn read_devices(user_id: &UserId, response: &get_devices::Response) -> Result<Self, Nonsense> {
        let mut keys = Self::default();
        for device in &response.devices {
            let name = device.device_display_name.clone();
            // Other servers also name devices without keys, with an empty object.
            if device.keys.json().get() == "{}" {
                continue;
            }
            keys.add_device(user_id, device.device_id.as_str(), device.keys.json().get(), name)?;
        }
        let json = |key: &Option<ruma::serde::Raw<ruma::encryption::CrossSigningKey>>| {
            key.as_ref().map(|key| key.json().to_owned())
        };
        keys.add_cross_signing(
            user_id,
            json(&response.master_key).as_deref(),
            json(&response.self_signing_key).as_deref(),
        )?;
        Ok(keys)
    }

    fn add_device(
        &mut self,
        user_id: &UserId,
        device_id: &str,
        json: &str,
        name: Option<String>,
    ) -> Result<(), Nonsense> {
        if self.devices.len() >= MAX_DEVICES || device_id.len() > MAX_ID_BYTES {
            return Err(Nonsense);
        }
        let keys = objects::device_keys(json, user_id, <&DeviceId>::from(device_id)).map_err(|_| Nonsense)?;
        let name = name.map(|name| name.chars().take(MAX_NAME_CHARS).collect());
        self.devices.insert(device_id.to_owned(), (keys, name));
        Ok(())
    }

    fn add_cross_signing(
        &mut self,
        user_id: &UserId,
        master: Option<&RawValue>,
        self_signing: Option<&RawValue>,
    ) -> Result<(), Nonsense> {
        let read = |key: Option<&RawValue>, usage| {
            let object = key.map(|key| objects::cross_signing_key(key.get(), user_id, usage));
            object.transpose().map_err(|_| Nonsense)
        };
        self.master = read(master, Usage::Master)?;
        self.self_signing = read(self_signing, Usage::SelfSigning)?;
        Ok(())
    }

    /// Adds it to what is told of users.
    pub fn publish(self, user_nid: UserNid, published: &mut Published) {
        let devices = published.devices.entry(user_nid).or_default();
        for (device_id, (mut object, name)) in self.devices {
            objects::add_display_name(&mut object, name.as_deref());
            devices.insert(device_id, object);
        }
        let keys = [
            (Usage::Master, self.master),
            (Usage::SelfSigning, self.self_signing),
        ];
        for (usage, object) in keys {
            if let Some(object) = object {
                published.cross_signing.insert((user_nid, usage), object);
            }
        }
    }

    async fn store(&self, transaction: &mut Transaction, user_nid: UserNid) -> Result<(), Error> {
        let devices = self.devices.iter().map(|(device_id, (keys, name))| RemoteDevice {
            user_nid,
            device_id: device_id.as_str().into(),
            keys: objects::to_json(keys.clone()),
            display_name: name.as_deref().map(Arc::from),
        });
        stored::set(transaction, &devices.collect::<Vec<_>>()).await?;
        let keys = [
            (Usage::Master, &self.master),
            (Usage::SelfSigning, &self.self_signing),
        ];
        for (usage, object) in keys {
            match object {
                Some(object) => {
                    let json = objects::to_json(object.clone());
                    cross_signing::set(transaction, user_nid, usage, &json).await?;
                }
                None => cross_signing::delete(transaction, user_nid, usage).await?,
            }
        }
        Ok(())
    }
}

/// What is stored of users.
pub(super) async fn of_users(engine: &Engine, user_nids: &[UserNid]) -> Result<Published, Error> {
    let mut published = Published::default();
    let (devices, keys) = {
        let mut connection = engine.db.acquire().await?;
        (
            stored::of_users(&mut connection, user_nids).await?,
            cross_signing::of_users(&mut connection, user_nids).await?,
        )
    };
    for device in devices {
        let mut object = published::stored(&device.keys)?;
        objects::add_display_name(&mut object, device.display_name.as_deref());
        let of_user = published.devices.entry(device.user_nid).or_default();
        of_user.insert(device.device_id.to_string(), object);
    }
    for key in keys {
        published
            .cross_signing
            .insert((key.user_nid, key.usage), published::stored(&key.key)?);
    }
    Ok(published)
}

/// Begins to keep the list of a user that was asked for when the log was at `told.1`; `told.0` is how new its server
/// said it was. Does nothing if the server told anything by itself meanwhile, after `before`.
pub(super) async fn begin(
    engine: &Engine,
    user_nid: UserNid,
    before: Option<i64>,
    told: (Option<i64>, Position),
    keys: &UserKeys,
) -> Result<(), Error> {
    let mut transaction = engine.db.begin().await?;
    if stored::begin(&mut transaction, user_nid, before, told).await? {
        keys.store(&mut transaction, user_nid).await?;
        transaction.commit().await?;
    }
    Ok(())
}

/// `m.device_list_update`: a device of a user changed.
#[derive(Debug, Deserialize)]
struct DeviceListUpdate {
    user_id: OwnedUserId,
    device_id: String,
    stream_id: i64,
    #[serde(default)]
    prev_id: Vec<i64>,
    #[serde(default)]
    deleted: bool,
    device_display_name: Option<String>,
    keys: Option<Box<RawValue>>,
}

/// `m.signing_key_update`: the cross-signing keys of a user changed.
#[derive(Debug, Deserialize)]
struct SigningKeyUpdate {
    user_id: OwnedUserId,
    master_key: Option<Box<RawValue>>,
    self_signing_key: Option<Box<RawValue>>,
}

/// The number of a user of `origin` who shares a room with a user of this server.
async fn sharer(engine: &Engine, origin: &ServerName, user_id: &UserId) -> Result<Option<UserNid>, Error> {
    if user_id.server_name() != origin {
        return Ok(None);
    }
    let Some(user_nid) = engine.interner.find_user(user_id).await? else {
        return Ok(None);
    };
    let mut connection = engine.db.acquire().await?;
    let shared = stored::shared_since(&mut connection, &[user_nid]).await?;
    Ok((!shared.is_empty()).then_some(user_nid))
}

/// Applies a change of a device that a server tells of. Where changes before it were missed, or it can't be
/// understood, the list is asked for anew.
pub(crate) async fn update_device(
    engine: &Arc<Engine>,
    origin: &ServerName,
    content: &RawValue,
) -> Result<(), Error> {
    let Ok(update) = serde_json::from_str::<DeviceListUpdate>(content.get()) else {
        return Ok(());
    };
    let Some(user_nid) = sharer(engine, origin, &update.user_id).await? else {
        return Ok(());
    };
    let now = engine.clock.now_ms();
    let position = engine.log.head().position;
    let mut transaction = engine.db.begin().await?;
    let list = stored::lock(&mut transaction, user_nid, position, now).await?;
    if !list.is_stale && list.stream_id.is_some_and(|known| known >= update.stream_id) {
        // It came before.
        return Ok(());
    }
    let follows =
        update.prev_id.iter().all(|prev| list.stream_id == Some(*prev)) && !update.prev_id.is_empty();
    let applies = follows && !list.is_stale && apply_device(&mut transaction, user_nid, &update).await?;
    if applies {
        stored::set_stream_id(&mut transaction, user_nid, update.stream_id).await?;
    } else {
        stored::mark_stale(&mut transaction, user_nid, now).await?;
    }
    device_lists::announce(&mut transaction, user_nid, "", None, now).await?;
    announce::commit(engine, transaction, user_nid).await?;
    if !applies {
        engine.encryption.resyncs.look();
    }
    Ok(())
}

/// False if it can't be understood.
async fn apply_device(
    transaction: &mut Transaction,
    user_nid: UserNid,
    update: &DeviceListUpdate,
) -> Result<bool, Error> {
    let keys = update.keys.as_ref().filter(|keys| keys.get() != "{}");
    let Some(keys) = keys.filter(|_| !update.deleted) else {
        // Without keys, a device is of no interest to others.
        stored::delete(transaction, user_nid, &update.device_id).await?;
        return Ok(true);
    };
    let mut device = UserKeys::default();
    let name = update.device_display_name.clone();
    if device
        .add_device(&update.user_id, &update.device_id, keys.get(), name)
        .is_err()
    {
        return Ok(false);
    }
    let count = stored::count(transaction, user_nid).await?;
    if usize::try_from(count).is_ok_and(|count| count >= MAX_DEVICES) {
        return Ok(false);
    }
    let devices = device
        .devices
        .into_iter()
        .map(|(device_id, (keys, name))| RemoteDevice {
            user_nid,
            device_id: device_id.into(),
            keys: objects::to_json(keys),
            display_name: name.map(Arc::from),
        });
    stored::set(transaction, &devices.collect::<Vec<_>>()).await?;
    Ok(true)
}

/// Applies new cross-signing keys that a server tells of.
pub(crate) async fn update_signing_keys(
    engine: &Arc<Engine>,
    origin: &ServerName,
    content: &RawValue,
) -> Result<(), Error> {
    let Ok(update) = serde_json::from_str::<SigningKeyUpdate>(content.get()) else {
        return Ok(());
    };
    let Some(user_nid) = sharer(engine, origin, &update.user_id).await? else {
        return Ok(());
    };
    let (master, self_signing) = (update.master_key.as_deref(), update.self_signing_key.as_deref());
    let mut keys = UserKeys::default();
    if keys
        .add_cross_signing(&update.user_id, master, self_signing)
        .is_err()
    {
        tracing::debug!(user_id = %update.user_id, "cross-signing keys that can't be used");
        return Ok(());
    }
    let now = engine.clock.now_ms();
    let position = engine.log.head().position;
    let mut transaction = engine.db.begin().await?;
    // A list that is not known here is marked to be asked for, and what is stored of the keys is not used until then.
    let list = stored::lock(&mut transaction, user_nid, position, now).await?;
    for (usage, object) in [
        (Usage::Master, keys.master),
        (Usage::SelfSigning, keys.self_signing),
    ] {
        if let Some(object) = object {
            let json = objects::to_json(object);
            cross_signing::set(&mut transaction, user_nid, usage, &json).await?;
        }
    }
    device_lists::announce(&mut transaction, user_nid, "", None, now).await?;
    announce::commit(engine, transaction, user_nid).await?;
    if list.is_stale {
        engine.encryption.resyncs.look();
    }
    Ok(())
}

/// Lists that are being asked for anew.
#[derive(Debug, Default)]
pub(crate) struct Resyncs {
    news: Notify,
    under_way: Mutex<HashSet<UserNid>>,
}

impl Resyncs {
    /// A list is due, perhaps.
    pub fn look(&self) {
        self.news.notify_one();
    }
}

/// Asks for lists that are out of date, for as long as there is an engine.
pub(crate) async fn keep_current(engine: Weak<Engine>) {
    loop {
        let Some(alive) = engine.upgrade() else { return };
        match round(&alive).await {
            // There may be more.
            Ok(count) if i64::try_from(count).is_ok_and(|count| count >= ROUND) => continue,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "could not see which device lists are out of date"),
        }
        let encryption = Arc::clone(&alive.encryption);
        let shutdown = alive.shutdown.clone();
        drop(alive);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = encryption.resyncs.news.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn round(engine: &Arc<Engine>) -> Result<usize, Error> {
    let now = engine.clock.now_ms();
    let due = stored::due(&mut *engine.db.acquire().await?, now, ROUND).await?;
    let count = due.len();
    stream::iter(due)
        .for_each_concurrent(AT_ONCE, |(user_nid, user_id, failures)| async move {
            if !engine.encryption.resyncs.under_way.lock().insert(user_nid) || engine.shutdown.is_cancelled()
            {
                return;
            }
            if let Err(error) = resync(engine, user_nid, &user_id, failures).await {
                tracing::warn!(%error, user_id, "a device list could not be brought up to date");
            }
            engine.encryption.resyncs.under_way.lock().remove(&user_nid);
        })
        .await;
    Ok(count)
}

async fn resync(engine: &Arc<Engine>, user_nid: UserNid, user_id: &str, failures: i32) -> Result<(), Error> {
    let user_id = <&UserId>::try_from(user_id).map_err(|error| Error::Damaged(error.to_string()))?;
    let position = engine.log.head().position;
    let (list, shares) = {
        let mut connection = engine.db.acquire().await?;
        let list = stored::lists(&mut connection, &[user_nid]).await?.pop();
        let shares = !stored::shared_since(&mut connection, &[user_nid])
            .await?
            .is_empty();
        (list, shares)
    };
    let Some(list) = list.filter(|list| list.is_stale) else {
        return Ok(());
    };
    if !shares {
        // Nobody here is told of changes any more; whoever wants to know asks.
        let mut transaction = engine.db.begin().await?;
        stored::forget(&mut transaction, user_nid).await?;
        return Ok(transaction.commit().await?);
    }
    let request = get_devices::Request::new(user_id.to_owned());
    let told = engine.remote.devices(user_id.server_name(), request).await;
    let told = match told {
        Ok(response) if response.user_id == user_id => {
            let keys = UserKeys::read_devices(user_id, &response);
            keys.ok().map(|keys| (i64::from(response.stream_id), keys))
        }
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%user_id, %error, "a server did not tell a user's devices");
            None
        }
    };
    let Some((stream_id, keys)) = told else {
        let wait = RETRY_MS << failures.clamp(0, 16);
        let retry_at = engine.clock.now_ms() + wait.min(MOST_RETRY_MS);
        let mut connection = engine.db.acquire().await?;
        return Ok(stored::mark_failed(&mut connection, user_nid, retry_at).await?);
    };
    let mut transaction = engine.db.begin().await?;
    let told = (Some(stream_id), position);
    if stored::begin(&mut transaction, user_nid, Some(list.revision), told).await? {
        keys.store(&mut transaction, user_nid).await?;
        let now = engine.clock.now_ms();
        device_lists::announce(&mut transaction, user_nid, "", None, now).await?;
        announce::commit(engine, transaction, user_nid).await?;
    }
    // Else the server told something by itself meanwhile: it is still due.
    Ok(())
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;

    fn device(user: &str, device_id: &str) -> Value {
        json!({
            "user_id": user, "device_id": device_id, "algorithms": [], "keys": {}, "signatures": {},
            "unsigned": { "device_display_name": "x".repeat(300) },
        })
    }

    fn read(devices: &Value, master: Option<&Value>) -> Result<UserKeys, Nonsense> {
        let raw = |value: &Value| to_raw_value(value).expect("JSON");
        UserKeys::read(user_id!("@a:b"), Some(raw(devices)), master.map(raw), None)
    }

    #[test]
    fn what_a_server_tells_of_a_user_is_theirs_or_nonsense() {
        let keys = read(&json!({ "D": device("@a:b", "D") }), None).expect("it is sound");
        let name = keys.devices["D"].1.as_ref().map(|name| name.chars().count());
        assert_eq!(name, Some(MAX_NAME_CHARS), "a long name is cut");
        assert!(!keys.devices["D"].0.contains_key("unsigned"));
        for devices in [
            json!([]),
            json!({ "D": 7 }),
            json!({ "D": device("@c:b", "D") }),
            json!({ "D": device("@a:b", "E") }),
            json!({ "D": device("@a:b", "D"), "E": {} }),
        ] {
            assert!(read(&devices, None).is_err(), "{devices}");
        }
        let many: serde_json::Map<String, Value> = (0..=MAX_DEVICES)
            .map(|number| (number.to_string(), device("@a:b", &number.to_string())))
            .collect();
        assert!(read(&Value::Object(many), None).is_err());
        let theirs = json!({ "user_id": "@c:b", "usage": ["master"], "keys": { "ed25519:k": "k" } });
        assert!(read(&json!({}), Some(&theirs)).is_err());
    }
}
