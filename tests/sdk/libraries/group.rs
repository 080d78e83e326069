//! Three people in a public room: everyone speaks at once, and not all of them stay.

use hearth_tests::{Server, until};

use crate::{
    device::{Device, Receipt},
    person::{Person, views},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_on_matrix_sdk_and_one_on_matrix_nio() {
    let server = Server::start().await;
    let [alice, bob, carol] = three(&server).await;
    let room = meet(&server, [&alice, &bob, &carol], &alice.sdk, &bob.nio, &carol.sdk).await;
    come_and_go([&alice, &bob, &carol], &room, &alice.sdk, &bob.nio, &carol.sdk).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_on_matrix_nio_and_one_on_matrix_sdk() {
    let server = Server::start().await;
    let [alice, bob, carol] = three(&server).await;
    let room = meet(&server, [&alice, &bob, &carol], &alice.nio, &bob.sdk, &carol.nio).await;
    come_and_go([&alice, &bob, &carol], &room, &alice.nio, &bob.sdk, &carol.nio).await;
}

async fn three(server: &Server) -> [Person; 3] {
    tokio::join!(
        Person::register(server, "alice"),
        Person::register(server, "bob"),
        Person::register(server, "carol"),
    )
    .into()
}

/// They find the room by its name, and all speak at once. The room.
async fn meet(
    server: &Server,
    people: [&Person; 3],
    alice: &impl Device,
    bob: &impl Device,
    carol: &impl Device,
) -> String {
    let room = alice.create_public_room("pub", "The pub", "Everything").await;
    let alias = format!("#pub:{}", server.name());
    assert_eq!(bob.join(&alias).await, room);
    assert_eq!(carol.join(&alias).await, room);
    let [alices, ..] = views(people, &room).await;
    assert_eq!(
        (alices.name.as_deref(), alices.topic.as_deref()),
        (Some("The pub"), Some("Everything"))
    );
    let names: Vec<_> = alices.members.values().flatten().collect();
    assert_eq!(names, ["Alice", "Bob", "Carol"]);

    let (mut said, ..) = tokio::join!(speak(alice, &room), speak(bob, &room), speak(carol, &room));
    // Who was heard last depends; after this it doesn't.
    said.push(alice.say_to(&room, "Bob!", &[bob.user_id()]).await);
    let last = alice.set_topic(&room, "Nothing").await;
    bob.meet(&room, &last).await;
    let [alices, bobs, carols] = views(people, &room).await;
    let messages = alices
        .history
        .iter()
        .filter(|line| line.contains(" says "))
        .count();
    assert_eq!(messages, 3 * EACH + 1);
    assert_eq!(
        positions(&alices.heard, &said),
        (0..said.len()).collect::<Vec<_>>(),
        "Alice's in the order in which she said them"
    );
    assert_eq!(alices.heard, bobs.heard);
    assert_eq!(alices.heard, carols.heard);
    assert_eq!(bobs.topic.as_deref(), Some("Nothing"));
    assert_eq!(alices.notifications, 0, "Alice spoke last");
    assert_eq!(bobs.highlights, 1, "Bob was spoken to");
    assert_eq!(carols.highlights, 0);
    assert!(bobs.notifications >= 1 && carols.notifications >= 1);
    bob.mark(&room, &last, Receipt::Public).await;
    carol.read(&room, &said[0], "main", Receipt::Public).await;
    let [_, bobs, carols] = views(people, &room).await;
    assert_eq!((bobs.notifications, bobs.highlights), (0, 0));
    assert_eq!(
        carols.receipt(bob.user_id(), Receipt::Public, "everywhere"),
        Some(&*last)
    );
    room
}

const EACH: usize = 8;

async fn speak(device: &impl Device, room: &str) -> Vec<String> {
    let mut said = Vec::new();
    for number in 0..EACH {
        said.push(device.say(room, &format!("{number}")).await);
    }
    said
}

/// Which of `wanted` the events are, in their order, leaving out all others.
fn positions(events: &[String], wanted: &[String]) -> Vec<usize> {
    let position = |event_id| wanted.iter().position(|one| one == event_id);
    events.iter().filter_map(position).collect()
}

/// Carol takes another name and is put out; Bob leaves; both come back, by an invite and by themselves.
async fn come_and_go(
    people: [&Person; 3],
    room: &str,
    alice: &impl Device,
    bob: &impl Device,
    carol: &impl Device,
) {
    carol.set_displayname("Carol of the pub").await;
    assert_eq!(bob.displayname_of(carol.user_id()).await, "Carol of the pub");
    // Rooms learn it after the profile.
    until("the room has Carol's new name", async || {
        alice.catch_up().await;
        let name = &alice.view(room).await.members[carol.user_id()];
        (name.as_deref() == Some("Carol of the pub")).then_some(())
    })
    .await;
    views(people, room).await;

    alice.kick(room, carol.user_id(), "closing time").await;
    assert_eq!(carol.refusal_to_say(room, "one more").await, "M_FORBIDDEN");
    assert_eq!(people[2].membership(room).await, "leave");
    bob.leave(room).await;
    assert_eq!(people[1].membership(room).await, "leave");
    let missed = alice.say(room, "where is everybody?").await;
    let [alices] = views([people[0]], room).await;
    assert_eq!(alices.members.keys().collect::<Vec<_>>(), [alice.user_id()]);
    assert!(alices.line(&missed).contains("where is everybody?"));
    bob.forget(room).await;

    alice.invite(room, carol.user_id()).await;
    assert_eq!(people[2].membership(room).await, "invite");
    let [alices] = views([people[0]], room).await;
    assert_eq!(alices.invited, [carol.user_id()]);
    carol.accept(room).await;
    bob.join(room).await;
    let hello = alice.say(room, "there you are").await;
    bob.meet(room, &hello).await;
    carol.meet(room, &hello).await;
    let [alices, bobs, carols] = [
        people[0].view(room).await,
        people[1].view(room).await,
        people[2].view(room).await,
    ];
    assert_eq!(alices.members, bobs.members);
    assert_eq!(alices.members, carols.members);
    assert_eq!(alices.members.len(), 3);
    assert_eq!(
        (&bobs.history, &carols.history),
        (&alices.history, &alices.history),
        "shared history is for those who were away too"
    );
    assert_eq!(
        (bobs.notifications, carols.notifications),
        (1, 1),
        "what was said before they came back is not news"
    );
}
