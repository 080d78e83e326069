//! CPU time and memory of processes, from `/proc`.

use std::{fs, time::Duration};

/// The kernel's `USER_HZ`: 100 on every Linux that Rust runs on.
const TICKS_PER_SECOND: u64 = 100;

/// The server and its PostgreSQL, where they are known.
#[derive(Debug, Clone, Copy)]
pub struct Processes {
    pub server: Option<u32>,
    /// The postmaster: its backends are its children.
    pub postgres: Option<u32>,
}

impl Processes {
    /// Where no postmaster is named, a child of the server that is one is taken: Hearth runs its own.
    pub fn new(server: Option<u32>, postgres: Option<u32>) -> Self {
        let child = || {
            let server = server?;
            let own = all().find(|process| process.parent == server && process.name == "postgres")?;
            Some(own.pid)
        };
        Self {
            server,
            postgres: postgres.or_else(child),
        }
    }

    /// What the server, all its threads together, has used so far.
    pub fn server_cpu(&self) -> Option<Duration> {
        read(self.server?).map(|process| process.own)
    }

    /// What PostgreSQL has used so far: the postmaster, its children, and its children that have ended.
    pub fn postgres_cpu(&self) -> Option<Duration> {
        let postmaster = read(self.postgres?)?;
        let children = all().filter(|process| process.parent == postmaster.pid);
        Some(postmaster.own + postmaster.ended_children + children.map(|child| child.own).sum::<Duration>())
    }
}

/// What this program has used so far.
pub fn own_cpu() -> Duration {
    read(std::process::id()).map_or(Duration::ZERO, |process| process.own)
}

/// The memory that a process has in RAM, in bytes.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[derive(Debug, PartialEq)]
struct Process {
    pid: u32,
    name: String,
    parent: u32,
    own: Duration,
    ended_children: Duration,
}

fn all() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| read(entry.file_name().to_str()?.parse().ok()?))
}

fn read(pid: u32) -> Option<Process> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// A line of `/proc/PID/stat`; see proc(5). The name may itself hold spaces and parentheses.
fn parse(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    // From here on the fields count from the third.
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let time = |ticks: u64| Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND);
    Some(Process {
        pid: pid.parse().ok()?,
        name: name.to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        own: time(ticks(14)? + ticks(15)?),
        ended_children: time(ticks(16)? + ticks(17)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_a_wicked_name() {
        let stat = "42 (a) (b c) S 7 42 42 0 -1 4194304 1 2 3 4 150 50 20 10 20 0 1 0 99 1000 10 0";
        let process = parse(stat).unwrap();
        assert_eq!(
            (process.pid, process.parent, process.name.as_str()),
            (42, 7, "a) (b c")
        );
        assert_eq!(process.own, Duration::from_secs(2));
        assert_eq!(process.ended_children, Duration::from_millis(300));
    }

    #[test]
    fn this_process_is_found_under_its_parent() {
        let own = read(std::process::id()).unwrap();
        assert_eq!(own.parent, std::os::unix::process::parent_id());
        assert!(all().any(|process| process.pid == own.pid));
        assert!(resident_bytes(own.pid).unwrap() > 0);
    }

    #[test]
    fn a_server_without_a_postgres_of_its_own_has_none() {
        let processes = Processes::new(Some(std::process::id()), None);
        assert_eq!(processes.postgres, None);
        assert_eq!(processes.postgres_cpu(), None);
        assert!(processes.server_cpu().is_some());
    }
}
