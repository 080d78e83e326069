//! The database a server or a command works on: the PostgreSQL of `[database] url`, or the private one.

use std::time::Duration;

use hearth_storage::{
    Database, DatabaseOptions, StorageError,
    private_postgres::{PrivatePostgres, PrivatePostgresError},
};
use tokio::time::{Instant, sleep};

use crate::config::Settings;

/// How long an external PostgreSQL is waited for: it may be starting with the machine, as we are.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);

/// A database with the schema of this version, and the PostgreSQL below it where that is ours.
#[derive(Debug)]
pub struct OpenDatabase {
    /// The pool.
    pub db: Database,
    private: Option<PrivatePostgres>,
}

/// Why there is no database to work on.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The private PostgreSQL could not be started.
    #[error(transparent)]
    Private(#[from] PrivatePostgresError),
    /// The database can't be reached, or not be used.
    #[error("the database cannot be used")]
    Storage(#[from] StorageError),
}

impl DatabaseError {
    /// Whether another process has the private PostgreSQL.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::Private(PrivatePostgresError::InUse { .. }))
    }
}

impl OpenDatabase {
    /// Starts the private PostgreSQL where that is configured, connects, and brings the schema up to date.
    pub async fn open(settings: &Settings) -> Result<Self, DatabaseError> {
        let private = match &settings.database.url {
            Some(_) => None,
            None => Some(PrivatePostgres::start(&settings.data_dir).await?),
        };
        let url = match (&settings.database.url, &private) {
            (Some(url), _) => url.reveal(),
            (None, Some(private)) => private.url(),
            (None, None) => unreachable!("without a url the private PostgreSQL was started"),
        };
        match connect(url, settings.database.max_connections).await {
            Ok(db) => Ok(Self { db, private }),
            Err(error) => {
                if let Some(private) = private {
                    private.stop().await;
                }
                Err(error.into())
            }
        }
    }

    /// Gives the connections back, then stops the private PostgreSQL.
    pub async fn close(self) {
        self.db.close().await;
        if let Some(private) = self.private {
            private.stop().await;
        }
    }
}

async fn connect(url: &str, max_connections: u32) -> Result<Database, StorageError> {
    let options = DatabaseOptions {
        url: url.to_owned(),
        max_connections,
    };
    let deadline = Instant::now() + PATIENCE;
    let db = loop {
        match Database::connect(&options).await {
            Err(error) if error.is_transient() && Instant::now() < deadline => {
                tracing::warn!(error = ?error, "the database does not answer yet");
                sleep(PAUSE).await;
            }
            result => break result?,
        }
    };
    match db.migrate().await {
        Ok(()) => Ok(db),
        Err(error) => {
            db.close().await;
            Err(error)
        }
    }
}
