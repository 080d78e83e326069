//! Changes that are refused, alone, whatever batch they are in.

use std::sync::Arc;

use hearth_storage::{
    Position,
    log::{Alias, Change, CommitError, Fact, Outcome, Receipt, StateChange},
};

use super::{
    follower::{Follower, positions, read},
    ground::{Ground, Room, event_id, settled},
};

fn alias(ground: &Ground, name: &str, room: &Room) -> Change {
    let (alias, room_nid, creator_nid) = (name.to_owned(), room.nid, ground.user);
    Change {
        aliases: vec![Alias {
            alias,
            room_nid,
            creator_nid,
            created_at: 1,
        }],
        ..Change::default()
    }
}

fn receipt(ground: &Ground, room: &Room, event_id: &str) -> Change {
    Change::of(Fact::Receipt(Receipt {
        room_nid: room.nid,
        user_nid: ground.user,
        receipt_type: "m.read".into(),
        thread: "".into(),
        event_id: event_id.into(),
        ts: 1,
    }))
}

async fn with_same_id(ground: &Ground, room: &mut Room, event_id: &str) -> Change {
    let mut event = room.event(ground, room.sequence + 1).await;
    event_id.clone_into(&mut event.event_id);
    room.change_of(Fact::Event(Arc::new(event), Vec::new()))
}

/// What is asked of a change's outcome.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Expect {
    Committed,
    Conflict,
    Constraint(&'static str),
    Refused,
}

async fn outcome(outcome: Outcome) -> Expect {
    match settled(outcome).await {
        Ok(_) => Expect::Committed,
        Err(CommitError::Conflict) => Expect::Conflict,
        Err(CommitError::Constraint(name)) => Expect::Constraint(Box::leak(name.into_boxed_str())),
        Err(CommitError::Refused(_)) => Expect::Refused,
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn changes_that_the_database_refuses_fail_alone_in_a_full_batch() {
    let ground = Ground::new().await;
    let mut follower = Follower::new(&ground.db, &ground.tail, (1, Position(0)));
    let mut rooms = Vec::new();
    for _ in 0..8 {
        rooms.push(ground.room().await);
    }
    let quiet = Room {
        sequence: 5,
        ..ground.room().await
    };
    let taken = rooms[0].send(&ground).await;
    let taken_id = event_id(&taken);
    ground.committer.commit(taken).await.expect("it is committed");
    ground
        .committer
        .commit(alias(&ground, "#taken:example.org", &rooms[0]))
        .await
        .expect("it is free");

    // Two hundred sends to eight rooms, and among them what can't be.
    let held = ground.hold().await;
    let (mut queued, mut in_order): (Vec<(Outcome, Expect)>, Vec<String>) =
        (Vec::new(), ground.event_ids().await);
    let mut broken = [false; 8];
    for turn in 0..200 {
        let room = turn % 8;
        match turn {
            33 => {
                let change = alias(&ground, "#taken:example.org", &rooms[room]);
                queued.push((ground.queue(change).await, Expect::Constraint("aliases_pkey")));
            }
            57 => {
                let change = with_same_id(&ground, &mut rooms[room], &taken_id).await;
                queued.push((
                    ground.queue(change).await,
                    Expect::Constraint("events_event_id_key"),
                ));
                broken[room] = true;
            }
            90 => {
                let change = rooms[room].clone().send(&ground).await;
                let mut skipping = rooms[room].clone();
                skipping.sequence += 7;
                let skipping = skipping.send(&ground).await;
                queued.push((ground.queue(skipping).await, Expect::Conflict));
                in_order.push(event_id(&change));
                queued.push((ground.queue(change).await, Expect::Committed));
                rooms[room].sequence += 1;
            }
            120 => {
                let change = receipt(&ground, &rooms[room], "$nul\0");
                queued.push((ground.queue(change).await, Expect::Refused));
            }
            // Nothing before it in the batch is in its room: only the database can tell.
            150 => {
                let change = quiet.clone().send(&ground).await;
                queued.push((ground.queue(change).await, Expect::Conflict));
            }
            _ => {}
        }
        let change = rooms[room].send(&ground).await;
        let expected = if broken[room] {
            Expect::Conflict
        } else {
            Expect::Committed
        };
        if expected == Expect::Committed {
            in_order.push(event_id(&change));
        }
        queued.push((ground.queue(change).await, expected));
    }
    held.release().await;

    for (place, (queued, expected)) in queued.into_iter().enumerate() {
        assert_eq!(
            outcome(queued).await,
            expected,
            "the change queued in place {place}"
        );
    }
    assert_eq!(
        ground.event_ids().await,
        in_order,
        "what is sound is there, in the order of the queue"
    );
    let (_, position) = ground.head().await;
    follower.until(position).await;
    assert_eq!(positions(&follower.entries), (1..=position.0).collect::<Vec<_>>());
    assert_eq!(follower.gaps, 0);
    let commits = ground.transactions_of_events().await;
    assert!(
        commits < 60,
        "one refused change in fifty costs few commits: {commits}"
    );
    ground.end().await;
}

#[tokio::test]
async fn the_database_refuses_a_change_decided_on_another_head_than_it_has() {
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    let change = room.send(&ground).await;
    ground.committer.commit(change).await.expect("it follows");
    for wrong in [0, 1, 3, 100] {
        let mut elsewhere = Room {
            sequence: wrong,
            ..room.clone()
        };
        let change = elsewhere.send(&ground).await;
        let error = ground
            .committer
            .commit(change)
            .await
            .expect_err("it does not follow");
        assert!(
            matches!(error, CommitError::Conflict),
            "decided on {wrong}: {error:?}"
        );
    }
    let mut unknown = ground.uncommitted_room().await;
    unknown.sequence = 4;
    let change = unknown.send(&ground).await;
    let error = ground
        .committer
        .commit(change)
        .await
        .expect_err("there is no such room");
    assert!(matches!(error, CommitError::Conflict), "{error:?}");
    assert_eq!(room.stored_sequence(&ground.db).await, 2);
    assert_eq!(
        ground.head().await.1,
        Position(2),
        "what is refused takes no position"
    );
    ground.end().await;
}

#[tokio::test]
async fn the_database_refuses_a_place_in_a_room_that_is_taken() {
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    let change = room.send(&ground).await;
    ground.committer.commit(change).await.expect("it follows");
    let mut connection = ground.db.acquire().await.expect("the database answers");
    // A head that lags behind its events: whatever wrote it, the key of the events holds.
    sqlx::query("UPDATE room_heads SET sequence = 1")
        .execute(&mut *connection)
        .await
        .expect("it can be broken");
    room.sequence = 1;
    let change = room.send(&ground).await;
    let error = ground
        .committer
        .commit(change)
        .await
        .expect_err("the place is taken");
    assert!(matches!(error, CommitError::Conflict), "{error:?}");
    drop(connection);
    ground.end().await;
}

#[tokio::test]
async fn a_room_can_be_known_before_it_has_a_head() {
    let ground = Ground::new().await;
    let mut room = ground.uncommitted_room().await;
    let known = Change {
        heads: Vec::new(),
        facts: Vec::new(),
        ..room.clone().creation(&ground).await
    };
    ground.committer.commit(known).await.expect("a room can be known");
    // Its past was written beforehand: the head begins where that ends.
    room.sequence = 41;
    let mut change = room.send(&ground).await;
    change.heads[0].sequence_before = 0;
    ground.committer.commit(change).await.expect("a head can begin");
    let change = room.send(&ground).await;
    ground.committer.commit(change).await.expect("it goes on");
    assert_eq!(room.stored_sequence(&ground.db).await, 43);
    ground.end().await;
}

#[tokio::test]
async fn a_change_that_skips_a_number_in_its_own_events_is_refused() {
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    let event = room.event(&ground, 3).await;
    let skipping = room.clone().change_of(Fact::Event(Arc::new(event), Vec::new()));
    let error = ground
        .committer
        .commit(skipping)
        .await
        .expect_err("there is no event 2");
    assert!(matches!(error, CommitError::Refused(_)), "{error:?}");
    let change = room.send(&ground).await;
    ground
        .committer
        .commit(change)
        .await
        .expect("the room is as it was");
    ground.end().await;
}

#[tokio::test]
async fn a_change_of_two_rooms_is_whole_or_not_at_all() {
    let ground = Ground::new().await;
    let (mut old, mut new) = (ground.room().await, ground.uncommitted_room().await);
    let held = ground.hold().await;
    let first = new.creation(&ground).await;
    let in_new = ground.queue(first).await;
    // The upgrade of a room: a tombstone in one, an event in the other.
    let (tombstone, greeting) = (old.clone().send(&ground).await, new.clone().send(&ground).await);
    let mut both = Change {
        heads: [tombstone.heads, greeting.heads].concat(),
        facts: [tombstone.facts, greeting.facts].concat(),
        ..alias(&ground, "#room:example.org", &new)
    };
    both.facts.push(Fact::State(
        old.nid,
        vec![StateChange {
            key_nid: ground.topic,
            old: None,
            new: None,
        }],
    ));
    both.aliases.extend(both.aliases.clone());
    let refused = ground.queue(both).await;
    // Each of these builds on one half of it.
    let (mut after_old, mut after_new) = (old.clone(), new.clone());
    (after_old.sequence, after_new.sequence) = (old.sequence + 1, new.sequence + 1);
    let mut dependents = Vec::new();
    for room in [&mut after_old, &mut after_new] {
        let change = room.send(&ground).await;
        dependents.push(ground.queue(change).await);
    }
    let before = held.release().await.position;

    assert_eq!(outcome(in_new).await, Expect::Committed);
    assert_eq!(outcome(refused).await, Expect::Constraint("aliases_pkey"));
    for dependent in dependents {
        assert_eq!(outcome(dependent).await, Expect::Conflict);
    }
    assert_eq!(ground.head().await.1, Position(before.0 + 1));
    assert_eq!(read(&ground.db, before, Position(i64::MAX)).await.len(), 1);
    for room in [&mut old, &mut new] {
        let change = room.send(&ground).await;
        ground
            .committer
            .commit(change)
            .await
            .expect("both rooms are as they were");
    }
    ground.end().await;
}

#[tokio::test]
async fn of_two_that_want_one_alias_in_one_batch_the_first_has_it() {
    let ground = Ground::new().await;
    let (one, other) = (ground.room().await, ground.room().await);
    let held = ground.hold().await;
    let first = ground.queue(alias(&ground, "#room:example.org", &one)).await;
    let second = ground.queue(alias(&ground, "#room:example.org", &other)).await;
    held.release().await;
    assert_eq!(outcome(first).await, Expect::Committed);
    assert_eq!(outcome(second).await, Expect::Constraint("aliases_pkey"));
    let mut connection = ground.db.acquire().await.expect("the database answers");
    let found = hearth_storage::aliases::find(&mut connection, "#room:example.org")
        .await
        .expect("it can be read");
    assert_eq!(found.expect("it is there").room_nid, one.nid);
    drop(connection);
    ground.end().await;
}
