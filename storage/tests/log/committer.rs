//! Order, grouping, and who may commit.

use std::sync::Arc;

use hearth_storage::{
    Position, events,
    log::{Change, ClientTransaction, CommitError, Committer, CommitterStatus, Fact, InProcessTail},
};
use tokio::sync::Mutex;

use super::{
    follower::{Follower, positions},
    ground::{Ground, HASTE, event_id, settled},
};

#[tokio::test(flavor = "multi_thread")]
async fn fifty_callers_get_gap_free_positions_in_commit_order_and_share_commits() {
    const CALLERS: usize = 50;
    const SENDS: usize = 10;
    let ground = Arc::new(Ground::new().await);
    let mut followers: Vec<Follower> = (0..3)
        .map(|_| Follower::new(&ground.db, &ground.tail, (1, Position(0))))
        .collect();
    let mut rooms = Vec::new();
    for _ in 0..5 {
        rooms.push(Arc::new(Mutex::new(ground.room().await)));
    }
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (ground, room) = (Arc::clone(&ground), Arc::clone(&rooms[caller % rooms.len()]));
            tokio::spawn(async move {
                let mut sent = Vec::new();
                for _ in 0..SENDS {
                    // Decided and queued in one step; the next in the room builds on it before it is committed.
                    let mut room = room.lock().await;
                    let slot = ground.committer.reserve().await.expect("the queue has a place");
                    let change = room.send(&ground).await;
                    let id = event_id(&change);
                    let outcome = slot.queue(change);
                    drop(room);
                    sent.push((settled(outcome).await.expect("it is committed").position, id));
                }
                sent
            })
        })
        .collect();
    let mut acknowledged = Vec::new();
    for caller in callers {
        let sent = caller.await.expect("the caller ends");
        assert!(sent.is_sorted(), "a caller's own sends are in its order");
        acknowledged.extend(sent);
    }

    let total = i64::try_from(rooms.len() + CALLERS * SENDS).expect("small");
    assert_eq!(ground.head().await, (1, Position(total)));
    for follower in &mut followers {
        follower.until(Position(total)).await;
        assert_eq!(positions(&follower.entries), (1..=total).collect::<Vec<_>>());
        assert_eq!(
            follower.entries.len(),
            usize::try_from(total).expect("small"),
            "each once"
        );
    }
    assert_eq!(followers[0].seen_entries(), followers[1].seen_entries());

    let mut connection = ground.db.acquire().await.expect("the database answers");
    let stored = events::by_position(&mut connection, Position(0), Position(total))
        .await
        .expect("events");
    acknowledged.sort();
    let stored_sends: Vec<_> = stored[rooms.len()..]
        .iter()
        .map(|e| (e.position, e.event.event_id.clone()))
        .collect();
    assert_eq!(
        stored_sends, acknowledged,
        "each caller was told where its event is"
    );
    for room in &rooms {
        let room = room.lock().await;
        let sequences: Vec<i64> = stored
            .iter()
            .filter(|e| e.event.room_nid == room.nid)
            .map(|e| e.event.sequence)
            .collect();
        assert_eq!(
            sequences,
            (1..=room.sequence).collect::<Vec<_>>(),
            "a room's order is that of the log"
        );
        assert_eq!(room.stored_sequence(&ground.db).await, room.sequence);
    }
    drop(connection);

    let commits = ground.transactions_of_events().await;
    assert_eq!(
        commits,
        i64::try_from(followers[0].connected).expect("small"),
        "one message a commit"
    );
    assert!(commits < total / 2, "{commits} commits for {total} changes");
    Arc::into_inner(ground).expect("the callers are gone").end().await;
}

#[tokio::test]
async fn what_is_queued_during_a_commit_becomes_one_transaction() {
    let ground = Ground::new().await;
    let mut rooms = [ground.room().await, ground.room().await, ground.room().await];
    let held = ground.hold().await;
    let mut outcomes = Vec::new();
    for turn in 0..60 {
        let change = rooms[turn % 3].send(&ground).await;
        outcomes.push(ground.queue(change).await);
    }
    let before = held.release().await.position;
    for (outcome, expected) in outcomes.into_iter().zip(before.0 + 1..) {
        assert_eq!(
            settled(outcome).await.expect("it is committed").position,
            Position(expected)
        );
    }
    assert_eq!(
        ground.transactions_of_events().await,
        3 + 1,
        "the rooms, and the batch"
    );
    ground.end().await;
}

#[tokio::test]
async fn the_elder_of_two_committers_steps_down_and_nothing_is_doubled_or_lost() {
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    let mut acknowledged = ground.event_ids().await;
    for _ in 0..5 {
        let change = room.send(&ground).await;
        acknowledged.push(event_id(&change));
        ground.committer.commit(change).await.expect("the elder commits");
    }

    // It takes over while the elder is committing.
    let held = ground.hold().await;
    let refused = room.clone().send(&ground).await;
    let refused_outcome = ground.queue(refused).await;
    let (database, tail) = (ground.db.clone(), Arc::new(InProcessTail::default()));
    let starting = tokio::spawn(async move {
        Committer::start_with(&database, tail, HASTE)
            .await
            .expect("a second one starts")
    });
    held.release().await;
    let younger = starting.await.expect("it starts");

    // The elder's last batch came before or after; both are well.
    match settled(refused_outcome).await {
        Ok(_) => {
            room.sequence += 1;
            acknowledged = ground.event_ids().await;
        }
        Err(error) => assert!(matches!(error, CommitError::SteppedDown), "{error:?}"),
    }
    let change = room.clone().send(&ground).await;
    let error = ground
        .committer
        .commit(change)
        .await
        .expect_err("the elder has stepped down");
    assert!(matches!(error, CommitError::SteppedDown), "{error:?}");
    assert_eq!(ground.committer.status(), CommitterStatus::SteppedDown);
    assert_eq!(younger.status(), CommitterStatus::Writable);

    let (_, position) = ground.head().await;
    assert!(younger.start_position().1 <= position);
    for _ in 0..5 {
        let change = room.send(&ground).await;
        acknowledged.push(event_id(&change));
        younger.commit(change).await.expect("the younger commits");
    }
    assert_eq!(ground.event_ids().await, acknowledged);
    assert_eq!(ground.head().await, (1, Position(position.0 + 5)));
    ground.end().await;
}

#[tokio::test]
async fn a_committer_that_has_nothing_to_do_notices_that_it_was_replaced() {
    let ground = Ground::new().await;
    let younger = Committer::start_with(&ground.db, Arc::new(InProcessTail::default()), HASTE)
        .await
        .expect("a second one starts");
    ground.status(CommitterStatus::SteppedDown).await;
    assert_eq!(younger.status(), CommitterStatus::Writable);
    ground.end().await;
}

#[tokio::test]
async fn two_committers_that_are_used_at_once_leave_one_log() {
    let ground = Ground::new().await;
    let (mut left, mut right) = (ground.room().await, ground.room().await);
    let younger = Committer::start_with(&ground.db, Arc::new(InProcessTail::default()), HASTE)
        .await
        .expect("a second one starts");
    let elder = ground.committer.clone();
    let (mut kept, mut refused) = (Vec::new(), 0);
    for _ in 0..20 {
        let (one, other) = (left.clone().send(&ground).await, right.send(&ground).await);
        let (one_id, other_id) = (event_id(&one), event_id(&other));
        let (by_elder, by_younger) = tokio::join!(elder.commit(one), younger.commit(other));
        by_younger.expect("the younger commits");
        kept.push(other_id);
        match by_elder {
            Ok(_) => {
                left.sequence += 1;
                kept.push(one_id);
            }
            Err(_) => refused += 1,
        }
    }
    assert_eq!(refused, 20, "it never wrote again");
    let mut stored = ground.event_ids().await.split_off(2);
    stored.sort();
    kept.sort();
    assert_eq!(stored, kept);
    assert_eq!(ground.head().await, (1, Position(22)));
    ground.end().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_nothing() {
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    let held = ground.hold().await;
    let mut ids = ground.event_ids().await;
    for _ in 0..10 {
        let change = room.send(&ground).await;
        ids.push(event_id(&change));
        drop(ground.queue(change).await);
    }
    held.release().await;
    let last = room.send(&ground).await;
    ids.push(event_id(&last));
    ground
        .committer
        .commit(last)
        .await
        .expect("it builds on those before");
    assert_eq!(ground.event_ids().await, ids);
    ground.end().await;
}

#[tokio::test]
async fn a_slot_that_is_given_back_is_free_again() {
    let ground = Ground::new().await;
    let mut slots = Vec::new();
    while let Ok(slot) =
        tokio::time::timeout(std::time::Duration::from_millis(200), ground.committer.reserve()).await
    {
        slots.push(slot.expect("the committer lives"));
        assert!(slots.len() < 100_000, "the queue has an end");
    }
    slots.pop();
    let change = Change::of(Fact::Account(ground.user));
    ground.committer.commit(change).await.expect("there is a place");
    ground.end().await;
}

#[tokio::test]
async fn the_last_handle_gone_what_is_queued_is_committed_and_the_task_ends() {
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    let held = ground.hold().await;
    let mut outcomes = Vec::new();
    for _ in 0..10 {
        let change = room.send(&ground).await;
        outcomes.push(ground.queue(change).await);
    }
    let finished = tokio::spawn(ground.committer.clone().finished());
    let Ground {
        committer, db, own, ..
    } = ground;
    drop(committer);
    held.release().await;
    tokio::time::timeout(super::ground::PATIENCE, finished)
        .await
        .expect("it ends")
        .expect("it does not fail");
    for outcome in outcomes {
        settled(outcome).await.expect("it is committed");
    }
    assert_eq!(room.stored_sequence(&db).await, room.sequence);
    own.expect("it is the test's own").drop_now().await;
}

#[tokio::test]
async fn a_request_that_was_answered_once_is_refused_the_second_time() {
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    let transaction = |event_nid| ClientTransaction {
        device_nid: 7.into(),
        request_key: *b"sixteen bytes in",
        event_nid,
        created_at: 1,
        txn_id: "m1\0".into(),
    };
    let event = Arc::new(room.event(&ground, 2).await);
    let first = Change {
        transactions: vec![transaction(event.event_nid)],
        ..room.change_of(Fact::Event(Arc::clone(&event), Vec::new()))
    };
    ground.committer.commit(first).await.expect("it is committed");
    let again = room.event(&ground, 3).await;
    let second = Change {
        transactions: vec![transaction(again.event_nid)],
        ..room.clone().change_of(Fact::Event(Arc::new(again), Vec::new()))
    };
    let error = ground
        .committer
        .commit(second)
        .await
        .expect_err("it was answered");
    assert!(
        matches!(&error, CommitError::Constraint(name) if name == "client_transactions_pkey"),
        "{error:?}"
    );

    let mut connection = ground.db.acquire().await.expect("the database answers");
    let found = events::by_transaction(&mut connection, 7.into(), b"sixteen bytes in")
        .await
        .expect("it can be read");
    assert_eq!(found, Some(event.event_id.clone()));
    let recent = events::recent_transactions(&mut connection, 7.into(), 0, 10)
        .await
        .expect("they can be read");
    assert_eq!(recent.len(), 1);
    let mut stored = events::by_id(&mut connection, &event.event_id)
        .await
        .expect("it can be read")
        .expect("it is there");
    events::add_transactions(&mut connection, [&mut stored])
        .await
        .expect("they can be read");
    assert_eq!(stored.event.transaction, Some((7.into(), "m1\0".into())));
    assert_eq!(
        events::drop_transactions(&mut connection, 2)
            .await
            .expect("they can be dropped"),
        1
    );
    drop(connection);
    ground.end().await;
}
