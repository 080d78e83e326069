//! Work that is done once, however many wait for it.

use std::{collections::HashMap, fmt, hash::Hash, sync::Arc};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;

type Running<V> = Shared<BoxFuture<'static, Option<V>>>;

/// The work under way, by what it is for.
pub(crate) struct InFlight<K, V: Clone>(Arc<Mutex<HashMap<K, Running<V>>>>);

impl<K, V> InFlight<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Has `work` done, unless the same is under way already, and waits for its end. The work goes on in a task of its
    /// own: who stops waiting stops nobody else. `None` if it panicked.
    pub(crate) async fn run<W>(&self, key: K, work: impl FnOnce() -> W) -> Option<V>
    where
        W: Future<Output = V> + Send + 'static,
    {
        let running = {
            let mut all = self.0.lock();
            match all.get(&key) {
                Some(running) => running.clone(),
                None => {
                    let (work, others, done) = (work(), Arc::clone(&self.0), key.clone());
                    let task = tokio::spawn(async move {
                        // Removed in any case, also where the work panics.
                        let _removed = Removed(others, done);
                        work.await
                    });
                    let running = task.map(Result::ok).boxed().shared();
                    all.insert(key, running.clone());
                    running
                }
            }
        };
        running.await
    }
}

struct Removed<K: Eq + Hash, V: Clone>(Arc<Mutex<HashMap<K, Running<V>>>>, K);

impl<K: Eq + Hash, V: Clone> Drop for Removed<K, V> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl<K, V: Clone> Default for InFlight<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, V: Clone> fmt::Debug for InFlight<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InFlight({})", self.0.lock().len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn what_many_wait_for_is_done_once() {
        let (in_flight, done) = (InFlight::<&str, usize>::default(), Arc::new(AtomicUsize::new(0)));
        let gate = Arc::new(Notify::new());
        let work = || {
            let (done, gate) = (Arc::clone(&done), Arc::clone(&gate));
            async move {
                gate.notified().await;
                done.fetch_add(1, Ordering::Relaxed)
            }
        };
        let waiters = futures_util::future::join_all((0..10).map(|_| in_flight.run("key", work)));
        gate.notify_one();
        assert_eq!(waiters.await, vec![Some(0); 10]);

        gate.notify_one();
        assert_eq!(
            in_flight.run("key", work).await,
            Some(1),
            "what is over is begun anew"
        );
    }

    #[tokio::test]
    async fn work_that_panics_is_no_result_and_not_forever() {
        let in_flight = InFlight::<&str, ()>::default();
        assert_eq!(in_flight.run("key", || async { panic!("a fault") }).await, None);
        assert_eq!(in_flight.run("key", || async {}).await, Some(()));
    }
}
