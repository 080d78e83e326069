//! Accounts: registration, login, tokens, devices, passwords, and the authentication of every request.
//!
//! One file per verb; [`authenticate`] is what every other part of the server calls. Knows nothing of HTTP, and of
//! rooms only that a closed account leaves them.

/// Lets `?` turn a failure of the database into an error that has a variant `Failed`.
macro_rules! fails_with_storage {
    ($error:ty) => {
        impl From<hearth_storage::StorageError> for $error {
            fn from(error: hearth_storage::StorageError) -> Self {
                Self::Failed(error.into())
            }
        }
    };
}

pub mod admin_register;
mod attempts;
pub mod authenticate;
mod changes;
pub mod credentials;
pub mod deactivate;
pub mod devices;
mod invalidations;
pub mod last_seen;
pub mod login;
pub mod logins;
pub mod logout;
pub mod openid;
pub mod operator;
pub mod password;
mod passwords;
pub mod refresh;
pub mod register;
mod secrets;
pub mod uia;
pub mod usernames;

use quick_cache::sync::Cache;

pub use authenticate::{AuthenticateError, Requester, Session, authenticate};
pub use changes::invalidate;
pub(crate) use changes::invalidate_all;
pub use credentials::is_active;
pub(crate) use logins::MAX_DISPLAY_NAME_CHARS;
pub use secrets::Password;

use crate::Entropy;
use attempts::Attempts;
use invalidations::Invalidations;
use last_seen::LastSeen;
use passwords::Hashing;
use secrets::SecretHash;

/// How many tokens are kept in memory; some 300 bytes each.
const CACHED_TOKENS: u64 = 100_000;

/// What the accounts of a server keep in memory. All of it is bounded, and nothing is lost with it.
#[derive(Debug)]
pub struct Accounts {
    /// The requesters of recently used tokens. An entry counts only while `invalidations` agrees.
    requesters: Cache<SecretHash, Requester>,
    invalidations: Invalidations,
    attempts: Attempts,
    hashing: Hashing,
    last_seen: LastSeen,
}

impl Accounts {
    /// Nothing remembered yet. `entropy` gives a seed that keeps others from guessing which accounts share a
    /// place in a table.
    pub fn new(entropy: &dyn Entropy) -> Self {
        Self {
            // A modest first allocation: most servers never see that many tokens.
            requesters: Cache::with_weighter(1024, CACHED_TOKENS, quick_cache::UnitWeighter),
            invalidations: Invalidations::new(),
            attempts: Attempts::new(entropy),
            hashing: Hashing::new(),
            last_seen: LastSeen::new(),
        }
    }
}
