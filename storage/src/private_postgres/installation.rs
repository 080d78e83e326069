//! Finding PostgreSQL's binaries.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use tokio::process::Command;

use super::error::{PrivatePostgresError, Result};

/// The oldest major version that the server works with.
const OLDEST_MAJOR: u32 = 14;

/// Directories of binaries, and where a `*` stands for a version.
const USUAL_PLACES: &[&str] = &[
    // Debian and Ubuntu; Red Hat with PostgreSQL's own packages; SUSE; Alpine; Gentoo.
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/lib/postgresql*/bin",
    "/usr/libexec/postgresql*",
    "/usr/lib64/postgresql-*/bin",
    // Homebrew on Apple silicon, on Intel and on Linux; Postgres.app.
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    // Built from source.
    "/usr/local/pgsql/bin",
];

/// The installed PostgreSQLs that can serve, one for each directory of binaries.
#[derive(Debug, Clone)]
pub struct Installations(Vec<Installation>);

/// One directory of PostgreSQL's binaries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installation {
    pub(super) major: u32,
    directory: PathBuf,
}

impl Installations {
    /// Those in the usual places and on `PATH`.
    pub async fn find() -> Self {
        let usual = USUAL_PLACES.iter().flat_map(|place| expand(place));
        let path = env::var_os("PATH").unwrap_or_default();
        Self::find_in(usual.chain(env::split_paths(&path))).await
    }

    /// Those in the given directories of binaries.
    pub async fn find_in(directories: impl IntoIterator<Item = PathBuf>) -> Self {
        // Distributions link one place to another: each counts once.
        let directories: BTreeSet<PathBuf> = directories
            .into_iter()
            .filter(|directory| directory.join("initdb").is_file())
            .filter_map(|directory| {
                fs::canonicalize(directory.join("postgres"))
                    .ok()?
                    .parent()
                    .map(Path::to_owned)
            })
            .collect();
        let mut found = Vec::new();
        for directory in directories {
            if let Some(major) = major_version(&directory.join("postgres")).await
                && major >= OLDEST_MAJOR
            {
                found.push(Installation { major, directory });
            }
        }
        Self(found)
    }

    /// The newest.
    pub(super) fn newest(&self) -> Result<&Installation> {
        self.0.iter().max_by_key(|installation| installation.major).ok_or(
            PrivatePostgresError::NotInstalled {
                minimum: OLDEST_MAJOR,
            },
        )
    }

    /// The one that can read the data in this directory, written by this major version.
    pub(super) fn for_data(&self, directory: &Path, major: u32) -> Result<&Installation> {
        self.0
            .iter()
            .find(|installation| installation.major == major)
            .ok_or_else(|| PrivatePostgresError::VersionNotInstalled {
                directory: directory.to_owned(),
                major,
            })
    }
}

impl Installation {
    /// The directory of the binaries.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of one of the binaries.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// The directories that a place stands for: itself, or those that exist with something instead of the `*`.
fn expand(place: &str) -> Vec<PathBuf> {
    let Some((before, after)) = place.split_once('*') else {
        return vec![PathBuf::from(place)];
    };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let names = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name());
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .map(|name| PathBuf::from(format!("{parent}/{name}{after}")))
        .collect()
}

/// What `postgres --version` says, if it is a released version.
async fn major_version(postgres: &Path) -> Option<u32> {
    let output = Command::new(postgres)
        .arg("--version")
        .env_clear()
        .output()
        .await
        .ok()?;
    parse_major(&String::from_utf8(output.stdout).ok()?)
}

/// 15 of `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`; nothing of `18beta1`, whose format may yet change.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.split(") ").nth(1)?.split_whitespace().next()?;
    let (major, minor) = number.split_once('.')?;
    minor.parse::<u32>().ok()?;
    major.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_versions_are_told_from_previews() {
        assert_eq!(
            parse_major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(parse_major("postgres (PostgreSQL) 17.0\n"), Some(17));
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1\n"), None);
        assert_eq!(parse_major("postgres (PostgreSQL) 19devel\n"), None);
        assert_eq!(parse_major("bash: postgres: command not found"), None);
    }

    #[test]
    fn a_place_expands_to_what_is_there() {
        let scratch = env::temp_dir().join(format!("hearth-places-{}", std::process::id()));
        fs::create_dir_all(scratch.join("pgsql-14/bin")).unwrap();
        fs::create_dir_all(scratch.join("pgsql-16/bin")).unwrap();
        fs::create_dir_all(scratch.join("other/bin")).unwrap();
        let mut found = expand(&format!("{}/pgsql-*/bin", scratch.display()));
        found.sort();
        assert_eq!(
            found,
            [scratch.join("pgsql-14/bin"), scratch.join("pgsql-16/bin")]
        );
        assert_eq!(expand("/nowhere/bin"), [PathBuf::from("/nowhere/bin")]);
        assert!(expand("/nowhere/*/bin").is_empty());
        fs::remove_dir_all(scratch).unwrap();
    }
}
