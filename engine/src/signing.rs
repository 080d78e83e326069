//! The server's signing key.

use ruma::{OwnedServerSigningKeyId, signatures::Ed25519KeyPair};

/// The PKCS#8 wrapping of an ed25519 seed (RFC 8410), which is the only form ruma takes.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// An ed25519 key that signs events and requests of this server.
pub struct SigningKey(Ed25519KeyPair);

/// The seed or the version can't make a key.
#[derive(Debug, thiserror::Error)]
#[error("this is not an ed25519 signing key: {0}")]
pub struct SigningKeyError(String);

impl SigningKey {
    /// The key `ed25519:version` of a 32-byte seed. `version` is of `[a-zA-Z0-9_]`.
    pub fn from_seed(version: &str, seed: &[u8; 32]) -> Result<Self, SigningKeyError> {
        let document = [&PKCS8_PREFIX[..], seed].concat();
        if version.is_empty()
            || !version
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            return Err(SigningKeyError(format!(
                "{version:?} is no key version: letters, digits and _ only"
            )));
        }
        Ed25519KeyPair::from_der(&document, version.to_owned())
            .map(Self)
            .map_err(|error| SigningKeyError(error.to_string()))
    }

    /// The name under which others find it: `ed25519:version`.
    pub fn id(&self) -> OwnedServerSigningKeyId {
        let id = format!("ed25519:{}", self.0.version());
        id.try_into()
            .unwrap_or_else(|_| unreachable!("a version was checked when the key was made"))
    }

    /// Its public half, 32 bytes.
    pub fn public_key(&self) -> [u8; 32] {
        self.0.public_key()
    }

    /// The key pair as ruma signs with it.
    pub fn pair(&self) -> &Ed25519KeyPair {
        &self.0
    }
}

impl From<Ed25519KeyPair> for SigningKey {
    fn from(pair: Ed25519KeyPair) -> Self {
        Self(pair)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey(ed25519:{})", self.0.version())
    }
}
