//! The parts below the listeners, in the order in which they need each other: key, database, engine.

use std::sync::Arc;

use hearth_engine::{Engine, OsEntropy, Outside};

use crate::{
    config::Settings,
    database::{DatabaseError, OpenDatabase},
    key_file::{self, KeyFileError},
};

/// An engine and what it stands on.
#[derive(Debug)]
pub struct Parts {
    /// The engine.
    pub engine: Arc<Engine>,
    database: OpenDatabase,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    /// There is no usable signing key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// There is no usable database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The engine could not take over the log.
    #[error("the engine can't start")]
    Engine(#[from] hearth_engine::Error),
}

impl PartsError {
    /// Whether another process has the private PostgreSQL of this data directory.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_in_use())
    }
}

impl Parts {
    /// Reads the key, or makes the first one; opens the database; starts the engine.
    pub async fn start(settings: &Settings) -> Result<Self, PartsError> {
        let key = key_file::read_or_create(&settings.data_dir, &OsEntropy)?.signing_key();
        let database = OpenDatabase::open(settings).await?;
        match Engine::start(
            settings.engine_config(),
            database.db.clone(),
            key,
            Outside::default(),
        )
        .await
        {
            Ok(engine) => Ok(Self { engine, database }),
            Err(error) => {
                database.close().await;
                Err(error.into())
            }
        }
    }

    /// The parts for a command: an engine that changes accounts and leaves the log to the server, which may run on the
    /// same database and then hears of the changes.
    pub async fn beside(settings: &Settings) -> Result<Self, PartsError> {
        let key = key_file::read_or_create(&settings.data_dir, &OsEntropy)?.signing_key();
        let database = OpenDatabase::open(settings).await?;
        let engine = Engine::beside(
            settings.engine_config(),
            database.db.clone(),
            key,
            Outside::default(),
        );
        Ok(Self { engine, database })
    }

    /// Ends the engine, then the database.
    pub async fn stop(self) {
        let Self { engine, database } = self;
        engine.stop().await;
        database.close().await;
    }
}
