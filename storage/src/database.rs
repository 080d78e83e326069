//! The pool, transactions, and the start of the schema.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use sqlx::{
    Connection as _, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{NumberSource, Result, StorageError};

pub(crate) static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// What the query functions of this crate run on: a pooled connection or a transaction gives one.
pub type Connection = sqlx::PgConnection;

/// Where the database is and how many connections to hold.
#[derive(Debug, Clone)]
pub struct DatabaseOptions {
    /// A `postgres://` URL, or one of a Unix socket.
    pub url: String,
    /// The largest number of connections for everything but the committer, which has its own.
    pub max_connections: u32,
}

/// The database: a pool of connections to one PostgreSQL.
#[derive(Debug, Clone)]
pub struct Database {
    pool: PgPool,
    connect: PgConnectOptions,
}

/// A connection on loan from the pool; statements on it commit one by one.
#[derive(Debug)]
pub struct Pooled(PoolConnection<Postgres>);

/// A transaction. Dropped without [`Transaction::commit`] it is rolled back.
#[derive(Debug)]
pub struct Transaction(sqlx::Transaction<'static, Postgres>);

impl Database {
    /// Connects and checks that the database answers.
    pub async fn connect(options: &DatabaseOptions) -> Result<Self> {
        let connect: PgConnectOptions = options
            .url
            .parse::<PgConnectOptions>()?
            .application_name("hearth");
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections)
            .acquire_timeout(Duration::from_secs(5))
            .connect_with(connect.clone())
            .await?;
        Ok(Self { pool, connect })
    }

    /// Brings the schema up to date, under a lock that makes servers which start together wait for each other.
    /// A database that a newer version has migrated is left untouched.
    pub async fn migrate(&self) -> Result<()> {
        let mut connection = self.pool.acquire().await?;
        let known = MIGRATOR
            .iter()
            .map(|migration| migration.version)
            .max()
            .unwrap_or(0);
        let migrated = sqlx::query_scalar::<_, bool>("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
            .fetch_one(&mut *connection)
            .await?;
        if migrated {
            let found = sqlx::query_scalar::<_, Option<i64>>("SELECT max(version) FROM _sqlx_migrations")
                .fetch_one(&mut *connection)
                .await?
                .unwrap_or(0);
            if found > known {
                return Err(StorageError::NewerDatabase { found, known });
            }
        }
        MIGRATOR
            .run(&mut *connection)
            .await
            .map_err(StorageError::Migration)
    }

    // Boxed, here and below: waiting for a connection takes 4 KiB, which whoever calls this would have room for as long
    // as their request goes on, a sync that waits for minutes as well.

    /// A connection whose statements commit one by one.
    pub async fn acquire(&self) -> Result<Pooled> {
        Ok(Pooled(Box::pin(self.pool.acquire()).await?))
    }

    /// An ordinary transaction (read committed).
    pub async fn begin(&self) -> Result<Transaction> {
        Ok(Transaction(Box::pin(self.pool.begin()).await?))
    }

    /// A read of several queries that sees one moment: repeatable read, read only.
    pub async fn begin_read(&self) -> Result<Transaction> {
        let begin = self
            .pool
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        Ok(Transaction(Box::pin(begin).await?))
    }

    /// A connection outside the pool, with time-outs of seconds, for a task that keeps it.
    pub(crate) async fn dedicated(&self) -> Result<Connection> {
        let mut connection = Connection::connect_with(&self.connect).await?;
        // By statement, since poolers refuse them as parameters of a start. What concerns TCP has no effect on a
        // Unix socket.
        sqlx::query!(
            r#"SELECT set_config(name, value, false) AS "set?" FROM (VALUES
                ('statement_timeout', '8s'), ('lock_timeout', '4s'), ('idle_in_transaction_session_timeout', '8s'),
                ('tcp_keepalives_idle', '5'), ('tcp_keepalives_interval', '2'), ('tcp_keepalives_count', '3')
            ) AS setting (name, value)"#
        )
        .fetch_all(&mut connection)
        .await?;
        Ok(connection)
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Gives out numbers for events and states. One per server.
    pub fn numbers(&self) -> NumberSource {
        NumberSource::new(self.clone())
    }

    /// Connections of the pool: how many exist, and how many of these are idle.
    pub fn pool_use(&self) -> (u32, usize) {
        (self.pool.size(), self.pool.num_idle())
    }

    /// Closes the pool after the connections on loan have come back.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl Transaction {
    /// Makes what was done in this transaction count.
    pub async fn commit(self) -> Result<()> {
        Ok(self.0.commit().await?)
    }
}

impl Deref for Transaction {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}

impl Deref for Pooled {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}
