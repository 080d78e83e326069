//! The numbers of users, event types and state keys, kept in memory. Bounded: what is not here is asked for.

use std::{collections::HashMap, sync::Arc};

use hearth_storage::{Connection, Database, KeyNid, StorageError, TypeNid, UserNid, interned, users};
use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId};

const USERS: usize = 200_000;
const TYPES: usize = 10_000;
const KEYS: usize = 400_000;

/// An event type and a state key.
pub type StateKey = (Arc<str>, Arc<str>);

/// Interned strings. A number never changes its meaning, so nothing here is ever stale.
#[derive(Debug)]
pub struct Interner {
    db: Database,
    user_nids: Cache<OwnedUserId, UserNid>,
    user_ids: Cache<UserNid, OwnedUserId>,
    types: Cache<Arc<str>, TypeNid>,
    key_nids: Cache<StateKey, KeyNid>,
    keys: Cache<KeyNid, StateKey>,
}

impl Interner {
    pub(crate) fn new(db: Database) -> Self {
        Self {
            db,
            user_nids: Cache::new(USERS),
            user_ids: Cache::new(USERS),
            types: Cache::new(TYPES),
            key_nids: Cache::new(KEYS),
            keys: Cache::new(KEYS),
        }
    }

    /// Forgets everything: the database may have lost what was interned last.
    pub(crate) fn clear(&self) {
        self.user_nids.clear();
        self.user_ids.clear();
        self.types.clear();
        self.key_nids.clear();
        self.keys.clear();
    }

    /// The number of a user, given now if need be.
    pub async fn user(&self, user_id: &UserId) -> Result<UserNid, StorageError> {
        if let Some(user_nid) = self.user_nids.get(user_id) {
            return Ok(user_nid);
        }
        let mut connection = self.db.acquire().await?;
        let user_nid = users::intern(&mut connection, user_id.as_str()).await?;
        self.remember_user(user_nid, user_id);
        Ok(user_nid)
    }

    /// The numbers of users, given now if need be, in their order.
    pub async fn users(&self, user_ids: &[&UserId]) -> Result<Vec<UserNid>, StorageError> {
        let cached: Option<Vec<UserNid>> = user_ids.iter().map(|id| self.user_nids.get(*id)).collect();
        if let Some(nids) = cached {
            return Ok(nids);
        }
        let names: Vec<&str> = user_ids.iter().map(|id| id.as_str()).collect();
        let mut connection = self.db.acquire().await?;
        let nids = users::intern_many(&mut connection, &names).await?;
        for (user_id, nid) in user_ids.iter().zip(&nids) {
            self.remember_user(*nid, user_id);
        }
        Ok(nids)
    }

    /// The number of a user, if it has one: for a name that only a client has mentioned.
    pub async fn find_user(&self, user_id: &UserId) -> Result<Option<UserNid>, StorageError> {
        if let Some(user_nid) = self.user_nids.get(user_id) {
            return Ok(Some(user_nid));
        }
        let mut connection = self.db.acquire().await?;
        let user_nid = users::find(&mut connection, user_id.as_str()).await?;
        if let Some(user_nid) = user_nid {
            self.remember_user(user_nid, user_id);
        }
        Ok(user_nid)
    }

    /// The numbers of those of some users that have one.
    pub async fn find_users(
        &self,
        user_ids: &[&UserId],
    ) -> Result<HashMap<OwnedUserId, UserNid>, StorageError> {
        let mut found = HashMap::with_capacity(user_ids.len());
        let mut missing = Vec::new();
        for user_id in user_ids {
            match self.user_nids.get(*user_id) {
                Some(user_nid) => drop(found.insert((*user_id).to_owned(), user_nid)),
                None => missing.push(user_id.as_str()),
            }
        }
        if !missing.is_empty() {
            let mut connection = self.db.acquire().await?;
            for (user_nid, user_id) in users::find_many(&mut connection, &missing).await? {
                let Ok(user_id) = OwnedUserId::try_from(user_id) else {
                    continue;
                };
                self.remember_user(user_nid, &user_id);
                found.insert(user_id, user_nid);
            }
        }
        Ok(found)
    }

    /// The IDs of users. Numbers without a readable ID are passed over.
    pub async fn user_ids(
        &self,
        user_nids: &[UserNid],
    ) -> Result<HashMap<UserNid, OwnedUserId>, StorageError> {
        let mut found = HashMap::with_capacity(user_nids.len());
        let mut missing = Vec::new();
        for user_nid in user_nids {
            match self.user_ids.get(user_nid) {
                Some(user_id) => drop(found.insert(*user_nid, user_id)),
                None => missing.push(*user_nid),
            }
        }
        if !missing.is_empty() {
            let mut connection = self.db.acquire().await?;
            for (user_nid, user_id) in users::by_nids(&mut connection, &missing).await? {
                let Ok(user_id) = OwnedUserId::try_from(user_id) else {
                    continue;
                };
                self.remember_user(user_nid, &user_id);
                found.insert(user_nid, user_id);
            }
        }
        Ok(found)
    }

    pub(crate) fn remember_user(&self, user_nid: UserNid, user_id: &UserId) {
        self.user_nids.insert(user_id.to_owned(), user_nid);
        self.user_ids.insert(user_nid, user_id.to_owned());
    }

    /// The numbers of event types, given now if need be, in their order.
    pub async fn types(&self, types: &[&str]) -> Result<Vec<TypeNid>, StorageError> {
        let cached: Option<Vec<TypeNid>> = types.iter().map(|name| self.types.get(*name)).collect();
        if let Some(nids) = cached {
            return Ok(nids);
        }
        let mut connection = self.db.acquire().await?;
        let nids = interned::intern_types(&mut connection, types).await?;
        for (name, nid) in types.iter().zip(&nids) {
            self.types.insert(Arc::from(*name), *nid);
        }
        Ok(nids)
    }

    /// The numbers of state keys, given now if need be, in their order.
    pub async fn keys(&self, keys: &[(&str, &str)]) -> Result<Vec<KeyNid>, StorageError> {
        if let Some(nids) = self.cached_keys(keys) {
            return Ok(nids);
        }
        let names: Vec<&str> = keys.iter().map(|(event_type, _)| *event_type).collect();
        let type_nids = self.types(&names).await?;
        let wanted: Vec<(TypeNid, &str)> = type_nids
            .into_iter()
            .zip(keys.iter().map(|(_, key)| *key))
            .collect();
        let mut connection = self.db.acquire().await?;
        let nids = interned::intern_keys(&mut connection, &wanted).await?;
        for ((event_type, state_key), nid) in keys.iter().zip(&nids) {
            self.remember_key(*nid, (Arc::from(*event_type), Arc::from(*state_key)));
        }
        Ok(nids)
    }

    /// The number of one state key, given now if need be.
    pub async fn key(&self, event_type: &str, state_key: &str) -> Result<KeyNid, StorageError> {
        let nids = self.keys(&[(event_type, state_key)]).await?;
        nids.first()
            .copied()
            .ok_or_else(|| StorageError::Damaged("a state key was not interned".to_owned()))
    }

    /// The numbers of a new user and of the user's member events, given in the caller's transaction: nobody's join has
    /// to wait for them then. To be remembered once it is committed.
    pub(crate) async fn new_user(
        &self,
        connection: &mut Connection,
        user_id: &UserId,
    ) -> Result<(UserNid, KeyNid), StorageError> {
        let member_type = match self.types.get("m.room.member") {
            Some(type_nid) => vec![type_nid],
            None => interned::intern_types(connection, &["m.room.member"]).await?,
        };
        let user_nid = users::intern(connection, user_id.as_str()).await?;
        let keys: Vec<(TypeNid, &str)> = member_type
            .into_iter()
            .map(|type_nid| (type_nid, user_id.as_str()))
            .collect();
        let key_nid = interned::intern_keys(connection, &keys).await?.pop();
        let key_nid =
            key_nid.ok_or_else(|| StorageError::Damaged("a state key was not interned".to_owned()))?;
        Ok((user_nid, key_nid))
    }

    /// Remembers what [`Interner::new_user`] gave.
    pub(crate) fn remember_new_user(&self, (user_nid, key_nid): (UserNid, KeyNid), user_id: &UserId) {
        self.remember_user(user_nid, user_id);
        self.remember_key(key_nid, ("m.room.member".into(), user_id.as_str().into()));
    }

    /// The number of a state key that only a client has mentioned; nothing if no event ever had it.
    pub async fn find_key(&self, event_type: &str, state_key: &str) -> Result<Option<KeyNid>, StorageError> {
        if let Some(nids) = self.cached_keys(&[(event_type, state_key)]) {
            return Ok(nids.first().copied());
        }
        let mut connection = self.db.acquire().await?;
        self.find_key_on(&mut connection, event_type, state_key).await
    }

    /// [`Interner::find_key`], for who has a connection: waiting for another one as well could be in vain.
    pub(crate) async fn find_key_on(
        &self,
        connection: &mut Connection,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<KeyNid>, StorageError> {
        if let Some(nids) = self.cached_keys(&[(event_type, state_key)]) {
            return Ok(nids.first().copied());
        }
        let Some(type_nid) = interned::find_type(connection, event_type).await? else {
            return Ok(None);
        };
        let found = interned::find_keys(connection, &[(type_nid, state_key)]).await?;
        let key_nid = found.into_iter().next().flatten();
        if let Some(key_nid) = key_nid {
            self.remember_key(key_nid, (Arc::from(event_type), Arc::from(state_key)));
        }
        Ok(key_nid)
    }

    /// The state keys of numbers.
    pub async fn key_names(&self, key_nids: &[KeyNid]) -> Result<HashMap<KeyNid, StateKey>, StorageError> {
        let mut found = HashMap::with_capacity(key_nids.len());
        let mut missing = Vec::new();
        for key_nid in key_nids {
            match self.keys.get(key_nid) {
                Some(key) => drop(found.insert(*key_nid, key)),
                None => missing.push(*key_nid),
            }
        }
        if !missing.is_empty() {
            let mut connection = self.db.acquire().await?;
            found.extend(self.load_keys(&mut connection, &missing).await?);
        }
        Ok(found)
    }

    async fn load_keys(
        &self,
        connection: &mut Connection,
        key_nids: &[KeyNid],
    ) -> Result<Vec<(KeyNid, StateKey)>, StorageError> {
        let rows = interned::keys_by_nids(connection, key_nids).await?;
        let keys = rows.into_iter().map(|(key_nid, event_type, state_key)| {
            let key: StateKey = (event_type.into(), state_key.into());
            self.remember_key(key_nid, key.clone());
            (key_nid, key)
        });
        Ok(keys.collect())
    }

    fn cached_keys(&self, keys: &[(&str, &str)]) -> Option<Vec<KeyNid>> {
        keys.iter()
            .map(|(event_type, state_key)| self.key_nids.get(&StateKeyRef(event_type, state_key)))
            .collect()
    }

    fn remember_key(&self, key_nid: KeyNid, key: StateKey) {
        self.key_nids.insert(key.clone(), key_nid);
        self.keys.insert(key_nid, key);
    }
}

/// Looks a [`StateKey`] up without making one.
#[derive(Hash)]
struct StateKeyRef<'a>(&'a str, &'a str);

impl quick_cache::Equivalent<StateKey> for StateKeyRef<'_> {
    fn equivalent(&self, key: &StateKey) -> bool {
        self.0 == &*key.0 && self.1 == &*key.1
    }
}
