//! Whether a user and a password go together: what login and the password stage share.

use hearth_storage::accounts;
use ruma::{UserId, api::client::uiaa::UserIdentifier};

use super::{
    Password,
    passwords::{self, HashingError},
    usernames,
};
use crate::{Engine, Error};

/// Why credentials do not open an account.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// There is no such user, or the password is not theirs.
    #[error("wrong user name or password")]
    Wrong,
    /// The account was deactivated.
    #[error("the account was deactivated")]
    Deactivated,
    /// The identifier is of a type that the specification does not know.
    #[error("unknown type of user identifier")]
    UnknownIdentifier,
    /// Too many attempts on this account.
    #[error("too many attempts on this account")]
    TooManyAttempts {
        /// Milliseconds until the next one is allowed.
        retry_after_ms: i64,
    },
    /// More passwords are waiting to be checked than the server takes on.
    #[error("too many passwords are waiting to be checked")]
    Busy,
    /// Hashing failed.
    #[error("could not check the password")]
    Hashing,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(CredentialsError);

impl From<HashingError> for CredentialsError {
    fn from(error: HashingError) -> Self {
        match error {
            HashingError::Busy => Self::Busy,
            HashingError::Failed => Self::Hashing,
        }
    }
}

/// The name that an identifier gives, to be looked for by [`verify`].
///
/// Third-party identifiers are well-formed, and belong to nobody as long as none can be added to an account: to
/// those the specification has the answer be "forbidden".
pub(crate) fn name_in(identifier: &UserIdentifier) -> Result<&str, CredentialsError> {
    match identifier {
        UserIdentifier::Matrix(identifier) => Ok(&identifier.user),
        UserIdentifier::PhoneNumber(_) => Err(CredentialsError::Wrong),
        other if other.as_third_party_id().is_some() => Err(CredentialsError::Wrong),
        _ => Err(CredentialsError::UnknownIdentifier),
    }
}

/// The account of `name` (a localpart or a user ID), if `password` opens it. Takes as long when there is none.
pub(crate) async fn verify(
    engine: &Engine,
    name: &str,
    password: &Password,
) -> Result<accounts::Account, CredentialsError> {
    let meant = usernames::meant_by(name, &engine.config.server_name);
    // What differs in case alone is one account to whoever guesses.
    let counted_as = meant.last().map_or(name, String::as_str);
    if engine.config.rate_limits.enabled {
        let counted = engine.accounts.attempts.take(counted_as, engine.clock.now_ms());
        counted.map_err(|retry_after_ms| CredentialsError::TooManyAttempts { retry_after_ms })?;
    }
    let account = find(engine, &meant).await?;
    let hash = account
        .as_ref()
        .and_then(|account| account.password_hash.as_deref());
    let is_right = engine
        .accounts
        .hashing
        .verify(&*engine.entropy, password, hash)
        .await?;
    let Some(account) = account else {
        return Err(CredentialsError::Wrong);
    };
    if account.deactivated_at.is_some() {
        return Err(CredentialsError::Deactivated);
    }
    if !is_right {
        return Err(CredentialsError::Wrong);
    }
    if engine.config.rate_limits.enabled {
        engine.accounts.attempts.give_back(counted_as);
    }
    renew_hash(engine, account, password).await
}

/// Whether a user of this server has an account, and one that is not closed.
pub async fn is_active(engine: &Engine, user_id: &UserId) -> Result<bool, Error> {
    let account = find(engine, &[user_id.to_string()]).await?;
    Ok(account.is_some_and(|account| account.deactivated_at.is_none()))
}

/// The account that is meant, where several may be: the one whose ID comes first in `meant`.
pub(crate) async fn find(engine: &Engine, meant: &[String]) -> Result<Option<accounts::Account>, Error> {
    let found = accounts::find(&mut *engine.db.acquire().await?, meant).await?;
    let rank = |account: &accounts::Account| meant.iter().position(|user_id| *user_id == account.user_id);
    Ok(found.into_iter().min_by_key(rank))
}

/// Hashes the password anew where its stored hash was made with other settings than today's.
async fn renew_hash(
    engine: &Engine,
    mut account: accounts::Account,
    password: &Password,
) -> Result<accounts::Account, CredentialsError> {
    let Some(old) = account
        .password_hash
        .as_deref()
        .filter(|hash| passwords::is_outdated(hash))
    else {
        return Ok(account);
    };
    let new = engine.accounts.hashing.hash(&*engine.entropy, password).await?;
    let mut connection = engine.db.acquire().await?;
    if accounts::replace_password_hash(&mut connection, account.user_nid, old, &new).await? {
        account.password_hash = Some(new);
    }
    Ok(account)
}
