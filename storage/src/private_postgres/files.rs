//! Files and directories in places where somebody else may write: never through a link, whole or not at all.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use super::{
    account::Account,
    error::{Attempt, Result},
};

/// Writes a file that belongs to PostgreSQL's user and that nobody else can read.
///
/// The directory belongs to that user too, who must not be able to make root write elsewhere: the file is made new,
/// never opened, and then takes the place of the old one.
pub(super) fn write_owned(account: &Account, path: &Path, text: &str) -> Result<()> {
    let fresh = path.with_extension("new");
    remove_file(&fresh)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .attempt("write", &fresh)?;
    file.write_all(text.as_bytes()).attempt("write", &fresh)?;
    account.own_file(&file, &fresh)?;
    file.sync_all().attempt("write", &fresh)?;
    fs::rename(&fresh, path).attempt("write", path)
}

/// Writes a file that everybody may read, unless there is one already.
pub(super) fn write_once(path: &Path, text: &str) -> Result<()> {
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
    {
        Ok(mut file) => file.write_all(text.as_bytes()).attempt("write", path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).attempt("write", path),
    }
}

/// Makes a directory that only PostgreSQL's user can enter; it must not exist yet.
pub(super) fn make_owned_directory(account: &Account, path: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .attempt("make the directory", path)?;
    account.own(path)
}

/// Renames within one directory, durably.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).attempt("rename", from)?;
    match to.parent() {
        Some(parent) => File::open(parent)
            .and_then(|directory| directory.sync_all())
            .attempt("write", parent),
        None => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).attempt("remove", path),
        _ => Ok(()),
    }
}

/// Removes a directory with all that is in it, if it is there.
pub(super) fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).attempt("remove", path),
        _ => Ok(()),
    }
}
