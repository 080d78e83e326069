//! Synapse, the server that most of the federation runs, as a process beside the tests' own: what Hearth has to agree
//! with. Nothing of it is part of Hearth: `./test` installs it from PyPI in `target/synapse`, and `SYNAPSE_VENV` names
//! another virtual environment that has it.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{Authority, Client, SHARED_SECRET, until};

/// How long it may take to end in order.
const LEAVE: Duration = Duration::from_secs(20);
/// The last lines of its log are shown beside a failed test: so many, or all where `HEARTH_TEST_LOG` asks for more.
const LINES: usize = 200;
/// What it signs by.
const SIGNING_KEY: &str = "ed25519 a_tests YSBzaWduaW5nIGtleSBvZiB0aGUgdGVzdHMgYWxvbmU\n";

/// A running Synapse, which federates. Dropped, it is killed, and what it stored goes too.
#[derive(Debug)]
pub struct Synapse {
    child: Child,
    /// `127.0.0.1:PORT`, where it federates.
    name: String,
    anonymous: Client,
    directory: TempDir,
}

impl Synapse {
    /// Starts one on which anyone may register and nothing is limited, and which federates with the others that trust
    /// `authority`. Its name is `127.0.0.1:PORT`.
    pub async fn start(authority: &Authority) -> Self {
        Self::start_with(authority, &json!({})).await
    }

    /// Starts one with more or other settings, by their names in its configuration file.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn start_with(authority: &Authority, settings: &Value) -> Self {
        let directory = TempDir::new().expect("a directory can be made");
        let (clients, servers) = (free_port(), free_port());
        let name = format!("127.0.0.1:{servers}");
        authority.issue(&["localhost", "127.0.0.1"], directory.path());
        let mut configuration = configuration(directory.path(), &name, (clients, servers), authority);
        for (key, value) in settings.as_object().into_iter().flatten() {
            configuration[key] = value.clone();
        }
        write(&directory.path().join("signing.key"), SIGNING_KEY);
        // Every JSON is YAML.
        write(
            &directory.path().join("homeserver.yaml"),
            &configuration.to_string(),
        );
        write(&directory.path().join("log.yaml"), &log_settings().to_string());
        let child = spawn(directory.path());
        let mut synapse = Self {
            child,
            name,
            anonymous: Client::anonymous(&format!("http://127.0.0.1:{clients}")),
            directory,
        };
        synapse.healthy().await;
        synapse
    }

    /// Waits until it answers.
    ///
    /// # Panics
    ///
    /// When the process ends instead.
    async fn healthy(&mut self) {
        until("Synapse answers", || {
            let ended = self.child.try_wait().expect("the process is ours");
            assert!(ended.is_none(), "Synapse ended with {ended:?}");
            let path = "/_matrix/client/versions";
            let request = self.anonymous.request(reqwest::Method::GET, path).send();
            async move { request.await.ok().filter(|response| response.status() == 200) }
        })
        .await;
    }

    /// `kill -9`
    ///
    /// # Panics
    ///
    /// When there is nothing to kill.
    pub fn kill(&mut self) {
        self.child.kill().expect("Synapse is killed");
        self.child.wait().expect("Synapse ends");
    }

    /// Has it end in order.
    pub async fn stop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + LEAVE;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(20)).await;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it anew on what is there.
    pub async fn start_again(&mut self) {
        self.child = spawn(self.directory.path());
        self.healthy().await;
    }

    /// The name in its users' IDs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
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

/// As it comes, but for limits that would refuse the tests' pace, waits that would outlast their patience, and the cost
/// of hashing passwords.
fn configuration(directory: &Path, name: &str, ports: (u16, u16), authority: &Authority) -> Value {
    let limit = json!({ "per_second": 100_000, "burst_count": 100_000 });
    let listener = |port: u16, tls: bool, serves: &str| {
        json!({
            "port": port, "bind_addresses": ["127.0.0.1"], "type": "http", "tls": tls,
            "resources": [{ "names": [serves] }],
        })
    };
    json!({
        "server_name": name,
        "pid_file": directory.join("pid"),
        "listeners": [listener(ports.0, false, "client"), listener(ports.1, true, "federation")],
        "tls_certificate_path": directory.join("tls.pem"),
        "tls_private_key_path": directory.join("tls.key"),
        "federation_custom_ca_list": [authority.certificate()],
        "ip_range_blacklist": [],
        "trusted_key_servers": [],
        "database": { "name": "sqlite3", "args": { "database": directory.join("homeserver.db") } },
        "log_config": directory.join("log.yaml"),
        "media_store_path": directory.join("media"),
        "signing_key_path": directory.join("signing.key"),
        "registration_shared_secret": SHARED_SECRET,
        "macaroon_secret_key": SHARED_SECRET,
        "form_secret": SHARED_SECRET,
        "enable_registration": true,
        "enable_registration_without_verification": true,
        "allow_public_rooms_over_federation": true,
        "room_list_publication_rules": [{ "action": "allow" }],
        "report_stats": false,
        "bcrypt_rounds": 4,
        "federation": {
            "destination_min_retry_interval": "1s",
            "destination_max_retry_interval": "4s",
            "max_long_retry_delay": "1s",
            "max_long_retries": 2,
            "max_short_retry_delay": "1s",
            "max_short_retries": 1,
        },
        "rc_message": limit,
        "rc_registration": limit,
        "rc_room_creation": limit,
        "rc_login": { "address": limit, "account": limit, "failed_attempts": limit },
        "rc_joins": { "local": limit, "remote": limit },
        "rc_joins_per_room": limit,
        "rc_invites": { "per_room": limit, "per_user": limit, "per_issuer": limit },
        "rc_profile": limit,
        "rc_presence": { "per_user": limit },
        "rc_federation": {
            "window_size": 1_000, "sleep_limit": 100_000, "sleep_delay": 1,
            "reject_limit": 100_000, "concurrent": 1_000,
        },
    })
}

/// Warnings and errors, or all that happens where `HEARTH_TEST_LOG` asks for more.
fn log_settings() -> Value {
    let level = std::env::var("HEARTH_TEST_LOG").map_or("WARNING", |_| "INFO");
    json!({
        "version": 1,
        // Those that exist by then are Synapse's own.
        "disable_existing_loggers": false,
        "formatters": { "line": { "format": "%(asctime)s %(name)s %(levelname)s %(request)s %(message)s" } },
        "handlers": { "console": { "class": "logging.StreamHandler", "formatter": "line" } },
        "root": { "level": level, "handlers": ["console"] },
    })
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("Synapse's files can be written");
}

fn free_port() -> u16 {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let address = probe.local_addr().expect("a bound socket has an address");
    address.port()
}

fn python() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let venv = match std::env::var_os("SYNAPSE_VENV") {
        Some(venv) => PathBuf::from(venv),
        None => here.join("../target/synapse"),
    };
    let python = venv.join("bin/python");
    assert!(
        python.exists(),
        "Synapse is missing: ./test installs it in target/synapse, or SYNAPSE_VENV names a virtual environment that has it"
    );
    python
}

fn spawn(directory: &Path) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .expect("a log can be written");
    let errors = log.try_clone().expect("a log can be shared");
    Command::new(python())
        .args(["-m", "synapse.app.homeserver", "-c", "homeserver.yaml"])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .expect("Python starts")
}

impl Drop for Synapse {
    fn drop(&mut self) {
        // Where it has ended, these find nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let shown = std::env::var("HEARTH_TEST_LOG").map_or(LINES, |_| usize::MAX);
            let tail = &lines[lines.len().saturating_sub(shown)..];
            #[expect(clippy::print_stderr, reason = "shown beside the failed test")]
            {
                eprintln!("Synapse said:\n{}", tail.join("\n"));
            }
        }
    }
}
