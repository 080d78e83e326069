//! An engine on a database of its own, for tests: for this crate's, and with the feature `test-engine` for those of the
//! crates above it, which do not name storage.

use std::sync::Arc;

pub use hearth_storage::test_database::TestDatabase;
use ruma::owned_server_name;

use crate::{Config, Engine, Outside, SigningKey};

/// The configuration of `example.org`, where anyone may register and nothing is limited.
pub fn open_config() -> Config {
    let mut config = Config::new(owned_server_name!("example.org"));
    config.registration.open = true;
    config.rate_limits.enabled = false;
    config
}

/// Starts one.
///
/// # Panics
///
/// When it does not start: a test cannot go on without it.
pub async fn start(config: Config) -> (Arc<Engine>, TestDatabase) {
    let database = TestDatabase::new().await;
    let key = SigningKey::from_seed("1", &[1; 32]).expect("any 32 bytes are a seed");
    let started = Engine::start(config, database.connect().await, key, Outside::default()).await;
    (started.expect("the engine starts"), database)
}

/// A server that is open to anyone, and a user of it.
#[cfg(test)]
pub(crate) async fn with_alice() -> (Arc<Engine>, crate::accounts::logins::Login) {
    use ruma::api::client::uiaa::{AuthData, Dummy};

    use crate::accounts::register::{Registration, register};

    let (engine, _) = start(open_config()).await;
    let alice = Registration {
        username: Some("alice".to_owned()),
        password: Some("correct horse".into()),
        ..Registration::default()
    };
    let registered = register(&engine, alice, Some(&AuthData::Dummy(Dummy::new()))).await;
    (engine, registered.unwrap().login.unwrap())
}
