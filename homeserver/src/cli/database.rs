//! `hearth database …`: upkeep of the private PostgreSQL.

use clap::Subcommand;
use hearth_storage::private_postgres;

use super::Failure;
use crate::config::Loaded;

#[derive(Debug, Subcommand)]
pub(super) enum Database {
    /// Move the private PostgreSQL to the newest installed version; the server must not be running
    Upgrade,
}

impl Database {
    pub(super) fn run(&self, loaded: &Loaded) -> Result<(), Failure> {
        let Self::Upgrade = self;
        if loaded.settings.database.url.is_some() {
            return Err("[database] url is set: that PostgreSQL is not this server's to upgrade".into());
        }
        let data_dir = &loaded.settings.data_dir;
        if !data_dir.join("postgres").is_dir() {
            return Err(format!("there is no private PostgreSQL in {} yet", data_dir.display()).into());
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let done = runtime.block_on(private_postgres::upgrade(data_dir))?;
        if done.from == done.to {
            println!(
                "PostgreSQL {} is the newest that is installed; there was nothing to do.",
                done.to
            );
        } else {
            println!("Moved the database from PostgreSQL {} to {}.", done.from, done.to);
        }
        Ok(())
    }
}
