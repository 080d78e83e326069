//! The configuration files of the cluster, written anew at every start.

use std::{fs, path::Path};

const MIB: u64 = 1 << 20;

/// What the settings depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine {
    /// Bytes of memory that this server may use.
    pub(super) memory: u64,
    /// The major version of PostgreSQL.
    pub(super) major: u32,
    /// Whether PostgreSQL was built with LZ4.
    pub(super) lz4: bool,
    /// Whether one call syncs a whole file system, and tells of failures.
    pub(super) syncfs: bool,
}

/// `postgresql.conf`. What it leaves out is PostgreSQL's default; the socket is given on the command line.
pub(super) fn postgresql_conf(machine: &Machine, operators_file: &Path) -> String {
    // An eighth for PostgreSQL's own cache, for the server keeps hot data itself, and the kernel caches the rest.
    let shared_buffers = (machine.memory / 8 / MIB).clamp(32, 2048);
    let effective_cache_size = (machine.memory / 2 / MIB).max(64);
    let maintenance_work_mem = (machine.memory / 32 / MIB).clamp(32, 512);
    let toast_compression = if machine.lz4 { "lz4" } else { "pglz" };
    let wal_compression = if machine.lz4 && machine.major >= 15 {
        "lz4"
    } else {
        "on"
    };
    // Where the kernel tells of a client that went away, a statement does not outlive a killed server for long.
    let connection_check = if cfg!(target_os = "linux") { "2s" } else { "0" };
    let recovery_sync = if machine.syncfs { "syncfs" } else { "fsync" };
    let operators_file = operators_file
        .to_string_lossy()
        .replace('\\', "\\\\")
        .replace('\'', "''");
    format!(
        "\
# Written by Hearth at every start: what is changed here is lost.
# Settings of your own go to {operators_file}

# An acknowledged event is on disk.
fsync = on
synchronous_commit = on
full_page_writes = on

max_connections = 200
unix_socket_permissions = 0700
client_connection_check_interval = {connection_check}

shared_buffers = {shared_buffers}MB
effective_cache_size = {effective_cache_size}MB
work_mem = 8MB
maintenance_work_mem = {maintenance_work_mem}MB
huge_pages = try

# Page images after a checkpoint are most of the WAL: few checkpoints, and compressed images.
wal_compression = {wal_compression}
checkpoint_timeout = 15min
max_wal_size = 2GB
min_wal_size = 256MB
# What recovery syncs before it begins: file by file it takes seconds.
recovery_init_sync_method = {recovery_sync}
# Enough for pg_basebackup, WAL archiving and a replica.
wal_level = replica

default_toast_compression = {toast_compression}

# Many small statements, on solid-state disks: no plan of theirs gains by compiling or by helpers.
random_page_cost = 1.1
jit = off
max_parallel_workers_per_gather = 0

# Vacuum early, so that each run is small.
autovacuum_naptime = 15s
autovacuum_vacuum_scale_factor = 0.05
autovacuum_vacuum_insert_scale_factor = 0.05
autovacuum_analyze_scale_factor = 0.02
autovacuum_vacuum_cost_limit = 1000

# Terse, because details and contexts quote rows, and rows hold messages.
log_error_verbosity = terse
log_parameter_max_length_on_error = 0
log_line_prefix = '%m [%p] '
log_checkpoints = off
log_timezone = 'UTC'

timezone = 'UTC'
lc_messages = 'C'
lc_monetary = 'C'
lc_numeric = 'C'
lc_time = 'C'

include_if_exists = '{operators_file}'
"
    )
}

/// What the operator's own file holds until somebody writes to it.
pub(super) const OPERATORS_FILE: &str = "\
# Settings of PostgreSQL of your own. They win over Hearth's, and are read whenever PostgreSQL starts.
";

/// `pg_hba.conf`: who may connect. There is no `host` line.
pub(super) const PG_HBA_CONF: &str = "\
# Written by Hearth at every start: what is changed here is lost.
local all all peer map=hearth
local replication all peer map=hearth
";

/// `pg_ident.conf`: which users of the operating system may be the two roles of the cluster.
pub(super) fn pg_ident_conf(users: &[&str], roles: &[&str]) -> String {
    let mut text = String::from("# Written by Hearth at every start: what is changed here is lost.\n");
    for user in users {
        for role in roles {
            text.push_str(&format!("hearth \"{user}\" {role}\n"));
        }
    }
    text
}

/// Bytes of memory that this process may use: the machine's, or less if a control group says so.
pub(super) fn memory() -> u64 {
    /// Assumed where nothing tells.
    const UNKNOWN: u64 = 2048 * MIB;
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| meminfo_total(&text))
        .unwrap_or(UNKNOWN);
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/")
        .to_owned();
    // A limit may be set on any of the groups that this one is in.
    Path::new(&group)
        .ancestors()
        .map(|group| format!("/sys/fs/cgroup{}/memory.max", group.display()))
        .filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())
        .fold(machine, u64::min)
}

/// Whether `syncfs` tells of failed writes, as Linux does since 5.8.
pub(super) fn has_reliable_syncfs() -> bool {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .is_ok_and(|release| release_is_at_least(&release, (5, 8)))
}

fn release_is_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= wanted,
        _ => false,
    }
}

fn meminfo_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(conf: &'a str, name: &str) -> &'a str {
        let prefix = format!("{name} = ");
        conf.lines()
            .find_map(|line| line.strip_prefix(prefix.as_str()))
            .unwrap_or_else(|| panic!("no {name}"))
    }

    fn conf(memory_mib: u64, major: u32, lz4: bool) -> String {
        let machine = Machine {
            memory: memory_mib * MIB,
            major,
            lz4,
            syncfs: true,
        };
        postgresql_conf(&machine, Path::new("/srv/it's/postgresql.local.conf"))
    }

    #[test]
    fn buffers_follow_memory_within_bounds() {
        assert_eq!(value(&conf(128, 15, true), "shared_buffers"), "32MB");
        assert_eq!(value(&conf(4096, 15, true), "shared_buffers"), "512MB");
        assert_eq!(value(&conf(1 << 20, 15, true), "shared_buffers"), "2048MB");
    }

    #[test]
    fn compression_is_what_the_version_knows() {
        assert_eq!(value(&conf(4096, 15, true), "wal_compression"), "lz4");
        assert_eq!(value(&conf(4096, 14, true), "wal_compression"), "on");
        assert_eq!(value(&conf(4096, 15, false), "wal_compression"), "on");
        assert_eq!(value(&conf(4096, 15, false), "default_toast_compression"), "pglz");
    }

    #[test]
    fn operators_file_is_quoted_and_read_last() {
        let conf = conf(4096, 15, true);
        assert_eq!(
            conf.lines().last(),
            Some("include_if_exists = '/srv/it''s/postgresql.local.conf'")
        );
    }

    #[test]
    fn old_kernels_are_told_from_new() {
        assert!(release_is_at_least("6.1.0-32-amd64\n", (5, 8)));
        assert!(release_is_at_least("5.8.1\n", (5, 8)));
        assert!(!release_is_at_least("5.4.0-216-generic\n", (5, 8)));
        assert!(!release_is_at_least("", (5, 8)));
    }

    #[test]
    fn meminfo_is_read() {
        assert_eq!(
            meminfo_total("MemTotal:       24683640 kB\nMemFree: 1 kB\n"),
            Some(24_683_640 * 1024)
        );
        assert_eq!(meminfo_total(""), None);
    }
}
