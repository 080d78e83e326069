//! The server's signing keys on disk: `signing.key` in the data directory.
//!
//! Each line is `ed25519 VERSION SEED`, the form that Synapse writes, so that a key can move between the two. The
//! first line signs, the others are published as in use too. A line `ed25519 VERSION PUBLIC_KEY retired MILLISECONDS` is
//! what is left of a former key: what it signed until then stays good, and nobody can sign by it any more. The file is
//! its owner's alone; whoever has it can speak as this server.

use std::{
    fmt::{self, Debug},
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use hearth_engine::{Entropy, SigningKey};
use hearth_federation::{OwnKeys, RetiredKey};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName,
    serde::{Base64, base64::Standard},
};
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
    /// All keys are retired.
    #[error("the signing key {0}: expected a line `ed25519 VERSION SEED`, for a key that is in use")]
    NoneInUse(PathBuf),
}

/// What a key file holds.
#[derive(Debug)]
pub struct Keys {
    /// The key that signs.
    pub signing: StoredKey,
    /// Keys that are in use as well.
    pub further: Vec<StoredKey>,
    /// Former keys.
    pub retired: Vec<RetiredKey>,
}

impl Keys {
    /// The keys as other servers come to know them.
    pub fn own_keys(&self, server_name: OwnedServerName) -> OwnKeys {
        let further = self.further.iter().map(StoredKey::signing_key).collect();
        OwnKeys::new(
            server_name,
            self.signing.signing_key(),
            further,
            self.retired.clone(),
        )
    }

    fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::new());
        for key in std::iter::once(&self.signing).chain(&self.further) {
            text.push_str(&key.line());
        }
        for key in &self.retired {
            text.push_str(&retired_line(key));
        }
        text
    }
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

/// Reads the keys; `None` where there is no file.
pub fn read(data_dir: &Path) -> Result<Option<Keys>, KeyFileError> {
    let path = path(data_dir);
    let text = match fs::read_to_string(&path) {
        Ok(text) => Zeroizing::new(text),
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(KeyFileError::Io { path, source }),
    };
    let (mut in_use, mut retired) = (Vec::new(), Vec::new());
    for (index, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        if let Some(key) = StoredKey::parse(line) {
            in_use.push(key);
        } else if let Some(key) = parse_retired(line) {
            retired.push(key);
        } else {
            let line = index + 1;
            return Err(KeyFileError::Malformed { path, line });
        }
    }
    if in_use.is_empty() {
        return Err(KeyFileError::NoneInUse(path));
    }
    Ok(Some(Keys {
        signing: in_use.remove(0),
        further: in_use,
        retired,
    }))
}

fn retired_line(key: &RetiredKey) -> String {
    let version = key.id.key_name();
    let public_key: Base64<Standard, &[u8]> = Base64::new(key.public_key.as_slice());
    let since = key.expired_ts.0;
    format!("ed25519 {version} {} retired {since}\n", public_key.encode())
}

fn parse_retired(line: &str) -> Option<RetiredKey> {
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    let ["ed25519", version, public_key, "retired", since] = words[..] else {
        return None;
    };
    let public_key = Base64::<Standard>::parse(public_key).ok()?.into_inner();
    Some(RetiredKey {
        id: format!("ed25519:{version}").try_into().ok()?,
        public_key: public_key.try_into().ok()?,
        expired_ts: MilliSecondsSinceUnixEpoch(since.parse::<u64>().ok()?.try_into().ok()?),
    })
}

/// Makes a new key sign, and retires the one that did. The server must not be running: it would go on signing by a key
/// that is no longer good.
pub fn rotate(
    data_dir: &Path,
    entropy: &dyn Entropy,
    now: MilliSecondsSinceUnixEpoch,
) -> Result<Keys, KeyFileError> {
    let mut keys = read_or_create(data_dir, entropy)?;
    let former = std::mem::replace(&mut keys.signing, StoredKey::generate(entropy)).signing_key();
    keys.retired.push(RetiredKey {
        id: former.id(),
        public_key: former.public_key(),
        expired_ts: now,
    });
    let path = path(data_dir);
    replace(data_dir, &path, &keys.text()).map_err(|source| KeyFileError::Io { path, source })?;
    Ok(keys)
}

/// The old file or the new one is there at any time, whole.
fn replace(data_dir: &Path, path: &Path, text: &str) -> io::Result<()> {
    let fresh = data_dir.join("signing.key.new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write_new(data_dir, &fresh, text)?;
    fs::rename(&fresh, path)?;
    File::open(data_dir)?.sync_all()
}

/// Makes a key file, and the data directory where there is none. A file that exists is left alone and is an error.
pub fn create(data_dir: &Path, key: &StoredKey) -> Result<(), KeyFileError> {
    let path = path(data_dir);
    write_new(data_dir, &path, &key.line()).map_err(|source| KeyFileError::Io { path, source })
}

fn write_new(data_dir: &Path, path: &Path, text: &str) -> io::Result<()> {
    create_data_dir(data_dir)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    // The name must be on the disk too: a server that came back with another key would not be believed.
    File::open(data_dir)?.sync_all()
}

/// Makes the data directory. Others may pass through, as the unprivileged user must that PostgreSQL runs as when
/// the server is root, but not look around.
pub fn create_data_dir(data_dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(data_dir)
}

/// The keys; a first one is made where there is none.
pub fn read_or_create(data_dir: &Path, entropy: &dyn Entropy) -> Result<Keys, KeyFileError> {
    if let Some(keys) = read(data_dir)? {
        return Ok(keys);
    }
    let key = StoredKey::generate(entropy);
    create(data_dir, &key)?;
    tracing::info!(path = %path(data_dir).display(), version = key.version, "made a signing key: keep a copy of it");
    Ok(Keys {
        signing: key,
        further: Vec::new(),
        retired: Vec::new(),
    })
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

    #[test]
    fn a_key_that_is_rotated_stays_known_and_signs_no_more() {
        let data_dir = tempfile::tempdir().expect("a directory can be made");
        let first = read_or_create(data_dir.path(), &OsEntropy)
            .expect("a first key")
            .signing;
        let now = MilliSecondsSinceUnixEpoch::now();
        rotate(data_dir.path(), &OsEntropy, now).expect("it can be rotated");
        let keys = read(data_dir.path())
            .expect("it can be read")
            .expect("it is there");
        assert_ne!(keys.signing.version, first.version);
        let [retired] = &keys.retired[..] else {
            panic!("{:?}", keys.retired);
        };
        assert_eq!(retired.id, first.signing_key().id());
        assert_eq!(retired.public_key, first.signing_key().public_key());
        assert_eq!(retired.expired_ts, now);
        let text = fs::read_to_string(path(data_dir.path())).expect("text");
        let secret = first.line();
        let secret = secret.trim().rsplit(' ').next().expect("a seed");
        assert!(!text.contains(secret), "the former secret is gone");
    }

    #[test]
    fn a_file_without_a_key_in_use_is_refused() {
        let data_dir = tempfile::tempdir().expect("a directory can be made");
        let key = "ed25519 a_1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1 retired 1700000000000\n";
        fs::write(path(data_dir.path()), key).expect("it can be written");
        assert!(matches!(read(data_dir.path()), Err(KeyFileError::NoneInUse(_))));
    }
}
