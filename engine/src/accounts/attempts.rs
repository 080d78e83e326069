//! How often a password may be tried per account, whoever tries. (How often an address may ask is the business of
//! whoever knows addresses.)
//!
//! Names share a table of fixed size, so that no flood of names can push another's count out of memory, and a name
//! that nobody has is counted like one that somebody has.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use sha2::{Digest, Sha256};

use crate::Entropy;

const SLOTS: usize = 16_384;

/// One more attempt every six seconds,
const INTERVAL_MS: i64 = 6_000;

/// after this many at once.
const BURST: i64 = 10;

/// The attempts of late, as the generic cell rate algorithm keeps them: per slot, the time at which it would be
/// empty again.
#[derive(Debug)]
pub(crate) struct Attempts {
    seed: [u8; 16],
    empty_at: Box<[AtomicI64]>,
}

impl Attempts {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        let mut seed = [0; 16];
        entropy.fill(&mut seed);
        Self {
            seed,
            empty_at: (0..SLOTS).map(|_| AtomicI64::new(0)).collect(),
        }
    }

    /// Counts an attempt on `name` at `now`, in milliseconds. `Err`: one too many, with the milliseconds to wait.
    pub(crate) fn take(&self, name: &str, now: i64) -> Result<(), i64> {
        let taken = self.slot(name).fetch_update(Relaxed, Relaxed, |empty_at| {
            // Further ahead than attempts can bring it, the clock has jumped back since: that must lock nobody out.
            let jumped = empty_at - now > BURST * INTERVAL_MS;
            let empty_at = if jumped { now } else { empty_at.max(now) } + INTERVAL_MS;
            (empty_at - now <= BURST * INTERVAL_MS).then_some(empty_at)
        });
        match taken {
            Ok(_) => Ok(()),
            Err(empty_at) => Err(empty_at + INTERVAL_MS - BURST * INTERVAL_MS - now),
        }
    }

    /// Takes back an attempt that succeeded.
    pub(crate) fn give_back(&self, name: &str) {
        self.slot(name).fetch_sub(INTERVAL_MS, Relaxed);
    }

    fn slot(&self, name: &str) -> &AtomicI64 {
        let hash = Sha256::new()
            .chain_update(self.seed)
            .chain_update(name)
            .finalize();
        let slot = usize::from(u16::from_le_bytes([hash[0], hash[1]])) % SLOTS;
        &self.empty_at[slot]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OsEntropy;

    const NOW: i64 = 1_700_000_000_000;

    #[test]
    fn attempts_are_limited_and_come_back_with_time() {
        let attempts = Attempts::new(&OsEntropy);
        for _ in 0..BURST {
            assert_eq!(attempts.take("@alice:example.org", NOW), Ok(()));
        }
        assert_eq!(attempts.take("@alice:example.org", NOW), Err(INTERVAL_MS));
        assert_eq!(attempts.take("@alice:example.org", NOW + 4_000), Err(2_000));
        assert_eq!(attempts.take("@alice:example.org", NOW + INTERVAL_MS), Ok(()));
        assert!(attempts.take("@alice:example.org", NOW + INTERVAL_MS).is_err());
    }

    #[test]
    fn successes_are_not_counted() {
        let attempts = Attempts::new(&OsEntropy);
        for _ in 0..10 * BURST {
            assert_eq!(attempts.take("@alice:example.org", NOW), Ok(()));
            attempts.give_back("@alice:example.org");
        }
    }

    #[test]
    fn clock_that_jumps_back_locks_nobody_out() {
        let attempts = Attempts::new(&OsEntropy);
        for _ in 0..BURST {
            assert_eq!(attempts.take("@alice:example.org", NOW), Ok(()));
        }
        let earlier = NOW - 86_400_000;
        assert_eq!(attempts.take("@alice:example.org", earlier), Ok(()));
    }
}
