//! Moving the cluster to a newer major version of PostgreSQL.
//!
//! The old cluster is only read, and stays until the new one has answered. From then on the new one is named
//! `postgres.upgraded`: that name alone says that it is to take the old one's place, after a crash as well.

use std::{fs, path::Path};

use super::{
    cluster::{self, Cluster},
    error::{PrivatePostgresError, Result},
    files,
    installation::{Installation, Installations},
    lock::Lock,
    postmaster, roles,
};

/// What an upgrade did, in major versions; equal where there was nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upgrade {
    /// The version before.
    pub from: u32,
    /// The version now.
    pub to: u32,
}

/// Moves the cluster in `data_dir` to the newest installed major version, with `pg_upgrade`; the server must not be
/// running. Both versions have to be installed, and there must be room for a second copy of the data.
///
/// When it fails, the old cluster is as it was.
pub async fn upgrade(data_dir: &Path) -> Result<Upgrade, PrivatePostgresError> {
    upgrade_with(data_dir, &Installations::find().await).await
}

/// [`upgrade`], with these installations instead of those in the usual places.
pub async fn upgrade_with(
    data_dir: &Path,
    installations: &Installations,
) -> Result<Upgrade, PrivatePostgresError> {
    let data_dir = cluster::open_data_dir(data_dir)?;
    let _lock = Lock::take(&data_dir)?;
    finish(&data_dir)?;
    let old = Cluster::open(&data_dir, installations).await?;
    let newest = installations.newest()?;
    let done = Upgrade {
        from: old.installation.major,
        to: newest.major,
    };
    if done.from < done.to {
        replace(&old, newest).await?;
    }
    Ok(done)
}

/// Puts an upgraded cluster in the place of the old one, where that is still to be done.
pub(super) fn finish(data_dir: &Path) -> Result<()> {
    let current = data_dir.join("postgres");
    let upgraded = data_dir.join("postgres.upgraded");
    let replaced = data_dir.join("postgres.replaced");
    if upgraded.is_dir() {
        if fs::symlink_metadata(&current).is_ok() {
            files::rename(&current, &replaced)?;
        }
        files::rename(&upgraded, &current)?;
    }
    // Once there is a current one; before, it would be all there is.
    if current.is_dir() {
        files::remove_directory(&replaced)
    } else {
        Ok(())
    }
}

/// Makes a cluster of this installation with what the old one holds, and puts it in its place.
async fn replace(old: &Cluster, installation: &Installation) -> Result<()> {
    // pg_upgrade wants the old one shut down in order, which after a crash takes a start.
    run_once(old, async || Ok(())).await?;

    let data_dir = &old.data_dir;
    let fresh = data_dir.join("postgres.upgrade");
    let work = data_dir.join("postgres.upgrade.work");
    files::remove_directory(&fresh)?;
    files::remove_directory(&work)?;
    files::make_owned_directory(&old.account, &work)?;
    let checksums = checksums_like(old, installation).await?;
    cluster::create(data_dir, &fresh, &old.account, installation, checksums).await?;
    let new = Cluster::configure(data_dir, fresh.clone(), old.account.clone(), installation.clone()).await?;

    tracing::info!(
        from = old.installation.major,
        to = installation.major,
        "copying the data to the new cluster"
    );
    let mut command = old.account.command(&installation.program("pg_upgrade"), &work);
    command
        .arg("-b")
        .arg(old.installation.directory())
        .arg("-B")
        .arg(installation.directory());
    command
        .arg("-d")
        .arg(&old.directory)
        .arg("-D")
        .arg(&new.directory);
    command
        .arg("-s")
        .arg(&old.socket_directory)
        .args(["-U", roles::SUPERUSER]);
    old.account.run("pg_upgrade", command).await?;

    run_once(&new, async || roles::analyze(&new).await).await?;
    files::rename(&fresh, &data_dir.join("postgres.upgraded"))?;
    finish(data_dir)?;
    files::remove_directory(&work)
}

/// Starts the cluster, does something, and shuts it down.
async fn run_once(cluster: &Cluster, work: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let mut postmaster = None;
    let done = match postmaster::bring_up(cluster, &mut postmaster).await {
        Ok(()) => work().await,
        Err(error) => Err(error),
    };
    if let Some(postmaster) = &mut postmaster {
        postmaster.shut_down(cluster).await;
    }
    done
}

/// What `initdb` has to be told for the new cluster to have checksums just where the old one has.
async fn checksums_like(old: &Cluster, installation: &Installation) -> Result<&'static [&'static str]> {
    let mut command = old
        .account
        .command(&old.installation.program("pg_controldata"), &old.directory);
    command.arg("-D").arg(&old.directory);
    let printed = old.account.run("pg_controldata", command).await?;
    let version = printed
        .lines()
        .find_map(|line| line.strip_prefix("Data page checksum version:"));
    Ok(match version.map(str::trim) {
        Some("0") if installation.major >= 18 => &["--no-data-checksums"],
        Some("0") => &[],
        _ => &["--data-checksums"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_exchange_is_finished_from_wherever_it_stopped() {
        let scratch = std::env::temp_dir().join(format!("hearth-exchange-{}", std::process::id()));
        let versions = |current: Option<&str>, upgraded: Option<&str>, replaced: Option<&str>| {
            let _ = fs::remove_dir_all(&scratch);
            for (name, version) in [("", current), (".upgraded", upgraded), (".replaced", replaced)] {
                if let Some(version) = version {
                    let directory = scratch.join(format!("postgres{name}"));
                    fs::create_dir_all(&directory).unwrap();
                    fs::write(directory.join("PG_VERSION"), version).unwrap();
                }
            }
            finish(&scratch).unwrap();
            let left = fs::read_dir(&scratch).unwrap().count();
            assert_eq!(left, 1, "only the cluster itself is left");
            fs::read_to_string(scratch.join("postgres/PG_VERSION")).unwrap()
        };
        assert_eq!(versions(Some("15"), None, None), "15");
        assert_eq!(versions(Some("15"), Some("17"), None), "17");
        assert_eq!(versions(None, Some("17"), Some("15")), "17");
        assert_eq!(versions(Some("17"), None, Some("15")), "17");
        fs::remove_dir_all(&scratch).unwrap();
    }

    /// One major version is all that a test can count on; `pg_upgrade` goes from one to itself as well.
    #[tokio::test]
    async fn upgraded_cluster_holds_what_the_old_one_held() {
        let scratch = std::env::temp_dir().join(format!("hearth-upgrade-{}", std::process::id()));
        let data_dir = cluster::open_data_dir(&scratch).unwrap();
        let installations = Installations::find().await;
        let old = Cluster::open(&data_dir, &installations).await.unwrap();
        let sql = async |cluster: &Cluster, statement: &'static str| {
            let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&cluster.url())
                .await
                .unwrap();
            let value = sqlx::query_scalar::<_, i64>(statement)
                .fetch_one(&mut connection)
                .await
                .unwrap();
            sqlx::Connection::close(connection).await.unwrap();
            value
        };
        run_once(&old, async || {
            roles::ensure_database(&old).await?;
            sql(&old, "SELECT lo_from_bytea(4711, 'kept')::bigint").await;
            Ok(())
        })
        .await
        .unwrap();
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let before = inode(&old.directory);

        let newest = installations.newest().unwrap();
        replace(&old, newest).await.unwrap();

        assert_ne!(inode(&old.directory), before);
        let new = Cluster::open(&data_dir, &installations).await.unwrap();
        run_once(&new, async || {
            let kept = sql(&new, "SELECT length(lo_get(4711))::bigint").await;
            assert_eq!(kept, 4);
            Ok(())
        })
        .await
        .unwrap();
        let mut left: Vec<_> = fs::read_dir(&data_dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                "postgres",
                "postgres.log",
                "postgres.socket",
                "postgresql.local.conf"
            ]
        );
        fs::remove_dir_all(&scratch).unwrap();
    }
}
