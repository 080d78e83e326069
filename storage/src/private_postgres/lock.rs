//! The lock that keeps two servers from running one cluster.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::error::{Attempt, PrivatePostgresError, Result};

/// Held for as long as a server works with the cluster; the kernel frees it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of this `data_dir`, or says who has it.
    pub(super) fn take(data_dir: &Path) -> Result<Self> {
        let path = data_dir.join("postgres.lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .attempt("open", &path)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).attempt("write", &path)?;
                file.rewind().attempt("write", &path)?;
                writeln!(file, "{}", std::process::id()).attempt("write", &path)?;
                Ok(Self { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).attempt("read", &path)?;
                let holder = match holder.trim() {
                    "" => "unknown".to_owned(),
                    pid => pid.to_owned(),
                };
                Err(PrivatePostgresError::InUse {
                    data_dir: data_dir.to_owned(),
                    holder,
                })
            }
            Err(TryLockError::Error(error)) => Err(error).attempt("lock", &path),
        }
    }
}
