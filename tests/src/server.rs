//! A whole server in this process, as a value: its own database, its own data directory, its own listener.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use hearth_engine::Engine;
use hearth_storage::test_database::TestDatabase;
use homeserver::{
    StartError,
    config::{self, Listener, Settings},
};
use tempfile::TempDir;
use tokio::time::sleep;
use tracing_subscriber::filter::LevelFilter;

use crate::{Authority, Client};

/// What `/_synapse/admin/v1/register` asks for.
pub const SHARED_SECRET: &str = "a secret of the tests";

/// How often another port is tried, or the same again, when somebody took it meanwhile.
const ATTEMPTS: usize = 20;

/// A running server. Dropped, its database goes too.
#[derive(Debug)]
pub struct Server {
    running: Option<homeserver::Server>,
    settings: Settings,
    database: Option<TestDatabase>,
    anonymous: Client,
    data_dir: TempDir,
}

impl Server {
    /// Starts one on which anyone may register and nothing is limited.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts one with other settings.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let data_dir = TempDir::new().expect("a directory can be made");
        let database = TestDatabase::new().await;
        let mut settings = settings(data_dir.path(), &database.url);
        settings.federation.enabled = false;
        change(&mut settings);
        Self::run(data_dir, database, settings, Place::Named).await
    }

    /// Starts one that federates, over TLS, with the others that trust `authority`. Its name is `localhost:PORT`.
    pub async fn start_federated(authority: &Authority) -> Self {
        Self::start_federated_with(authority, |_| {}).await
    }

    /// Starts one that federates, with other settings. A `server_name` of `127.0.0.1` is given its port too.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn start_federated_with(authority: &Authority, change: impl FnOnce(&mut Settings)) -> Self {
        let data_dir = TempDir::new().expect("a directory can be made");
        let database = TestDatabase::new().await;
        let mut settings = federated_settings(authority, data_dir.path(), &database.url);
        change(&mut settings);
        let files = authority.issue(&["localhost", "127.0.0.1"], data_dir.path());
        Self::run(data_dir, database, settings, Place::Federated { files }).await
    }

    /// Starts one that federates by the name in the settings and listens for others at `address`, over TLS, with a
    /// certificate for `hosts`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn start_in_domain(
        authority: &Authority,
        hosts: &[&str],
        address: SocketAddr,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let data_dir = TempDir::new().expect("a directory can be made");
        let database = TestDatabase::new().await;
        let mut settings = federated_settings(authority, data_dir.path(), &database.url);
        change(&mut settings);
        let files = authority.issue(hosts, data_dir.path());
        Self::run(data_dir, database, settings, Place::Domain { address, files }).await
    }

    async fn run(data_dir: TempDir, database: TestDatabase, mut settings: Settings, place: Place) -> Self {
        // Warnings and errors, or what `HEARTH_TEST_LOG` asks for, shown beside a failed test.
        let level = std::env::var("HEARTH_TEST_LOG")
            .ok()
            .and_then(|level| level.parse().ok());
        let _ = tracing_subscriber::fmt()
            .with_max_level(level.unwrap_or(LevelFilter::WARN))
            .with_test_writer()
            .try_init();
        let running = start_somewhere(&mut settings, &place).await;
        let anonymous = Client::anonymous(&format!("http://{}", running.addresses()[0]));
        Self {
            running: Some(running),
            settings,
            database: Some(database),
            anonymous,
            data_dir,
        }
    }

    /// Starts another server of the same name, with the same key and on the same database, at an address of its own.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn start_another_on_its_database(&self) -> Self {
        let data_dir = TempDir::new().expect("a directory can be made");
        let key = |directory: &TempDir| directory.path().join("signing.key");
        fs::copy(key(&self.data_dir), key(&data_dir)).expect("the key can be copied");
        let mut settings = self.settings.clone();
        settings.data_dir = data_dir.path().to_owned();
        let running = start_somewhere(&mut settings, &Place::Beside).await;
        let anonymous = Client::anonymous(&format!("http://{}", running.addresses()[0]));
        Self {
            running: Some(running),
            settings,
            database: None,
            anonymous,
            data_dir,
        }
    }

    /// Stops it in order.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }

    /// Stops it in order, and starts it anew on the same database and address.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.stop().await;
        let mut attempts = 0;
        let running = loop {
            match homeserver::Server::start(&self.settings, None).await {
                Ok(running) => break running,
                Err(StartError::Bind(_)) if attempts < ATTEMPTS => attempts += 1,
                Err(error) => panic!("the server does not start again: {error:?}"),
            }
            sleep(Duration::from_millis(100)).await;
        };
        self.running = Some(running);
    }

    /// The name in its users' IDs: `127.0.0.1:PORT`, or `localhost:PORT` of one that federates.
    pub fn name(&self) -> &str {
        self.settings.server_name.as_str()
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.settings.listeners[0].address)
    }

    /// Where its keys are.
    pub fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// What it decides by.
    ///
    /// # Panics
    ///
    /// While it is stopped.
    pub fn engine(&self) -> &Arc<Engine> {
        self.running.as_ref().expect("it runs").engine()
    }

    /// The URL of its database, for what no request tells.
    ///
    /// # Panics
    ///
    /// Never: it has one until it is dropped.
    pub fn database_url(&self) -> &str {
        &self.database.as_ref().expect("it is not dropped yet").url
    }

    /// Someone without an account.
    pub fn anonymous(&self) -> &Client {
        &self.anonymous
    }

    /// A new user.
    pub async fn register(&self, username: &str) -> Client {
        self.anonymous
            .session_of(&self.anonymous.register(username).await.ok())
    }
}

/// Where a server listens, and what it is called after that.
#[derive(Debug)]
enum Place {
    /// Anywhere, by the name that it has: another server's.
    Beside,
    /// For clients alone, named after the address.
    Named,
    /// For clients, and for others over TLS; named after the latter's port, so that discovery needs no test hook.
    Federated { files: (PathBuf, PathBuf) },
    /// For clients, and at an address for others over TLS, by the name that it has.
    Domain {
        address: SocketAddr,
        files: (PathBuf, PathBuf),
    },
}

/// Starts a server on ports that are free now.
async fn start_somewhere(settings: &mut Settings, place: &Place) -> homeserver::Server {
    let mut attempts = 0;
    let host = settings.server_name.host().to_owned();
    loop {
        let address = free_address();
        settings.listeners = vec![Listener::plain(address)];
        let named_after = match place {
            Place::Beside => None,
            Place::Named => Some(address.to_string()),
            Place::Federated { files } => {
                let listener = encrypted(free_address(), files);
                let name = format!("{host}:{}", listener.address.port());
                settings.listeners.push(listener);
                Some(name)
            }
            Place::Domain { address, files } => {
                settings.listeners.push(encrypted(*address, files));
                None
            }
        };
        if let Some(name) = named_after {
            settings.server_name = name.try_into().expect("an address is a server name");
        }
        match homeserver::Server::start(settings, None).await {
            Ok(running) => return running,
            Err(StartError::Bind(_)) if attempts < ATTEMPTS => attempts += 1,
            Err(error) => panic!("the server does not start: {error:?}"),
        }
    }
}

/// By a certificate and its key.
fn encrypted(address: SocketAddr, (certificate, private_key): &(PathBuf, PathBuf)) -> Listener {
    let mut listener = Listener::plain(address);
    listener.tls_certificate = Some(certificate.clone());
    listener.tls_private_key = Some(private_key.clone());
    listener
}

fn free_address() -> SocketAddr {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    probe.local_addr().expect("a bound socket has an address")
}

/// Through a file, as an operator's.
fn settings(data_dir: &Path, database_url: &str) -> Settings {
    let path = data_dir.join("hearth.toml");
    let text = format!(
        "server_name = \"localhost\"\ndata_dir = {data_dir:?}\n\
         [database]\nurl = {database_url:?}\nmax_connections = 8\n\
         [registration]\nopen = true\nshared_secret = {SHARED_SECRET:?}\n\
         [rate_limits]\nenabled = false\n"
    );
    fs::write(&path, text).expect("the configuration can be written");
    config::load(Some(&path), [])
        .expect("the configuration can be read")
        .settings
}

/// Nobody but this machine is asked for anything.
fn federated_settings(authority: &Authority, data_dir: &Path, database_url: &str) -> Settings {
    let mut settings = settings(data_dir, database_url);
    settings.federation.notaries.clear();
    settings.outbound.denied_networks.clear();
    settings.outbound.extra_root_certificates = Some(authority.certificate());
    settings
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(database) = self.database.take() else {
            return;
        };
        // A thread of its own: the test's runtime may be the one that is ending.
        let dropped = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| runtime.block_on(database.drop_now()))
        });
        // A database left over is dropped by the next run.
        let _ = dropped.join();
    }
}
