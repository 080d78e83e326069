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

    /// Whether the same call may succeed later without anyone changing it: the database is away, full, shutting
    /// down, or a standby by now.
    pub fn is_transient(&self) -> bool {
        // Insufficient resources (53), operator intervention (57), the system beneath (58), read only (25006).
        matches!(self, Self::Unavailable(_))
            || self.is_contention()
            || self.code().is_some_and(|code| {
                ["53", "57", "58", "25006"]
                    .iter()
                    .any(|class| code.starts_with(class))
            })
    }

    /// Whether another transaction was in the way: a serialisation failure, a deadlock, a lock not had in time.
    pub(crate) fn is_contention(&self) -> bool {
        self.code()
            .is_some_and(|code| code.starts_with("40") || code == "55P03")
    }

    /// Whether the statement may have taken effect all the same: its answer was not understood, or never came.
    pub(crate) fn leaves_outcome_open(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::Refused(sqlx::Error::Protocol(_))
        )
    }

    fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        match self {
            Self::Refused(sqlx::Error::Database(error)) => error.code(),
            _ => None,
        }
    }
}

impl From<sqlx::Error> for StorageError {
    fn from(error: sqlx::Error) -> Self {
        let constraint = error
            .as_database_error()
            .and_then(|e| e.constraint())
            .map(str::to_owned);
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
                if e.code()
                    .is_some_and(|code| code.starts_with("08") || code.starts_with("57P")) =>
            {
                Self::Unavailable(error)
            }
            _ => Self::Refused(error),
        }
    }
}
