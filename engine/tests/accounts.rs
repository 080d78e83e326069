//! Accounts, on a real PostgreSQL: each test has a database of its own.

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
    let outside = Outside { clock: clock.clone(), ..Outside::default() };
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

    async fn login_with(&self, user: &str, password: &str, device: DeviceRequest) -> Result<Login, LoginError> {
        login::login(&self.engine, password_login(user, password), device).await
    }

    async fn login(&self, user: &str) -> Login {
        self.login_with(user, "password", DeviceRequest::default()).await.unwrap()
    }

    async fn login_refreshing(&self, user: &str) -> Login {
        let device = DeviceRequest { refreshes: true, ..DeviceRequest::default() };
        self.login_with(user, "password", device).await.unwrap()
    }

    async fn requester(&self, login: &Login) -> Requester {
        authenticate(&self.engine, &login.access_token).await.unwrap()
    }

    async fn is_unknown(&self, token: &str) -> bool {
        matches!(authenticate(&self.engine, token).await, Err(AuthenticateError::Unknown))
    }

    async fn is_soft_logged_out(&self, token: &str) -> bool {
        matches!(authenticate(&self.engine, token).await, Err(AuthenticateError::SoftLoggedOut))
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

// Registration

#[tokio::test]
async fn user_registers_with_the_dummy_stage_sent_at_once() {
    let server = server().await;
    let alice = server.register("alice").await;
    assert_eq!(alice.user_id, "@alice:example.org");
    assert_eq!((alice.refresh_token.as_deref(), alice.expires_in_ms), (None, None));
    let requester = server.requester(&alice).await;
    assert_eq!((&requester.user_id, &requester.device_id), (&alice.user_id, &alice.device_id));
    assert!(!requester.is_admin && !requester.is_guest);
}

#[tokio::test]
async fn user_registers_in_the_session_that_the_challenge_names() {
    let server = server().await;
    let error = register::register(&server.engine, registration("alice"), None).await.unwrap_err();
    let RegisterError::Uia(error) = error else { panic!("{error}") };
    let challenge = challenge(error);
    assert_eq!(challenge.flows, [[AuthType::Dummy]]);
    assert!(challenge.completed.is_empty() && challenge.failure.is_none());

    let in_session = auth(json!({ "type": "m.login.dummy", "session": challenge.session }));
    let registered = register::register(&server.engine, registration("alice"), Some(&in_session)).await.unwrap();
    assert_eq!(registered.user_id, "@alice:example.org");
}

#[tokio::test]
async fn session_authorises_once() {
    let server = server().await;
    let error = register::register(&server.engine, registration("alice"), None).await.unwrap_err();
    let RegisterError::Uia(error) = error else { panic!("{error}") };
    let session = challenge(error).session;
    let in_session = auth(json!({ "type": "m.login.dummy", "session": session }));
    register::register(&server.engine, registration("alice"), Some(&in_session)).await.unwrap();
    // The stage on its own would do; that the session is done with shows when only the session is sent.
    let only_session = auth(json!({ "session": session }));
    let error = register::register(&server.engine, registration("bob"), Some(&only_session)).await.unwrap_err();
    let RegisterError::Uia(error) = error else { panic!("{error}") };
    assert_ne!(challenge(error).session, session);
}

#[tokio::test]
async fn completed_session_outlives_an_operation_that_fails_for_another_reason() {
    let server = server().await;
    let error = register::register(&server.engine, registration("alice"), None).await.unwrap_err();
    let RegisterError::Uia(error) = error else { panic!("{error}") };
    let session = challenge(error).session;
    let without_password = Registration { password: None, ..registration("alice") };
    let in_session = auth(json!({ "type": "m.login.dummy", "session": session }));
    let error = register::register(&server.engine, without_password, Some(&in_session)).await.unwrap_err();
    assert!(matches!(error, RegisterError::NoPassword), "{error}");
    let only_session = auth(json!({ "session": session }));
    register::register(&server.engine, registration("alice"), Some(&only_session)).await.unwrap();
}

#[tokio::test]
async fn stage_of_no_flow_is_refused_in_the_session() {
    let server = server().await;
    let password = password_auth("alice", "password");
    let error = register::register(&server.engine, registration("alice"), Some(&password)).await.unwrap_err();
    let RegisterError::Uia(error) = error else { panic!("{error}") };
    assert_eq!(challenge(error).failure, Some(StageFailure::NotNext));

    let unknown = auth(json!({ "type": "org.example.handshake" }));
    let error = register::register(&server.engine, registration("alice"), Some(&unknown)).await.unwrap_err();
    let RegisterError::Uia(error) = error else { panic!("{error}") };
    assert_eq!(challenge(error).failure, Some(StageFailure::UnknownStage));
}

#[tokio::test]
async fn names_are_checked_before_anyone_authenticates() {
    let server = server().await;
    server.register("alice").await;
    let taken = register::register(&server.engine, registration("Alice"), None).await.unwrap_err();
    assert!(matches!(taken, RegisterError::UsernameTaken), "{taken}");
    let invalid = register::register(&server.engine, registration("al ice"), None).await.unwrap_err();
    assert!(matches!(invalid, RegisterError::InvalidUsername(UsernameError::Character)), "{invalid}");

    let check = async |name| register::check_username(&server.engine, name).await;
    assert!(check("bob").await.is_ok());
    assert!(matches!(check("alice").await, Err(RegisterError::UsernameTaken)));
    assert!(matches!(check("bob,").await, Err(RegisterError::InvalidUsername(_))));
}

#[tokio::test]
async fn one_of_two_who_register_a_name_at_once_gets_it() {
    let server = server().await;
    let (one, other) = (dummy(), dummy());
    let (one, other) = tokio::join!(
        register::register(&server.engine, registration("alice"), Some(&one)),
        register::register(&server.engine, registration("alice"), Some(&other)),
    );
    assert!(one.is_ok() != other.is_ok());
    let error = one.and(other).unwrap_err();
    assert!(matches!(error, RegisterError::UsernameTaken), "{error}");
}

#[tokio::test]
async fn closed_server_registers_nobody_and_tells_no_names() {
    let server = server_with(|config| config.registration.open = false).await;
    let error = register::register(&server.engine, registration("alice"), Some(&dummy())).await.unwrap_err();
    assert!(matches!(error, RegisterError::Closed), "{error}");
    let error = register::check_username(&server.engine, "alice").await.unwrap_err();
    assert!(matches!(error, RegisterError::Closed), "{error}");
}

#[tokio::test]
async fn guests_are_registered_only_where_they_are_let_in() {
    let guest = || Registration { kind: RegistrationKind::Guest, ..registration("ignored") };
    let closed = server().await;
    let error = register::register(&closed.engine, guest(), None).await.unwrap_err();
    assert!(matches!(error, RegisterError::GuestsRefused), "{error}");

    let open = server_with(|config| config.registration.guests = true).await;
    let login = register::register(&open.engine, guest(), None).await.unwrap().login.unwrap();
    assert!(login.user_id.localpart().starts_with("guest-"));
    let requester = open.requester(&login).await;
    assert!(requester.is_guest);
    let denied = password::change_password(&open.engine, &requester, "new".into(), true, None).await.unwrap_err();
    assert!(matches!(denied, password::ChangePasswordError::Guest), "{denied}");
}

#[tokio::test]
async fn name_device_and_login_are_optional() {
    let server = server().await;
    let nameless = Registration { username: None, ..registration("") };
    let registered = register::register(&server.engine, nameless, Some(&dummy())).await.unwrap();
    assert_eq!(registered.user_id.localpart().len(), 12);

    let inhibited = Registration { inhibit_login: true, ..registration("alice") };
    assert!(register::register(&server.engine, inhibited, Some(&dummy())).await.unwrap().login.is_none());

    let device = DeviceRequest {
        device_id: Some("MINE".into()),
        initial_display_name: Some("Phone".to_owned()),
        refreshes: true,
    };
    let named = Registration { device, ..registration("bob") };
    let bob = register::register(&server.engine, named, Some(&dummy())).await.unwrap().login.unwrap();
    assert_eq!(bob.device_id, "MINE");
    assert_eq!(bob.expires_in_ms, Some(ACCESS_TOKEN_LIFETIME_MS));
    assert!(bob.refresh_token.is_some());

    let empty = Registration { password: Some("".into()), ..registration("carol") };
    let error = register::register(&server.engine, empty, Some(&dummy())).await.unwrap_err();
    assert!(matches!(error, RegisterError::EmptyPassword), "{error}");
}

// Registration by shared secret

fn admin_registration(nonce: &str, is_admin: bool, secret: &str) -> admin_register::AdminRegistration {
    use hmac::{Hmac, KeyInit, Mac};
    let mut hmac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    let role = if is_admin { "admin" } else { "notadmin" };
    hmac.update(format!("{nonce}\0Root\0password\0{role}").as_bytes());
    admin_register::AdminRegistration {
        nonce: nonce.to_owned(),
        username: "Root".to_owned(),
        password: "password".into(),
        is_admin,
        user_type: None,
        mac: hmac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
        device: DeviceRequest::default(),
        inhibit_login: false,
    }
}

#[tokio::test]
async fn whoever_knows_the_shared_secret_registers_administrators() {
    let server = server_with(|config| config.registration.open = false).await;
    let nonce = admin_register::nonce(&server.engine).await.unwrap();
    let registration = admin_registration(&nonce, true, "shared_secret");
    let root = admin_register::register(&server.engine, registration).await.unwrap().login.unwrap();
    assert_eq!(root.user_id, "@root:example.org");
    assert!(server.requester(&root).await.is_admin);
}

#[tokio::test]
async fn nonce_serves_once_and_for_a_minute_even_where_the_mac_is_wrong() {
    let server = server().await;
    let register = async |nonce: &str, secret| {
        admin_register::register(&server.engine, admin_registration(nonce, false, secret)).await.unwrap_err()
    };
    let nonce = admin_register::nonce(&server.engine).await.unwrap();
    assert!(matches!(register(&nonce, "guess").await, admin_register::AdminRegisterError::WrongMac));
    assert!(matches!(register(&nonce, "shared_secret").await, admin_register::AdminRegisterError::InvalidNonce));
    assert!(matches!(register("made up", "shared_secret").await, admin_register::AdminRegisterError::InvalidNonce));
    let nonce = admin_register::nonce(&server.engine).await.unwrap();
    server.advance(61_000);
    assert!(matches!(register(&nonce, "shared_secret").await, admin_register::AdminRegisterError::InvalidNonce));
}

#[tokio::test]
async fn without_a_shared_secret_there_are_no_nonces() {
    let server = server_with(|config| config.registration.shared_secret = None).await;
    let error = admin_register::nonce(&server.engine).await.unwrap_err();
    assert!(matches!(error, admin_register::AdminRegisterError::Off), "{error}");
}

// Login

#[tokio::test]
async fn user_logs_in_by_localpart_or_user_id_in_any_case() {
    let server = server().await;
    server.register("alice").await;
    for name in ["alice", "@alice:example.org", "ALICE", "@Alice:example.org"] {
        assert_eq!(server.login(name).await.user_id, "@alice:example.org", "{name}");
    }
    let deprecated = json!({ "type": "m.login.password", "user": "alice", "password": "password" });
    let deprecated = serde_json::from_value(deprecated).unwrap();
    let login = login::login(&server.engine, deprecated, DeviceRequest::default()).await.unwrap();
    assert_eq!(login.user_id, "@alice:example.org");
}

#[tokio::test]
async fn wrong_credentials_are_all_alike() {
    let server = server().await;
    server.register("alice").await;
    let cases = [
        ("alice", "wrong"),
        ("alice", ""),
        ("nobody", "password"),
        ("@alice:elsewhere.org", "password"),
        ("@", "password"),
        ("a\0", "password"),
    ];
    for (user, password) in cases {
        let error = server.login_with(user, password, DeviceRequest::default()).await.unwrap_err();
        assert!(matches!(error, LoginError::Credentials(CredentialsError::Wrong)), "{user}: {error}");
    }
}

#[tokio::test]
async fn login_says_what_it_does_not_understand() {
    let server = server().await;
    let login = async |info| {
        let info = serde_json::from_value(info).unwrap();
        login::login(&server.engine, info, DeviceRequest::default()).await.unwrap_err()
    };
    let error = login(json!({ "type": "org.example.handshake" })).await;
    assert!(matches!(error, LoginError::UnsupportedType), "{error}");
    let error = login(json!({ "type": "m.login.token", "token": "abc" })).await;
    assert!(matches!(error, LoginError::UnsupportedType), "{error}");
    let error = login(json!({ "type": "m.login.password", "password": "x" })).await;
    assert!(matches!(error, LoginError::NoIdentifier), "{error}");
    let identifier = json!({ "type": "org.example.badge" });
    let error = login(json!({ "type": "m.login.password", "password": "x", "identifier": identifier })).await;
    assert!(matches!(error, LoginError::Credentials(CredentialsError::UnknownIdentifier)), "{error}");
    let identifier = json!({ "type": "m.id.thirdparty", "medium": "email", "address": "a@example.org" });
    let error = login(json!({ "type": "m.login.password", "password": "x", "identifier": identifier })).await;
    assert!(matches!(error, LoginError::Credentials(CredentialsError::Wrong)), "{error}");
}

#[tokio::test]
async fn logging_a_device_in_again_ends_its_tokens_and_keeps_its_name() {
    let server = server().await;
    server.register("alice").await;
    let phone = |name: &str| DeviceRequest {
        device_id: Some("PHONE".into()),
        initial_display_name: Some(name.to_owned()),
        refreshes: true,
    };
    let first = server.login_with("alice", "password", phone("First")).await.unwrap();
    assert!(server.works(&first.access_token).await);
    let second = server.login_with("alice", "password", phone("Second")).await.unwrap();
    assert_eq!(second.device_id, "PHONE");
    assert!(server.is_unknown(&first.access_token).await);
    let refreshed = refresh::refresh(&server.engine, first.refresh_token.as_deref().unwrap()).await;
    assert!(matches!(refreshed, Err(refresh::RefreshError::Unknown)));
    let requester = server.requester(&second).await;
    let device = devices::get(&server.engine, &requester, "PHONE".into()).await.unwrap();
    assert_eq!(device.display_name.as_deref(), Some("First"));
}

#[tokio::test]
async fn device_ids_that_cannot_be_stored_are_refused() {
    let server = server().await;
    server.register("alice").await;
    for device_id in ["a\0b".to_owned(), "line\nbreak".to_owned(), "x".repeat(256)] {
        let device = DeviceRequest { device_id: Some(device_id.into()), ..DeviceRequest::default() };
        let error = server.login_with("alice", "password", device).await.unwrap_err();
        assert!(matches!(error, LoginError::InvalidDeviceId(_)), "{error}");
    }
    let empty = DeviceRequest { device_id: Some("".into()), ..DeviceRequest::default() };
    assert_eq!(server.login_with("alice", "password", empty).await.unwrap().device_id.as_str().len(), 10);
}

#[tokio::test]
async fn guessing_a_password_is_slowed_down_whether_or_not_the_account_exists() {
    let server = server_with(|config| config.rate_limits.enabled = true).await;
    server.register("alice").await;
    for user in ["alice", "nobody"] {
        for _ in 0..10 {
            let error = server.login_with(user, "wrong", DeviceRequest::default()).await.unwrap_err();
            assert!(matches!(error, LoginError::Credentials(CredentialsError::Wrong)), "{error}");
        }
        let error = server.login_with(user, "password", DeviceRequest::default()).await.unwrap_err();
        let LoginError::Credentials(CredentialsError::TooManyAttempts { retry_after_ms }) = error else {
            panic!("{error}")
        };
        assert!(retry_after_ms > 0);
    }
    server.advance(60_000);
    for _ in 0..20 {
        server.login("alice").await;
    }
}

#[tokio::test]
async fn password_hash_of_lesser_settings_is_renewed_at_login() {
    let server = server().await;
    let alice = server.register("alice").await;
    let weak = "$argon2id$v=19$m=64,t=1,p=1$";
    let hash = {
        use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version, password_hash::phc::PasswordHash};
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(64, 1, 1, None).unwrap());
        let hash: PasswordHash = hasher.hash_password_with_salt(b"password", b"0123456789abcdef").unwrap();
        hash.to_string()
    };
    assert!(hash.starts_with(weak), "{hash}");
    let nid = server.requester(&alice).await.user_nid;
    let mut connection = server.engine.db.acquire().await.unwrap();
    hearth_storage::accounts::set_password_hash(&mut connection, nid, &hash).await.unwrap();
    drop(connection);

    server.login("alice").await;
    let account = operator::list(&server.engine, "", 1).await.unwrap().remove(0);
    assert!(!account.password_hash.unwrap().starts_with(weak));
    server.login("alice").await;
}

// Tokens

#[tokio::test]
async fn tokens_that_were_never_given_out_are_unknown() {
    let server = server().await;
    assert!(server.is_unknown("").await);
    assert!(server.is_unknown("hat_0").await);
    assert!(server.is_unknown(&"x".repeat(10_000)).await);
    assert!(server.is_unknown("\0").await);
}

#[tokio::test]
async fn logout_ends_one_device_at_once() {
    let server = server().await;
    let first = server.register("alice").await;
    let second = server.login("alice").await;
    assert!(server.works(&first.access_token).await);
    let requester = server.requester(&second).await;
    logout::logout(&server.engine, &requester).await.unwrap();
    assert!(server.is_unknown(&second.access_token).await);
    let requester = server.requester(&first).await;
    let devices = devices::list(&server.engine, &requester).await.unwrap();
    assert_eq!(device_ids(&devices), [first.device_id.to_string()].into());
}

#[tokio::test]
async fn logout_all_ends_every_device_of_the_user_at_once() {
    let server = server().await;
    let bob = server.register("bob").await;
    let first = server.register("alice").await;
    let second = server.login("alice").await;
    let requester = server.requester(&first).await;
    assert!(server.works(&second.access_token).await);
    logout::logout_all(&server.engine, &requester).await.unwrap();
    assert!(server.is_unknown(&first.access_token).await);
    assert!(server.is_unknown(&second.access_token).await);
    assert!(server.works(&bob.access_token).await);
    let again = server.login("alice").await;
    let requester = server.requester(&again).await;
    assert_eq!(devices::list(&server.engine, &requester).await.unwrap().len(), 1);
}

/// Whatever lookups are in flight: one that starts after the logout was answered fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_gets_in_after_logout_was_answered() {
    let server = server().await;
    server.register("alice").await;
    for _ in 0..20 {
        let login = server.login("alice").await;
        let requester = server.requester(&login).await;
        let answered = Arc::new(AtomicBool::new(false));
        let askers: Vec<_> = (0..8)
            .map(|_| {
                let (engine, answered) = (Arc::clone(&server.engine), Arc::clone(&answered));
                let token = login.access_token.clone();
                tokio::spawn(async move {
                    loop {
                        let was_answered = answered.load(SeqCst);
                        let got_in = authenticate(&engine, &token).await.is_ok();
                        assert!(!(was_answered && got_in), "a request got in after the logout");
                        if was_answered {
                            return;
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        // Others' changes of the same user keep the lookups going to the database.
        hearth_engine::accounts::invalidate(&server.engine.accounts, requester.user_nid);
        logout::logout(&server.engine, &requester).await.unwrap();
        answered.store(true, SeqCst);
        for asker in askers {
            asker.await.unwrap();
        }
    }
}

#[tokio::test]
async fn logout_whose_caller_went_away_still_ends_the_token() {
    let server = server().await;
    let alice = server.register("alice").await;
    let requester = server.requester(&alice).await;
    let engine = Arc::clone(&server.engine);
    let logout = tokio::spawn(async move { logout::logout(&engine, &requester).await });
    // Wherever the abort falls, what is cached must agree with what is stored.
    tokio::task::yield_now().await;
    logout.abort();
    let _ = logout.await;
    let engine = &server.engine;
    let hash = {
        use sha2::Digest;
        sha2::Sha256::digest(alice.access_token.as_bytes()).into()
    };
    // A transaction that the abort rolled back, or a commit that it did not stop, is done with when the device can
    // be locked.
    let mut transaction = engine.db.begin().await.unwrap();
    let nid = hearth_storage::tokens::find_access(&mut transaction, &hash).await.unwrap();
    let stored = match nid {
        Some(token) => hearth_storage::devices::lock(&mut transaction, token.device_nid).await.unwrap(),
        None => false,
    };
    transaction.commit().await.unwrap();
    let agree = async {
        while server.works(&alice.access_token).await != stored {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), agree).await.expect("cache and database agree");
}

// Refresh

#[tokio::test]
async fn access_token_of_a_client_that_refreshes_expires_softly() {
    let server = server().await;
    server.register("alice").await;
    let login = server.login_refreshing("alice").await;
    server.advance(ACCESS_TOKEN_LIFETIME_MS - 1);
    assert!(server.works(&login.access_token).await);
    server.advance(1);
    assert!(server.is_soft_logged_out(&login.access_token).await);
    let next = refresh::refresh(&server.engine, login.refresh_token.as_deref().unwrap()).await.unwrap();
    assert_eq!(next.expires_in_ms, Some(ACCESS_TOKEN_LIFETIME_MS));
    let requester = authenticate(&server.engine, &next.access_token).await.unwrap();
    assert_eq!(requester.device_id, login.device_id);
}

#[tokio::test]
async fn old_tokens_last_until_a_new_one_is_used() {
    let server = server().await;
    server.register("alice").await;
    let login = server.login_refreshing("alice").await;
    let old = login.refresh_token.unwrap();
    let next = refresh::refresh(&server.engine, &old).await.unwrap();
    assert!(server.works(&login.access_token).await);
    assert!(server.works(&next.access_token).await);
    // Used: the old pair is over, softly, for requests that are still under way.
    assert!(server.is_soft_logged_out(&login.access_token).await);
    assert!(matches!(refresh::refresh(&server.engine, &old).await, Err(refresh::RefreshError::Unknown)));
    assert!(server.works(&next.access_token).await);
}

#[tokio::test]
async fn using_the_new_refresh_token_ends_the_old_one_too() {
    let server = server().await;
    server.register("alice").await;
    let login = server.login_refreshing("alice").await;
    let old = login.refresh_token.unwrap();
    let second = refresh::refresh(&server.engine, &old).await.unwrap();
    let third = refresh::refresh(&server.engine, second.refresh_token.as_deref().unwrap()).await.unwrap();
    assert!(matches!(refresh::refresh(&server.engine, &old).await, Err(refresh::RefreshError::Unknown)));
    assert!(server.works(&second.access_token).await);
    assert!(server.works(&third.access_token).await);
}

#[tokio::test]
async fn client_that_lost_the_answer_refreshes_again() {
    let server = server().await;
    server.register("alice").await;
    let login = server.login_refreshing("alice").await;
    let old = login.refresh_token.unwrap();
    let lost = refresh::refresh(&server.engine, &old).await.unwrap();
    let next = refresh::refresh(&server.engine, &old).await.unwrap();
    assert!(server.is_unknown(&lost.access_token).await);
    let refreshed = refresh::refresh(&server.engine, lost.refresh_token.as_deref().unwrap()).await;
    assert!(matches!(refreshed, Err(refresh::RefreshError::Unknown)));
    assert!(server.works(&next.access_token).await);
}

#[tokio::test]
async fn of_two_refreshes_at_once_one_pair_survives() {
    let server = server().await;
    server.register("alice").await;
    let login = server.login_refreshing("alice").await;
    let old = login.refresh_token.unwrap();
    let (one, other) = tokio::join!(refresh::refresh(&server.engine, &old), refresh::refresh(&server.engine, &old));
    let (one, other) = (one.unwrap().access_token, other.unwrap().access_token);
    assert!(server.works(&one).await != server.works(&other).await);
}

#[tokio::test]
async fn refresh_tokens_and_access_tokens_are_not_each_other() {
    let server = server().await;
    server.register("alice").await;
    let login = server.login_refreshing("alice").await;
    assert!(server.is_unknown(login.refresh_token.as_deref().unwrap()).await);
    let refreshed = refresh::refresh(&server.engine, &login.access_token).await;
    assert!(matches!(refreshed, Err(refresh::RefreshError::Unknown)));
}

// Password

#[tokio::test]
async fn changing_the_password_ends_all_other_devices() {
    let server = server().await;
    let first = server.register("alice").await;
    let second = server.login("alice").await;
    assert!(server.works(&second.access_token).await);
    let requester = server.requester(&first).await;
    let auth = password_auth("alice", "password");
    password::change_password(&server.engine, &requester, "new".into(), true, Some(&auth)).await.unwrap();
    assert!(server.works(&first.access_token).await);
    assert!(server.is_unknown(&second.access_token).await);
    let old = server.login_with("alice", "password", DeviceRequest::default()).await;
    assert!(matches!(old, Err(LoginError::Credentials(CredentialsError::Wrong))));
    server.login_with("alice", "new", DeviceRequest::default()).await.unwrap();
}

#[tokio::test]
async fn changing_the_password_can_spare_other_devices() {
    let server = server().await;
    let first = server.register("alice").await;
    let second = server.login("alice").await;
    let requester = server.requester(&first).await;
    let auth = password_auth("@alice:example.org", "password");
    password::change_password(&server.engine, &requester, "new".into(), false, Some(&auth)).await.unwrap();
    assert!(server.works(&second.access_token).await);
}

#[tokio::test]
async fn wrong_password_leaves_the_session_and_ten_of_them_end_it() {
    let server = server().await;
    let alice = server.register("alice").await;
    let requester = server.requester(&alice).await;
    let attempt = async |auth: &AuthData| {
        let error = password::change_password(&server.engine, &requester, "new".into(), true, Some(auth)).await;
        let password::ChangePasswordError::Uia(error) = error.unwrap_err() else { panic!("not a challenge") };
        challenge(error)
    };
    let first = attempt(&password_auth("alice", "guess")).await;
    assert_eq!(first.failure, Some(StageFailure::WrongPassword));
    assert_eq!(first.flows, [[AuthType::Password]]);
    let in_session = password_auth_in(&first.session, "alice", "guess");
    for _ in 0..9 {
        assert_eq!(attempt(&in_session).await.session, first.session);
    }
    let last = attempt(&in_session).await;
    assert_ne!(last.session, first.session);
    assert_eq!(last.failure, Some(StageFailure::WrongPassword));
}

#[tokio::test]
async fn session_expires() {
    let server = server().await;
    let alice = server.register("alice").await;
    let requester = server.requester(&alice).await;
    let attempt = async |auth: Option<&AuthData>| {
        let error = password::change_password(&server.engine, &requester, "new".into(), true, auth).await;
        let password::ChangePasswordError::Uia(error) = error.unwrap_err() else { panic!("not a challenge") };
        challenge(error).session
    };
    let session = attempt(None).await;
    let only_session = auth(json!({ "session": session }));
    assert_eq!(attempt(Some(&only_session)).await, session);
    server.advance(15 * 60_000);
    assert_ne!(attempt(Some(&only_session)).await, session);
}

#[tokio::test]
async fn session_cannot_be_moved_to_another_operation() {
    let server = server().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let (alice, bob) = (server.requester(&alice).await, server.requester(&bob).await);
    let error = devices::delete(&server.engine, &alice, &["A".into()], None).await.unwrap_err();
    let devices::DeleteDevicesError::Uia(error) = error else { panic!("{error}") };
    let session = challenge(error).session;

    let of_alice = password_auth_in(&session, "alice", "password");
    let of_bob = password_auth_in(&session, "bob", "password");
    let engine = &server.engine;
    let other_devices = devices::delete(engine, &alice, &["B".into()], Some(&of_alice)).await.unwrap_err();
    let more_devices = devices::delete(engine, &alice, &["A".into(), "B".into()], Some(&of_alice)).await.unwrap_err();
    let other_user = devices::delete(engine, &bob, &["A".into()], Some(&of_bob)).await.unwrap_err();
    for error in [other_devices, more_devices, other_user] {
        assert!(matches!(error, devices::DeleteDevicesError::Uia(UiaError::OtherOperation)), "{error}");
    }
    let other_operation = deactivate::deactivate(engine, &alice, false, Some(&of_alice)).await.unwrap_err();
    assert!(matches!(other_operation, deactivate::DeactivateError::Uia(UiaError::OtherOperation)));
    devices::delete(engine, &alice, &["A".into()], Some(&of_alice)).await.unwrap();
}

#[tokio::test]
async fn another_users_password_authorises_nothing() {
    let server = server().await;
    let alice = server.register("alice").await;
    server.register("bob").await;
    let alice = server.requester(&alice).await;
    let auth = password_auth("bob", "password");
    let error = devices::delete(&server.engine, &alice, &["A".into()], Some(&auth)).await.unwrap_err();
    assert!(matches!(error, devices::DeleteDevicesError::Uia(UiaError::OtherUser)), "{error}");
}

// Deactivation

#[tokio::test]
async fn deactivated_account_is_closed_for_good() {
    let server = server().await;
    let first = server.register("alice").await;
    let second = server.login_refreshing("alice").await;
    assert!(server.works(&second.access_token).await);
    let requester = server.requester(&first).await;
    let wrong = password_auth("alice", "wrong");
    let error = deactivate::deactivate(&server.engine, &requester, false, Some(&wrong)).await.unwrap_err();
    assert!(matches!(error, deactivate::DeactivateError::Uia(UiaError::Challenge(_))), "{error}");
    assert!(server.works(&first.access_token).await);

    let right = password_auth("alice", "password");
    deactivate::deactivate(&server.engine, &requester, true, Some(&right)).await.unwrap();
    assert!(server.is_unknown(&first.access_token).await);
    assert!(server.is_unknown(&second.access_token).await);
    let refreshed = refresh::refresh(&server.engine, second.refresh_token.as_deref().unwrap()).await;
    assert!(matches!(refreshed, Err(refresh::RefreshError::Unknown)));
    let login = server.login_with("alice", "password", DeviceRequest::default()).await;
    assert!(matches!(login, Err(LoginError::Credentials(CredentialsError::Deactivated))));
    let error = register::register(&server.engine, registration("alice"), Some(&dummy())).await.unwrap_err();
    assert!(matches!(error, RegisterError::UsernameTaken), "{error}");
}

#[tokio::test]
async fn deactivated_account_leaves_its_rooms() {
    let server = server().await;
    let alice = server.register("alice").await;
    let requester = server.requester(&alice).await;
    let engine = &server.engine;
    create_room(engine, &requester, create_room::v3::Request::new()).await.unwrap();
    assert_eq!(users::joined_rooms(engine, requester.user_nid).await.unwrap().len(), 1);
    let auth = password_auth("alice", "password");
    deactivate::deactivate(engine, &requester, false, Some(&auth)).await.unwrap();
    assert!(users::joined_rooms(engine, requester.user_nid).await.unwrap().is_empty());
}

#[tokio::test]
async fn account_that_the_operator_deactivates_leaves_its_rooms() {
    let server = server().await;
    let alice = server.register("alice").await;
    let requester = server.requester(&alice).await;
    let engine = &server.engine;
    create_room(engine, &requester, create_room::v3::Request::new()).await.unwrap();
    // As the command line does it: by an engine beside the server's.
    let key = SigningKey::from_seed("test", &[7; 32]).unwrap();
    let beside = Engine::beside(engine.config.clone(), engine.db.clone(), key, Outside::default());
    operator::deactivate(&beside, "alice", false).await.unwrap();

    let mut log = engine.log.watch();
    let left = async {
        while !users::joined_rooms(engine, requester.user_nid).await.unwrap().is_empty() {
            log.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), left).await.expect("the server leaves the account's rooms");
    assert!(server.is_unknown(&alice.access_token).await);
}

// Devices

#[tokio::test]
async fn devices_are_listed_renamed_and_deleted() {
    let server = server().await;
    let alice = server.register("alice").await;
    let device = |id: &str| DeviceRequest {
        device_id: Some(id.into()),
        initial_display_name: Some(format!("{id}'s name")),
        ..DeviceRequest::default()
    };
    let phone = server.login_with("alice", "password", device("PHONE")).await.unwrap();
    let tablet = server.login_with("alice", "password", device("TABLET")).await.unwrap();
    assert!(server.works(&phone.access_token).await && server.works(&tablet.access_token).await);
    let requester = server.requester(&alice).await;
    let engine = &server.engine;
    let listed = devices::list(engine, &requester).await.unwrap();
    assert_eq!(device_ids(&listed), [alice.device_id.as_str(), "PHONE", "TABLET"].map(str::to_owned).into());

    devices::rename(engine, &requester, "PHONE".into(), Some("Old phone")).await.unwrap();
    devices::rename(engine, &requester, "PHONE".into(), None).await.unwrap();
    let phone_device = devices::get(engine, &requester, "PHONE".into()).await.unwrap();
    assert_eq!(phone_device.display_name.as_deref(), Some("Old phone"));
    for name in [Some("x"), None] {
        let error = devices::rename(engine, &requester, "NONE".into(), name).await.unwrap_err();
        assert!(matches!(error, devices::DeviceError::NotFound), "{error}");
    }
    for name in ["x".repeat(257), "\0".to_owned()] {
        let error = devices::rename(engine, &requester, "PHONE".into(), Some(&name)).await.unwrap_err();
        assert!(matches!(error, devices::DeviceError::InvalidDisplayName), "{error}");
    }
    for device_id in ["NONE", "\0"] {
        let error = devices::get(engine, &requester, device_id.into()).await.unwrap_err();
        assert!(matches!(error, devices::DeviceError::NotFound), "{error}");
    }

    let gone: Vec<OwnedDeviceId> = vec!["PHONE".into(), "TABLET".into(), "NONE".into(), "\0".into()];
    let auth = password_auth("alice", "password");
    devices::delete(engine, &requester, &gone, Some(&auth)).await.unwrap();
    assert!(server.is_unknown(&phone.access_token).await);
    assert!(server.is_unknown(&tablet.access_token).await);
    let left = devices::list(engine, &requester).await.unwrap();
    assert_eq!(device_ids(&left), [alice.device_id.to_string()].into());
}

#[tokio::test]
async fn users_do_not_see_or_delete_each_others_devices() {
    let server = server().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let requester = server.requester(&bob).await;
    let seen = devices::get(&server.engine, &requester, &alice.device_id).await;
    assert!(matches!(seen, Err(devices::DeviceError::NotFound)));
    let auth = password_auth("bob", "password");
    devices::delete(&server.engine, &requester, &[alice.device_id.clone()], Some(&auth)).await.unwrap();
    assert!(server.works(&alice.access_token).await);
}

#[tokio::test]
async fn last_seen_is_written_at_most_once_a_minute() {
    let server = server().await;
    let alice = server.register("alice").await;
    let requester = server.requester(&alice).await;
    let engine = &server.engine;
    let start = engine.clock.now_ms();
    let see = async |address: &str| {
        let requester = server.requester(&alice).await;
        last_seen::note(engine, &requester, Some(address.parse().unwrap()), Some("Test/1.0"));
        last_seen::settle(engine).await;
        let device = devices::get(engine, &requester, &requester.device_id).await.unwrap();
        (device.last_seen_at, device.last_seen_address.unwrap())
    };
    assert_eq!(see("192.0.2.1").await, (Some(start), "192.0.2.1".to_owned()));
    server.advance(59_999);
    assert_eq!(see("192.0.2.2").await, (Some(start), "192.0.2.1".to_owned()));
    server.advance(1);
    assert_eq!(see("::ffff:192.0.2.3").await, (Some(start + 60_000), "192.0.2.3".to_owned()));
    // What is cached anew knows when the device was last written about.
    hearth_engine::accounts::invalidate(&engine.accounts, requester.user_nid);
    server.advance(1);
    assert_eq!(see("192.0.2.4").await, (Some(start + 60_000), "192.0.2.3".to_owned()));
}

// The operator

#[tokio::test]
async fn operator_adds_lists_and_deactivates_users_and_sets_passwords() {
    let server = server_with(|config| config.registration.open = false).await;
    let engine = &server.engine;
    operator::add_user(engine, "Root", Some("password".into()), true).await.unwrap();
    operator::add_user(engine, "bot", None, false).await.unwrap();
    let error = operator::add_user(engine, "bot", None, false).await.unwrap_err();
    assert!(matches!(error, RegisterError::UsernameTaken), "{error}");
    let root = server.login("root").await;
    assert!(server.requester(&root).await.is_admin);
    let without_password = server.login_with("bot", "", DeviceRequest::default()).await;
    assert!(matches!(without_password, Err(LoginError::Credentials(CredentialsError::Wrong))));

    let ids = |accounts: Vec<operator::Account>| accounts.into_iter().map(|a| a.user_id).collect::<Vec<_>>();
    assert_eq!(ids(operator::list(engine, "", 1).await.unwrap()), ["@bot:example.org"]);
    assert_eq!(ids(operator::list(engine, "@bot:example.org", 10).await.unwrap()), ["@root:example.org"]);

    operator::set_password(engine, "@bot:example.org", &"new".into(), true).await.unwrap();
    let bot = server.login_with("bot", "new", DeviceRequest::default()).await.unwrap();
    assert!(server.works(&bot.access_token).await);
    operator::set_password(engine, "bot", &"newer".into(), true).await.unwrap();
    assert!(server.is_unknown(&bot.access_token).await);

    operator::deactivate(engine, "bot", false).await.unwrap();
    let error = operator::deactivate(engine, "bot", false).await.unwrap_err();
    assert!(matches!(error, operator::OperatorError::Deactivated), "{error}");
    let error = operator::set_password(engine, "bot", &"x".into(), true).await.unwrap_err();
    assert!(matches!(error, operator::OperatorError::Deactivated), "{error}");
    let error = operator::set_password(engine, "nobody", &"x".into(), true).await.unwrap_err();
    assert!(matches!(error, operator::OperatorError::NoSuchUser), "{error}");
    let error = operator::set_password(engine, "root", &"".into(), true).await.unwrap_err();
    assert!(matches!(error, operator::OperatorError::Password(_)), "{error}");
}
