//! What matrix-sdk keeps on the server for a user, and finds there from another device; and what it keeps of a room.

use std::time::Duration;

use hearth_tests::Server;
use matrix_sdk::{
    config::SyncSettings,
    deserialized_responses::TimelineEvent,
    ruma::{
        api::client::filter::FilterDefinition,
        events::tag::TagName,
        profile::{ProfileFieldName, ProfileFieldValue},
        uint,
    },
};
use serde_json::json;

use crate::{device::Device, line::line, sdk::Sdk};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_device_finds_tags_direct_rooms_and_ignored_users() {
    let server = Server::start().await;
    let alice = Sdk::register(&server.url(), "alice").await;
    let bob = Sdk::register(&server.url(), "bob").await;
    let direct = alice.create_direct_room(bob.user_id()).await;
    let public = bob.create_public_room("pub", "The pub", "Everything").await;
    alice.join(&public).await;
    alice.catch_up().await;
    alice
        .room(&direct)
        .set_is_favourite(true, Some(0.5))
        .await
        .expect("a favourite");
    alice
        .room(&public)
        .set_is_low_priority(true, None)
        .await
        .expect("no favourite");
    alice
        .room(&public)
        .set_unread_flag(true)
        .await
        .expect("a reminder");
    let ignored = bob.room(&public).own_user_id().to_owned();
    alice
        .client
        .account()
        .ignore_user(&ignored)
        .await
        .expect("silence");
    bob.say(&public, "unheard").await;

    let elsewhere = Sdk::login(&server.url(), alice.user_id()).await;
    elsewhere.catch_up().await;
    let [direct, public] = [&direct, &public].map(|room| elsewhere.room(room));
    assert!(direct.is_direct().await.expect("the store works"));
    assert_eq!(direct.direct_targets_length(), 1);
    assert!(!public.is_direct().await.expect("the store works"));
    assert!(direct.is_favourite() && !direct.is_low_priority());
    assert!(public.is_low_priority() && !public.is_favourite());
    assert!(public.is_marked_unread() && !direct.is_marked_unread());
    let tags = direct
        .tags()
        .await
        .expect("the store works")
        .expect("there is one");
    assert_eq!(tags[&TagName::Favorite].order, Some(0.5));
    assert!(elsewhere.client.is_user_ignored(&ignored).await);
    let view = elsewhere.view(public.room_id().as_str()).await;
    assert!(
        !view.history.iter().any(|line| line.contains("unheard")),
        "who is ignored says nothing: {:#?}",
        view.history
    );
    assert_eq!(view.notifications, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_has_what_its_user_says() {
    let server = Server::start().await;
    let alice = Sdk::register(&server.url(), "alice").await;
    let bob = Sdk::register(&server.url(), "bob").await;
    let account = alice.client.account();
    let pronouns = ProfileFieldValue::new("org.example.pronouns", json!(["she", "they"]));
    let pronouns = pronouns.expect("any JSON will do");
    account
        .set_display_name(Some("Alice"))
        .await
        .expect("one may be called anything");
    account
        .set_avatar_url(Some("mxc://example.org/alice".into()))
        .await
        .expect("a picture");
    account
        .set_profile_field(pronouns.clone())
        .await
        .expect("a field of one's own");
    let alice_id = alice.client.user_id().expect("she is logged in");
    let read = async || {
        let profile = bob.client.account().fetch_user_profile_of(alice_id).await;
        let profile = profile.expect("profiles are everybody's");
        profile
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<serde_json::Map<_, _>>()
    };
    assert_eq!(
        json!(read().await),
        json!({
            "displayname": "Alice",
            "avatar_url": "mxc://example.org/alice",
            "org.example.pronouns": ["she", "they"],
        })
    );
    let others = bob.client.account();
    let field = others.fetch_profile_field_of(
        alice_id.to_owned(),
        ProfileFieldName::from("org.example.pronouns"),
    );
    assert_eq!(
        field
            .await
            .expect("fields are everybody's")
            .map(|field| field.value().into_owned()),
        Some(json!(["she", "they"]))
    );
    account
        .delete_profile_field("org.example.pronouns".into())
        .await
        .expect("it is hers");
    account.set_avatar_url(None).await.expect("no picture");
    let profile = read().await;
    assert_eq!(profile["displayname"], "Alice");
    assert!(!profile.contains_key("org.example.pronouns"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_library_fills_its_memory_of_a_room_by_paging_back() {
    let server = Server::start().await;
    let alice = Sdk::register(&server.url(), "alice").await;
    let room = alice.create_public_room("pub", "The pub", "Everything").await;
    let mut said = Vec::new();
    for number in 0..40 {
        said.push(alice.say(&room, &format!("{number}")).await);
    }
    alice.edit(&room, &said[3], "three").await;
    alice.redact(&room, &said[4], "not four").await;
    alice.say_in_thread(&room, &said[5], "five").await;
    let whole = alice.view(&room).await;

    let elsewhere = Sdk::login(&server.url(), alice.user_id()).await;
    elsewhere.remember_events();
    let mut filter = FilterDefinition::with_lazy_loading();
    filter.room.timeline.limit = Some(uint!(4));
    let settings = SyncSettings::new().filter(filter.into()).timeout(Duration::ZERO);
    let first = elsewhere.client.sync_once(settings).await;
    let first = first.expect("syncing works");
    let id = elsewhere.room(&room).room_id().to_owned();
    assert!(first.rooms.joined[&id].timeline.limited);
    let (cache, _tasks) = elsewhere.room(&room).event_cache().await.expect("it is kept");
    let pagination = cache.pagination();
    let mut steps = 0;
    while !pagination
        .run_backwards_once(9)
        .await
        .expect("there is a page")
        .reached_start
    {
        steps += 1;
        assert!(steps < 20, "paging back has an end");
    }
    let kept = cache.events().await.expect("the store works");
    let ids: Vec<_> = kept.iter().filter_map(TimelineEvent::event_id).collect();
    let wanted: Vec<_> = whole
        .history
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(ids, wanted, "no event is missing, doubled or out of order");
    let kept: Vec<_> = kept.iter().map(line).collect();
    assert_eq!(kept, whole.history);
}
