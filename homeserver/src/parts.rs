//! The parts below the listeners, in the order in which they need each other: keys, outgoing requests, database, other
//! servers, engine.

use std::sync::Arc;

use hearth_endpoint::outgoing::{Outgoing, RootsError};
use hearth_engine::{Engine, OsEntropy, Outside, remote::RemoteServers, server_keys::ServerKeyStore};
use hearth_federation::Federation;

use crate::{
    config::Settings,
    database::{DatabaseError, OpenDatabase},
    key_file::{self, KeyFileError, Keys},
};

/// An engine and what it stands on.
#[derive(Debug)]
pub struct Parts {
    /// The engine.
    pub engine: Arc<Engine>,
    /// This server among the others, if it federates.
    pub federation: Option<Arc<Federation>>,
    database: OpenDatabase,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    /// There is no usable signing key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// Nothing can be asked of others over TLS.
    #[error(transparent)]
    Outgoing(#[from] RootsError),
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
    /// Reads the keys, or makes the first one; opens the database; starts the engine.
    pub async fn start(settings: &Settings) -> Result<Self, PartsError> {
        let keys = key_file::read_or_create(&settings.data_dir, &OsEntropy)?;
        let outgoing = Outgoing::new(&settings.outgoing())?;
        let database = OpenDatabase::open(settings).await?;
        let mut outside = Outside::default();
        let federation = settings
            .federation
            .enabled
            .then(|| federation(settings, &keys, &outgoing, &database, &outside));
        if let Some(federation) = &federation {
            outside.remote = Arc::clone(federation) as Arc<dyn RemoteServers>;
        }
        let key = keys.signing.signing_key();
        match Engine::start(settings.engine_config(), database.db.clone(), key, outside).await {
            Ok(engine) => Ok(Self {
                engine,
                federation,
                database,
            }),
            Err(error) => {
                database.close().await;
                Err(error.into())
            }
        }
    }

    /// The parts for a command: an engine that changes accounts and leaves the log to the server, which may run on the
    /// same database and then hears of the changes.
    pub async fn beside(settings: &Settings) -> Result<Self, PartsError> {
        let key = key_file::read_or_create(&settings.data_dir, &OsEntropy)?
            .signing
            .signing_key();
        let database = OpenDatabase::open(settings).await?;
        let engine = Engine::beside(
            settings.engine_config(),
            database.db.clone(),
            key,
            Outside::default(),
        );
        Ok(Self {
            engine,
            federation: None,
            database,
        })
    }

    /// Ends the engine, then the database.
    pub async fn stop(self) {
        let Self { engine, database, .. } = self;
        engine.stop().await;
        database.close().await;
    }
}

fn federation(
    settings: &Settings,
    keys: &Keys,
    outgoing: &Outgoing,
    database: &OpenDatabase,
    outside: &Outside,
) -> Arc<Federation> {
    Federation::new(hearth_federation::Parts {
        own_keys: keys.own_keys(settings.server_name.clone()),
        policy: settings.server_policy(),
        notaries: settings.federation.notaries.clone(),
        store: ServerKeyStore::new(database.db.clone()),
        outgoing,
        clock: Arc::clone(&outside.clock),
        entropy: Arc::clone(&outside.entropy),
    })
}
