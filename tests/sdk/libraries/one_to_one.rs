//! Two people talk, each through one library, and look on through both.

use hearth_tests::Server;

use crate::{
    device::{Device, Receipt, View},
    person::{Person, views},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn matrix_sdk_talks_with_matrix_nio() {
    let server = Server::start().await;
    let (alice, bob) = two(&server).await;
    talk(&server, [&alice, &bob], &alice.sdk, &bob.nio).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn matrix_nio_talks_with_matrix_sdk() {
    let server = Server::start().await;
    let (alice, bob) = two(&server).await;
    talk(&server, [&alice, &bob], &alice.nio, &bob.sdk).await;
}

async fn two(server: &Server) -> (Person, Person) {
    tokio::join!(Person::register(server, "alice"), Person::register(server, "bob"))
}

async fn talk(server: &Server, people: [&Person; 2], alice: &impl Device, bob: &impl Device) {
    let room = alice.create_direct_room(bob.user_id()).await;
    assert_eq!(people[1].membership(&room).await, "invite");
    bob.accept(&room).await;
    let said = turns(alice, bob, &room).await;
    let [alices, bobs] = views(people, &room).await;
    assert_eq!(
        (alices.notifications, bobs.notifications),
        (1, 0),
        "who spoke last"
    );
    assert_eq!(
        (alices.members.len(), &alices.invited),
        (2, &Vec::new()),
        "the invite was accepted"
    );
    assert_eq!(
        alices.heard,
        event_ids(&alices.history),
        "each event came by sync once, in the order of history"
    );
    assert_eq!(
        bobs.heard, alices.heard,
        "who was invited has the room's beginning too"
    );

    counts(people, alice, bob, &room, &said).await;
    second_thoughts(people, alice, bob, &room, &said).await;
    typing(people, alice, bob, &room).await;
    let old = views(people, &room).await;
    for (person, old) in people.into_iter().zip(old) {
        let new = person.with_new_devices(server).await.view(&room).await;
        old.assert_same_to_a_new_device(&new, person.id());
    }
}

/// One says something, the other hears it by a sync that waits, and answers.
async fn turns(alice: &impl Device, bob: &impl Device, room: &str) -> Vec<String> {
    let mut said = Vec::new();
    for turn in 0..3 {
        let says = format!("turn {turn}");
        let (event_id, ()) = tokio::join!(alice.say(room, &says), bob.catch_up());
        bob.meet(room, &event_id).await;
        said.push(event_id);
        let event_id = bob.answer(room, &said[said.len() - 1], &says).await;
        alice.meet(room, &event_id).await;
        said.push(event_id);
    }
    said
}

/// What Bob does that Alice has to be told of, and how she reads it, thread by thread.
async fn counts(people: [&Person; 2], alice: &impl Device, bob: &impl Device, room: &str, said: &[String]) {
    alice.mark(room, &said[5], Receipt::Private).await;
    let [alices, bobs] = views(people, room).await;
    assert_eq!((alices.notifications, alices.highlights), (0, 0));
    assert_eq!(alices.fully_read.as_ref(), Some(&said[5]));
    let private = |view: &View| {
        view.receipt(alice.user_id(), Receipt::Private, "everywhere")
            .map(ToOwned::to_owned)
    };
    assert_eq!((private(&alices), private(&bobs)), (Some(said[5].clone()), None));

    let root = &said[2];
    bob.say(room, "are you there?").await;
    bob.edit(room, &said[1], "turn none").await;
    bob.react(room, &said[0], "👍").await;
    let mention = bob.say_to(room, "Alice?", &[alice.user_id()]).await;
    let aside = bob.say_in_thread(room, root, "aside").await;
    let last = bob.say_in_thread(room, root, "more of it").await;
    let [alices, bobs] = views(people, room).await;
    assert_eq!(
        (alices.notifications, alices.highlights),
        (4, 1),
        "edits and reactions are no news"
    );
    assert_eq!((bobs.notifications, bobs.highlights), (0, 0));
    assert_eq!(alices.threads, [alices.line(root)]);
    assert!(
        alices
            .line(root)
            .ends_with(&format!("; a thread of 2 up to {last}, taken part in")),
        "the root is hers: {}",
        alices.line(root)
    );

    alice.read(room, &aside, root, Receipt::Public).await;
    let [alices, bobs] = views(people, room).await;
    assert_eq!((alices.notifications, alices.highlights), (3, 1));
    let threaded = bobs.receipt(alice.user_id(), Receipt::Public, root);
    assert_eq!(threaded, Some(aside.as_str()));
    alice.read(room, &mention, "main", Receipt::Private).await;
    let [alices, _] = views(people, room).await;
    assert_eq!(
        (alices.notifications, alices.highlights),
        (1, 0),
        "one in the thread is left"
    );
    alice.mark(room, &last, Receipt::Public).await;
    let [alices, bobs] = views(people, room).await;
    assert_eq!((alices.notifications, alices.highlights), (0, 0));
    let everywhere = bobs.receipt(alice.user_id(), Receipt::Public, "everywhere");
    assert_eq!(everywhere, Some(last.as_str()));
    assert_eq!(bobs.fully_read, None, "that marker is Alice's");
}

/// Edits, reactions and messages that are taken back.
async fn second_thoughts(
    people: [&Person; 2],
    alice: &impl Device,
    bob: &impl Device,
    room: &str,
    said: &[String],
) {
    let first = alice.edit(room, &said[0], "turn the first").await;
    let second = alice.edit(room, &said[0], "turn the 1st").await;
    let reaction = alice.react(room, &said[1], "🤔").await;
    bob.meet(room, &reaction).await;
    let [alices, _] = views(people, room).await;
    let reads = |view: &View, body: &str, edit: &str| {
        let line = view.line(&said[0]);
        let wanted = format!("says \"turn 0\"; reads \"{body}\" since {edit}");
        assert!(line.ends_with(&wanted), "not {wanted:?}: {line}");
    };
    reads(&alices, "turn the 1st", &second);
    for person in people {
        let related = [
            person.sdk.relations(room, &said[0], "m.replace").await,
            person.nio.relations(room, &said[0], "m.replace").await,
        ];
        assert_eq!(related[0], related[1]);
        assert_eq!(event_ids(&related[0]), [second.as_str(), &first]);
    }

    alice.redact(room, &second, "it was better before").await;
    alice.redact(room, &reaction, "no").await;
    // Her part in a private chat is as great as his.
    let redaction = alice.redact(room, &said[5], "never mind").await;
    bob.meet(room, &redaction).await;
    let [alices, _] = views(people, room).await;
    reads(&alices, "turn the first", &first);
    let redacted = format!("was redacted by {}", alice.user_id());
    for event_id in [&second, &reaction, &said[5]] {
        assert!(alices.line(event_id).ends_with(&redacted));
    }
    assert!(alices.line(&redaction).ends_with("never mind"));
    for person in people {
        assert!(
            person
                .sdk
                .relations(room, &said[1], "m.annotation")
                .await
                .is_empty()
        );
        assert!(
            person
                .nio
                .relations(room, &said[1], "m.annotation")
                .await
                .is_empty()
        );
    }
}

async fn typing(people: [&Person; 2], alice: &impl Device, bob: &impl Device, room: &str) {
    alice.set_typing(room, true).await;
    bob.await_typing(room, alice.user_id(), true).await;
    let [_, bobs] = views(people, room).await;
    assert_eq!(bobs.typing, [alice.user_id()]);
    alice.set_typing(room, false).await;
    bob.await_typing(room, alice.user_id(), false).await;
    let [_, bobs] = views(people, room).await;
    assert!(bobs.typing.is_empty());
}

/// The events that lines are about.
fn event_ids(lines: &[String]) -> Vec<&str> {
    lines.iter().filter_map(|line| line.split(' ').next()).collect()
}
