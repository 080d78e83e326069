//! The database goes away, in every way, in the middle of commits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hearth_storage::{
    Database, DatabaseOptions, Position,
    log::{self, Alias, Change, ClientTransaction, CommitError, CommitterStatus, Fact},
    private_postgres::PrivatePostgres,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    follower::{Follower, describe, positions, read},
    ground::{Dice, Ground, HASTE, Room, event_id, settled},
    proxy::Fault,
};

/// What a busy machine may add to a wait.
const SLACK: Duration = Duration::from_secs(5);

/// A change whose bytes on the wire can be told from all others.
async fn marked(ground: &Ground, room: &mut Room, marker: &str) -> Change {
    let mut event = room.event(ground, room.sequence + 1).await;
    event.pdu = format!("{{\"content\":\"{marker}\"}}").into();
    room.change_of(Fact::Event(Arc::new(event), Vec::new()))
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_answered_once_it_is_found_in_the_table() {
    let (ground, proxy) = Ground::behind_proxy().await;
    let mut room = ground.room().await;
    let mut follower = Follower::new(&ground.db, &ground.tail, (1, Position(1)));
    for marker in ["lost one", "lost two", "lost three"] {
        proxy.arm(marker, Fault::LoseAnswer);
        let change = marked(&ground, &mut room, marker).await;
        let committed = ground.committer.commit(change).await.expect("it was committed");
        assert!(proxy.sprung());
        assert_eq!(ground.head().await, (1, committed.position));
        let change = room.send(&ground).await;
        ground
            .committer
            .commit(change)
            .await
            .expect("the next builds on it");
    }
    assert_eq!(room.stored_sequence(&ground.db).await, 7);
    assert_eq!(ground.event_ids().await.len(), 7);
    follower.until(Position(7)).await;
    assert_eq!(positions(&follower.entries), (2..=7).collect::<Vec<_>>());
    assert_eq!(
        (follower.gaps, follower.connected),
        (0, 6),
        "each came by the tail, once"
    );
    ground.end().await;
}

#[tokio::test]
async fn a_success_behind_an_error_is_seen_by_followers_and_found_by_a_retry() {
    let (ground, proxy) = Ground::behind_proxy().await;
    let mut room = ground.room().await;
    let mut follower = Follower::new(&ground.db, &ground.tail, (1, Position(1)));
    for round in 0..2 {
        proxy.arm("hidden", Fault::LoseAnswer);
        proxy.close(true);
        let mut hidden = marked(&ground, &mut room, "hidden").await;
        let transaction = ClientTransaction {
            device_nid: 1.into(),
            request_key: [round; 16],
            event_nid: hidden.heads[0].forward_extremities[0],
            created_at: 1,
            txn_id: "txn".into(),
        };
        hidden.transactions.push(transaction);
        let id = event_id(&hidden);
        let error = ground
            .committer
            .commit(hidden)
            .await
            .expect_err("the database is away");
        assert!(matches!(error, CommitError::Unavailable), "{error:?}");
        let (_, position) = ground.head().await;
        if round == 0 {
            // Nothing else is committed: followers hear of it from a committer that has nothing to do.
            proxy.close(false);
            follower.until(position).await;
        } else {
            // What is committed next must not pass over it.
            proxy.close(false);
            let change = Change::of(Fact::Account(ground.user));
            let committed = ground.eventually_committed(change).await;
            assert_eq!(committed.position, Position(position.0 + 1));
            follower.until(committed.position).await;
        }
        let mut connection = ground.db.acquire().await.expect("the database answers");
        let found = hearth_storage::events::by_transaction(&mut connection, 1.into(), &[round; 16]).await;
        assert_eq!(found.expect("it can be read"), Some(id));
        assert_eq!(room.stored_sequence(&ground.db).await, room.sequence);
    }
    let log = read(&ground.db, Position(1), Position(4)).await;
    assert_eq!(follower.seen_entries(), describe(&log));
    assert_eq!(positions(&log), [2, 3, 4]);
    ground.end().await;
}

#[tokio::test]
async fn a_statement_that_never_arrived_is_sent_again() {
    let (ground, proxy) = Ground::behind_proxy().await;
    let mut room = ground.room().await;
    for marker in ["lost one", "lost two"] {
        proxy.arm(marker, Fault::LoseStatement);
        let change = marked(&ground, &mut room, marker).await;
        ground.committer.commit(change).await.expect("it is committed");
        assert!(proxy.sprung());
    }
    assert_eq!(ground.event_ids().await.len(), 3);
    assert_eq!(ground.head().await, (1, Position(3)));
    ground.end().await;
}

#[tokio::test]
async fn a_statement_that_arrives_after_its_commit_was_given_up_writes_nothing() {
    let (ground, proxy) = Ground::behind_proxy().await;
    let mut room = ground.room().await;
    let (release, released) = oneshot::channel();
    let (replies, mut reply) = mpsc::channel(1);
    proxy.arm("delayed", Fault::Delay(released, replies));
    let mut delayed = marked(&ground, &mut room, "delayed").await;
    // Facts that no key keeps from being written twice.
    delayed.facts.extend(vec![Fact::Account(ground.user); 3]);
    let committing = ground.queue(delayed).await;
    let committed = settled(committing).await.expect("it was sent again");
    assert!(proxy.sprung());
    assert_eq!(committed.position, Position(5));
    release.send(()).expect("the proxy waits");
    let late = reply.recv().await.expect("the server answers the late statement");
    assert!(
        late.windows(5).any(|window| window == b"HE001"),
        "{}",
        String::from_utf8_lossy(&late)
    );
    assert_eq!(ground.head().await, (1, Position(5)));

    let change = room.send(&ground).await;
    ground.committer.commit(change).await.expect("the log goes on");
    let log = read(&ground.db, Position(0), Position(6)).await;
    assert_eq!(
        positions(&log),
        [1, 2, 5, 6],
        "the account's row is at its last place"
    );
    ground.end().await;
}

#[tokio::test]
async fn a_statement_still_on_its_way_is_shut_out_before_anyone_is_answered() {
    let (ground, proxy) = Ground::behind_proxy().await;
    let mut room = ground.room().await;
    let (release, released) = oneshot::channel();
    let (replies, mut reply) = mpsc::channel(1);
    proxy.arm("delayed", Fault::Delay(released, replies));
    // With no fact the position doesn't tell what became of it, so it isn't sent again.
    let alias = |name: &str| Alias {
        alias: name.to_owned(),
        room_nid: room.nid,
        creator_nid: ground.user,
        created_at: 1,
    };
    let change = Change {
        aliases: vec![alias("#delayed:example.org")],
        ..Change::default()
    };
    let error = ground
        .committer
        .commit(change)
        .await
        .expect_err("nobody can tell");
    assert!(matches!(error, CommitError::Unavailable), "{error:?}");
    // The position is the one that the late statement names: the session alone keeps it out.
    release.send(()).expect("the proxy waits");
    let late = reply.recv().await.expect("the server answers the late statement");
    assert!(
        late.windows(5).any(|window| window == b"HE001"),
        "{}",
        String::from_utf8_lossy(&late)
    );
    let mut connection = ground.db.acquire().await.expect("the database answers");
    let found = hearth_storage::aliases::find(&mut connection, "#delayed:example.org")
        .await
        .expect("it can be read");
    assert!(found.is_none());
    drop(connection);
    let change = room.send(&ground).await;
    ground.committer.commit(change).await.expect("the log goes on");
    ground.end().await;
}

#[tokio::test]
async fn a_database_that_falls_silent_is_given_up() {
    let (ground, proxy) = Ground::behind_proxy().await;
    let mut room = ground.room().await;
    proxy.arm("swallowed", Fault::Silence);
    let change = marked(&ground, &mut room.clone(), "swallowed").await;
    let started = Instant::now();
    let error = ground
        .committer
        .commit(change)
        .await
        .expect_err("there is no answer");
    assert!(matches!(error, CommitError::Unavailable), "{error:?}");
    assert!(
        started.elapsed() < HASTE.statement + HASTE.away + SLACK,
        "{:?}",
        started.elapsed()
    );
    let change = room.send(&ground).await;
    let committed = ground
        .committer
        .commit(change)
        .await
        .expect("another connection is not silent");
    assert_eq!(committed.position, Position(2));
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_while_connections_were_killed_is_there_once() {
    const KILLS: i64 = 25;
    let ground = Arc::new(Ground::new().await);
    let mut follower = Follower::new(&ground.db, &ground.tail, (1, Position(0)));
    let enough = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (ground, enough) = (Arc::clone(&ground), Arc::clone(&enough));
            tokio::spawn(async move {
                let mut room = ground.room().await;
                let (mut acknowledged, mut unsure) = (Vec::new(), Vec::new());
                while !enough.load(Ordering::Relaxed) {
                    let change = room.send(&ground).await;
                    let id = event_id(&change);
                    match ground.committer.commit(change).await {
                        Ok(committed) => acknowledged.push((committed.position, id)),
                        Err(error) => {
                            assert!(
                                matches!(error, CommitError::Unavailable | CommitError::Conflict),
                                "{error:?}"
                            );
                            unsure.push(id);
                            room.sequence = room.stored_sequence(&ground.db).await;
                        }
                    }
                }
                (acknowledged, unsure)
            })
        })
        .collect();
    let (dice, mut killed) = (Dice::new(7), 0);
    while killed < KILLS {
        killed += ground.kill_committers().await;
        tokio::time::sleep(Duration::from_millis(10 + dice.roll(60).cast_unsigned())).await;
    }
    enough.store(true, Ordering::Relaxed);
    let (mut acknowledged, mut unsure) = (Vec::new(), Vec::new());
    for caller in callers {
        let (sure, maybe) = caller.await.expect("the caller ends");
        assert!(sure.is_sorted());
        acknowledged.extend(sure);
        unsure.extend(maybe);
    }
    ground
        .committer
        .commit(Change::of(Fact::Account(ground.user)))
        .await
        .expect("service has returned");

    let (generation, position) = ground.head().await;
    assert_eq!(generation, 1);
    let log = read(&ground.db, Position(0), position).await;
    assert_eq!(
        positions(&log),
        (1..=position.0).collect::<Vec<_>>(),
        "no position is missing"
    );
    let mut connection = ground.db.acquire().await.expect("the database answers");
    let stored = hearth_storage::events::by_position(&mut connection, Position(0), position)
        .await
        .expect("events");
    drop(connection);
    let mut sent: Vec<_> = stored
        .iter()
        .filter(|stored| stored.event.sequence > 1)
        .map(|stored| (stored.position, stored.event.event_id.clone()))
        .collect();
    acknowledged.sort();
    assert!(
        acknowledged.iter().all(|one| sent.binary_search(one).is_ok()),
        "each is where its caller was told"
    );
    sent.retain(|one| acknowledged.binary_search(one).is_err());
    assert!(
        sent.iter().all(|(_, id)| unsure.contains(id)),
        "what else is there was answered with an error"
    );
    follower.until(position).await;
    assert_eq!(follower.seen_entries(), describe(&log));
    assert!(
        acknowledged.len() > 25,
        "{} were acknowledged",
        acknowledged.len()
    );
    Arc::into_inner(ground).expect("the callers are gone").end().await;
}

#[tokio::test]
async fn after_a_restart_of_the_database_writes_work_again_by_themselves() {
    let directory = std::env::temp_dir().join(format!("hearth-log-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("a directory can be made");
    // PostgreSQL, which is never root, has to pass through.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(&directory, open).expect("it can be opened");
    let data_dir = directory.join("data");
    let postgres = PrivatePostgres::start(&data_dir)
        .await
        .expect("PostgreSQL starts");
    let options = DatabaseOptions {
        url: postgres.url().to_owned(),
        max_connections: 4,
    };
    let db = Database::connect(&options).await.expect("it answers");
    db.migrate().await.expect("the migrations run");
    let ground = Ground::on(&db, &db).await;
    let mut room = ground.room().await;
    let change = room.send(&ground).await;
    ground.committer.commit(change).await.expect("it is committed");

    let event = Arc::new(room.event(&ground, 3).await);
    let refused = room.clone().change_of(Fact::Event(event, Vec::new()));
    postgres.stop().await;
    let started = Instant::now();
    let error = ground
        .committer
        .commit(refused.clone())
        .await
        .expect_err("there is no database");
    assert!(matches!(error, CommitError::Unavailable), "{error:?}");
    assert!(started.elapsed() < HASTE.away + SLACK, "{:?}", started.elapsed());
    assert_eq!(ground.committer.status(), CommitterStatus::Away);
    let started = Instant::now();
    let error = ground
        .committer
        .commit(refused)
        .await
        .expect_err("there is still none");
    assert!(matches!(error, CommitError::Unavailable), "{error:?}");
    assert!(
        started.elapsed() < SLACK,
        "once it is known to be away, callers don't wait for it"
    );

    let postgres = PrivatePostgres::start(&data_dir)
        .await
        .expect("PostgreSQL starts again");
    ground.status(CommitterStatus::Writable).await;
    for _ in 0..3 {
        let change = room.send(&ground).await;
        ground.committer.commit(change).await.expect("it is committed");
    }
    assert_eq!(ground.head().await, (1, Position(5)), "a restart is no failover");
    assert_eq!(ground.event_ids().await.len(), 5);

    // A restart that no one had to wait for.
    postgres.stop().await;
    let change = room.send(&ground).await;
    let waiting = ground.queue(change).await;
    let postgres = PrivatePostgres::start(&data_dir)
        .await
        .expect("PostgreSQL starts again");
    settled(waiting)
        .await
        .expect("it was kept waiting, and committed");
    assert_eq!(ground.head().await, (1, Position(6)));
    db.close().await;
    postgres.stop().await;
    std::fs::remove_dir_all(&directory).expect("the directory can be removed");
}

async fn execute(db: &Database, statement: &'static str) {
    let mut connection = db.acquire().await.expect("the database answers");
    sqlx::raw_sql(statement)
        .execute(&mut *connection)
        .await
        .expect("the test's own statement runs");
}

#[tokio::test]
async fn another_timeline_begins_a_generation() {
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    let mut follower = Follower::new(&ground.db, &ground.tail, (1, Position(1)));
    for _ in 0..3 {
        let change = room.send(&ground).await;
        ground.committer.commit(change).await.expect("it is committed");
    }
    follower.until(Position(4)).await;
    execute(
        &ground.db,
        "UPDATE log_head SET timeline = 'one that PostgreSQL has left'",
    )
    .await;
    assert!(ground.kill_committers().await > 0);
    let message = loop {
        let message = follower.step().await;
        if message.generation == 2 {
            break message;
        }
    };
    assert_eq!(
        (message.from, message.to, message.entries.len()),
        (Position(4), Position(4), 0)
    );
    let change = room.send(&ground).await;
    assert_eq!(
        ground
            .committer
            .commit(change)
            .await
            .expect("the log goes on")
            .position,
        Position(5)
    );
    follower.until(Position(5)).await;
    assert_eq!((follower.generation, ground.head().await), (2, (2, Position(5))));

    let mut connection = ground.db.acquire().await.expect("the database answers");
    let parted_at = log::parted_at(&mut connection, 1).await.expect("it can be read");
    assert_eq!(
        parted_at,
        Some(Position(4)),
        "a token of the first generation is cut back to this"
    );
    assert_eq!(
        log::parted_at(&mut connection, 2).await.expect("it can be read"),
        None
    );
    drop(connection);

    // Another committer later finds the timeline to be the one it knows.
    let younger = log::Committer::start(&ground.db, Arc::new(ground.tail.clone()))
        .await
        .expect("it starts");
    assert_eq!(younger.start_position(), (2, Position(5)));
    ground.end().await;
}

#[tokio::test]
async fn a_log_that_lost_its_end_begins_a_generation_whatever_its_timeline() {
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    let mut follower = Follower::new(&ground.db, &ground.tail, (1, Position(0)));
    for _ in 0..5 {
        let change = room.send(&ground).await;
        ground.committer.commit(change).await.expect("it is committed");
    }
    follower.until(Position(6)).await;
    // As after a crash without synchronous commits, or a snapshot of the disk put back.
    execute(
        &ground.db,
        "BEGIN;
         DELETE FROM events WHERE position > 4;
         UPDATE room_heads SET sequence = 4;
         UPDATE log_head SET position = 4;
         COMMIT;",
    )
    .await;
    assert!(ground.kill_committers().await > 0);
    let change = room.clone().send(&ground).await;
    let error = ground
        .committer
        .commit(change)
        .await
        .expect_err("what it builds on is gone");
    assert!(matches!(error, CommitError::Conflict), "{error:?}");
    assert_eq!(ground.head().await, (2, Position(4)));
    room.sequence = 4;
    let change = room.send(&ground).await;
    assert_eq!(
        ground
            .committer
            .commit(change)
            .await
            .expect("it follows")
            .position,
        Position(5)
    );
    follower.until(Position(5)).await;
    while follower.generation == 1 {
        follower.step().await;
    }
    follower.until(Position(5)).await;
    assert_eq!(
        follower.seen_entries(),
        describe(&read(&ground.db, Position(0), Position(5)).await)
    );

    // Twice is possible, too: a token of the first generation is cut back to the earliest.
    execute(
        &ground.db,
        "BEGIN; DELETE FROM events WHERE position > 2; UPDATE log_head SET position = 2; UPDATE room_heads SET sequence = 2; COMMIT;",
    )
    .await;
    assert!(ground.kill_committers().await > 0);
    ground
        .committer
        .commit(Change::of(Fact::Account(ground.user)))
        .await
        .expect("the log goes on");
    let mut connection = ground.connection().await;
    assert_eq!(
        log::parted_at(&mut connection, 1).await.expect("it can be read"),
        Some(Position(2))
    );
    assert_eq!(
        log::parted_at(&mut connection, 2).await.expect("it can be read"),
        Some(Position(2))
    );
    drop(connection);
    ground.end().await;
}

#[tokio::test]
async fn a_standby_is_a_database_that_is_away() {
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    execute(
        &ground.db,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$",
    )
    .await;
    assert!(ground.kill_committers().await > 0);
    let change = room.send(&ground).await;
    let error = ground
        .committer
        .commit(change.clone())
        .await
        .expect_err("nothing can be written");
    assert!(matches!(error, CommitError::Unavailable), "{error:?}");
    assert_eq!(ground.committer.status(), CommitterStatus::Away);
    execute(
        &ground.db,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET default_transaction_read_only', current_database()); END $$",
    )
    .await;
    ground.status(CommitterStatus::Writable).await;
    ground.committer.commit(change).await.expect("it is committed");
    ground.end().await;
}

#[tokio::test]
async fn a_full_disk_refuses_everybody_at_once_and_only_while_it_is_full() {
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    execute(
        &ground.db,
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$;
         CREATE TRIGGER full_disk BEFORE INSERT ON events EXECUTE FUNCTION full_disk();",
    )
    .await;
    let held = ground.hold().await;
    let mut outcomes = Vec::new();
    for _ in 0..100 {
        let change = room.send(&ground).await;
        outcomes.push(ground.queue(change).await);
    }
    held.release().await;
    for outcome in outcomes {
        let error = settled(outcome).await.expect_err("there is no space");
        assert!(matches!(error, CommitError::Unavailable), "{error:?}");
    }
    execute(&ground.db, "DROP TRIGGER full_disk ON events").await;
    room.sequence = room.stored_sequence(&ground.db).await;
    let change = room.send(&ground).await;
    ground.eventually_committed(change).await;
    assert_eq!(ground.head().await, (1, Position(3)));
    ground.end().await;
}
