//! `hearth init`: a commented configuration file and a signing key. Overwrites nothing.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use clap::Args;
use hearth_engine::OsEntropy;
use ruma::OwnedServerName;

use super::Failure;
use crate::{
    config::DEFAULT_FILE,
    key_file::{self, StoredKey},
};

const TEMPLATE: &str = include_str!("hearth.toml");

#[derive(Debug, Args)]
pub(super) struct Init {
    /// The domain after the colon in your users' names, such as example.org; it can never change
    #[arg(long, value_name = "NAME")]
    server_name: OwnedServerName,
    /// Where the server keeps its signing key and its private PostgreSQL
    #[arg(long, value_name = "DIRECTORY", default_value = "./hearth-data")]
    data_dir: PathBuf,
}

impl Init {
    pub(super) fn run(&self, file: Option<&Path>) -> Result<(), Failure> {
        let from_environment = std::env::var_os("HEARTH_CONFIG")
            .filter(|file| !file.is_empty())
            .map(PathBuf::from);
        let file = file
            .map(Path::to_owned)
            .or(from_environment)
            .unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let key = key_file::path(&self.data_dir);
        // Looked at before anything is written, so that a refusal leaves nothing behind.
        for existing in [&file, &key] {
            if existing.try_exists()? {
                return Err(format!("{} exists already; nothing was written", existing.display()).into());
            }
        }
        write_new(&file, &self.text()?)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        key_file::create(&self.data_dir, &StoredKey::generate(&OsEntropy))?;
        println!("Wrote {} and the signing key {}.", file.display(), key.display());
        println!("Keep a copy of the key: other servers know yours by it.");
        println!("Next: look through {}, then run `hearth serve`.", file.display());
        Ok(())
    }

    fn text(&self) -> Result<String, Failure> {
        let data_dir = self
            .data_dir
            .to_str()
            .ok_or("--data-dir: expected a path that is UTF-8 text")?;
        Ok(TEMPLATE
            .replace("{server_name}", self.server_name.as_str())
            // JSON's escapes are also TOML's.
            .replace("\"{data_dir}\"", &serde_json::to_string(data_dir)?))
    }
}

fn write_new(file: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // It may come to hold a password of the database or a shared secret.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
