//! What a server does with nobody looking: what it takes out of its database, what it lets nobody put there without end,
//! and what it finishes before it stops. Looked at in the database, since no request tells.

use std::time::Duration;

use hearth_tests::{Client, PASSWORD, Server, account_data, public_chat, text, until};
use serde_json::json;
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::{sync::Mutex, time::timeout};

async fn connect(server: &Server) -> PgConnection {
    PgConnection::connect(server.database_url())
        .await
        .expect("the database is there")
}

async fn execute(connection: &mut PgConnection, statement: &'static str) {
    sqlx::query(statement)
        .execute(connection)
        .await
        .expect("the statement is right");
}

/// The one number that a query gives.
async fn count(connection: &mut PgConnection, query: &'static str) -> i64 {
    let row = sqlx::query(query).fetch_one(connection).await;
    row.expect("the query is right").get(0)
}

#[tokio::test]
async fn redacted_content_leaves_the_database_whatever_is_broken_in_it() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(public_chat()).await.room_id();
    let mut database = connect(&server).await;
    let broken = alice.send_text(&room, "to be broken").await.event_id();
    alice.redact(&room, &broken, "first").await.ok();
    // More than one round of what can't be read: some that is gone, and one whose content is no event any more.
    execute(
        &mut database,
        "INSERT INTO redactions (event_nid, redaction_nid, position) SELECT -n, 0, 0 FROM generate_series(1, 500) n",
    )
    .await;
    execute(
        &mut database,
        "WITH broken AS (UPDATE redactions SET pruned = false WHERE event_nid > 0 RETURNING event_nid)
         UPDATE events SET pdu = '{' WHERE event_nid IN (SELECT event_nid FROM broken)",
    )
    .await;
    let secret = alice.send_text(&room, "the secret word").await.event_id();
    alice.redact(&room, &secret, "second").await.ok();
    let kept = "SELECT count(*) FROM events WHERE position(convert_to('the secret word', 'UTF8') IN pdu) > 0";
    let database = Mutex::new(database);
    until("the word is gone", || async {
        let mut database = database.lock().await;
        (count(&mut database, kept).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nobody_fills_the_database_with_account_data() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join(&room).await.ok();
    let mine = json!({ "mine": true });
    for user in [&alice, &bob] {
        user.set_account_data("org.example.mine", mine.clone()).await.ok();
    }
    let mut database = connect(&server).await;
    // Alice has very many, and bob some that are long.
    execute(
        &mut database,
        "INSERT INTO account_data (user_nid, room_nid, data_type, position, content)
         SELECT u.user_nid, 0, convert_to('org.example.' || n, 'UTF8'), 1, '{}'
         FROM users u, generate_series(1, 20000) n WHERE u.user_id LIKE '@alice:%'",
    )
    .await;
    execute(
        &mut database,
        "INSERT INTO account_data (user_nid, room_nid, data_type, position, content)
         SELECT u.user_nid, 0, convert_to('org.example.' || n, 'UTF8'), 1,
                convert_to('{\"x\":\"' || repeat('x', 1000000) || '\"}', 'UTF8')
         FROM users u, generate_series(1, 34) n WHERE u.user_id LIKE '@bob:%'",
    )
    .await;
    for user in [&alice, &bob] {
        user.set_account_data("org.example.one.more", json!({}))
            .await
            .refused(413, "M_TOO_LARGE");
        user.set_room_account_data(&room, "org.example.one.more", json!({}))
            .await
            .refused(413, "M_TOO_LARGE");
        let tag = format!("/v3/user/{}/rooms/{room}/tags/m.favourite", user.user_id);
        user.put(&tag, json!({})).await.refused(413, "M_TOO_LARGE");
        // What the server manages goes on.
        let read = user.send_text(&room, "read").await.event_id();
        user.post(
            &format!("/v3/rooms/{room}/read_markers"),
            json!({ "m.fully_read": read }),
        )
        .await
        .ok();
        user.put(
            "/v3/pushrules/global/content/mine",
            json!({ "pattern": "x", "actions": ["notify"] }),
        )
        .await
        .ok();
    }
    assert_eq!(account_data(&alice.sync().await, "org.example.mine"), [mine]);
}

#[tokio::test]
async fn what_a_deactivated_account_kept_for_itself_is_gone() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    alice.set_displayname("Alice").await.ok();
    alice
        .put(
            &format!("/v3/profile/{}/m.tz", alice.user_id),
            json!({ "m.tz": "Europe/Oslo" }),
        )
        .await
        .ok();
    alice
        .set_account_data("org.example.diary", json!({ "dear": "diary" }))
        .await
        .ok();
    alice
        .set_room_account_data(&room, "org.example.note", json!({}))
        .await
        .ok();
    alice.store_filter(json!({ "room": { "rooms": [room] } })).await;
    bob.set_displayname("Bob").await.ok();
    bob.set_account_data("org.example.diary", json!({ "dear": "diary" }))
        .await
        .ok();
    let auth = json!({
        "type": "m.login.password", "password": PASSWORD,
        "identifier": { "type": "m.id.user", "user": alice.user_id },
    });
    alice
        .post("/v3/account/deactivate", json!({ "auth": auth }))
        .await
        .ok();
    for field in ["displayname", "m.tz"] {
        bob.get(&format!("/v3/profile/{}/{field}", alice.user_id))
            .await
            .refused(404, "M_NOT_FOUND");
    }
    let mut database = connect(&server).await;
    for (of_alice, of_bob) in [
        (
            "SELECT count(*) FROM account_data JOIN users USING (user_nid) WHERE user_id LIKE '@alice:%'",
            "SELECT count(*) FROM account_data JOIN users USING (user_nid) WHERE user_id LIKE '@bob:%'",
        ),
        (
            "SELECT count(*) FROM profile_fields JOIN users USING (user_nid) WHERE user_id LIKE '@alice:%'",
            "SELECT count(*) FROM profile_fields JOIN users USING (user_nid) WHERE user_id LIKE '@bob:%'",
        ),
    ] {
        assert_eq!(count(&mut database, of_alice).await, 0, "{of_alice}");
        assert_eq!(count(&mut database, of_bob).await, 1, "{of_bob}");
    }
    let filters = "SELECT count(*) FROM filters JOIN users USING (user_nid) WHERE user_id LIKE '@alice:%'";
    assert_eq!(count(&mut database, filters).await, 0);
}

/// A request that its caller gives up once it waits for the database.
async fn send_and_give_up(alice: &Client, room: &str, server: &Server) {
    let sending = alice.send_as("given-up", room, "m.room.message", text("still on its way"));
    let mut database = connect(server).await;
    let waiting = async {
        let is_waiting = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while count(&mut database, is_waiting).await == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answer = sending => panic!("nothing can be committed yet: {answer:?}"),
        () = waiting => {}
    }
}

#[tokio::test]
async fn a_server_that_stops_finishes_what_it_began_for_who_is_gone() {
    let mut server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(public_chat()).await.room_id();
    let mut holder = connect(&server).await;
    let mut held = holder.begin().await.expect("a transaction");
    execute(&mut held, "SELECT * FROM log_head FOR UPDATE").await;
    send_and_give_up(&alice, &room, &server).await;

    let mut database = connect(&server).await;
    let sent =
        "SELECT count(*) FROM events WHERE position(convert_to('still on its way', 'UTF8') IN pdu) > 0";
    {
        let mut stopping = std::pin::pin!(server.stop());
        assert!(
            timeout(Duration::from_secs(2), &mut stopping).await.is_err(),
            "it does not stop with a change in its queue"
        );
        assert_eq!(count(&mut database, sent).await, 0, "which is not committed yet");
        held.rollback().await.expect("the row is let go");
        timeout(Duration::from_secs(30), stopping)
            .await
            .expect("it stops once the change is committed");
    }
    assert_eq!(count(&mut database, sent).await, 1);
}
