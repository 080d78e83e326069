//! `keys/query`: the devices and cross-signing keys of users, of this server and of others.
//!
//! What is known of another server's user is told without asking, as long as that server has told of every change:
//! it does to those that share a room with the user. All others are asked for, each server once.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use hearth_storage::{
    Position, UserNid,
    cross_signing::{self, Usage},
    remote_devices::{self as stored, List},
};
use ruma::{CanonicalJsonObject, OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    objects,
    published::{self, Published},
    remote_lists::{self, Nonsense, UserKeys},
};
use crate::{Engine, Error, accounts::Requester, remote::user_keys};

/// Users of one request.
const MAX_USERS: usize = 10_000;
/// Servers that are asked at once for one request.
const SERVERS_AT_ONCE: usize = 32;
/// How long other servers are waited for.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_TIMEOUT: Duration = Duration::from_secs(30);

/// Why keys were not looked up.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// There are more users than one may ask for at once.
    #[error("{MAX_USERS} users or devices at most at once")]
    TooMany,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(QueryError);

/// By user, a key.
pub type KeyOfEach = BTreeMap<OwnedUserId, Box<RawValue>>;

/// What is known. Written out whole, since there are clients that insist on every section.
#[derive(Debug, Default, Serialize)]
pub struct QueryAnswer {
    /// Devices by user, and by ID.
    pub device_keys: BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>,
    /// Master keys.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub master_keys: KeyOfEach,
    /// Self-signing keys.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub self_signing_keys: KeyOfEach,
    /// The requester's own user-signing key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub user_signing_keys: KeyOfEach,
    /// Servers that could not be asked, or that answered nonsense.
    pub failures: BTreeMap<OwnedServerName, Failure>,
}

/// That a server gave no answer, for people.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// What went wrong.
    pub error: &'static str,
}

impl Failure {
    /// The server could not be asked.
    pub(super) const UNREACHABLE: Self = Self {
        error: "The server could not be asked, or did not answer in time.",
    };
    /// It answered what could not be understood, in part at least.
    pub(super) const NONSENSE: Self = Self {
        error: "The server answered what could not be understood.",
    };
}

/// How long a client waits for other servers.
pub(super) fn patience(timeout: Option<Duration>) -> Duration {
    timeout.unwrap_or(DEFAULT_TIMEOUT).min(MAX_TIMEOUT)
}

/// Whose devices are wanted: of each user some, or all where none is named.
pub type Wanted = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;

/// The keys of users, as the requester sees them.
pub async fn query(
    engine: &Arc<Engine>,
    requester: &Requester,
    wanted: &Wanted,
    timeout: Option<Duration>,
) -> Result<QueryAnswer, QueryError> {
    if wanted.len() > MAX_USERS {
        return Err(QueryError::TooMany);
    }
    let own = &engine.config.server_name;
    let (local, remote): (Vec<_>, Vec<_>) = wanted.keys().partition(|user_id| user_id.server_name() == own);
    let mut answer = QueryAnswer::default();
    let viewer = Some(requester.user_nid);
    let nids = find_users(engine, &local).await?;
    let user_nids: Vec<UserNid> = nids.values().copied().collect();
    let published = published::of_users(engine, &user_nids, viewer).await?;
    answer.add(&local, &nids, published)?;
    if !remote.is_empty() {
        query_remote(engine, requester, &remote, patience(timeout), &mut answer).await?;
    }
    for (user_id, devices) in &mut answer.device_keys {
        if let Some(named) = wanted.get(user_id).filter(|named| !named.is_empty()) {
            let named: HashSet<&str> = named.iter().map(|device_id| device_id.as_str()).collect();
            devices.retain(|device_id, _| named.contains(device_id.as_str()));
        }
    }
    Ok(answer)
}

/// The numbers of those users that have one.
pub(super) async fn find_users(
    engine: &Engine,
    user_ids: &[&OwnedUserId],
) -> Result<HashMap<OwnedUserId, UserNid>, Error> {
    let user_ids: Vec<&UserId> = user_ids.iter().map(|user_id| user_id.as_ref()).collect();
    Ok(engine.interner.find_users(&user_ids).await?)
}

impl QueryAnswer {
    /// Adds what is known of users, each of whom gets a list of devices, if an empty one.
    fn add(
        &mut self,
        user_ids: &[&OwnedUserId],
        nids: &HashMap<OwnedUserId, UserNid>,
        mut published: Published,
    ) -> Result<(), Error> {
        for user_id in user_ids {
            let devices = self.device_keys.entry((*user_id).clone()).or_default();
            let Some(user_nid) = nids.get(*user_id) else {
                continue;
            };
            for (device_id, object) in published.devices.remove(user_nid).unwrap_or_default() {
                devices.insert(device_id, raw(&object)?);
            }
            for (usage, keys) in [
                (Usage::Master, &mut self.master_keys),
                (Usage::SelfSigning, &mut self.self_signing_keys),
                (Usage::UserSigning, &mut self.user_signing_keys),
            ] {
                if let Some(object) = published.cross_signing.remove(&(*user_nid, usage)) {
                    keys.insert((*user_id).clone(), raw(&object)?);
                }
            }
        }
        Ok(())
    }
}

fn raw(object: &CanonicalJsonObject) -> Result<Box<RawValue>, Error> {
    to_raw_value(object).map_err(|error| Error::Damaged(format!("a key: {error}")))
}

/// What is stored of another server's users.
struct Known {
    lists: HashMap<UserNid, List>,
    /// Since when each has shared a room with a user of this server.
    shared_since: HashMap<UserNid, Position>,
}

impl Known {
    /// Whether what is stored of a user is all there is: the user's server told of every change since.
    fn is_current(&self, user_nid: UserNid) -> bool {
        let list = self.lists.get(&user_nid).filter(|list| !list.is_stale);
        let since = self.shared_since.get(&user_nid);
        list.zip(since)
            .is_some_and(|(list, since)| *since <= list.position)
    }
}

async fn query_remote(
    engine: &Arc<Engine>,
    requester: &Requester,
    wanted: &[&OwnedUserId],
    patience: Duration,
    answer: &mut QueryAnswer,
) -> Result<(), QueryError> {
    // Before anybody is asked, so that what is told meanwhile counts as newer.
    let position = engine.log.head().position;
    let nids = find_users(engine, wanted).await?;
    let user_nids: Vec<UserNid> = nids.values().copied().collect();
    let known = {
        let mut connection = engine.db.acquire().await?;
        let lists = stored::lists(&mut connection, &user_nids).await?;
        Known {
            lists: lists.into_iter().map(|list| (list.user_nid, list)).collect(),
            shared_since: stored::shared_since(&mut connection, &user_nids)
                .await?
                .into_iter()
                .collect(),
        }
    };
    let is_current = |user_id: &UserId| nids.get(user_id).is_some_and(|nid| known.is_current(*nid));
    let mut from_tables: Vec<OwnedUserId> = Vec::new();
    let mut by_server: BTreeMap<OwnedServerName, Vec<OwnedUserId>> = BTreeMap::new();
    for user_id in wanted.iter().copied() {
        match is_current(user_id) {
            true => from_tables.push(user_id.clone()),
            false => {
                let of_server = by_server.entry(user_id.server_name().to_owned()).or_default();
                of_server.push(user_id.clone());
            }
        }
    }
    let asked = by_server.into_iter().map(|(server, user_ids)| async move {
        let asked = ask(engine, &server, &user_ids);
        let told = tokio::time::timeout(patience, asked).await.unwrap_or(None);
        (server, user_ids, told)
    });
    let mut asked = stream::iter(asked).buffer_unordered(SERVERS_AT_ONCE);
    let mut fetched = Published::default();
    let mut fetched_ids: Vec<OwnedUserId> = Vec::new();
    // Of users whom nothing knew before, who have no number.
    let mut strangers: Vec<(OwnedUserId, UserKeys)> = Vec::new();
    while let Some((server, user_ids, told)) = asked.next().await {
        let Some(mut told) = told else {
            answer.failures.insert(server, Failure::UNREACHABLE);
            // What was known last is better than nothing: most of it holds.
            from_tables.extend(user_ids.into_iter().filter(|user_id| {
                let nid = nids.get(user_id);
                nid.is_some_and(|nid| known.lists.contains_key(nid) && known.shared_since.contains_key(nid))
            }));
            continue;
        };
        for user_id in user_ids {
            let Some(keys) = told.remove(&user_id) else {
                continue;
            };
            let Ok(keys) = keys else {
                answer.failures.insert(server.clone(), Failure::NONSENSE);
                continue;
            };
            let Some(user_nid) = nids.get(&user_id).copied() else {
                strangers.push((user_id, keys));
                continue;
            };
            if known.shared_since.contains_key(&user_nid) {
                let before = known.lists.get(&user_nid).map(|list| list.revision);
                remote_lists::begin(engine, user_nid, before, (None, position), &keys).await?;
            }
            keys.publish(user_nid, &mut fetched);
            fetched_ids.push(user_id);
        }
    }
    let user_nids: Vec<UserNid> = from_tables
        .iter()
        .filter_map(|user_id| nids.get(user_id).copied())
        .collect();
    let mut published = remote_lists::of_users(engine, &user_nids).await?;
    for (ids, published) in [(&from_tables, &mut published), (&fetched_ids, &mut fetched)] {
        published.add_signatures(engine, Some(requester.user_nid)).await?;
        let ids: Vec<&OwnedUserId> = ids.iter().collect();
        answer.add(&ids, &nids, std::mem::take(published))?;
    }
    for (user_id, keys) in strangers {
        let nobody = UserNid::from(0);
        let mut published = Published::default();
        keys.publish(nobody, &mut published);
        answer.add(
            &[&user_id],
            &HashMap::from([(user_id.clone(), nobody)]),
            published,
        )?;
    }
    Ok(())
}

/// What a server tells of each user, or that it is nonsense.
type Told = HashMap<OwnedUserId, Result<UserKeys, Nonsense>>;

async fn ask(engine: &Engine, server: &ServerName, user_ids: &[OwnedUserId]) -> Option<Told> {
    let request = user_keys::query::Request {
        device_keys: user_ids
            .iter()
            .map(|user_id| (user_id.clone(), Vec::new()))
            .collect(),
    };
    let response = match engine.remote.user_keys(server, request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(%server, %error, "a server did not tell its users' keys");
            return None;
        }
    };
    let told = user_ids.iter().map(|user_id| {
        let of = |keys: &user_keys::ByUser| keys.get(user_id.as_str()).cloned();
        let keys = UserKeys::read(
            user_id,
            of(&response.device_keys),
            of(&response.master_keys),
            of(&response.self_signing_keys),
        );
        if keys.is_err() {
            tracing::debug!(%user_id, "a server's answer on the keys of a user can't be used");
        }
        (user_id.clone(), keys)
    });
    Some(told.collect())
}

/// The master key of a user, of this server or of another, as far as it can be had.
pub(super) async fn master_key(
    engine: &Arc<Engine>,
    requester: &Requester,
    user_id: &OwnedUserId,
) -> Result<Option<CanonicalJsonObject>, Error> {
    if user_id.server_name() == engine.config.server_name {
        let Some(user_nid) = engine.interner.find_user(user_id).await? else {
            return Ok(None);
        };
        let mut connection = engine.db.acquire().await?;
        let keys = cross_signing::of_users(&mut connection, &[user_nid]).await?;
        let master = keys.into_iter().find(|key| key.usage == Usage::Master);
        return master.map(|key| published::stored(&key.key)).transpose();
    }
    let wanted = Wanted::from([(user_id.clone(), Vec::new())]);
    match query(engine, requester, &wanted, None).await {
        Ok(mut answer) => Ok(answer
            .master_keys
            .remove(user_id)
            .and_then(|key| objects::parse(key.get()).ok())),
        Err(QueryError::Failed(error)) => Err(error),
        Err(QueryError::TooMany) => Ok(None),
    }
}
