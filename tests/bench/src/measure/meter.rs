//! Reads everything that grows before and after a stretch of load, and divides by its operations.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Database, DatabaseError, Processes,
    database::Counters,
    processes::{own_cpu, resident_bytes},
};

/// What can be read of the server besides its answers.
#[derive(Debug)]
pub struct Meter {
    pub processes: Processes,
    pub database: Option<Database>,
}

/// As it stood when a stretch began.
#[derive(Debug)]
pub struct Reading {
    counters: Option<Counters>,
    server: Option<Duration>,
    postgres: Option<Duration>,
    own: Duration,
}

/// Per operation. `None` where it could not be read.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub struct Costs {
    pub server_cpu_ms: Option<f64>,
    pub postgres_cpu_ms: Option<f64>,
    /// Of this program.
    pub generator_cpu_ms: Option<f64>,
    pub statements: Option<f64>,
    /// Whether they wrote or only read.
    pub transactions: Option<f64>,
    /// Transactions that wrote.
    pub writes: Option<f64>,
    pub wal_bytes: Option<f64>,
    /// By which the database grew.
    pub disk_bytes: Option<f64>,
}

impl Meter {
    /// Begins a stretch. The database first: asking it costs PostgreSQL CPU.
    pub async fn begin(&self) -> Result<Reading, DatabaseError> {
        Ok(Reading {
            counters: self.counters().await?,
            server: self.processes.server_cpu(),
            postgres: self.processes.postgres_cpu(),
            own: own_cpu(),
        })
    }

    /// Ends it; the database last.
    pub async fn end(&self, begin: Reading, operations: u64) -> Result<Costs, DatabaseError> {
        let server = self.processes.server_cpu();
        let postgres = self.processes.postgres_cpu();
        let own = own_cpu();
        let counters = self.counters().await?;
        if operations == 0 {
            return Ok(Costs::default());
        }
        let each = |total: f64| total / operations as f64;
        let time = |after: Option<Duration>, before: Option<Duration>| {
            Some(each(after?.saturating_sub(before?).as_secs_f64() * 1e3))
        };
        let count = |counter: fn(&Counters) -> Option<i64>| {
            let grown = counter(counters.as_ref()?)? - counter(begin.counters.as_ref()?)?;
            Some(each(grown as f64))
        };
        Ok(Costs {
            server_cpu_ms: time(server, begin.server),
            postgres_cpu_ms: time(postgres, begin.postgres),
            generator_cpu_ms: time(Some(own), Some(begin.own)),
            statements: count(|counters| counters.statements),
            transactions: count(|counters| Some(counters.transactions)),
            writes: count(|counters| Some(counters.writes)),
            wal_bytes: count(|counters| Some(counters.wal_bytes)),
            disk_bytes: count(|counters| Some(counters.disk_bytes)),
        })
    }

    /// The server's memory, in bytes.
    pub fn server_memory(&self) -> Option<u64> {
        resident_bytes(self.processes.server?)
    }

    async fn counters(&self) -> Result<Option<Counters>, DatabaseError> {
        match &self.database {
            Some(database) => database.counters().await.map(Some),
            None => Ok(None),
        }
    }
}
