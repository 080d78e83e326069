//! What PostgreSQL has counted, asked through `psql`: it speaks every kind of URL, and nothing of it is timed.

use serde::Deserialize;
use tokio::process::Command;

/// Everything but statements. Transactions that write are counted by the ids they took, exactly at once; those that
/// only read by the statistics, up to a second late. WAL and the cluster's transaction ids are shared with whatever
/// else runs on it, so nothing else should.
const COUNTERS: &str = "\
    select json_build_object(
        'transactions', xact_commit + xact_rollback,
        'writes', pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
        'wal_bytes', (pg_current_wal_insert_lsn() - '0/0')::bigint,
        'disk_bytes', pg_database_size(current_database()))
    from pg_stat_database where datname = current_database()";

/// Needs the extension, and that the library was loaded when PostgreSQL started.
const STATEMENTS: &str = "\
    select coalesce(sum(calls), 0)::bigint from pg_stat_statements
    where dbid = (select oid from pg_database where datname = current_database())";

#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("cannot run psql")]
    Run(#[from] std::io::Error),
    #[error("psql: {0}")]
    Refused(String),
    #[error("psql's answer is not what was asked for")]
    Answer(#[from] serde_json::Error),
}

/// A database that can be asked.
#[derive(Debug)]
pub struct Database {
    url: String,
    counts_statements: bool,
}

/// Counters that only grow, except for the size.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Counters {
    pub transactions: i64,
    pub writes: i64,
    pub wal_bytes: i64,
    pub disk_bytes: i64,
    #[serde(default)]
    pub statements: Option<i64>,
}

impl Database {
    /// Connects once, to see whether statements can be counted.
    pub async fn new(url: String) -> Result<Self, DatabaseError> {
        let mut database = Self {
            url,
            counts_statements: false,
        };
        database.counters().await?;
        database.counts_statements = database.ask(STATEMENTS).await.is_ok();
        Ok(database)
    }

    /// As they are now.
    pub async fn counters(&self) -> Result<Counters, DatabaseError> {
        let mut counters: Counters = serde_json::from_str(&self.ask(COUNTERS).await?)?;
        if self.counts_statements {
            counters.statements = Some(serde_json::from_str(&self.ask(STATEMENTS).await?)?);
        }
        Ok(counters)
    }

    async fn ask(&self, sql: &str) -> Result<String, DatabaseError> {
        let output = Command::new("psql")
            .args(["--no-psqlrc", "--no-password", "--tuples-only", "--no-align"])
            .args(["--command", sql, &self.url])
            .output()
            .await?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            let error = String::from_utf8_lossy(&output.stderr);
            Err(DatabaseError::Refused(error.trim().to_owned()))
        }
    }
}
