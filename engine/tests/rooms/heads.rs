//! Heads: one order in each room whoever sends at once, whatever is refused meanwhile, and whoever goes away.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use hearth_engine::rooms::{SendError, membership::MembershipError};

use super::*;

/// Refuses, in the database, events that contain "planted": by `how`, in the body of a trigger.
fn plant(how: &str) -> String {
    format!(
        "CREATE SEQUENCE planted;
         CREATE FUNCTION plant() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF position('planted'::bytea IN new.pdu) > 0 THEN {how} END IF;
             RETURN new;
         END $$;
         CREATE TRIGGER planted BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION plant();"
    )
}

/// How often the rooms' messages were sent, by their bodies.
fn bodies(truth: &Truth, room_id: &RoomId) -> std::collections::BTreeMap<String, usize> {
    let mut bodies = std::collections::BTreeMap::new();
    for event in &truth.rooms[room_id].events {
        if let Some(body) = event.pdu["content"]["body"].as_str() {
            *bodies.entry(body.to_owned()).or_default() += 1;
        }
    }
    bodies
}

fn is_transient<T>(result: &Result<T, SendMessageError>) -> bool {
    use hearth_engine::rooms::DecideError;
    match result {
        Err(SendMessageError::Send(SendError::Decided(DecideError::Failed(error)))) => error.is_transient(),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_at_once_makes_one_chain() {
    let server = Server::start().await;
    let users = [
        server.user("alice").await,
        server.user("bob").await,
        server.user("carol").await,
    ];
    let room_id = server.room(&users[0]).await;
    for user in &users[1..] {
        server.join(user, &room_id).await;
    }
    let texts: Vec<String> = (0..120).map(|number| format!("text {number}")).collect();
    let sent = texts.iter().enumerate().map(|(number, text)| {
        let (server, user, room_id) = (&server, &users[number % users.len()], &room_id);
        async move {
            if number % 5 == 0 {
                server
                    .set_state(
                        user,
                        room_id,
                        "m.room.member",
                        user.user_id.as_str(),
                        json!({
                            "membership": "join", "displayname": text,
                        }),
                    )
                    .await
            } else {
                server.say(user, room_id, text).await
            }
        }
    });
    let sent: Vec<String> = join_all(sent).await.iter().map(ToString::to_string).collect();
    let truth = server.truth().await;
    truth.rooms[&room_id].check();
    assert!(
        sent.iter()
            .all(|event_id| truth.rooms[&room_id].find(event_id).is_some()),
        "what is acknowledged is there"
    );
    assert_eq!(
        bodies(&truth, &room_id).values().copied().collect::<Vec<_>>(),
        [1; 96]
    );
    assert_eq!(
        ids_of(&history(&server.engine, &users[1], &room_id, 50).await.unwrap()),
        truth.rooms[&room_id].seen_by(&users[1].user_id)
    );
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_built_on_a_refused_change_is_decided_anew_and_sent_once() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let (room_id, other_id) = (server.room(&alice).await, server.room(&alice).await);
    // As if another committer had moved the room, seven times.
    let conflict = "IF nextval('planted') <= 7 THEN
        RAISE EXCEPTION 'a room has moved on' USING ERRCODE = 'HE002', CONSTRAINT = 'room_heads_follow'; END IF;";
    server.database.execute(&plant(conflict)).await;
    let texts: Vec<String> = (0..150)
        .map(|number| match number {
            20 => "planted".to_owned(),
            number => format!("text {number}"),
        })
        .collect();
    let sent = texts.iter().map(|text| server.say(&alice, &room_id, text));
    let elsewhere =
        (0..20).map(|number| server.say(&alice, &other_id, if number % 2 == 0 { "even" } else { "odd" }));
    let (sent, elsewhere) = tokio::join!(join_all(sent), join_all(elsewhere));
    assert_eq!((sent.len(), elsewhere.len()), (150, 20));
    let truth = server.truth().await;
    truth.rooms.values().for_each(truth::TrueRoom::check);
    let found = bodies(&truth, &room_id);
    assert!(texts.iter().all(|text| found.get(text) == Some(&1)), "{found:?}");
    assert_eq!(
        server
            .database
            .texts("SELECT last_value::text FROM planted")
            .await,
        ["8"],
        "it was refused and sent again"
    );
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_the_database_never_takes_fails_alone() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room_id = server.room(&alice).await;
    let never = "RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation', CONSTRAINT = 'planted_never';";
    server.database.execute(&plant(never)).await;
    let sent = (0..40).map(|number| {
        let text = if number % 10 == 3 {
            "planted".to_owned()
        } else {
            format!("text {number}")
        };
        let (engine, alice, room_id) = (&server.engine, &alice, &room_id);
        async move {
            let sent = say(engine, alice, room_id, &text, &engine.entropy.alphanumeric(9)).await;
            (text, sent)
        }
    });
    for (text, sent) in join_all(sent).await {
        match sent {
            Ok(_) => assert_ne!(text, "planted"),
            Err(SendMessageError::Send(SendError::Constraint(name))) => {
                assert_eq!((&*text, &*name), ("planted", "planted_never"))
            }
            Err(error) => panic!("{text}: {error:?}"),
        }
    }
    let truth = server.truth().await;
    truth.rooms[&room_id].check();
    assert_eq!(bodies(&truth, &room_id).len(), 36);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_another_engine_takes_over() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room_id = server.room(&alice).await;
    server.say(&alice, &room_id, "before").await;
    let old = Arc::clone(&server.engine);
    let taken_over = AtomicBool::new(false);
    let senders = (0..6).map(|sender| {
        let (old, alice, room_id, taken_over) = (&old, &alice, &room_id, &taken_over);
        async move {
            let mut failed = Vec::new();
            for number in 0.. {
                if taken_over.load(Ordering::Relaxed) && !failed.is_empty() {
                    break;
                }
                let text = format!("{sender} {number}");
                let sent = say(old, alice, room_id, &text, &text).await;
                if sent.is_err() {
                    assert!(is_transient(&sent), "{sent:?}");
                    failed.push(text);
                }
                tokio::task::yield_now().await;
            }
            (sender, failed)
        }
    });
    let take_over = async {
        until("some messages", async || server.log_end().await.1 > Position(40)).await;
        let new = server.another_engine().await;
        taken_over.store(true, Ordering::Relaxed);
        new
    };
    let (failed, new) = tokio::join!(join_all(senders), take_over);
    // Whoever was refused tries again, as a client does: by the same transaction id.
    for text in failed.iter().flat_map(|(_, failed)| failed) {
        say(&new, &alice, &room_id, text, text).await.unwrap();
    }
    let truth = server.truth().await;
    truth.rooms[&room_id].check();
    let found = bodies(&truth, &room_id);
    assert!(found.values().all(|count| *count == 1), "{found:?}");
    for (sender, failed) in &failed {
        let last: usize = failed.last().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        assert!(
            (0..=last).all(|number| found.contains_key(&format!("{sender} {number}"))),
            "{sender}: {found:?}"
        );
    }
    // The one that stepped down still reads, and follows.
    until("the old engine follows", async || {
        old.log.head().position == server.log_end().await.1
    })
    .await;
    assert_eq!(
        ids_of(&history(&old, &alice, &room_id, 100).await.unwrap()),
        ids_of(&history(&new, &alice, &room_id, 100).await.unwrap()),
    );
    drop((old, new));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_sent_again_makes_no_second_event() {
    let mut server = Server::start().await;
    let alice = server.user("alice").await;
    let room_id = server.room(&alice).await;
    let again = || say(&server.engine, &alice, &room_id, "once", "txn");
    let sent = join_all((0..12).map(|_| again())).await;
    let event_id = sent[0].as_ref().unwrap().clone();
    assert!(sent.iter().all(|sent| sent.as_ref().unwrap() == &event_id));
    // Its redaction has transactions of its own.
    let redact = || send::redact(&server.engine, &alice, &room_id, &event_id, "txn", None);
    let (one, other) = tokio::join!(redact(), redact());
    assert_eq!(one.unwrap(), other.unwrap());

    // A caller that goes away at any moment cancels nothing.
    for polls in 0..12 {
        let text = format!("dropped {polls}");
        {
            let mut sending = Box::pin(say(&server.engine, &alice, &room_id, &text, &text));
            for _ in 0..polls {
                if futures_util::poll!(&mut sending).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        server.say(&alice, &room_id, "in between").await;
        let first = say(&server.engine, &alice, &room_id, &text, &text).await.unwrap();
        assert_eq!(
            first,
            say(&server.engine, &alice, &room_id, &text, &text).await.unwrap()
        );
    }

    server.restart().await;
    assert_eq!(
        say(&server.engine, &alice, &room_id, "once", "txn")
            .await
            .unwrap(),
        event_id
    );
    let truth = server.truth().await;
    truth.rooms[&room_id].check();
    // One was redacted.
    let found = bodies(&truth, &room_id);
    assert!(
        found
            .iter()
            .all(|(text, count)| *count == 1 || text == "in between"),
        "{found:?}"
    );
    let made = truth.rooms[&room_id]
        .events
        .iter()
        .filter(|event| event.pdu["type"] == "m.room.message")
        .count();
    assert_eq!(made, 25);
    server.end().await;
}

#[tokio::test]
async fn a_permission_ends_with_the_power_or_the_membership_it_came_from() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room_id = server
        .create(&alice, json!({ "preset": "public_chat", "room_version": "11" }))
        .await;
    server.join(&bob, &room_id).await;
    let bob_says = async |text: &str| say(&server.engine, &bob, &room_id, text, text).await;
    bob_says("allowed").await.unwrap();
    bob_says("allowed again").await.unwrap();
    let levels = |events_default: i64| json!({ "users": { alice.user_id.as_str(): 100 }, "events_default": events_default });
    server
        .set_state(&alice, &room_id, "m.room.power_levels", "", levels(50))
        .await;
    let refused = |sent: Result<OwnedEventId, SendMessageError>| {
        let error = format!("{:?}", sent.unwrap_err());
        assert!(
            error.contains("Forbidden") || error.contains("UnknownRoom"),
            "{error}"
        );
    };
    refused(bob_says("without power").await);
    server
        .set_state(&alice, &room_id, "m.room.power_levels", "", levels(0))
        .await;
    bob_says("with power").await.unwrap();
    membership::kick(&server.engine, &alice, &room_id, &bob.user_id, None)
        .await
        .unwrap();
    refused(bob_says("kicked").await);
    server.join(&bob, &room_id).await;
    bob_says("back").await.unwrap();
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_after_a_kick_that_came_first() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room_id = server.room(&alice).await;
    for round in 0..6 {
        server.join(&bob, &room_id).await;
        server.say(&bob, &room_id, "here").await;
        let says = (0..10).map(|number| {
            let (engine, bob, room_id) = (&server.engine, &bob, &room_id);
            async move { say(engine, bob, room_id, "again", &format!("{round} {number}")).await }
        });
        let kick = async {
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            membership::kick(&server.engine, &alice, &room_id, &bob.user_id, None).await
        };
        let (_, kicked) = tokio::join!(join_all(says), kick);
        kicked.unwrap();
        let joined = membership::join(&server.engine, &bob, &room_id, &[], None);
        let banned = membership::ban(&server.engine, &alice, &room_id, &bob.user_id, None);
        let (joined, banned) = tokio::join!(joined, banned);
        banned.unwrap();
        assert!(
            matches!(joined, Ok(_) | Err(MembershipError::Forbidden(_))),
            "{joined:?}"
        );
        membership::unban(&server.engine, &alice, &room_id, &bob.user_id, None)
            .await
            .unwrap();
    }
    // It has that only members send.
    server.truth().await.rooms[&room_id].check();
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgets_in_the_middle_of_changes_loses_none() {
    for memory in [1, 256 << 20] {
        let server = Server::with_memory(memory).await;
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room_id = server.room(&alice).await;
        server.join(&bob, &room_id).await;
        let done = AtomicBool::new(false);
        let forgets = async {
            while !done.load(Ordering::Relaxed) {
                server.engine.drop_idle();
                tokio::task::yield_now().await;
            }
        };
        let works = async {
            let changes = (0..80).map(|number| {
                let (server, room_id) = (&server, &room_id);
                let user = if number % 2 == 0 { &alice } else { &bob };
                async move {
                    match number % 4 {
                        0 => {
                            server
                                .set_state(user, room_id, "test.state", &number.to_string(), json!({}))
                                .await
                        }
                        1 => {
                            let content = json!({ "membership": "join", "displayname": number.to_string() });
                            server
                                .set_state(user, room_id, "m.room.member", user.user_id.as_str(), content)
                                .await
                        }
                        _ => server.say(user, room_id, &number.to_string()).await,
                    }
                }
            });
            let made = join_all(changes).await;
            done.store(true, Ordering::Relaxed);
            made
        };
        let (made, ()) = within(PATIENCE, async { tokio::join!(works, forgets) }).await;
        let truth = server.truth().await;
        let room = &truth.rooms[&room_id];
        room.check();
        assert!(made.iter().all(|event_id| room.find(event_id.as_str()).is_some()));
        assert_eq!(
            &state_ids(&server.engine, &bob, &room_id).await.unwrap(),
            room.current()
        );
        server.end().await;
    }
}

#[tokio::test]
async fn an_alias_that_is_taken_leaves_no_room_behind() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let mut request = create_request(json!({}));
    request.room_alias_name = Some("taken".to_owned());
    let created = join_all((0..5).map(|_| create_room(&server.engine, &alice, request.clone()))).await;
    assert_eq!(
        created.iter().filter(|created| created.is_ok()).count(),
        1,
        "{created:?}"
    );
    assert_eq!(server.truth().await.rooms.len(), 1);
    assert_eq!(
        hearth_engine::users::joined_rooms(&server.engine, alice.user_nid)
            .await
            .unwrap()
            .len(),
        1
    );
    server.end().await;
}
