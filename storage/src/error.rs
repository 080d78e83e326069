//! What the database refused, told so that a caller can act on it.

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The database could not be reached, or went away; the same call may succeed later.
    #[error("the database is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// A constraint, by its name in the migrations, did not hold.
    #[error("constraint {name} does not hold")]
    Constraint {
        /// The name of the constraint.
        name: String,
        /// What PostgreSQL said.
        #[source]
        source: sqlx::Error,
    },
    /// The database was migrated by a newer version of this program.
    #[error("the database has migration {found}, this program knows up to {known}: run a newer hearth")]
    NewerDatabase {
        /// The newest migration found in the database.
        found: i64,
        /// The newest migration of this program.
        known: i64,
    },
    /// A migration failed; the database is as it was before it.
    #[error("could not migrate the database")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// Stored data could not be understood.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// Anything else: a bug in a statement, a full disk, a statement that took too long.
    #[error("the database refused a statement")]
    Refused(#[source] sqlx::Error),
}

impl StorageError {
    /// The name of the violated constraint, where that is the cause.
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Constraint { name, .. } => Some(name),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anyone changing it: the database is away, full, or
    /// shutting down.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            // Insufficient resources (53), operator intervention (57), serialisation failures and deadlocks (40).
            Self::Refused(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| ["53", "57", "40"].iter().any(|class| code.starts_with(class)))
            }
            _ => false,
        }
    }
}

impl From<sqlx::Error> for StorageError {
    fn from(error: sqlx::Error) -> Self {
        let constraint = error.as_database_error().and_then(|e| e.constraint()).map(str::to_owned);
        if let Some(name) = constraint {
            return Self::Constraint { name, source: error };
        }
        match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
            // 08: connection exception. 57P01 to 57P03: shutting down, crashed, starting up.
            sqlx::Error::Database(e)
                if e.code().is_some_and(|code| code.starts_with("08") || code.starts_with("57P")) =>
            {
                Self::Unavailable(error)
            }
            _ => Self::Refused(error),
        }
    }
}
