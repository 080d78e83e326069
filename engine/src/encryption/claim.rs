//! `keys/claim`: a one-time key of each device that somebody wants to begin an encrypted session with.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use hearth_storage::{
    DeviceNid, UserNid, devices,
    one_time_keys::{self, Claimed},
};
use ruma::{OneTimeKeyAlgorithm, OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    objects::{self, MAX_ID_BYTES},
    query::{self, Failure, QueryError},
};
use crate::{Engine, Error, remote::user_keys};

/// Devices of one request.
const MAX_DEVICES: usize = 10_000;
/// Servers that are asked at once for one request.
const SERVERS_AT_ONCE: usize = 32;

/// Whose keys are wanted, and for which algorithm.
pub type Wanted = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>;

/// Keys by user, device, and their names.
pub type Keys = BTreeMap<OwnedUserId, BTreeMap<String, BTreeMap<String, Box<RawValue>>>>;

/// What could be had. Written out whole, since there are clients that insist on every section.
#[derive(Debug, Default, Serialize)]
pub struct ClaimAnswer {
    /// The keys.
    pub one_time_keys: Keys,
    /// Servers that could not be asked, or that answered nonsense.
    pub failures: BTreeMap<OwnedServerName, Failure>,
}

/// Claims keys of users of this server and of others.
pub async fn claim(
    engine: &Arc<Engine>,
    wanted: Wanted,
    timeout: Option<Duration>,
) -> Result<ClaimAnswer, QueryError> {
    if wanted.values().map(BTreeMap::len).sum::<usize>() > MAX_DEVICES {
        return Err(QueryError::TooMany);
    }
    let own = &engine.config.server_name;
    let (local, remote): (Wanted, Wanted) = wanted
        .into_iter()
        .partition(|(user_id, _)| user_id.server_name() == own);
    let mut by_server: BTreeMap<OwnedServerName, Wanted> = BTreeMap::new();
    for (user_id, devices) in remote {
        let of_server = by_server.entry(user_id.server_name().to_owned()).or_default();
        of_server.insert(user_id, devices);
    }
    let patience = query::patience(timeout);
    let asked = by_server.into_iter().map(|(server, wanted)| async move {
        let asked = ask(engine, &server, wanted);
        let told = tokio::time::timeout(patience, asked).await;
        (server, told.unwrap_or(Err(Failure::UNREACHABLE)))
    });
    let mut asked = stream::iter(asked).buffer_unordered(SERVERS_AT_ONCE);
    let mut answer = ClaimAnswer {
        one_time_keys: claim_local(engine, &local).await?,
        ..ClaimAnswer::default()
    };
    while let Some((server, told)) = asked.next().await {
        match told {
            Ok((keys, is_sound)) => {
                answer.one_time_keys.extend(keys);
                if !is_sound {
                    answer.failures.insert(server, Failure::NONSENSE);
                }
            }
            Err(failure) => drop(answer.failures.insert(server, failure)),
        }
    }
    Ok(answer)
}

/// Claims keys of users of this server. Each one-time key is given to one who asks, ever: it is gone before this returns.
pub(super) async fn claim_local(engine: &Engine, wanted: &Wanted) -> Result<Keys, Error> {
    let user_ids: Vec<&OwnedUserId> = wanted.keys().collect();
    let nids = query::find_users(engine, &user_ids).await?;
    let mut named: Vec<(UserNid, &str)> = Vec::new();
    let mut algorithms: HashMap<(UserNid, &str), &OneTimeKeyAlgorithm> = HashMap::new();
    for (user_id, devices) in wanted {
        let Some(user_nid) = nids.get(user_id).copied() else {
            continue;
        };
        for (device_id, algorithm) in devices {
            // U+0000 would be an error of the database rather than a device that isn't there.
            let fits = |name: &str| !name.contains('\0') && name.len() <= MAX_ID_BYTES;
            if fits(device_id.as_str()) && fits(algorithm.as_str()) {
                named.push((user_nid, device_id.as_str()));
                algorithms.insert((user_nid, device_id.as_str()), algorithm);
            }
        }
    }
    if named.is_empty() {
        return Ok(Keys::new());
    }
    let mut transaction = engine.db.begin().await?;
    let found = devices::numbers(&mut transaction, &named).await?;
    let wanted: Vec<(DeviceNid, &str)> = found
        .iter()
        .filter_map(|device| {
            let algorithm = algorithms.get(&(device.user_nid, device.device_id.as_str()))?;
            Some((device.device_nid, algorithm.as_str()))
        })
        .collect();
    let mut claimed = one_time_keys::claim(&mut transaction, &wanted, engine.clock.now_ms()).await?;
    let have: HashSet<DeviceNid> = claimed.iter().map(|one| one.device_nid).collect();
    let rest = wanted.iter().copied();
    let rest: Vec<(DeviceNid, &str)> = rest
        .filter(|(device_nid, _)| !have.contains(device_nid))
        .collect();
    if !rest.is_empty() {
        claimed.extend(one_time_keys::claim_fallback(&mut transaction, &rest).await?);
    }
    transaction.commit().await?;
    let by_nid: HashMap<DeviceNid, &devices::DeviceNumber> =
        found.iter().map(|device| (device.device_nid, device)).collect();
    let ids: HashMap<UserNid, &OwnedUserId> = nids.iter().map(|(user_id, nid)| (*nid, user_id)).collect();
    let mut keys = Keys::new();
    for Claimed { device_nid, key } in claimed {
        engine.encryption.counts.changed(device_nid);
        let Some(device) = by_nid.get(&device_nid) else {
            continue;
        };
        // The device hears that it has fewer.
        engine.waiting.wake(device.user_nid);
        let Some(user_id) = ids.get(&device.user_nid) else {
            continue;
        };
        let json = RawValue::from_string(key.key.to_string())
            .map_err(|error| Error::Damaged(format!("a one-time key: {error}")))?;
        keys.entry((*user_id).clone())
            .or_default()
            .entry(device.device_id.clone())
            .or_default()
            .insert(format!("{}:{}", key.algorithm, key.key_id), json);
    }
    Ok(keys)
}

/// What a server gives; and whether all of it could be understood.
async fn ask(engine: &Engine, server: &ServerName, wanted: Wanted) -> Result<(Keys, bool), Failure> {
    let request = user_keys::claim::Request {
        one_time_keys: wanted.clone(),
    };
    let response = match engine.remote.claim_user_keys(server, request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(%server, %error, "a server gave no one-time keys");
            return Err(Failure::UNREACHABLE);
        }
    };
    let (mut keys, mut is_sound) = (Keys::new(), true);
    for (user_id, devices) in wanted {
        let Some(told) = response.one_time_keys.get(user_id.as_str()) else {
            continue;
        };
        match read(told, &devices) {
            Some(of_user) if !of_user.is_empty() => drop(keys.insert(user_id, of_user)),
            Some(_) => {}
            None => is_sound = false,
        }
    }
    Ok((keys, is_sound))
}

/// Of what a server told of a user, the keys that were asked for; nothing where that can't be understood.
fn read(
    told: &RawValue,
    wanted: &BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>,
) -> Option<BTreeMap<String, BTreeMap<String, Box<RawValue>>>> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Told(BTreeMap<String, BTreeMap<String, Box<RawValue>>>);
    let Told(mut told) = serde_json::from_str(told.get()).ok()?;
    let mut keys = BTreeMap::new();
    for (device_id, algorithm) in wanted {
        let Some(of_device) = told.remove(device_id.as_str()) else {
            continue;
        };
        // One was asked for: who gives more is not to be believed that it gives each once.
        let Some((name, key)) = of_device.into_iter().next() else {
            continue;
        };
        let is_wanted = name
            .split_once(':')
            .is_some_and(|(told, _)| told == algorithm.as_str());
        if !is_wanted || name.len() > 2 * MAX_ID_BYTES || objects::one_time_key(key.get()).is_err() {
            return None;
        }
        keys.insert(device_id.to_string(), BTreeMap::from([(name, key)]));
    }
    Some(keys)
}
