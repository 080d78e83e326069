//! `refresh`: a refresh token for the next pair of tokens.

use hearth_storage::{devices, tokens};

use super::{changes, logins, secrets};
use crate::{Engine, Error};

/// Why there are no new tokens.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The token was never given out, was used up, or its device was logged out.
    #[error("the refresh token is unknown or was used before")]
    Unknown,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(RefreshError);

/// The next pair of tokens.
#[derive(Clone)]
pub struct Refreshed {
    /// Lets the device make requests.
    pub access_token: String,
    /// Gets the next pair.
    pub refresh_token: Option<String>,
    /// Milliseconds until the access token expires.
    pub expires_in_ms: Option<i64>,
}

impl std::fmt::Debug for Refreshed {
    /// Leaves the tokens out: they must not reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refreshed").finish_non_exhaustive()
    }
}

/// Gives the device of `refresh_token` its next tokens.
///
/// The old ones stay valid until something of the new pair is used ([refreshing]), so that a client that lost the
/// answer can ask again; the pair that it lost is void then.
///
/// [refreshing]: https://spec.matrix.org/v1.19/client-server-api/#refreshing-access-tokens
pub async fn refresh(engine: &Engine, refresh_token: &str) -> Result<Refreshed, RefreshError> {
    let hash = secrets::hash(refresh_token);
    let mut transaction = engine.db.begin().await?;
    let Some(token) = tokens::find_refresh(&mut transaction, &hash).await? else {
        return Err(RefreshError::Unknown);
    };
    devices::lock(&mut transaction, token.device_nid).await?;
    // Only behind the lock is it sure that the token was not used up meanwhile.
    let Some(token) = tokens::find_refresh(&mut transaction, &hash).await? else {
        return Err(RefreshError::Unknown);
    };
    tokens::delete_before(&mut transaction, token.device_nid, token.issue).await?;
    tokens::delete_after(&mut transaction, token.device_nid, token.issue).await?;
    let issued = logins::issue(engine, &mut transaction, token.device_nid, token.issue + 1, true).await?;
    changes::commit(engine, transaction, token.user_nid).await?;
    let logins::Issued {
        access_token,
        refresh_token,
        expires_in_ms,
    } = issued;
    Ok(Refreshed {
        access_token,
        refresh_token,
        expires_in_ms,
    })
}
