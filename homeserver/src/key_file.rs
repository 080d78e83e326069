//! The server's signing key on disk: `signing.key` in the data directory.
//!
//! Each line is `ed25519 VERSION SEED`, the form that Synapse writes, so that a key can move between the two. The
//! first line signs. The file is its owner's alone; whoever has it can speak as this server.

use std::{
    fmt::{self, Debug},
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use hearth_engine::{Entropy, SigningKey};
use ruma::serde::{Base64, base64::Standard};
use zeroize::Zeroizing;

/// The file's name within the data directory.
const NAME: &str = "signing.key";

/// A signing key as the file has it.
pub struct StoredKey {
    /// Its name: `a_xxxx` of `ed25519:a_xxxx`.
    pub version: String,
    seed: Zeroizing<[u8; 32]>,
}

/// Why there is no usable signing key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file could not be read, or not be made.
    #[error("the signing key {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not a key.
    #[error(
        "the signing key {path}, line {line}: expected `ed25519 VERSION SEED`, the seed being 32 bytes in base64"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
}

impl StoredKey {
    /// A new key with a random name, which Synapse's have too: after a loss of the file, the next key must not
    /// have the name of the lost one.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut seed = Zeroizing::new([0u8; 32]);
        entropy.fill(seed.as_mut_slice());
        Self {
            version: format!("a_{}", entropy.alphanumeric(6)),
            seed,
        }
    }

    /// The key as the engine signs with it.
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::from_seed(&self.version, &self.seed)
            .expect("a version that was checked, and any 32 bytes, are a key")
    }

    fn line(&self) -> Zeroizing<String> {
        let seed: Base64<Standard, &[u8]> = Base64::new(self.seed.as_slice());
        Zeroizing::new(format!("ed25519 {} {}\n", self.version, seed.encode()))
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (algorithm, version, seed) = (words.next()?, words.next()?, words.next()?);
        let named = !version.is_empty() && version.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if algorithm != "ed25519" || !named || words.next().is_some() {
            return None;
        }
        let seed = Zeroizing::new(Base64::<Standard>::parse(seed).ok()?.into_inner());
        Some(Self {
            version: version.to_owned(),
            seed: Zeroizing::new(seed.as_slice().try_into().ok()?),
        })
    }
}

impl Debug for StoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredKey")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Where the key of the server with this data directory is.
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(NAME)
}

/// Reads the keys, the signing one first; `None` where there is no file.
pub fn read(data_dir: &Path) -> Result<Option<Vec<StoredKey>>, KeyFileError> {
    let path = path(data_dir);
    let text = match fs::read_to_string(&path) {
        Ok(text) => Zeroizing::new(text),
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(KeyFileError::Io { path, source }),
    };
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    let keys: Result<Vec<_>, _> = lines
        .map(|(index, line)| {
            let malformed = || KeyFileError::Malformed {
                path: path.clone(),
                line: index + 1,
            };
            StoredKey::parse(line).ok_or_else(malformed)
        })
        .collect();
    let keys = keys?;
    if keys.is_empty() {
        Err(KeyFileError::Malformed { path, line: 1 })
    } else {
        Ok(Some(keys))
    }
}

/// Makes a key file, and the data directory where there is none. A file that exists is left alone and is an error.
pub fn create(data_dir: &Path, key: &StoredKey) -> Result<(), KeyFileError> {
    let path = path(data_dir);
    write_new(data_dir, &path, key).map_err(|source| KeyFileError::Io { path, source })
}

fn write_new(data_dir: &Path, path: &Path, key: &StoredKey) -> io::Result<()> {
    create_data_dir(data_dir)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(key.line().as_bytes())?;
    file.sync_all()?;
    // The name must be on the disk too: a server that came back with another key would not be believed.
    File::open(data_dir)?.sync_all()
}

/// Makes the data directory. Others may pass through, as the unprivileged user must that PostgreSQL runs as when
/// the server is root, but not look around.
pub fn create_data_dir(data_dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(data_dir)
}

/// The key that signs; a first one is made where there is none.
pub fn read_or_create(data_dir: &Path, entropy: &dyn Entropy) -> Result<StoredKey, KeyFileError> {
    if let Some(keys) = read(data_dir)?
        && let Some(first) = keys.into_iter().next()
    {
        return Ok(first);
    }
    let key = StoredKey::generate(entropy);
    create(data_dir, &key)?;
    tracing::info!(path = %path(data_dir).display(), version = key.version, "made a signing key: keep a copy of it");
    Ok(key)
}

#[cfg(test)]
mod tests {
    use hearth_engine::OsEntropy;

    use super::*;

    #[test]
    fn key_reads_back_as_it_was_written() {
        let key = StoredKey::generate(&OsEntropy);
        let again = StoredKey::parse(&key.line()).expect("a line of ours parses");
        assert_eq!((&again.version, &again.seed), (&key.version, &key.seed));
    }

    #[test]
    fn line_is_the_one_that_synapse_writes() {
        let line = "ed25519 a_Yq1v YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0\n";
        let key = StoredKey::parse(line).expect("parses");
        assert_eq!(*key.line(), line);
    }

    #[test]
    fn lines_that_are_no_keys_are_refused() {
        for line in [
            "ed25519 a_1",
            "rsa a_1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1",
            "ed25519 a:1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1",
            "ed25519 a_1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW",
            "ed25519 a_1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1 more",
        ] {
            assert!(StoredKey::parse(line).is_none(), "{line}");
        }
    }
}
