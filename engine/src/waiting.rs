//! Who waits for news: a waiting client costs an entry here and no database connection.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hearth_storage::UserNid;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Users with someone waiting.
#[derive(Debug, Default)]
pub struct Waiting {
    by_user: Mutex<HashMap<UserNid, Waiters>>,
    total: AtomicUsize,
}

#[derive(Debug, Default)]
struct Waiters {
    count: usize,
    notify: Arc<Notify>,
}

/// Waits for one user, until dropped.
#[derive(Debug)]
pub struct Wait<'a> {
    waiting: &'a Waiting,
    user_nid: UserNid,
    notify: Arc<Notify>,
}

impl Waiting {
    /// Registers that someone waits for news of a user. What comes from now on is not missed, if
    /// the future of [`Wait::woken`] is made before looking.
    pub fn wait_for(&self, user_nid: UserNid) -> Wait<'_> {
        let mut by_user = self.by_user.lock();
        let waiters = by_user.entry(user_nid).or_default();
        waiters.count += 1;
        metrics::gauge!("hearth_sync_waiters").set(to_f64(self.total.fetch_add(1, Ordering::Relaxed) + 1));
        Wait {
            waiting: self,
            user_nid,
            notify: Arc::clone(&waiters.notify),
        }
    }

    /// Wakes those who wait for news of a user.
    pub fn wake(&self, user_nid: UserNid) {
        if let Some(waiters) = self.by_user.lock().get(&user_nid) {
            waiters.notify.notify_waiters();
        }
    }

    /// Wakes everyone.
    pub fn wake_all(&self) {
        for waiters in self.by_user.lock().values() {
            waiters.notify.notify_waiters();
        }
    }
}

impl Wait<'_> {
    /// A future that is ready at the next wake-up after this call.
    pub fn woken(&self) -> impl Future<Output = ()> + '_ {
        self.notify.notified()
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut by_user = self.waiting.by_user.lock();
        if let Some(waiters) = by_user.get_mut(&self.user_nid) {
            waiters.count -= 1;
            if waiters.count == 0 {
                by_user.remove(&self.user_nid);
            }
        }
        metrics::gauge!("hearth_sync_waiters")
            .set(to_f64(self.waiting.total.fetch_sub(1, Ordering::Relaxed) - 1));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a metric")]
fn to_f64(number: usize) -> f64 {
    number as f64
}
