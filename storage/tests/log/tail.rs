//! A tail is a hint: whatever it loses, doubles or mixes up, its followers see the log.

use std::sync::{Arc, Mutex};

use hearth_storage::{
    Position,
    log::{Change, Committer, EntryKind, Fact, InProcessTail, LogTail, TailMessage, TailReceiver},
};

use super::{
    follower::{Follower, describe, positions, read},
    ground::{Dice, Ground, HASTE, settled},
};

/// Loses, doubles, delays and swaps.
struct UnreliableTail {
    inner: InProcessTail,
    dice: Dice,
    late: Mutex<Vec<TailMessage>>,
}

impl std::fmt::Debug for UnreliableTail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UnreliableTail")
    }
}

impl LogTail for UnreliableTail {
    fn publish(&self, message: TailMessage) {
        let mut late = self.late.lock().expect("nothing panics here");
        match self.dice.roll(6) {
            0 => {}
            1 => late.push(message),
            2 => {
                self.inner.publish(message.clone());
                self.inner.publish(message);
            }
            3 => {
                self.inner.publish(message);
                late.drain(..)
                    .rev()
                    .for_each(|message| self.inner.publish(message));
            }
            _ => self.inner.publish(message),
        }
    }

    fn subscribe(&self) -> TailReceiver {
        self.inner.subscribe()
    }
}

#[tokio::test]
async fn a_follower_sees_each_entry_once_in_order_whatever_the_tail_does() {
    for seed in 1..=4 {
        let ground = Ground::new().await;
        let late = Mutex::default();
        let tail = Arc::new(UnreliableTail {
            inner: InProcessTail::new(256),
            dice: Dice::new(seed),
            late,
        });
        let committer = Committer::start_with(&ground.db, Arc::clone(&tail) as Arc<dyn LogTail>, HASTE)
            .await
            .expect("it starts");
        let ground = Ground { committer, ..ground };
        let mut follower = Follower::new(&ground.db, tail.as_ref(), (1, Position(0)));
        let mut room = ground.room().await;
        for _ in 0..60 {
            let change = room.send(&ground).await;
            ground.committer.commit(change).await.expect("it is committed");
        }
        // The last message may be lost as well: then the committer tells again where the log stands.
        follower.until(Position(61)).await;
        assert_eq!(
            positions(&follower.entries),
            (1..=61).collect::<Vec<_>>(),
            "seed {seed}"
        );
        assert_eq!(
            follower.seen_entries(),
            describe(&read(&ground.db, Position(0), Position(61)).await)
        );
        assert!(follower.gaps > 0 && follower.connected > 0, "seed {seed}");
        ground.end().await;
    }
}

#[tokio::test]
async fn a_follower_that_is_too_slow_reads_what_it_missed() {
    let ground = Ground::new().await;
    let tail = InProcessTail::new(4);
    let committer = Committer::start_with(&ground.db, Arc::new(tail.clone()), HASTE)
        .await
        .expect("it starts");
    let ground = Ground { committer, ..ground };
    let mut follower = Follower::new(&ground.db, &tail, (1, Position(0)));
    let mut room = ground.room().await;
    for _ in 0..40 {
        let change = room.send(&ground).await;
        ground.committer.commit(change).await.expect("it is committed");
    }
    follower.until(Position(41)).await;
    assert_eq!(positions(&follower.entries), (1..=41).collect::<Vec<_>>());
    assert_eq!(follower.gaps, 1);
    ground.end().await;
}

#[tokio::test]
async fn what_a_commit_says_on_the_tail_is_in_the_tables_by_then() {
    let ground = Ground::new().await;
    let mut receiver = ground.tail.subscribe();
    let mut room = ground.room().await;
    let held = ground.hold().await;
    let mut outcomes = Vec::new();
    for _ in 0..10 {
        let change = room.send(&ground).await;
        outcomes.push(ground.queue(change).await);
    }
    held.release().await;
    let mut seen = Position(0);
    while seen < Position(12) {
        let message = receiver.next().await.expect("the tail lives");
        assert_eq!((message.generation, message.from), (1, seen), "messages connect");
        seen = message.to;
        assert!(ground.head().await.1 >= message.to);
        let said = positions(&message.entries);
        assert_eq!(said, (message.from.0 + 1..=message.to.0).collect::<Vec<_>>());
        assert_eq!(
            describe(&read(&ground.db, message.from, message.to).await),
            describe(&message.entries)
        );
        for entry in message.entries.iter() {
            let room_of_entry = entry.kind.room();
            assert_eq!(
                room_of_entry,
                (!matches!(entry.kind, EntryKind::Account(_))).then_some(room.nid)
            );
        }
    }
    for outcome in outcomes {
        settled(outcome).await.expect("it is committed");
    }
    ground.end().await;
}

#[tokio::test]
async fn the_tail_ends_with_its_committer() {
    let ground = Ground::new().await;
    let tail = InProcessTail::default();
    let committer = Committer::start_with(&ground.db, Arc::new(tail.clone()), HASTE)
        .await
        .expect("it starts");
    let mut receiver = tail.subscribe();
    drop(tail);
    committer
        .commit(Change::of(Fact::Account(ground.user)))
        .await
        .expect("it is committed");
    committer.finished().await;
    assert_eq!(
        receiver.next().await.expect("what was published is there").to,
        Position(1)
    );
    assert!(receiver.next().await.is_none());
    ground.end().await;
}
