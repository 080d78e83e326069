//! A database that goes away: requests fail in time with an error that says "later", those who wait go on waiting, and
//! service returns by itself.

use std::path::PathBuf;

use hearth_engine::{accounts::authenticate, sync::SyncError};
use hearth_storage::{DatabaseOptions, private_postgres::PrivatePostgres};

use super::*;

/// No request takes longer, whatever the database does.
const BOUND: Duration = Duration::from_secs(14);

/// A directory that PostgreSQL may enter, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let path = std::env::temp_dir().join(format!("hearth-outage-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o711)).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn register(engine: &Arc<Engine>, username: &str) -> Requester {
    let registration = Registration {
        username: Some(username.to_owned()),
        password: Some(PASSWORD.into()),
        ..Registration::default()
    };
    let auth = uiaa::AuthData::Dummy(uiaa::Dummy::new());
    let registered = register::register(engine, registration, Some(&auth))
        .await
        .unwrap();
    authenticate(engine, &registered.login.unwrap().access_token)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_returns_when_the_database_does() {
    let scratch = Scratch::new();
    let postgres = PrivatePostgres::start(&scratch.0).await.unwrap();
    let options = DatabaseOptions {
        url: postgres.url().to_owned(),
        max_connections: 6,
    };
    let db = Database::connect(&options).await.unwrap();
    db.migrate().await.unwrap();
    let engine = engine_on(&db, 256 << 20, Outside::default()).await;
    let (alice, bob) = (register(&engine, "alice").await, register(&engine, "bob").await);
    let room_id = create_room(
        &engine,
        &alice,
        create_request(json!({ "preset": "public_chat" })),
    )
    .await
    .unwrap();
    membership::join(&engine, &bob, &room_id, &[], None)
        .await
        .unwrap();
    say(&engine, &alice, &room_id, "before", "before").await.unwrap();
    let first = sync_json(&engine, &bob, None, json!({}), |_| ()).await.unwrap();
    let since = first["next_batch"].as_str().unwrap().to_owned();

    // Bob waits through all of it.
    let waits = tokio::spawn({
        let (engine, bob) = (Arc::clone(&engine), bob.clone());
        async move {
            sync_json(&engine, &bob, Some(&since), json!({}), |request| {
                request.timeout = Duration::from_secs(60)
            })
            .await
        }
    });
    let under_way = (0..8).map(|number| {
        let (engine, alice, room_id) = (Arc::clone(&engine), alice.clone(), room_id.clone());
        async move {
            let text = format!("{number}");
            (
                text.clone(),
                within(BOUND, say(&engine, &alice, &room_id, &text, &text)).await,
            )
        }
    });
    postgres.stop().await;
    for (text, sent) in futures_util::future::join_all(under_way).await {
        let error = format!("{:?}", sent.expect_err(&text));
        assert!(error.contains("Unavailable"), "{error}");
    }
    assert!(!engine.log.is_writable());
    // What is in memory is still told; what isn't is refused, and not for good.
    let reads = within(BOUND, state_ids(&engine, &bob, &room_id)).await;
    assert!(
        reads.is_ok() || reads.as_ref().is_err_and(|error| error.contains("Unavailable")),
        "{reads:?}"
    );
    engine.drop_idle();
    let request = SyncRequest::default();
    let synced = within(BOUND, sync(&engine, &alice, request)).await;
    match synced {
        Err(SyncError::Failed(error)) => assert!(error.is_transient(), "{error:?}"),
        other => panic!("{other:?}"),
    }

    let postgres = PrivatePostgres::start(&scratch.0).await.unwrap();
    let mut sent = None;
    until("the first message", async || {
        sent = say(&engine, &alice, &room_id, "after", "after").await.ok();
        sent.is_some()
    })
    .await;
    until("the log is written", async || engine.log.is_writable()).await;
    let woken = within(PATIENCE, waits).await.unwrap().unwrap();
    let timeline = woken["rooms"]["join"][room_id.as_str()]["timeline"]["events"]
        .as_array()
        .unwrap();
    assert_eq!(
        id_of(timeline.last().unwrap()),
        sent.unwrap().as_str(),
        "{woken:#}"
    );
    // What failed is sent again, and is there once.
    for number in 0..8 {
        say(
            &engine,
            &alice,
            &room_id,
            &number.to_string(),
            &number.to_string(),
        )
        .await
        .unwrap();
    }
    let truth = Truth::read(&db).await;
    let room = &truth.rooms[&room_id];
    room.check();
    let bodies: std::collections::BTreeSet<&str> = room
        .events
        .iter()
        .filter_map(|event| event.pdu["content"]["body"].as_str())
        .collect();
    let messages = room
        .events
        .iter()
        .filter(|event| event.pdu["type"] == "m.room.message")
        .count();
    assert_eq!((bodies.len(), messages), (10, 10));
    assert_eq!(
        ids_of(&history(&engine, &bob, &room_id, 100).await.unwrap()),
        room.seen_by(&bob.user_id)
    );
    engine.shutdown.cancel();
    drop((engine, db));
    postgres.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_again_and_again_lose_and_double_nothing() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room_id = server.room(&alice).await;
    server.join(&bob, &room_id).await;
    let cuts = async {
        for _ in 0..6 {
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
            server.database.execute(end).await;
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    };
    let senders = (0..5).map(|sender| {
        let (engine, alice, room_id) = (&server.engine, &alice, &room_id);
        async move {
            for number in 0..20 {
                let text = format!("{sender} {number}");
                // As a client does: again, until it is answered.
                until("an answer", async || {
                    if number % 5 == 0 {
                        engine.drop_idle();
                    }
                    match within(BOUND, say(engine, alice, room_id, &text, &text)).await {
                        Ok(_) => true,
                        Err(error) => {
                            let error = format!("{error:?}");
                            assert!(
                                ["Unavailable", "terminating connection", "Conflict"]
                                    .iter()
                                    .any(|cause| error.contains(cause)),
                                "{error}"
                            );
                            false
                        }
                    }
                })
                .await;
            }
        }
    });
    let (_, ()) = tokio::join!(futures_util::future::join_all(senders), cuts);
    let truth = server.truth().await;
    let room = &truth.rooms[&room_id];
    room.check();
    let mut bodies: Vec<&str> = room
        .events
        .iter()
        .filter_map(|event| event.pdu["content"]["body"].as_str())
        .collect();
    bodies.sort_unstable();
    let count = bodies.len();
    bodies.dedup();
    assert_eq!((count, bodies.len()), (100, 100));
    until("memory follows", async || {
        server.engine.log.head().position == server.log_end().await.1
    })
    .await;
    assert_eq!(
        &state_ids(&server.engine, &bob, &room_id).await.unwrap(),
        room.current()
    );
    assert_eq!(
        ids_of(&history(&server.engine, &bob, &room_id, 30).await.unwrap()),
        room.seen_by(&bob.user_id)
    );
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_come_to_a_server_that_knows_nothing_yet_do_not_wait_for_each_other() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let mut rooms = Vec::new();
    for _ in 0..5 {
        let room_id = server.room(&alice).await;
        server.say(&alice, &room_id, "before bob").await;
        server.join(&bob, &room_id).await;
        rooms.push(room_id);
    }
    server.leave(&bob, &rooms[0]).await;
    // Fewer connections than there are requests: if one took two of them, all would wait for those of others.
    let options = DatabaseOptions {
        url: server.database.url.clone(),
        max_connections: 2,
    };
    let narrow = Database::connect(&options).await.unwrap();
    let engine = engine_on(&narrow, 256 << 20, Outside::default()).await;
    let (engine, bob, rooms) = (&engine, &bob, &rooms);
    let syncs = (0..12).map(|_| async move {
        let synced = sync_json(
            engine,
            bob,
            None,
            json!({ "room": { "include_leave": true } }),
            |_| (),
        )
        .await;
        synced.map(drop)
    });
    let reads = (0..12).map(|number| async move {
        let room_id = &rooms[number % rooms.len()];
        history(engine, bob, room_id, 3).await?;
        state_ids(engine, bob, room_id).await.map(drop)
    });
    let all = futures_util::future::join(
        futures_util::future::join_all(syncs),
        futures_util::future::join_all(reads),
    );
    // Well below the time after which a connection is no longer waited for.
    let (synced, read) = within(Duration::from_secs(4), all).await;
    assert!(
        synced.iter().chain(&read).all(Result::is_ok),
        "{synced:?} {read:?}"
    );
    engine.shutdown.cancel();
    narrow.close().await;
    server.end().await;
}
