//! Filters: stored by clients, and read by every sync that names one (client-server API, "Filtering").

use std::{mem::size_of, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hearth_storage::{
    UserNid,
    filters::{self, FilterHash},
};
use quick_cache::{Weighter, sync::Cache};
use ruma::{
    CanonicalJsonObject, UserId,
    api::client::{
        filter::{EventFormat, FilterDefinition},
        sync::sync_events::v3::Filter,
    },
};
use sha2::{Digest as _, Sha256};

use crate::{Engine, Error, accounts::Requester};

/// A filter is at most this long, in bytes of JSON.
const MAX_FILTER_BYTES: usize = 64 << 10;
/// Filters kept of each user; those stored longest ago go first.
const KEPT: i64 = 500;
/// The memory that cached filters may take, in bytes.
const CACHED_BYTES: u64 = 16 << 20;

/// Why a filter was not stored or found.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// It is another user's.
    #[error("you can store and read your own filters only")]
    NotYours,
    /// It is no filter.
    #[error("this is not a filter: {0}")]
    BadFilter(String),
    /// It is too long.
    #[error("a filter is at most {MAX_FILTER_BYTES} bytes long")]
    TooLarge,
    /// The user has no filter of this ID.
    #[error("you have no filter of this ID")]
    Unknown,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<hearth_storage::StorageError> for FilterError {
    fn from(error: hearth_storage::StorageError) -> Self {
        Self::Failed(error.into())
    }
}

/// Filters in memory. A filter never changes.
#[derive(Debug)]
pub(crate) struct Filters {
    cache: Cache<(UserNid, FilterHash), Cached, ByBytes>,
    /// What a sync without a filter goes by.
    empty: Arc<FilterDefinition>,
}

#[derive(Debug, Clone)]
struct Cached {
    definition: Arc<FilterDefinition>,
    bytes: u64,
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<(UserNid, FilterHash), Cached> for ByBytes {
    fn weight(&self, _: &(UserNid, FilterHash), cached: &Cached) -> u64 {
        cached.bytes
    }
}

impl Filters {
    pub fn new() -> Self {
        Self {
            cache: Cache::with_weighter(1024, CACHED_BYTES, ByBytes),
            empty: Arc::default(),
        }
    }

    fn insert(&self, key: (UserNid, FilterHash), definition: &Arc<FilterDefinition>, json: &str) {
        // Each string of the JSON is one of the definition, with its allocation.
        let bytes = (size_of::<FilterDefinition>() + 3 * json.len()) as u64;
        self.cache.insert(
            key,
            Cached {
                definition: Arc::clone(definition),
                bytes,
            },
        );
    }
}

/// Stores a filter, JSON; the answer is its ID. The same filter has the same ID, however it is spelt.
pub async fn create(
    engine: &Engine,
    requester: &Requester,
    user_id: &UserId,
    json: &str,
) -> Result<String, FilterError> {
    check_owner(requester, user_id)?;
    if json.len() > MAX_FILTER_BYTES {
        return Err(FilterError::TooLarge);
    }
    let definition = Arc::new(parse(json)?);
    // Kept as the client put it, unknown keys included, in a form that doesn't depend on order and white space.
    let object: CanonicalJsonObject = serde_json::from_str(json).map_err(bad)?;
    let canonical = serde_json::to_string(&object).map_err(bad)?;
    let hash = hash_of(&canonical);
    let mut transaction = engine.db.begin().await?;
    let now = engine.clock.now_ms();
    filters::store(&mut transaction, requester.user_nid, &hash, &canonical, now, KEPT).await?;
    transaction.commit().await?;
    engine
        .filters
        .insert((requester.user_nid, hash), &definition, &canonical);
    Ok(URL_SAFE_NO_PAD.encode(hash))
}

/// A filter as it was stored, JSON.
pub async fn get(
    engine: &Engine,
    requester: &Requester,
    user_id: &UserId,
    filter_id: &str,
) -> Result<Arc<str>, FilterError> {
    check_owner(requester, user_id)?;
    let hash = hash_named(filter_id).ok_or(FilterError::Unknown)?;
    let mut connection = engine.db.acquire().await?;
    filters::find(&mut connection, requester.user_nid, &hash)
        .await?
        .ok_or(FilterError::Unknown)
}

/// A stored filter, from memory where it is there; nothing if the user has none of this ID.
pub async fn load(
    engine: &Engine,
    user_nid: UserNid,
    filter_id: &str,
) -> Result<Option<Arc<FilterDefinition>>, Error> {
    let Some(hash) = hash_named(filter_id) else {
        return Ok(None);
    };
    let key = (user_nid, hash);
    if let Some(cached) = engine.filters.cache.get(&key) {
        return Ok(Some(cached.definition));
    }
    let mut connection = engine.db.acquire().await?;
    let Some(json) = filters::find(&mut connection, user_nid, &hash).await? else {
        return Ok(None);
    };
    let definition =
        serde_json::from_str(&json).map_err(|error| Error::Damaged(format!("a filter: {error}")))?;
    let definition = Arc::new(definition);
    engine.filters.insert(key, &definition, &json);
    Ok(Some(definition))
}

/// The filter that a sync asks for, by ID or whole; one that lets everything pass when it asks for none.
pub async fn resolve(
    engine: &Engine,
    requester: &Requester,
    filter: Option<&Filter>,
) -> Result<Arc<FilterDefinition>, FilterError> {
    match filter {
        None => Ok(Arc::clone(&engine.filters.empty)),
        Some(Filter::FilterDefinition(definition)) => Ok(Arc::new(checked(definition.clone())?)),
        // No ID begins so. ruma takes a filter that it can't read for an ID; what is wrong with it comes out here.
        Some(Filter::FilterId(json)) if json.starts_with('{') => Ok(Arc::new(parse(json)?)),
        Some(Filter::FilterId(filter_id)) => load(engine, requester.user_nid, filter_id)
            .await?
            .ok_or(FilterError::Unknown),
        Some(_) => Err(FilterError::Unknown),
    }
}

fn check_owner(requester: &Requester, user_id: &UserId) -> Result<(), FilterError> {
    if requester.user_id == user_id {
        Ok(())
    } else {
        Err(FilterError::NotYours)
    }
}

fn parse(json: &str) -> Result<FilterDefinition, FilterError> {
    checked(serde_json::from_str(json).map_err(bad)?)
}

/// What the types alone don't say.
fn checked(filter: FilterDefinition) -> Result<FilterDefinition, FilterError> {
    match filter.event_format {
        EventFormat::Client | EventFormat::Federation => Ok(filter),
        other => Err(FilterError::BadFilter(format!(
            "`event_format` is `client` or `federation`, not `{other}`"
        ))),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "map_err gives the error away")]
fn bad(error: serde_json::Error) -> FilterError {
    FilterError::BadFilter(error.to_string())
}

fn hash_of(canonical: &str) -> FilterHash {
    let mut hash = FilterHash::default();
    hash.copy_from_slice(&Sha256::digest(canonical)[..16]);
    hash
}

fn hash_named(filter_id: &str) -> Option<FilterHash> {
    URL_SAFE_NO_PAD.decode(filter_id).ok()?.try_into().ok()
}
