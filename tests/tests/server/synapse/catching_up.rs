//! Outages: what was said while the other side was away is there once it is back, and both go on together.

use hearth_tests::{Client, public_chat};

use super::{Pair, has_all, same_state, shared_room};

/// More than goes into one transaction, and more than is sent of a room to catch up.
const MANY: usize = 120;
/// As much as is sent whole.
const FEW: usize = 10;

/// Two rooms, one of each side.
struct Rooms {
    alice: Client,
    bob: Client,
    of_hearth: String,
    of_synapse: String,
}

impl Rooms {
    async fn of(pair: &Pair) -> Self {
        let (hearth, synapse) = (pair.hearth(), pair.synapse());
        let (alice, bob) = (hearth.register("alice").await, synapse.register("bob").await);
        let of_hearth = shared_room(&alice, &bob, &hearth, public_chat()).await;
        let of_synapse = shared_room(&bob, &alice, &synapse, public_chat()).await;
        Self {
            alice,
            bob,
            of_hearth,
            of_synapse,
        }
    }

    /// What a user says in both rooms, in one of them much.
    async fn talk(&self, who: &Client) -> (Vec<String>, Vec<String>) {
        tokio::join!(
            who.send_texts(&self.of_hearth, MANY),
            who.send_texts(&self.of_synapse, FEW)
        )
    }

    /// Both have all of it, and what is said now goes both ways.
    async fn are_whole(&self, (of_hearth, of_synapse): &(Vec<String>, Vec<String>)) {
        for reader in [&self.alice, &self.bob] {
            has_all(reader, &self.of_hearth, of_hearth).await;
            has_all(reader, &self.of_synapse, of_synapse).await;
        }
        for room in [&self.of_hearth, &self.of_synapse] {
            let now = [
                self.alice.send_text(room, "there you are").await.event_id(),
                self.bob.send_text(room, "and you").await.event_id(),
            ];
            has_all(&self.alice, room, &now).await;
            has_all(&self.bob, room, &now).await;
            same_state(&self.alice, &self.bob, room).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_synapse_what_it_missed_reaches_it_after_an_outage() {
    let mut pair = Pair::start().await;
    let rooms = Rooms::of(&pair).await;
    pair.synapse.stop().await;
    let said = rooms.talk(&rooms.alice).await;
    pair.synapse.start_again().await;
    rooms.are_whole(&said).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_synapse_what_hearth_missed_reaches_it_after_an_outage() {
    let mut pair = Pair::start().await;
    let rooms = Rooms::of(&pair).await;
    pair.hearth.stop().await;
    let said = rooms.talk(&rooms.bob).await;
    pair.hearth.restart().await;
    // Synapse looks for who came back once a minute, or when it hears from them.
    rooms
        .alice
        .send_text(&rooms.of_hearth, "I am back")
        .await
        .event_id();
    rooms.are_whole(&said).await;
}
