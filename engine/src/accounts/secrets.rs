//! Passwords and tokens: making them, and keeping them out of logs and of the database.

use std::fmt;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::Entropy;

/// SHA-256 of a token, a session ID or a nonce: what is stored and compared in its place. These are random and
/// long, so that a plain hash is enough.
pub(crate) type SecretHash = [u8; 32];

/// A password as its user typed it. Not printable, and wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// The bytes to hash.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Whether nothing was typed.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Password {
    fn from(password: String) -> Self {
        Self(Zeroizing::new(password))
    }
}

impl From<&str> for Password {
    fn from(password: &str) -> Self {
        Self(Zeroizing::new(password.to_owned()))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// The hash of a token, a session ID or a nonce.
pub(crate) fn hash(secret: &str) -> SecretHash {
    Sha256::digest(secret.as_bytes()).into()
}

/// A new access token. The prefix lets scanners for leaked secrets recognise it; the rest is 190 random bits.
pub(crate) fn access_token(entropy: &dyn Entropy) -> String {
    format!("hat_{}", entropy.alphanumeric(32))
}

/// A new refresh token.
pub(crate) fn refresh_token(entropy: &dyn Entropy) -> String {
    format!("hrt_{}", entropy.alphanumeric(32))
}

/// A new token for OpenID.
pub(crate) fn openid_token(entropy: &dyn Entropy) -> String {
    format!("hot_{}", entropy.alphanumeric(32))
}

/// `length` random letters of one case: an ID that people read to each other. Capitals if `upper`.
pub(crate) fn letters(entropy: &dyn Entropy, length: usize, upper: bool) -> String {
    let first = if upper { b'A' } else { b'a' };
    let mut out = String::with_capacity(length);
    let mut bytes = [0u8; 32];
    while out.len() < length {
        entropy.fill(&mut bytes);
        // 234 is the largest multiple of 26 in a byte: beyond it some letters would be likelier.
        let fair = bytes.iter().filter(|byte| **byte < 234);
        out.extend(
            fair.map(|byte| char::from(first + byte % 26))
                .take(length - out.len()),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OsEntropy;

    #[test]
    fn password_is_not_printed() {
        assert!(!format!("{:?}", Password::from("correct horse")).contains("horse"));
    }

    #[test]
    fn tokens_differ_and_are_long() {
        let (one, other) = (access_token(&OsEntropy), access_token(&OsEntropy));
        assert_ne!(one, other);
        assert_eq!(one.len(), 36);
    }

    #[test]
    fn letters_are_of_the_case_asked_for() {
        assert!(
            letters(&OsEntropy, 40, true)
                .bytes()
                .all(|byte| byte.is_ascii_uppercase())
        );
        assert_eq!(letters(&OsEntropy, 40, false).len(), 40);
    }
}
