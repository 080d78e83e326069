//! A failover that loses the end of the log: a generation begins, memory starts anew, and clients who know what was lost
//! are told what is true.

use super::*;

/// Tables that hold what the log says.
const TABLES: [&str; 12] = [
    "rooms",
    "room_heads",
    "events",
    "states",
    "state_changes",
    "memberships",
    "redactions",
    "client_transactions",
    "receipts",
    "account_data",
    "account_changes",
    "aliases",
];

impl Server {
    /// Remembers what the database holds.
    async fn back_up(&self) {
        let copies = TABLES.map(|table| format!("CREATE TABLE backup.{table} AS TABLE {table};"));
        let head = "CREATE TABLE backup.log_head AS TABLE log_head;";
        self.database
            .execute(&format!("CREATE SCHEMA backup; {head} {}", copies.concat()))
            .await;
    }

    /// Takes the database back to what it held, as a standby does that had not received the rest, and ends all
    /// connections.
    async fn lose_the_end(&self) {
        let restored = TABLES
            .map(|table| format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM backup.{table};"));
        let head = "UPDATE log_head SET position = (SELECT position FROM backup.log_head);";
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid();";
        self.database
            .execute(&format!("BEGIN; {} {head} COMMIT; {end}", restored.concat()))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_end_of_the_log_is_forgotten_by_memory_and_clients() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let (room_id, quiet_id) = (server.room(&alice).await, server.room(&alice).await);
    for room_id in [&room_id, &quiet_id] {
        server.join(&bob, room_id).await;
        server
            .set_state(&alice, room_id, "m.room.topic", "", json!({ "topic": "kept" }))
            .await;
    }
    let kept = server.say(&alice, &room_id, "kept").await;
    let filter = || json!({ "room": { "timeline": { "limit": 3 } } });
    let before = sync_json(&server.engine, &bob, None, filter(), |_| ())
        .await
        .unwrap();
    let before = before["next_batch"].as_str().unwrap();
    server.back_up().await;
    let (_, parted_at) = server.log_end().await;

    let lost = server.say(&alice, &room_id, "lost").await;
    for room_id in [&room_id, &quiet_id] {
        server
            .set_state(&alice, room_id, "m.room.topic", "", json!({ "topic": "lost" }))
            .await;
    }
    server.leave(&bob, &quiet_id).await;
    say(&server.engine, &alice, &room_id, "lost", "again")
        .await
        .unwrap();
    let after = sync_json(&server.engine, &bob, Some(before), filter(), |_| ())
        .await
        .unwrap();
    let after = after["next_batch"].as_str().unwrap();
    // That bob has it is written by itself, and is to be lost with the rest.
    let room_nid = server.truth().await.rooms[&room_id].nid;
    until("it is noted what bob has", async || {
        let mut connection = server.db.acquire().await.unwrap();
        let all = (Position(0), Position(i64::MAX));
        let noted = hearth_storage::receipts::of_rooms(&mut connection, &[room_nid], all.0, all.1)
            .await
            .unwrap();
        !noted.is_empty()
    })
    .await;
    assert_eq!(server.log_end().await.0, 1);

    server.lose_the_end().await;
    until("a generation begins", async || {
        server.engine.log.head().generation == 2
    })
    .await;
    until("memory is back at the end", async || {
        server.engine.log.head().position == server.log_end().await.1
    })
    .await;
    assert_eq!(server.log_end().await, (2, parted_at));
    let truth = server.truth().await;
    assert!(truth.rooms[&room_id].find(lost.as_str()).is_none());
    for room_id in [&room_id, &quiet_id] {
        assert_eq!(
            &state_ids(&server.engine, &bob, room_id).await.unwrap(),
            truth.rooms[room_id].current()
        );
        let topic = read::state_event(&server.engine, &bob, room_id, "m.room.topic", "")
            .await
            .unwrap();
        assert_eq!(topic.content.get(), r#"{"topic":"kept"}"#);
    }
    hearth_engine::rooms::messages::event(&server.engine, &bob, &room_id, &lost)
        .await
        .unwrap_err();

    // What was lost is sent again under its transaction id, and is an event of its own.
    let again = say(&server.engine, &alice, &room_id, "again", "again")
        .await
        .unwrap();
    let truth = server.truth().await;
    truth.rooms.values().for_each(truth::TrueRoom::check);
    assert_eq!(
        truth.rooms[&room_id].events.last().unwrap().event_id,
        again.as_str()
    );

    // A token from before the loss goes on as if nothing had been; a later one is cut back, and told so.
    let synced = sync_json(&server.engine, &bob, Some(before), filter(), |_| ())
        .await
        .unwrap();
    let timeline = &synced["rooms"]["join"][room_id.as_str()]["timeline"];
    assert_eq!(
        (
            ids_of(timeline["events"].as_array().unwrap()),
            &timeline["limited"]
        ),
        (vec![again.to_string()], &json!(false))
    );
    let synced = sync_json(&server.engine, &bob, Some(after), filter(), |request| {
        request.timeout = PATIENCE
    });
    let synced = within(Duration::from_secs(5), synced).await.unwrap();
    for room_id in [&room_id, &quiet_id] {
        let section = &synced["rooms"]["join"][room_id.as_str()];
        assert_eq!(section["timeline"]["limited"], true, "{room_id}: {section:#}");
        let mut told = truth::StateIds::new();
        let timeline = section["timeline"]["events"].as_array().unwrap().iter();
        for event in section["state"]["events"]
            .as_array()
            .unwrap()
            .iter()
            .chain(timeline)
        {
            if let Some(key) = truth::key_of(event) {
                told.insert(key, id_of(event));
            }
        }
        assert_eq!(
            &told,
            truth.rooms[room_id].current(),
            "what was lost is told otherwise"
        );
    }
    let prev_batch = synced["rooms"]["join"][room_id.as_str()]["timeline"]["prev_batch"]
        .as_str()
        .unwrap();
    let (older, _) = page(
        &server.engine,
        &bob,
        &room_id,
        (Some(prev_batch), None),
        Direction::Backward,
        50,
    )
    .await
    .unwrap();
    let told = ids_of(
        synced["rooms"]["join"][room_id.as_str()]["timeline"]["events"]
            .as_array()
            .unwrap(),
    );
    assert!(told.contains(&kept.to_string()) || ids_of(&older).contains(&kept.to_string()));
    let next = synced["next_batch"].as_str().unwrap();
    assert!(next.starts_with("h2_"), "{next}");
    let quiet = sync_json(&server.engine, &bob, Some(next), filter(), |_| ())
        .await
        .unwrap();
    assert!(quiet["rooms"].is_null(), "{quiet:#}");
    server.end().await;
}

#[tokio::test]
async fn a_token_ahead_of_the_log_is_cut_back() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room_id = server.room(&alice).await;
    server.say(&alice, &room_id, "hello").await;
    let synced = sync_json(&server.engine, &alice, Some("h1_999999"), json!({}), |request| {
        request.timeout = PATIENCE
    });
    let synced = within(Duration::from_secs(5), synced).await.unwrap();
    assert_eq!(
        synced["rooms"]["join"][room_id.as_str()]["timeline"]["limited"],
        true,
        "{synced:#}"
    );
    server.end().await;
}
