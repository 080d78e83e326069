//! Who asks: from the authentication that ruma names for an endpoint to the identity its handler is given.

use hearth_engine::Engine;
use http::request::Parts;
use ruma::{
    UserId,
    api::auth_scheme::{AppserviceTokenOptional, AuthScheme, NoAccessToken, NoAuthentication},
};

use crate::{Client, MatrixError};

/// An authentication scheme of ruma's for which there is an identity.
pub trait Identify: AuthScheme {
    /// What the handler gets: `()`, a [`Requester`], or an `Option<Requester>`.
    type Identity: Identity;

    /// Finds out who sent the request, or why nobody may have.
    fn identify(
        engine: &Engine,
        client: &Client,
        parts: &Parts,
    ) -> impl Future<Output = Result<Self::Identity, MatrixError>> + Send;
}

/// What an endpoint's handler knows about who asks.
pub trait Identity: std::fmt::Debug + Send {
    /// Whether a user may be known at all.
    const OF_USERS: bool;

    /// The user, where there is one.
    fn user_id(&self) -> Option<&UserId>;
}

impl Identity for () {
    const OF_USERS: bool = false;

    fn user_id(&self) -> Option<&UserId> {
        None
    }
}

impl Identify for NoAuthentication {
    type Identity = ();

    async fn identify(_: &Engine, _: &Client, _: &Parts) -> Result<(), MatrixError> {
        Ok(())
    }
}

/// A token that isn't asked for isn't looked at: clients send expired ones along.
impl Identify for NoAccessToken {
    type Identity = ();

    async fn identify(_: &Engine, _: &Client, _: &Parts) -> Result<(), MatrixError> {
        Ok(())
    }
}

/// Endpoints for everybody that do more for an application service. There are none yet.
impl Identify for AppserviceTokenOptional {
    type Identity = ();

    async fn identify(_: &Engine, _: &Client, _: &Parts) -> Result<(), MatrixError> {
        Ok(())
    }
}
