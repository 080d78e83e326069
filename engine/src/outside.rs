//! Time and randomness, handed in so that a test can own them.

use std::fmt::Debug;

use ruma::MilliSecondsSinceUnixEpoch;

/// The time of day.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Milliseconds since the Unix epoch. May jump either way.
    fn now(&self) -> MilliSecondsSinceUnixEpoch;

    /// [`Clock::now`] as a plain number, as storage keeps it.
    fn now_ms(&self) -> i64 {
        i64::from(self.now().0)
    }
}

/// A source of unpredictable bytes.
pub trait Entropy: Debug + Send + Sync + 'static {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);

    /// A random string of `length` ASCII letters and digits: a token, an opaque id.
    fn alphanumeric(&self, length: usize) -> String {
        const SYMBOLS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut out = String::with_capacity(length);
        let mut bytes = [0u8; 64];
        while out.len() < length {
            self.fill(&mut bytes);
            // 248 is the largest multiple of 62 in a byte: beyond it some symbols would be likelier.
            let fair = bytes.iter().filter(|byte| **byte < 248);
            out.extend(
                fair.map(|byte| char::from(SYMBOLS[usize::from(byte % 62)]))
                    .take(length - out.len()),
            );
        }
        out
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch::now()
    }
}

/// The operating system's random numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        // No sane answer exists for a machine without randomness: every token would be guessable.
        getrandom::fill(bytes).expect("the operating system gives random bytes");
    }
}
