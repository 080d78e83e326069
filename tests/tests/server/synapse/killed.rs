//! `kill -9` of either while both are sending: what either acknowledged is there, on both sides, once both are back.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use hearth_tests::{Authority, Client, HearthProcess, Synapse, public_chat, until};
use tokio::task::JoinHandle;

use super::{Side, has_all, same_state, shared_room};

/// Acknowledged messages of each side before the kill.
const BEFORE: usize = 40;
/// Acknowledged messages of who is left, after it.
const AFTER: usize = 30;

/// A user who sends until told to stop, or until there is no answer.
struct Sender {
    sent: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<String>>,
}

impl Sender {
    fn start(client: &Arc<Client>, room: &str) -> Self {
        let (sent, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, told) = (Arc::clone(&sent), Arc::clone(&stop));
        let go_on = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            !told.load(Ordering::Relaxed)
        };
        let task = tokio::spawn(Arc::clone(client).send_until(room.to_owned(), go_on));
        Self { sent, stop, task }
    }

    async fn has_sent(&self, count: usize) {
        until("more is acknowledged", || async {
            (self.sent.load(Ordering::Relaxed) >= count).then_some(())
        })
        .await;
    }

    /// What was acknowledged in all.
    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the sender is not refused")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_synapse_nothing_acknowledged_is_lost_when_either_is_killed() {
    let authority = Authority::new();
    let (mut hearth, mut synapse) = tokio::join!(
        HearthProcess::start_federated(&authority),
        Synapse::start(&authority)
    );
    let host = Side::of(hearth.name(), hearth.anonymous());
    let (alice, bob) = (
        Arc::new(hearth.register("alice").await),
        Arc::new(synapse.register("bob").await),
    );
    let room = shared_room(&alice, &bob, &host, public_chat()).await;
    let mut all = Vec::new();

    let (of_alice, of_bob) = (Sender::start(&alice, &room), Sender::start(&bob, &room));
    tokio::join!(of_alice.has_sent(BEFORE), of_bob.has_sent(BEFORE));
    hearth.kill();
    hearth.kill_postgres();
    all.extend(of_alice.end().await);
    let before = of_bob.sent.load(Ordering::Relaxed);
    of_bob.has_sent(before + AFTER).await;
    hearth.start_again().await;
    all.extend(of_bob.end().await);
    tokio::join!(has_all(&alice, &room, &all), has_all(&bob, &room, &all));

    let (of_alice, of_bob) = (Sender::start(&alice, &room), Sender::start(&bob, &room));
    tokio::join!(of_alice.has_sent(BEFORE), of_bob.has_sent(BEFORE));
    synapse.kill();
    all.extend(of_bob.end().await);
    let before = of_alice.sent.load(Ordering::Relaxed);
    of_alice.has_sent(before + AFTER).await;
    synapse.start_again().await;
    all.extend(of_alice.end().await);
    tokio::join!(has_all(&alice, &room, &all), has_all(&bob, &room, &all));
    same_state(&alice, &bob, &room).await;
}
