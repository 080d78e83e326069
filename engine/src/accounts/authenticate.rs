//! From an access token to who asks, out of memory wherever possible.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, atomic::AtomicI64},
};

use hearth_storage::{DeviceNid, UserNid, devices, tokens};
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use super::{changes, invalidations::Moment, secrets, secrets::SecretHash};
use crate::{Engine, Error};

/// No token of ours is nearly that long: a longer one need not be hashed to be unknown.
const MAX_TOKEN_BYTES: usize = 512;

/// Why a token does not let anyone in.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticateError {
    /// It was never given out, or its device was logged out.
    #[error("the access token is unknown")]
    Unknown,
    /// It expired. The device still exists, and may refresh or log in anew.
    #[error("the access token has expired")]
    SoftLoggedOut,
    /// The server could not find out.
    #[error("could not look the access token up")]
    Failed(#[from] Error),
}

fails_with_storage!(AuthenticateError);

/// Who asks: a user, on a device, by a token. Cheap to clone.
#[derive(Clone)]
pub struct Requester(Arc<Session>);

/// What is known of a requester.
#[derive(Debug)]
pub struct Session {
    /// The user.
    pub user_id: OwnedUserId,
    /// The user's number.
    pub user_nid: UserNid,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The device's number.
    pub device_nid: DeviceNid,
    /// May use the administration API.
    pub is_admin: bool,
    /// A guest, who may do only what the specification grants guests.
    pub is_guest: bool,
    /// From when on the token means a soft logout, in milliseconds since the Unix epoch.
    pub expires_at: Option<i64>,
    token: SecretHash,
    /// When the reading of all this began.
    as_of: Moment,
    /// When the device's last seen was last written, in milliseconds since the Unix epoch.
    pub(super) last_seen_at: AtomicI64,
}

impl Requester {
    /// A user in whose name the server itself acts, on no device.
    pub(super) fn without_device(user_id: OwnedUserId, user_nid: UserNid) -> Self {
        Self(Arc::new(Session {
            user_id,
            user_nid,
            device_id: OwnedDeviceId::from(""),
            device_nid: DeviceNid::from(0),
            is_admin: false,
            is_guest: false,
            expires_at: None,
            token: SecretHash::default(),
            as_of: Moment::default(),
            last_seen_at: AtomicI64::new(0),
        }))
    }
}

impl Deref for Requester {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl fmt::Debug for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Requester({} on {})", self.user_id, self.device_id)
    }
}

/// Finds out who sent `token`. Whatever ended it (logout, deletion of the device, a change of password, expiry, …)
/// before this call is seen by it.
pub async fn authenticate(engine: &Engine, token: &str) -> Result<Requester, AuthenticateError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(AuthenticateError::Unknown);
    }
    by_hash(engine, secrets::hash(token)).await
}

/// Whether `requester` may still ask: for whoever serves one token for long, such as a request that waits.
pub async fn authenticate_again(
    engine: &Engine,
    requester: &Requester,
) -> Result<Requester, AuthenticateError> {
    by_hash(engine, requester.token).await
}

async fn by_hash(engine: &Engine, hash: SecretHash) -> Result<Requester, AuthenticateError> {
    let accounts = &engine.accounts;
    let cached = accounts.requesters.get(&hash);
    let current = cached.filter(|requester| {
        accounts
            .invalidations
            .is_current(requester.user_nid, requester.as_of)
    });
    let requester = match current {
        Some(requester) => requester,
        None => look_up(engine, hash).await?,
    };
    match requester.expires_at {
        Some(expires_at) if expires_at <= engine.clock.now_ms() => Err(AuthenticateError::SoftLoggedOut),
        _ => Ok(requester),
    }
}

async fn look_up(engine: &Engine, hash: SecretHash) -> Result<Requester, AuthenticateError> {
    loop {
        let as_of = engine.accounts.invalidations.now();
        let found = tokens::find_access(&mut *engine.db.acquire().await?, &hash).await?;
        let Some(token) = found else {
            engine.accounts.requesters.remove(&hash);
            return Err(AuthenticateError::Unknown);
        };
        if token.supersedes {
            end_earlier_issues(engine, &hash, &token).await?;
            continue;
        }
        let requester = remember(engine, hash, token, as_of)?;
        if engine
            .accounts
            .invalidations
            .is_current(requester.user_nid, as_of)
        {
            return Ok(requester);
        }
    }
}

/// Keeps what was read for the next request. If it was voided meanwhile, it is kept and never used.
fn remember(
    engine: &Engine,
    hash: SecretHash,
    token: tokens::AccessToken,
    as_of: Moment,
) -> Result<Requester, Error> {
    let user_id = UserId::parse(token.user_id).map_err(|error| Error::Damaged(error.to_string()))?;
    let requester = Requester(Arc::new(Session {
        user_id,
        user_nid: token.user_nid,
        device_id: token.device_id.into(),
        device_nid: token.device_nid,
        is_admin: token.is_admin,
        is_guest: token.is_guest,
        expires_at: token.expires_at,
        token: hash,
        as_of,
        last_seen_at: AtomicI64::new(token.last_seen_at.unwrap_or(0)),
    }));
    engine.accounts.requesters.insert(hash, requester.clone());
    Ok(requester)
}

/// The first use of a token from a refresh: the tokens that were refreshed end here, as the client evidently has
/// the new ones ([refreshing]).
///
/// [refreshing]: https://spec.matrix.org/v1.19/client-server-api/#refreshing-access-tokens
async fn end_earlier_issues(
    engine: &Engine,
    hash: &SecretHash,
    token: &tokens::AccessToken,
) -> Result<(), Error> {
    let mut transaction = engine.db.begin().await?;
    devices::lock(&mut transaction, token.device_nid).await?;
    // Before the lock, a second refresh with the old token may have put other tokens in the place of this one.
    let Some(token) = tokens::find_access(&mut transaction, hash).await? else {
        return Ok(());
    };
    tokens::expire_before(
        &mut transaction,
        token.device_nid,
        token.issue,
        engine.clock.now_ms(),
    )
    .await?;
    changes::commit(engine, transaction, token.user_nid).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{accounts::logout, test_engine};

    /// The race that a cache must survive: read, then revoked, then remembered.
    #[tokio::test]
    async fn token_read_before_a_logout_and_cached_after_it_is_dead() {
        let (engine, alice) = test_engine::with_alice().await;
        let token = alice.access_token;
        let requester = authenticate(&engine, &token).await.unwrap();

        let hash = secrets::hash(&token);
        let as_of = engine.accounts.invalidations.now();
        let read = tokens::find_access(&mut engine.db.acquire().await.unwrap(), &hash)
            .await
            .unwrap()
            .unwrap();
        logout::logout(&engine, &requester).await.unwrap();
        remember(&engine, hash, read, as_of).unwrap();

        assert!(
            engine.accounts.requesters.get(&hash).is_some(),
            "the stale answer is in the cache"
        );
        assert!(matches!(
            authenticate(&engine, &token).await,
            Err(AuthenticateError::Unknown)
        ));
        assert!(matches!(
            authenticate_again(&engine, &requester).await,
            Err(AuthenticateError::Unknown)
        ));
    }
}
