//! Accounts, on a real PostgreSQL: each test has a database of its own.

mod changing_passwords;
mod command_line;
mod deactivation;
mod logging_in;
mod openid;
mod own_devices;
mod refreshing;
mod registration;
mod shared_secret;
mod tokens;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use hearth_engine::{
    Clock, Config, Engine, Outside, SigningKey,
    accounts::{
        AuthenticateError, Requester, admin_register, authenticate,
        credentials::CredentialsError,
        deactivate, devices, last_seen,
        login::{self, LoginError},
        logins::{ACCESS_TOKEN_LIFETIME_MS, DeviceRequest, Login},
        logout, operator, password, refresh,
        register::{self, RegisterError, Registration},
        uia::{Challenge, StageFailure, UiaError},
        usernames::UsernameError,
    },
    rooms::create::create_room,
    users,
};
use hearth_storage::test_database::TestDatabase;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedDeviceId, UInt,
    api::client::{
        account::register::RegistrationKind,
        room::create_room,
        session::login::v3::LoginInfo,
        uiaa::{AuthData, AuthType},
    },
    owned_server_name,
};
use serde_json::json;

/// A clock that stands still until it is moved.
#[derive(Debug)]
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::try_from(self.0.load(SeqCst)).unwrap())
    }
}

struct Server {
    engine: Arc<Engine>,
    clock: Arc<TestClock>,
}

/// A server that is open to anyone, with a `shared_secret`, and without rate limits.
async fn server() -> Server {
    server_with(|_| ()).await
}

async fn server_with(change: impl FnOnce(&mut Config)) -> Server {
    let mut config = Config::new(owned_server_name!("example.org"));
    config.registration.open = true;
    config.registration.shared_secret = Some("shared_secret".to_owned());
    config.rate_limits.enabled = false;
    change(&mut config);
    let clock = Arc::new(TestClock(AtomicI64::new(1_700_000_000_000)));
    let db = TestDatabase::new().await.connect().await;
    let key = SigningKey::from_seed("test", &[7; 32]).unwrap();
    let outside = Outside {
        clock: clock.clone(),
        ..Outside::default()
    };
    let engine = Engine::start(config, db, key, outside).await.unwrap();
    Server { engine, clock }
}

impl Server {
    fn advance(&self, ms: i64) {
        self.clock.0.fetch_add(ms, SeqCst);
    }

    /// Registers a user whose password is `password`.
    async fn register(&self, username: &str) -> Login {
        let registered = register::register(&self.engine, registration(username), Some(&dummy())).await;
        registered.unwrap().login.unwrap()
    }

    async fn login_with(
        &self,
        user: &str,
        password: &str,
        device: DeviceRequest,
    ) -> Result<Login, LoginError> {
        login::login(&self.engine, password_login(user, password), device).await
    }

    async fn login(&self, user: &str) -> Login {
        self.login_with(user, "password", DeviceRequest::default())
            .await
            .unwrap()
    }

    async fn login_refreshing(&self, user: &str) -> Login {
        let device = DeviceRequest {
            refreshes: true,
            ..DeviceRequest::default()
        };
        self.login_with(user, "password", device).await.unwrap()
    }

    async fn requester(&self, login: &Login) -> Requester {
        authenticate(&self.engine, &login.access_token).await.unwrap()
    }

    async fn is_unknown(&self, token: &str) -> bool {
        matches!(
            authenticate(&self.engine, token).await,
            Err(AuthenticateError::Unknown)
        )
    }

    async fn is_soft_logged_out(&self, token: &str) -> bool {
        matches!(
            authenticate(&self.engine, token).await,
            Err(AuthenticateError::SoftLoggedOut)
        )
    }

    async fn works(&self, token: &str) -> bool {
        authenticate(&self.engine, token).await.is_ok()
    }
}

fn registration(username: &str) -> Registration {
    Registration {
        username: Some(username.to_owned()),
        password: Some("password".into()),
        ..Registration::default()
    }
}

fn auth(auth: serde_json::Value) -> AuthData {
    serde_json::from_value(auth).unwrap()
}

fn dummy() -> AuthData {
    auth(json!({ "type": "m.login.dummy" }))
}

fn password_auth(user: &str, password: &str) -> AuthData {
    auth(json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": user }, "password": password,
    }))
}

fn password_auth_in(session: &str, user: &str, password: &str) -> AuthData {
    auth(json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": user }, "password": password,
        "session": session,
    }))
}

fn password_login(user: &str, password: &str) -> LoginInfo {
    let info = json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": user }, "password": password,
    });
    serde_json::from_value(info).unwrap()
}

fn challenge(error: UiaError) -> Challenge {
    match error {
        UiaError::Challenge(challenge) => *challenge,
        error => panic!("not a challenge: {error}"),
    }
}

fn device_ids(devices: &[devices::Device]) -> BTreeSet<String> {
    devices.iter().map(|device| device.device_id.clone()).collect()
}
