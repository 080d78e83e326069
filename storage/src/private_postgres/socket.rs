//! Where the Unix socket is: always the same place for one `data_dir`, so that an orphan is found again, and one
//! that no other user of the machine can squat or enter.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use nix::unistd::Uid;

use super::{
    account::Account,
    error::{Attempt, PrivatePostgresError, Result},
    files,
};

/// Part of the socket's name; nothing listens on a port.
pub(super) const PORT: u16 = 5432;

/// A socket's path may have 107 bytes on Linux, and 103 on the BSDs and macOS.
const LONGEST_PATH: usize = 103;

/// The path of the socket in its directory.
pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join(format!(".s.PGSQL.{PORT}"))
}

/// Whether something accepts connections there.
pub(super) fn answers(directory: &Path) -> bool {
    UnixStream::connect(path(directory)).is_ok()
}

/// Removes the directory after PostgreSQL has ended, if it is empty as it should be.
pub(super) fn tidy(directory: &Path) {
    let _ = fs::remove_dir(directory);
}

/// Makes sure of the directory for the socket of the cluster in this `data_dir`, and returns its path.
///
/// `identity` names the cluster. `$XDG_RUNTIME_DIR` is no place for it: it goes when its user logs out.
pub(super) fn prepare_directory(data_dir: &Path, identity: &str, account: &Account) -> Result<PathBuf> {
    let near = data_dir.join("postgres.socket");
    if is_fit(&near) {
        prepare_in_our_own_place(&near, account)?;
        return Ok(near);
    }
    if Uid::effective().is_root() && Path::new("/run").is_dir() {
        let directory = Path::new("/run").join(identity);
        prepare_in_our_own_place(&directory, account)?;
        return Ok(directory);
    }
    let directory = Path::new("/tmp").join(identity);
    prepare_among_strangers(&directory, account)?;
    Ok(directory)
}

/// Short enough, and free of characters that mean something in the list `unix_socket_directories`, or in a URL.
fn is_fit(directory: &Path) -> bool {
    let bytes = directory.as_os_str().as_bytes();
    path(directory).as_os_str().len() <= LONGEST_PATH
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(byte))
}

/// Where nobody but us can make or rename anything: what is there is ours, and is put right.
fn prepare_in_our_own_place(directory: &Path, account: &Account) -> Result<()> {
    if !exists_as_directory(directory)? {
        return files::make_owned_directory(account, directory);
    }
    account.own(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(0o700)).attempt("close to others", directory)
}

/// Where anybody may have made something of this name first: what is there is checked, and never changed.
fn prepare_among_strangers(directory: &Path, account: &Account) -> Result<()> {
    if !exists_as_directory(directory)? {
        return files::make_owned_directory(account, directory);
    }
    let metadata = fs::symlink_metadata(directory).attempt("look at", directory)?;
    let reason = match () {
        () if metadata.uid() != account.uid => format!("it belongs to user id {}", metadata.uid()),
        () if metadata.mode() & 0o077 != 0 => "other users may enter it".to_owned(),
        () => return Ok(()),
    };
    Err(PrivatePostgresError::SocketDirectory {
        directory: directory.to_owned(),
        reason,
    })
}

fn exists_as_directory(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(true),
        Ok(_) => Err(PrivatePostgresError::SocketDirectory {
            directory: path.to_owned(),
            reason: "it is not a directory".to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).attempt("look at", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_or_peculiar_paths_are_unfit_for_a_socket() {
        assert!(is_fit(Path::new("/var/lib/hearth/postgres.socket")));
        assert!(!is_fit(&Path::new("/").join("d".repeat(100))));
        assert!(!is_fit(Path::new("/srv/one,two/postgres.socket")));
        assert!(!is_fit(Path::new("/srv/my server/postgres.socket")));
        assert!(!is_fit(Path::new("/srv/münchen/postgres.socket")));
    }

    #[test]
    fn squatted_socket_directory_is_refused() {
        let account = Account::of_cluster(Path::new("/nonexistent")).unwrap();
        let place = std::env::temp_dir().join(format!("hearth-squat-{}", std::process::id()));

        std::os::unix::fs::symlink("/", &place).unwrap();
        let error = prepare_among_strangers(&place, &account).unwrap_err();
        assert!(error.to_string().contains("not a directory"), "{error}");
        fs::remove_file(&place).unwrap();

        prepare_among_strangers(&place, &account).unwrap();
        prepare_among_strangers(&place, &account).unwrap();
        fs::set_permissions(&place, Permissions::from_mode(0o755)).unwrap();
        let error = prepare_among_strangers(&place, &account).unwrap_err();
        assert!(error.to_string().contains("other users may enter it"), "{error}");
        fs::remove_dir(&place).unwrap();
    }
}
