//! Which processes there are. Linux tells in `/proc`; elsewhere `ps` does.

use std::{fs, os::unix::fs::MetadataExt, process::Command};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A running process; one that has ended and was not yet waited for has no command any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) uid: u32,
    /// The command line, each argument followed by a space.
    pub(super) command: String,
}

/// The process of this number, if there is one that still runs.
pub(super) fn find(pid: i32) -> Option<Process> {
    if cfg!(target_os = "linux") {
        from_proc(pid)
    } else {
        from_ps(&["-p", &pid.to_string()]).pop()
    }
}

/// All running processes.
pub(super) fn all() -> Vec<Process> {
    if !cfg!(target_os = "linux") {
        return from_ps(&["-ax"]);
    }
    let names = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name());
    names
        .filter_map(|name| from_proc(name.to_str()?.parse().ok()?))
        .collect()
}

/// Sends a signal. A process that is gone by now needs none.
pub(super) fn signal(pid: i32, signal: Signal) {
    if let Err(error) = kill(Pid::from_raw(pid), signal) {
        tracing::debug!(pid, %signal, %error, "could not send a signal");
    }
}

fn from_proc(pid: i32) -> Option<Process> {
    let directory = format!("/proc/{pid}");
    let uid = fs::metadata(&directory).ok()?.uid();
    let bytes = fs::read(format!("{directory}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&bytes).replace('\0', " ");
    (!command.is_empty()).then_some(Process { pid, uid, command })
}

fn from_ps(selection: &[&str]) -> Vec<Process> {
    let output = Command::new("ps")
        .args(["-ww", "-o", "pid=,uid=,command="])
        .args(selection)
        .output();
    let printed = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&printed)
        .lines()
        .filter_map(parse_ps)
        .collect()
}

fn parse_ps(line: &str) -> Option<Process> {
    let (pid, rest) = line.trim_start().split_once(' ')?;
    let (uid, command) = rest.trim_start().split_once(' ')?;
    Some(Process {
        pid: pid.parse().ok()?,
        uid: uid.parse().ok()?,
        command: format!("{} ", command.trim()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ps_lines_are_read() {
        let expected = Process {
            pid: 42,
            uid: 501,
            command: "/usr/bin/postgres -D /srv/a b ".to_owned(),
        };
        assert_eq!(
            parse_ps("   42   501 /usr/bin/postgres -D /srv/a b"),
            Some(expected)
        );
        assert_eq!(parse_ps(""), None);
    }

    #[test]
    fn this_process_is_found_among_all() {
        let pid = std::process::id().cast_signed();
        let found = find(pid).unwrap();
        assert_eq!(
            found.command,
            std::env::args()
                .map(|argument| argument + " ")
                .collect::<String>()
        );
        assert!(all().contains(&found));
    }
}
