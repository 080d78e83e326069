//! An engine on a database of its own, for the tests of this module that look inside it.

use std::sync::Arc;

use hearth_storage::test_database::TestDatabase;
use ruma::{api::client::uiaa, owned_server_name};

use super::{
    logins::Login,
    register::{self, Registration},
};
use crate::{Config, Engine, Outside, SigningKey};

/// A server that is open to anyone, and a user of it.
pub(crate) async fn with_alice() -> (Arc<Engine>, Login) {
    let mut config = Config::new(owned_server_name!("example.org"));
    config.registration.open = true;
    let db = TestDatabase::new().await.connect().await;
    let key = SigningKey::from_seed("test", &[7; 32]).unwrap();
    let engine = Engine::start(config, db, key, Outside::default()).await.unwrap();
    let alice = Registration {
        username: Some("alice".to_owned()),
        password: Some("correct horse".into()),
        ..Registration::default()
    };
    let auth = uiaa::AuthData::Dummy(uiaa::Dummy::new());
    let alice = register::register(&engine, alice, Some(&auth)).await.unwrap();
    (engine, alice.login.unwrap())
}
