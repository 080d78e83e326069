//! The binary `hearth`, as a process with a private PostgreSQL of its own: to be killed, and started again.

use std::{
    fs::{self, File, Permissions},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{Authority, Client, until};

/// How long a server that was told to end may take: ten seconds for its requests, and some for PostgreSQL.
const LEAVE: Duration = Duration::from_secs(25);

/// A running `hearth serve`. Dropped, it is told to end, and what stays is killed.
#[derive(Debug)]
pub struct HearthProcess {
    child: Child,
    name: String,
    directory: TempDir,
    anonymous: Client,
}

impl HearthProcess {
    /// Starts one on which anyone may register and nothing is limited, and waits until it is healthy.
    pub async fn start() -> Self {
        let address = free_address();
        Self::start_as(&address, &address, |_| String::new()).await
    }

    /// Starts one that federates, over TLS, with the others that trust `authority`. Its name is `localhost:PORT`.
    pub async fn start_federated(authority: &Authority) -> Self {
        let federates = free_address();
        let port = federates.rsplit(':').next().unwrap_or_default();
        let name = format!("localhost:{port}");
        Self::start_as(&name, &free_address(), |directory| {
            let (certificate, private_key) = authority.issue(&["localhost", "127.0.0.1"], directory);
            format!(
                "[[listener]]\naddress = {federates:?}\ntls_certificate = {certificate:?}\n\
                 tls_private_key = {private_key:?}\n[federation]\nnotaries = []\n\
                 [outbound]\ndenied_networks = []\nextra_root_certificates = {:?}\n",
                authority.certificate()
            )
        })
        .await
    }

    /// `more` of a configuration, which is to be in the directory given.
    async fn start_as(name: &str, address: &str, more: impl FnOnce(&Path) -> String) -> Self {
        let directory = TempDir::new().expect("a directory can be made");
        // Root's PostgreSQL runs as somebody else, who has to pass through.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o711)).expect("the directory is ours");
        let configuration = format!(
            "server_name = {name:?}\ndata_dir = {:?}\n\
             [registration]\nopen = true\nguests = true\n[rate_limits]\nenabled = false\n\
             [[listener]]\naddress = {address:?}\n{}",
            directory.path().join("data"),
            more(directory.path())
        );
        fs::write(directory.path().join("hearth.toml"), configuration)
            .expect("the configuration can be written");
        let child = spawn(directory.path());
        let anonymous = Client::anonymous(&format!("http://{address}"));
        let mut process = Self {
            child,
            name: name.to_owned(),
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

    /// Runs a command of the binary beside the server, as its operator does.
    ///
    /// # Panics
    ///
    /// When it can't be run.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = command(self.directory.path());
        command.args(arguments).output().expect("hearth runs")
    }

    /// Has it end in order, and its PostgreSQL with it.
    pub async fn stop(&mut self) {
        let _ = self.tell_to_end();
        let deadline = Instant::now() + LEAVE;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(20)).await;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn tell_to_end(&self) -> bool {
        i32::try_from(self.child.id()).is_ok_and(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok())
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
        format!(
            "postgres://hearth@{}/hearth",
            crate::encoded(&self.postgres_socket())
        )
    }

    /// The directory of the socket of the private PostgreSQL while it runs.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn postgres_socket(&self) -> String {
        let pid_file = fs::read_to_string(self.pid_file()).expect("PostgreSQL has written its pid");
        let socket_directory = pid_file.lines().nth(4).expect("PostgreSQL has a socket");
        socket_directory.to_owned()
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Someone without an account.
    pub fn anonymous(&self) -> &Client {
        &self.anonymous
    }

    /// The name in its users' IDs.
    pub fn name(&self) -> &str {
        &self.name
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

fn free_address() -> String {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let address = probe.local_addr().expect("a bound socket has an address");
    address.to_string()
}

/// Beside the test, in `target/debug` or `target/release`, where cargo builds it along with the workspace's tests; or
/// the one that `HEARTH_TEST_BINARY` names.
fn binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("HEARTH_TEST_BINARY") {
        return binary.into();
    }
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

/// The binary, with the configuration in `directory` and no variables of the tests' own.
fn command(directory: &Path) -> Command {
    let mut command = Command::new(binary());
    command
        .arg("--config")
        .arg(directory.join("hearth.toml"))
        .current_dir(directory)
        .stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HEARTH_") {
            command.env_remove(name);
        }
    }
    command
}

fn spawn(directory: &Path) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .expect("a log can be written");
    let errors = log.try_clone().expect("a log can be shared");
    command(directory)
        .arg("serve")
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
        let told = self.tell_to_end();
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
