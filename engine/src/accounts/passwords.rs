//! Hashing of passwords: argon2id, off the async threads, and only so many at once, since each takes 19 MiB and a
//! core for a good while.

use std::sync::Arc;

use argon2::{
    Argon2, PasswordHasher, PasswordVerifier,
    password_hash::phc::{ParamsString, PasswordHash},
};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::Password;
use crate::Entropy;

/// How many requests may wait for each core before further ones are turned away.
const WAITING_PER_CORE: usize = 64;

/// Why a password was not hashed.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(crate) enum HashingError {
    /// Too many are waiting already.
    #[error("too many passwords are waiting to be hashed")]
    Busy,
    /// The algorithm failed: out of memory.
    #[error("could not hash a password")]
    Failed,
}

/// The threads' worth of hashing that this server allows.
#[derive(Debug)]
pub(crate) struct Hashing {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// The hash of no one's password, to be compared with where there is none.
    decoy: OnceCell<String>,
}

impl Hashing {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            running: Arc::new(Semaphore::new(cores)),
            waiting: Arc::new(Semaphore::new(cores * (1 + WAITING_PER_CORE))),
            decoy: OnceCell::new(),
        }
    }

    /// The PHC string of a password under a fresh salt.
    pub(crate) async fn hash(
        &self,
        entropy: &dyn Entropy,
        password: &Password,
    ) -> Result<String, HashingError> {
        let mut salt = [0; 16];
        entropy.fill(&mut salt);
        let password = password.clone();
        self.run(move || {
            let hash: PasswordHash = hasher()
                .hash_password_with_salt(password.as_bytes(), &salt)
                .map_err(|_| HashingError::Failed)?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether `password` is the one that `hash` was made of. Without a hash it takes as long, and is not.
    pub(crate) async fn verify(
        &self,
        entropy: &dyn Entropy,
        password: &Password,
        hash: Option<&str>,
    ) -> Result<bool, HashingError> {
        let known = hash.is_some();
        let hash = match hash {
            Some(hash) => hash.to_owned(),
            None => self.decoy(entropy).await?.to_owned(),
        };
        let password = password.clone();
        let same = self
            .run(move || {
                let hash = PasswordHash::new(&hash).map_err(|_| HashingError::Failed)?;
                match hasher().verify_password(password.as_bytes(), &hash) {
                    Ok(()) => Ok(true),
                    Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
                    Err(_) => Err(HashingError::Failed),
                }
            })
            .await?;
        Ok(same && known)
    }

    async fn decoy(&self, entropy: &dyn Entropy) -> Result<&str, HashingError> {
        let decoy = self
            .decoy
            .get_or_try_init(|| async {
                let nobody_knows = Password::from(entropy.alphanumeric(32));
                self.hash(entropy, &nobody_knows).await
            })
            .await?;
        Ok(decoy)
    }

    /// Runs `work` on a blocking thread when its turn comes. It keeps its turn though the caller goes away.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, HashingError> + Send + 'static,
    ) -> Result<T, HashingError> {
        let place = Arc::clone(&self.waiting)
            .try_acquire_owned()
            .map_err(|_| HashingError::Busy)?;
        let turn = Arc::clone(&self.running)
            .acquire_owned()
            .await
            .map_err(|_| HashingError::Failed)?;
        let held: (OwnedSemaphorePermit, OwnedSemaphorePermit) = (place, turn);
        let work = move || {
            let result = work();
            drop(held);
            result
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or(Err(HashingError::Failed))
    }
}

/// Whether a stored hash was made with other settings than today's.
pub(crate) fn is_outdated(hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else {
        return true;
    };
    let today = ParamsString::try_from(hasher().params()).ok();
    let is_argon2id = hash.algorithm.as_str() == argon2::Algorithm::Argon2id.as_str();
    !is_argon2id || today.is_some_and(|today| today != hash.params)
}

/// argon2id with what OWASP asks for at least: 19 MiB, two passes, one lane.
fn hasher() -> Argon2<'static> {
    Argon2::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OsEntropy;

    #[tokio::test]
    async fn only_the_right_password_verifies() {
        let hashing = Hashing::new();
        let hash = hashing.hash(&OsEntropy, &"correct horse".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(
            hashing
                .verify(&OsEntropy, &"correct horse".into(), Some(&hash))
                .await
                .unwrap()
        );
        assert!(
            !hashing
                .verify(&OsEntropy, &"battery staple".into(), Some(&hash))
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn nothing_verifies_where_there_is_no_password() {
        let hashing = Hashing::new();
        assert!(
            !hashing
                .verify(&OsEntropy, &"correct horse".into(), None)
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn hash_with_lesser_settings_is_outdated() {
        let hashing = Hashing::new();
        let hash = hashing.hash(&OsEntropy, &"correct horse".into()).await.unwrap();
        assert!(!is_outdated(&hash));
        assert!(is_outdated(&hash.replace("m=19456", "m=4096")));
        assert!(is_outdated(&hash.replace("argon2id", "argon2i")));
    }

    #[tokio::test]
    async fn those_beyond_the_queue_are_turned_away() {
        let hashing = Hashing::new();
        let places = hashing.waiting.available_permits();
        let _taken = hashing
            .waiting
            .acquire_many(u32::try_from(places).unwrap())
            .await
            .unwrap();
        assert!(matches!(
            hashing.hash(&OsEntropy, &"p".into()).await,
            Err(HashingError::Busy)
        ));
    }
}
