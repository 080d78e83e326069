//! What these tests share: the program `hearth` in a directory of its own, and HTTP as plain as it gets.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take that takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory to run `hearth` in; its private PostgreSQL may enter it.
pub struct Place {
    directory: TempDir,
}

/// A running `hearth serve`, killed if it is dropped.
pub struct Running {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// Gathers what it logs.
    log: JoinHandle<String>,
}

impl Place {
    pub fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = TempDir::new().expect("a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).expect("mode");
        Self { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("a file");
    }

    /// `hearth` with `arguments`, in this directory and with no variables of the tests' own.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
        command
            .args(arguments)
            .current_dir(self.path())
            .stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HEARTH_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs `hearth` to its end.
    pub fn hearth(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("hearth runs")
    }

    /// Runs `hearth` to its end with `input`.
    pub fn hearth_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("hearth runs");
        child
            .stdin
            .take()
            .expect("a pipe")
            .write_all(input.as_bytes())
            .expect("input is taken");
        child.wait_with_output().expect("hearth ends")
    }

    /// Starts `hearth serve` and returns once it listens.
    pub fn serve(&self) -> Running {
        self.serve_with(&[])
    }

    /// Starts `hearth serve` with variables and returns once it listens.
    pub fn serve_with(&self, variables: &[(&str, &str)]) -> Running {
        let mut command = self.command(&["serve"]);
        command
            .env("HEARTH_LISTENER__ADDRESS", "127.0.0.1:0")
            .stderr(Stdio::piped());
        command.envs(variables.iter().copied());
        let mut child = command.spawn().expect("hearth runs");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut log = String::new();
        let address = loop {
            let start = log.len();
            assert!(
                lines.read_line(&mut log).expect("the log is text") > 0,
                "hearth ended: {log}"
            );
            if let Some((_, address)) = log[start..].split_once("listening on http://") {
                let end = address.find(|c: char| c != ':' && c != '.' && !c.is_ascii_digit());
                break address[..end.unwrap_or(address.len())]
                    .parse()
                    .expect("an address");
            }
        };
        // Read on, since a full pipe would hold the server up.
        let log = std::thread::spawn(move || {
            lines.read_to_string(&mut log).expect("the log is text");
            log
        });
        Running { child, address, log }
    }
}

impl Running {
    /// Sends the signal that a service manager sends, and waits for the end: how it ended, and all that it logged.
    pub fn terminate(mut self) -> (ExitStatus, String) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a process"), rustix::process::Signal::TERM)
            .expect("a signal");
        let status = self.child.wait().expect("it ends");
        let log = std::mem::replace(&mut self.log, std::thread::spawn(String::new));
        (status, log.join().expect("the log was read"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A connection on which nothing has been said.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

/// One request on a connection of its own: the status and the body.
pub fn request(address: SocketAddr, method: &str, path: &str, token: &str, body: &str) -> (u16, String) {
    let mut stream = connect(address);
    let authorization = if token.is_empty() {
        String::new()
    } else {
        format!("Authorization: Bearer {token}\r\n")
    };
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: hearth\r\nConnection: close\r\nContent-Length: {length}\r\n{authorization}\r\n"
    );
    stream.write_all(head.as_bytes()).expect("the request is taken");
    stream.write_all(body.as_bytes()).expect("the body is taken");
    response(&mut stream)
}

/// The status and the body of a response after which the connection ends.
pub fn response(stream: &mut impl std::io::Read) -> (u16, String) {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).expect("a response");
    let text = String::from_utf8(text).expect("a response in UTF-8");
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let (_, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    (status.expect("a status"), body.to_owned())
}

/// Logs in by password: the status and the body.
pub fn login(address: SocketAddr, user: &str, password: &str) -> (u16, Value) {
    let body = serde_json::json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user },
        "password": password,
    });
    let (status, body) = request(address, "POST", "/_matrix/client/v3/login", "", &body.to_string());
    (status, serde_json::from_str(&body).expect("JSON"))
}
