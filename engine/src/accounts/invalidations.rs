//! When what is cached about a user stopped being true.
//!
//! A cached answer carries the moment at which the reading of it began. It counts as long as nothing of its user
//! was invalidated since. So an answer that was read before a change and is cached after it is never used, in
//! whatever order the two go on; no lock is held while reading, and the memory is fixed.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use hearth_storage::UserNid;

/// Users share a slot when there are more of them; then one costs the other a query now and then.
const SLOTS: usize = 4096;

/// A moment in the order of invalidations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

/// The last invalidation of each user.
#[derive(Debug)]
pub(crate) struct Invalidations {
    now: AtomicU64,
    last: Box<[AtomicU64]>,
}

impl Invalidations {
    pub(crate) fn new() -> Self {
        Self {
            now: AtomicU64::new(0),
            last: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The present moment. Take it before the read whose result is to be cached.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.now.load(SeqCst))
    }

    /// Voids everything about the user that was read, or began to be read, before now. Call it after the change
    /// is committed: a read that begins later sees it.
    pub(crate) fn invalidate(&self, user_nid: UserNid) {
        let moment = self.now.fetch_add(1, SeqCst) + 1;
        self.slot(user_nid).fetch_max(moment, SeqCst);
    }

    /// Voids everything about everyone that was read, or began to be read, before now.
    pub(crate) fn invalidate_all(&self) {
        let moment = self.now.fetch_add(1, SeqCst) + 1;
        for slot in &self.last {
            slot.fetch_max(moment, SeqCst);
        }
    }

    /// Whether what was read since `moment` about the user is still true.
    pub(crate) fn is_current(&self, user_nid: UserNid, moment: Moment) -> bool {
        self.slot(user_nid).load(SeqCst) <= moment.0
    }

    fn slot(&self, user_nid: UserNid) -> &AtomicU64 {
        // Numbers are given out in order, so that the remainder spreads users evenly.
        let slot = i64::from(user_nid).rem_euclid(SLOTS as i64);
        &self.last[slot as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_an_invalidation_is_void_after_it() {
        let invalidations = Invalidations::new();
        let alice = UserNid::from(1);
        let before = invalidations.now();
        assert!(invalidations.is_current(alice, before));
        invalidations.invalidate(alice);
        assert!(!invalidations.is_current(alice, before));
        assert!(invalidations.is_current(alice, invalidations.now()));
    }

    #[test]
    fn another_users_invalidation_voids_nothing() {
        let invalidations = Invalidations::new();
        let before = invalidations.now();
        invalidations.invalidate(UserNid::from(2));
        assert!(invalidations.is_current(UserNid::from(1), before));
    }
}
