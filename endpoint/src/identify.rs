//! Who asks: from the authentication that ruma names for an endpoint to the identity its handler is given.

use std::fmt::Debug;

use hearth_engine::{
    Engine,
    accounts::{self, Requester, last_seen},
};
use http::Request;
use ruma::api::auth_scheme::{
    AccessToken, AccessTokenOptional, AppserviceTokenOptional, AuthScheme, ExtractTokenError, NoAccessToken,
    NoAuthentication,
};

use crate::{Client, MatrixError};

/// An authentication scheme of ruma's for which there is an identity.
pub trait Identify: AuthScheme {
    /// What the request shows: a token, maybe one, or nothing.
    type Credentials: Send;

    /// What the handler gets: a [`Requester`], an `Option<Requester>` or `()`.
    type Identity: Identity;

    /// Reads what the request shows.
    fn credentials<B>(request: &Request<B>) -> Result<Self::Credentials, MatrixError>;

    /// Finds out who that is.
    fn identify(
        engine: &Engine,
        client: &Client,
        credentials: Self::Credentials,
    ) -> impl Future<Output = Result<Self::Identity, MatrixError>> + Send;
}

/// What an endpoint's handler knows about who asks.
pub trait Identity: Debug + Send {
    /// Whether a user may be known at all.
    const OF_USERS: bool;

    /// Whether nobody but a user may ask.
    const USERS_ONLY: bool;

    /// The user and device, where they are known.
    fn requester(&self) -> Option<&Requester>;
}

impl Identity for () {
    const OF_USERS: bool = false;
    const USERS_ONLY: bool = false;

    fn requester(&self) -> Option<&Requester> {
        None
    }
}

impl Identity for Requester {
    const OF_USERS: bool = true;
    const USERS_ONLY: bool = true;

    fn requester(&self) -> Option<&Requester> {
        Some(self)
    }
}

impl Identity for Option<Requester> {
    const OF_USERS: bool = true;
    const USERS_ONLY: bool = false;

    fn requester(&self) -> Option<&Requester> {
        self.as_ref()
    }
}

/// Schemes by which nobody is known. A token that isn't asked for isn't looked at: clients send expired ones along.
macro_rules! identify_nobody {
    ($($scheme:ty),*) => {$(
        impl Identify for $scheme {
            type Credentials = ();
            type Identity = ();

            fn credentials<B>(_: &Request<B>) -> Result<(), MatrixError> {
                Ok(())
            }

            async fn identify(_: &Engine, _: &Client, (): ()) -> Result<(), MatrixError> {
                Ok(())
            }
        }
    )*};
}

// The last is that of endpoints for everybody which do more for an application service, of which there are none.
identify_nobody!(NoAuthentication, NoAccessToken, AppserviceTokenOptional);

impl Identify for AccessToken {
    type Credentials = String;
    type Identity = Requester;

    fn credentials<B>(request: &Request<B>) -> Result<String, MatrixError> {
        token(request)?.ok_or_else(MatrixError::missing_token)
    }

    async fn identify(engine: &Engine, client: &Client, token: String) -> Result<Requester, MatrixError> {
        authenticate(engine, client, &token).await
    }
}

/// A token that is shown must be good: its owner would otherwise be taken for nobody.
impl Identify for AccessTokenOptional {
    type Credentials = Option<String>;
    type Identity = Option<Requester>;

    fn credentials<B>(request: &Request<B>) -> Result<Option<String>, MatrixError> {
        token(request)
    }

    async fn identify(
        engine: &Engine,
        client: &Client,
        token: Option<String>,
    ) -> Result<Option<Requester>, MatrixError> {
        match token {
            Some(token) => authenticate(engine, client, &token).await.map(Some),
            None => Ok(None),
        }
    }
}

/// The token in the `Authorization` header or, as old clients send it, in the query.
fn token<B>(request: &Request<B>) -> Result<Option<String>, MatrixError> {
    AccessTokenOptional::extract_authentication(request).map_err(|error| match error {
        // Tokens of ours are ASCII; this is none.
        ExtractTokenError::FromHeader(_) => MatrixError::unknown_token(false),
        _ => MatrixError::missing_token(),
    })
}

async fn authenticate(engine: &Engine, client: &Client, token: &str) -> Result<Requester, MatrixError> {
    let requester = accounts::authenticate(engine, token).await?;
    last_seen::note(engine, &requester, client.address, client.user_agent());
    Ok(requester)
}
