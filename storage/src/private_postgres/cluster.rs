//! The cluster: where its files are, how it is made, and what its configuration says.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use nix::unistd::Uid;
use sha2::{Digest, Sha256};

use super::{
    account::Account,
    error::{Attempt, PrivatePostgresError, Result},
    files,
    installation::{Installation, Installations},
    processes::Process,
    roles,
    server_log::ServerLog,
    settings::{self, Machine},
    socket,
};

/// A cluster whose configuration is written, ready to be started.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) data_dir: PathBuf,
    /// Where PostgreSQL keeps its data: `-D`.
    pub(super) directory: PathBuf,
    pub(super) installation: Installation,
    pub(super) account: Account,
    pub(super) socket_directory: PathBuf,
    /// Names the cluster among all of the machine, in its processes' titles and, if need be, its socket's directory.
    pub(super) identity: String,
    pub(super) log: ServerLog,
}

/// Makes `data_dir` if need be, and returns its one true path.
pub(super) fn open_data_dir(data_dir: &Path) -> Result<PathBuf> {
    // PostgreSQL has to pass through it as somebody else if we are root.
    let mode = if Uid::effective().is_root() { 0o711 } else { 0o700 };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(data_dir)
        .attempt("make the directory", data_dir)?;
    fs::canonicalize(data_dir).attempt("find", data_dir)
}

impl Cluster {
    /// The cluster in `data_dir/postgres`, made if it is not there. The caller holds the lock of `data_dir`.
    pub(super) async fn open(data_dir: &Path, installations: &Installations) -> Result<Self> {
        let directory = data_dir.join("postgres");
        let account = Account::of_cluster(&directory)?;
        match data_version(&directory)? {
            Some(major) => {
                let installation = installations.for_data(&directory, major)?.clone();
                account.own_cluster(&directory)?;
                Self::configure(data_dir, directory, account, installation).await
            }
            None => {
                let installation = installations.newest()?.clone();
                create(
                    data_dir,
                    &directory,
                    &account,
                    &installation,
                    &["--data-checksums"],
                )
                .await?;
                Self::configure(data_dir, directory, account, installation).await
            }
        }
    }

    /// A cluster that exists, with its configuration written anew.
    pub(super) async fn configure(
        data_dir: &Path,
        directory: PathBuf,
        account: Account,
        installation: Installation,
    ) -> Result<Self> {
        let identity = identity(data_dir);
        let socket_directory = socket::prepare_directory(data_dir, &identity, &account)?;
        let log = ServerLog::new(data_dir);
        let data_dir = data_dir.to_owned();
        let cluster = Self {
            data_dir,
            directory,
            installation,
            account,
            socket_directory,
            identity,
            log,
        };
        cluster.write_configuration().await?;
        Ok(cluster)
    }

    async fn write_configuration(&self) -> Result<()> {
        let machine = Machine {
            memory: settings::memory(),
            major: self.installation.major,
            lz4: self.knows_lz4().await?,
            syncfs: settings::has_reliable_syncfs(),
        };
        let operators_file = self.data_dir.join("postgresql.local.conf");
        files::write_once(&operators_file, settings::OPERATORS_FILE)?;
        let conf = settings::postgresql_conf(&machine, &operators_file);
        let ident = settings::pg_ident_conf(&self.account.client_names(), &[roles::SUPERUSER, roles::SERVER]);
        self.write("postgresql.conf", &conf)?;
        self.write("pg_hba.conf", settings::PG_HBA_CONF)?;
        self.write("pg_ident.conf", &ident)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        files::write_owned(&self.account, &self.directory.join(name), text)
    }

    /// Asks PostgreSQL whether it was built with LZ4, by offering it the setting.
    async fn knows_lz4(&self) -> Result<bool> {
        let mut command = self
            .account
            .command(&self.installation.program("postgres"), &self.directory);
        command.args([
            "-C",
            "default_toast_compression",
            "-c",
            "default_toast_compression=lz4",
        ]);
        command
            .args(["-c", "config_file=/dev/null", "-D"])
            .arg(&self.directory);
        match self.account.run("postgres", command).await {
            Ok(_) => Ok(true),
            Err(PrivatePostgresError::Failed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether this process is the postmaster of this cluster.
    pub(super) fn is_postmaster(&self, process: &Process) -> bool {
        process.uid == self.account.uid
            && process
                .command
                .contains(&format!(" -D {} ", self.directory.display()))
    }

    /// Whether this process belongs to this cluster, as its postmaster or as a child of that, which has a title.
    pub(super) fn has_process(&self, process: &Process) -> bool {
        let title = format!("postgres: {}: ", self.identity);
        self.is_postmaster(process)
            || (process.uid == self.account.uid && process.command.starts_with(&title))
    }

    /// A URL of the server's database.
    pub(super) fn url(&self) -> String {
        let directory = self.socket_directory.display().to_string().replace('/', "%2F");
        format!(
            "postgres://{role}@{directory}:{port}/{database}?sslmode=disable",
            role = roles::SERVER,
            port = socket::PORT,
            database = roles::DATABASE,
        )
    }
}

/// The major version that wrote the data in this directory; nothing if there is none yet.
pub(super) fn data_version(directory: &Path) -> Result<Option<u32>> {
    let path = directory.join("PG_VERSION");
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse() {
            Ok(major) => Ok(Some(major)),
            Err(_) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "it holds no version")).attempt("read", path)
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
                let by = "it holds something, but no PostgreSQL cluster".to_owned();
                return Err(PrivatePostgresError::Occupied {
                    directory: directory.to_owned(),
                    by,
                });
            }
            Ok(None)
        }
        Err(error) => Err(error).attempt("read", path),
    }
}

/// Makes a new cluster in `directory`, whole or not at all.
pub(super) async fn create(
    data_dir: &Path,
    directory: &Path,
    account: &Account,
    installation: &Installation,
    checksums: &[&str],
) -> Result<()> {
    tracing::info!(
        directory = %directory.display(), version = installation.major, user = account.name,
        "making a PostgreSQL cluster"
    );
    // An initdb may outlive a server that was killed; by its number it keeps out of the way of the next.
    let unfinished = data_dir.join(format!("postgres.unfinished-{}", std::process::id()));
    remove_unfinished(data_dir)?;
    files::make_owned_directory(account, &unfinished)?;
    let mut command = account.command(&installation.program("initdb"), &unfinished);
    command
        .args([
            "--encoding=UTF8",
            "--locale=C",
            "--auth=peer",
            "--no-instructions",
        ])
        .args(checksums);
    command
        .arg("--username")
        .arg(roles::SUPERUSER)
        .arg("--pgdata")
        .arg(&unfinished);
    match account.run("initdb", command).await {
        Ok(_) => files::rename(&unfinished, directory),
        Err(error) => {
            files::remove_directory(&unfinished)?;
            Err(error)
        }
    }
}

/// Removes what servers that were killed in the middle of it left.
fn remove_unfinished(data_dir: &Path) -> Result<()> {
    for entry in fs::read_dir(data_dir).attempt("list", data_dir)? {
        let entry = entry.attempt("list", data_dir)?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with("postgres.unfinished-")
            && let Err(error) = files::remove_directory(&entry.path())
        {
            tracing::warn!(%error, "an unfinished cluster is left behind");
        }
    }
    Ok(())
}

/// `hearth-` and a hash of the path of `data_dir`.
fn identity(data_dir: &Path) -> String {
    let hash = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    let hex: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("hearth-{hex}")
}
