//! Tokens by which another service learns who somebody is (client-server API, "OpenID"; server-server API, "OpenID").
//!
//! They are in the database: whichever node is asked, and after whatever restart, knows them.

use std::time::Duration;

use hearth_storage::openid_tokens;
use ruma::{OwnedUserId, UserId};

use super::{Requester, secrets};
use crate::{Engine, Error};

/// How long a token lasts.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Why no token was given, or none recognised.
#[derive(Debug, thiserror::Error)]
pub enum OpenIdError {
    /// It was asked for in another's name.
    #[error("a token is given to the user whom it is for")]
    OfAnother,
    /// It was never given out, or has expired, or its user's account is closed.
    #[error("the token is not known, or has expired")]
    UnknownToken,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(OpenIdError);

/// A token, and for how long it is good.
#[derive(Debug)]
pub struct OpenIdToken {
    /// What the user shows.
    pub token: String,
    /// For how long from now on.
    pub expires_in: Duration,
}

/// Gives a user a token to show another service.
pub async fn request_token(
    engine: &Engine,
    requester: &Requester,
    user_id: &UserId,
) -> Result<OpenIdToken, OpenIdError> {
    if *user_id != requester.user_id {
        return Err(OpenIdError::OfAnother);
    }
    let token = secrets::openid_token(&*engine.entropy);
    let now = engine.clock.now_ms();
    let expires_at = now.saturating_add(i64::try_from(LIFETIME.as_millis()).unwrap_or(i64::MAX));
    let mut connection = engine.db.acquire().await?;
    openid_tokens::insert(
        &mut connection,
        &secrets::hash(&token),
        requester.user_nid,
        now,
        expires_at,
    )
    .await?;
    Ok(OpenIdToken {
        token,
        expires_in: LIFETIME,
    })
}

/// The user whom a token is of.
pub async fn user_of(engine: &Engine, token: &str) -> Result<OwnedUserId, OpenIdError> {
    let now = engine.clock.now_ms();
    let mut connection = engine.db.acquire().await?;
    let user_id = openid_tokens::user_of(&mut connection, &secrets::hash(token), now).await?;
    let user_id = user_id.ok_or(OpenIdError::UnknownToken)?;
    OwnedUserId::try_from(user_id)
        .map_err(|error| Error::Damaged(format!("the user of a token: {error}")).into())
}
