//! The engine: what its verbs share.

use std::sync::Arc;

use hearth_storage::Database;

use crate::{Clock, Config, Entropy};

/// Everything that the verbs of this crate work on. One per server; two may live in one process.
#[derive(Debug)]
pub struct Engine {
    /// The operator's settings.
    pub config: Config,
    /// The database.
    pub db: Database,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}
