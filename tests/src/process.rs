//! The binary `hearth`, as a process with a private PostgreSQL of its own: to be killed, and started again.

use std::{
    fs::{self, File, Permissions},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{Client, until};

/// How long a server that was told to end may take: ten seconds for its requests, and some for PostgreSQL.
const LEAVE: Duration = Duration::from_secs(25);

/// A running `hearth serve`. Dropped, it is told to end, and what stays is killed.
#[derive(Debug)]
pub struct HearthProcess {
    child: Child,
    address: String,
    directory: TempDir,
    anonymous: Client,
}

impl HearthProcess {
    /// Starts one on which anyone may register and nothing is limited, and waits until it is healthy.
    pub async fn start() -> Self {
        let directory = TempDir::new().expect("a directory can be made");
        // Root's PostgreSQL runs as somebody else, who has to pass through.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o711)).expect("the directory is ours");
        let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = probe
            .local_addr()
            .expect("a bound socket has an address")
            .to_string();
        drop(probe);
        let configuration = format!(
            "server_name = {address:?}\ndata_dir = {:?}\n\
             [registration]\nopen = true\n[rate_limits]\nenabled = false\n[[listener]]\naddress = {address:?}\n",
            directory.path().join("data")
        );
        fs::write(directory.path().join("hearth.toml"), configuration)
            .expect("the configuration can be written");
        let child = spawn(directory.path());
        let anonymous = Client::anonymous(&format!("http://{address}"));
        let mut process = Self {
            child,
            address,
            directory,
            anonymous,
        };
        process.healthy().await;
        process
    }

    /// Waits until the server and its database work.
    ///
    /// # Panics
    ///
    /// When the process ends instead.
    pub async fn healthy(&mut self) {
        until("the server is healthy", || {
            let ended = self.child.try_wait().expect("the process is ours");
            assert!(
                ended.is_none(),
                "hearth ended with {ended:?}; it said:\n{}",
                log_of(self.directory.path())
            );
            let request = self.anonymous.request(reqwest::Method::GET, "/health").send();
            async move { request.await.ok().filter(|response| response.status() == 200) }
        })
        .await;
    }

    /// `kill -9` of the server; its PostgreSQL is left behind.
    ///
    /// # Panics
    ///
    /// When there is nothing to kill.
    pub fn kill(&mut self) {
        self.child.kill().expect("the server is killed");
        self.child.wait().expect("the server ends");
    }

    /// Starts it anew on what is there, and waits until it is healthy.
    pub async fn start_again(&mut self) {
        self.child = spawn(self.directory.path());
        self.healthy().await;
    }

    /// `kill -9` of the private PostgreSQL, all of its processes at once.
    ///
    /// # Panics
    ///
    /// When there is nothing to kill.
    pub fn kill_postgres(&self) {
        let postmaster = self.postmaster().expect("PostgreSQL has written its pid");
        killpg(postmaster, Signal::SIGKILL).expect("PostgreSQL is killed");
    }

    /// The URL of the private PostgreSQL while it runs.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn database_url(&self) -> String {
        let pid_file = fs::read_to_string(self.pid_file()).expect("PostgreSQL has written its pid");
        let socket_directory = pid_file.lines().nth(4).expect("PostgreSQL has a socket");
        format!("postgres://hearth@{}/hearth", crate::encoded(socket_directory))
    }

    /// Someone without an account.
    pub fn anonymous(&self) -> &Client {
        &self.anonymous
    }

    /// The name in its users' IDs.
    pub fn name(&self) -> &str {
        &self.address
    }

    /// A new user.
    pub async fn register(&self, username: &str) -> Client {
        self.anonymous
            .session_of(&self.anonymous.register(username).await.ok())
    }

    fn pid_file(&self) -> PathBuf {
        self.directory.path().join("data/postgres/postmaster.pid")
    }

    fn postmaster(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.pid_file()).ok()?;
        Some(Pid::from_raw(text.lines().next()?.parse().ok()?))
    }
}

/// Beside the test, in `target/debug` or `target/release`: cargo builds it along with the workspace's tests.
fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let binary = test
        .parent()
        .and_then(Path::parent)
        .map(|directory| directory.join("hearth"));
    let binary = binary.expect("a test is in target/*/deps");
    assert!(
        binary.is_file(),
        "there is no {}; run `cargo build -p homeserver`, or ./test",
        binary.display()
    );
    binary
}

fn spawn(directory: &Path) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .expect("a log can be written");
    let mut command = Command::new(binary());
    command
        .arg("serve")
        .arg("--config")
        .arg(directory.join("hearth.toml"))
        .current_dir(directory);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HEARTH_") {
            command.env_remove(name);
        }
    }
    let errors = log.try_clone().expect("a log can be shared");
    command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .expect("hearth starts")
}

fn log_of(directory: &Path) -> String {
    fs::read_to_string(directory.join("log")).unwrap_or_default()
}

impl Drop for HearthProcess {
    fn drop(&mut self) {
        if thread::panicking() {
            #[expect(clippy::print_stderr, reason = "shown beside the failed test")]
            {
                eprintln!("hearth said:\n{}", log_of(self.directory.path()));
            }
        }
        let told =
            i32::try_from(self.child.id()).is_ok_and(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok());
        let deadline = Instant::now() + LEAVE;
        while told && Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(20));
        }
        // Where it has ended, these find nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(postmaster) = self.postmaster() {
            let _ = killpg(postmaster, Signal::SIGKILL);
        }
    }
}
