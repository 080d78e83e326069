//! Who PostgreSQL runs as, and how programs are started as that user.
//!
//! PostgreSQL refuses to run as root, rightly. A server that is root runs it as somebody else; any other server
//! runs it as itself.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, chown, fchown, lchown},
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::unistd::{Uid, User};
use tokio::process::Command;

use super::error::{Attempt, PrivatePostgresError, Result};

/// The operating-system user that PostgreSQL runs as.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    gid: u32,
    /// The server is root and has to change to this user.
    switches: bool,
}

impl Account {
    /// The user for the cluster in this directory, which need not exist yet: its owner, where the choice is ours.
    pub(super) fn of_cluster(directory: &Path) -> Result<Self> {
        let me = Uid::effective();
        let owner = match fs::metadata(directory) {
            Ok(metadata) => Some(metadata.uid()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).attempt("look at", directory),
        };
        if !me.is_root() {
            return match owner {
                Some(owner) if owner != me.as_raw() => Err(PrivatePostgresError::ForeignOwner {
                    directory: directory.to_owned(),
                    owner,
                }),
                _ => Self::by_uid(me, false),
            };
        }
        match owner {
            Some(0) | None => Self::unprivileged(),
            Some(owner) => Self::by_uid(Uid::from_raw(owner), true),
        }
    }

    fn by_uid(uid: Uid, switches: bool) -> Result<Self> {
        match User::from_uid(uid) {
            Ok(Some(user)) => Ok(Self::new(user, switches)),
            _ => Err(PrivatePostgresError::NamelessUser { uid: uid.as_raw() }),
        }
    }

    fn unprivileged() -> Result<Self> {
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .filter(|user| !user.uid.is_root())
            .map(|user| Self::new(user, true))
            .ok_or(PrivatePostgresError::NoUnprivilegedUser)
    }

    fn new(user: User, switches: bool) -> Self {
        Self {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            switches,
        }
    }

    /// The names of the users who may connect: this one, and root if that is who the server is.
    pub(super) fn client_names(&self) -> Vec<&str> {
        if self.switches {
            vec![&self.name, "root"]
        } else {
            vec![&self.name]
        }
    }

    /// A program to be run as this user, in `directory`, in which it may do as it likes.
    ///
    /// Its environment is empty but for a path: the server's may hold secrets, and variables that PostgreSQL heeds.
    pub(super) fn command(&self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(directory).stdin(Stdio::null());
        // C, because some of what the programs print is read by us.
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LC_ALL", "C");
        if self.switches {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Runs a program to its end and returns what it printed.
    pub(super) async fn run(&self, name: &'static str, mut command: Command) -> Result<String> {
        let directory = command
            .as_std()
            .get_current_dir()
            .map(Path::to_owned)
            .unwrap_or_default();
        let program = PathBuf::from(command.as_std().get_program());
        let output = command
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| self.spawn_error(&program, &directory, error))?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            return Ok(stdout.into_owned());
        }
        let printed = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
        Err(PrivatePostgresError::Failed {
            program: name,
            status: output.status.to_string(),
            output: super::server_log::last_lines(&printed).to_owned(),
        })
    }

    /// Explains why a program could not be started in this directory.
    pub(super) fn spawn_error(
        &self,
        program: &Path,
        directory: &Path,
        source: io::Error,
    ) -> PrivatePostgresError {
        // The child changes its user first and its directory then, so this is how a closed parent shows.
        if source.kind() == io::ErrorKind::PermissionDenied
            && let Some(closed) = self.first_closed(directory)
        {
            return PrivatePostgresError::NotTraversable {
                directory: closed,
                user: self.name.clone(),
            };
        }
        PrivatePostgresError::Io {
            action: "run",
            path: program.to_owned(),
            source,
        }
    }

    /// The first directory on the way to this one that the mode bits close to this user.
    fn first_closed(&self, directory: &Path) -> Option<PathBuf> {
        let mut way: Vec<_> = directory.ancestors().collect();
        way.reverse();
        way.into_iter()
            .find(|step| {
                fs::metadata(step).is_ok_and(|metadata| {
                    let enter = match () {
                        () if metadata.uid() == self.uid => 0o100,
                        () if metadata.gid() == self.gid => 0o010,
                        () => 0o001,
                    };
                    metadata.mode() & enter == 0
                })
            })
            .map(Path::to_owned)
    }

    /// Gives an open file that we made to this user; `path` is for the error.
    pub(super) fn own_file(&self, file: &File, path: &Path) -> Result<()> {
        if self.switches {
            fchown(file, Some(self.uid), Some(self.gid)).attempt("change the owner of", path)?;
        }
        Ok(())
    }

    /// Gives a directory that we made to this user.
    pub(super) fn own(&self, path: &Path) -> Result<()> {
        if self.switches {
            chown(path, Some(self.uid), Some(self.gid)).attempt("change the owner of", path)?;
        }
        Ok(())
    }

    /// Gives a cluster that belongs to root, for instance one copied from a backup, to this user.
    pub(super) fn own_cluster(&self, directory: &Path) -> Result<()> {
        let owner = fs::metadata(directory).attempt("look at", directory)?.uid();
        // Only then: in a tree that somebody else owns, names could be changed under our feet.
        if self.switches && owner == 0 {
            tracing::info!(directory = %directory.display(), user = self.name, "giving the cluster to its user");
            self.own_tree(directory)?;
        }
        Ok(())
    }

    fn own_tree(&self, path: &Path) -> Result<()> {
        let metadata = fs::symlink_metadata(path).attempt("look at", path)?;
        if metadata.is_dir() {
            for entry in fs::read_dir(path).attempt("list", path)? {
                self.own_tree(&entry.attempt("list", path)?.path())?;
            }
        }
        lchown(path, Some(self.uid), Some(self.gid)).attempt("change the owner of", path)
    }
}
