//! Profiles of other servers' users, as those servers tell, remembered for some minutes.
//!
//! Nothing but time makes one forgotten. One that was told a while ago is told again where its server can't be asked.

use std::{collections::BTreeMap, sync::Arc};

use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedUserId, UserId, api::federation::query::get_profile_information};
use serde_json::Value;

use super::{MAX_FIELD_BYTES, MAX_PROFILE_BYTES, ProfileError, check_value, size};
use crate::{Engine, remote::RemoteError};

/// How long a profile is told without asking again, in milliseconds.
const FRESH_MS: i64 = 5 * 60_000;
/// The same that there is no such user, or field.
const FRESH_ABSENCE_MS: i64 = 60_000;
/// How long a profile is told where its server can't be asked.
const STALE_MS: i64 = 24 * 3_600_000;
/// Profiles in memory, and their bytes.
const PROFILES: usize = 50_000;
const BYTES: u64 = 16 << 20;
/// What a profile takes beside its JSON.
const OVERHEAD: usize = 200;

/// The fields of a profile.
pub(super) type Fields = BTreeMap<String, Value>;

/// A user, and a field if only that was asked for.
type Asked = (OwnedUserId, Option<Box<str>>);

/// What a server said.
#[derive(Debug, Clone)]
struct Known {
    /// Nothing of a user that isn't there.
    fields: Option<Arc<Fields>>,
    bytes: usize,
    told_at: i64,
}

impl Known {
    fn is_fresh(&self, now: i64) -> bool {
        let fresh = match &self.fields {
            Some(fields) if !fields.is_empty() => FRESH_MS,
            _ => FRESH_ABSENCE_MS,
        };
        now.saturating_sub(self.told_at) < fresh
    }
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<Asked, Known> for ByBytes {
    fn weight(&self, _: &Asked, known: &Known) -> u64 {
        (known.bytes + OVERHEAD) as u64
    }
}

/// What other servers told of their users.
#[derive(Debug)]
pub(crate) struct RemoteProfiles(Cache<Asked, Known, ByBytes>);

impl RemoteProfiles {
    pub fn new() -> Self {
        Self(Cache::with_weighter(PROFILES, BYTES, ByBytes))
    }
}

/// The whole profile of another server's user.
pub(super) async fn get(engine: &Engine, user_id: &UserId) -> Result<Arc<Fields>, ProfileError> {
    let told = told(engine, (user_id.to_owned(), None)).await?;
    told.ok_or(ProfileError::UnknownUser)
}

/// One field of it.
pub(super) async fn get_field(engine: &Engine, user_id: &UserId, field: &str) -> Result<Value, ProfileError> {
    if field.len() > MAX_FIELD_BYTES {
        return Err(ProfileError::UnknownField);
    }
    // Of a profile that was told just now every field is known; that one is missing may be the way of its server.
    let whole = engine.remote_profiles.0.get(&(user_id.to_owned(), None));
    let whole = whole.filter(|known| known.is_fresh(engine.clock.now_ms()));
    if let Some(value) = whole.and_then(|known| known.fields?.get(field).cloned()) {
        return Ok(value);
    }
    let told = told(engine, (user_id.to_owned(), Some(field.into()))).await?;
    told.and_then(|fields| fields.get(field).cloned())
        .ok_or(ProfileError::UnknownField)
}

/// What the user's server says, or said lately.
async fn told(engine: &Engine, asked: Asked) -> Result<Option<Arc<Fields>>, ProfileError> {
    let now = engine.clock.now_ms();
    let known = engine.remote_profiles.0.get(&asked);
    if let Some(known) = known.as_ref().filter(|known| known.is_fresh(now)) {
        return Ok(known.fields.clone());
    }
    match ask(engine, &asked).await {
        Ok((fields, bytes)) => {
            let known = Known {
                fields: fields.map(Arc::new),
                bytes,
                told_at: now,
            };
            engine.remote_profiles.0.insert(asked, known.clone());
            Ok(known.fields)
        }
        Err(error) => match known.filter(|known| now.saturating_sub(known.told_at) < STALE_MS) {
            Some(Known {
                fields: Some(fields), ..
            }) => Ok(Some(fields)),
            _ => Err(error),
        },
    }
}

async fn ask(engine: &Engine, (user_id, field): &Asked) -> Result<(Option<Fields>, usize), ProfileError> {
    let server = user_id.server_name().to_owned();
    let mut request = get_profile_information::v1::Request::new(user_id.clone());
    request.field = field.as_deref().map(Into::into);
    let answered = match engine.remote.profile(&server, request).await {
        Ok(answered) => answered,
        Err(RemoteError::NotAllowed(_) | RemoteError::Refused { status: 404, .. }) => return Ok((None, 0)),
        Err(error) => return Err(ProfileError::Elsewhere(server, error)),
    };
    let fields = answered.data.into_iter();
    // What is no name, or no avatar, is none.
    let fields: Fields = fields
        .filter(|(name, value)| check_value(name, value).is_ok())
        .collect();
    let bytes = fields
        .iter()
        .map(|(name, value)| size(name, &value.to_string()))
        .sum();
    if bytes > MAX_PROFILE_BYTES {
        let error = RemoteError::Malformed("it is larger than a profile may be".to_owned());
        return Err(ProfileError::Elsewhere(server, error));
    }
    Ok((Some(fields), bytes))
}
