//! matrix-sdk counts by itself what is unread, from the events and the push rules that it has: the server has to come to
//! the same.

use hearth_tests::{PATIENCE, Server};
use matrix_sdk::{
    notification_settings::RoomNotificationMode,
    ruma::{
        api::client::receipt::create_receipt::v3::ReceiptType,
        events::{Mentions, receipt::ReceiptThread, room::message::RoomMessageEventContent},
    },
};
use tokio::time::timeout;

use crate::{device::Device, sdk::Sdk};

/// Syncs until the library has counted as the server did: notifications and highlights.
async fn counted(reader: &Sdk, room_id: &str) -> (u64, u64) {
    reader.catch_up().await;
    let room = reader.room(room_id);
    let of_server = room.unread_notification_counts();
    let of_server = (of_server.notification_count, of_server.highlight_count);
    let of_library = || (room.num_unread_notifications(), room.num_unread_mentions());
    // It counts in a task of its own, after the sync.
    let mut changes = room.subscribe_info();
    let counting = async {
        while of_library() != of_server {
            changes.next().await.expect("the library goes on");
        }
    };
    let counted = timeout(PATIENCE, counting).await;
    assert!(
        counted.is_ok(),
        "the server counts {of_server:?}, the library {:?}",
        of_library()
    );
    of_server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn matrix_sdk_counts_as_the_server_does() {
    let server = Server::start().await;
    let alice = Sdk::register(&server.url(), "alice").await;
    let bob = Sdk::register(&server.url(), "bob").await;
    let carol = Sdk::register(&server.url(), "carol").await;
    alice.remember_events();
    alice.catch_up().await;
    let room = bob.create_public_room("pub", "The pub", "Everything").await;
    bob.say(&room, "before Alice came").await;
    for person in [&carol, &alice] {
        person.join(&room).await;
        person.catch_up().await;
    }
    assert_eq!(counted(&alice, &room).await, (0, 0), "nothing since the join");

    let plain = bob.say(&room, "plain").await;
    assert_eq!(counted(&alice, &room).await, (1, 0));
    bob.edit(&room, &plain, "plainer").await;
    carol.react(&room, &plain, "👍").await;
    bob.set_topic(&room, "Nothing").await;
    assert_eq!(counted(&alice, &room).await, (1, 0), "none of these notifies");
    let mention = carol.say_to(&room, "Alice!", &[alice.user_id()]).await;
    carol.say_to(&room, "Bob!", &[bob.user_id()]).await;
    assert_eq!(counted(&alice, &room).await, (3, 1));
    let everyone =
        RoomMessageEventContent::text_plain("everyone").add_mentions(Mentions::with_room_mention());
    for speaker in [&bob, &carol] {
        let sent = speaker.room(&room).send(everyone.clone()).await;
        sent.expect("anybody may say so");
    }
    assert_eq!(
        counted(&alice, &room).await,
        (5, 2),
        "Carol has not the power to mention the room"
    );
    let aside = bob.say_in_thread(&room, &plain, "an aside").await;
    assert_eq!(counted(&alice, &room).await, (6, 2), "threads are unread too");

    let read = |event_id: &str, receipt_type, thread| {
        let (room, event_id) = (alice.room(&room), event_id.try_into().expect("an event ID"));
        async move {
            let sent = room.send_single_receipt(receipt_type, thread, event_id).await;
            sent.expect("a member may read");
        }
    };
    read(&plain, ReceiptType::Read, ReceiptThread::Unthreaded).await;
    assert_eq!(counted(&alice, &room).await, (5, 2));
    read(&mention, ReceiptType::ReadPrivate, ReceiptThread::Unthreaded).await;
    assert_eq!(
        counted(&alice, &room).await,
        (4, 1),
        "the later of both receipts counts"
    );
    read(&aside, ReceiptType::Read, ReceiptThread::Unthreaded).await;
    assert_eq!(counted(&alice, &room).await, (0, 0));
    bob.say(&room, "more").await;
    assert_eq!(counted(&alice, &room).await, (1, 0));
    alice.say(&room, "I am here").await;
    assert_eq!(counted(&alice, &room).await, (0, 0), "who speaks has read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn matrix_sdk_sets_push_rules_and_counts_by_them() {
    let server = Server::start().await;
    let alice = Sdk::register(&server.url(), "alice").await;
    let bob = Sdk::register(&server.url(), "bob").await;
    alice.remember_events();
    alice.catch_up().await;
    let room = bob.create_public_room("pub", "The pub", "Everything").await;
    alice.join(&room).await;
    alice.catch_up().await;

    let settings = alice.client.notification_settings().await;
    settings.add_keyword("cake".to_owned()).await.expect("a keyword");
    alice.catch_up().await;
    bob.say(&room, "there is cake").await;
    bob.say(&room, "there are pancakes").await;
    assert_eq!(counted(&alice, &room).await, (2, 0), "all notifies");

    let room_id = alice.room(&room).room_id().to_owned();
    let only_mentions = RoomNotificationMode::MentionsAndKeywordsOnly;
    let set = settings.set_room_notification_mode(&room_id, only_mentions).await;
    set.expect("a mode");
    alice.say(&room, "I read this").await;
    alice.catch_up().await;
    bob.say(&room, "nothing for you").await;
    bob.say(&room, "pancakes are none").await;
    bob.say(&room, "but for this cake").await;
    bob.say_to(&room, "Alice!", &[alice.user_id()]).await;
    assert_eq!(counted(&alice, &room).await, (2, 1), "a keyword is a whole word");

    let set = settings
        .set_room_notification_mode(&room_id, RoomNotificationMode::Mute)
        .await;
    set.expect("a mode");
    alice.say(&room, "I read this too").await;
    alice.catch_up().await;
    bob.say_to(&room, "Alice! Cake!", &[alice.user_id()]).await;
    assert_eq!(counted(&alice, &room).await, (0, 0));

    let elsewhere = Sdk::login(&server.url(), alice.user_id()).await;
    elsewhere.catch_up().await;
    let settings = elsewhere.client.notification_settings().await;
    assert_eq!(
        settings.enabled_keywords().await.into_iter().collect::<Vec<_>>(),
        ["cake"]
    );
    let mode = settings.get_user_defined_room_notification_mode(&room_id).await;
    assert_eq!(
        mode,
        Some(RoomNotificationMode::Mute),
        "other devices have the rules too"
    );
}
