use hearth_engine::account_data::{self, AccountDataError};
use ruma::{room_id, user_id};

use super::*;

#[tokio::test]
async fn account_data_is_what_was_set_last() {
    let server = Server::start().await;
    let (alice, engine) = (server.user("alice").await, &server.engine);
    let user_id = &alice.user_id;
    let missing = account_data::get_global(engine, &alice, user_id, "org.example").await;
    assert!(matches!(missing, Err(AccountDataError::NotSet)));
    for content in [r#"{"a":1}"#, r#"{"a":"\u0000","b":[1.5e3]}"#] {
        account_data::set_global(engine, &alice, user_id, "org.example", content)
            .await
            .unwrap();
        assert_eq!(
            &*account_data::get_global(engine, &alice, user_id, "org.example")
                .await
                .unwrap(),
            content
        );
    }
    let other_type = account_data::get_global(engine, &alice, user_id, "org.example.other").await;
    assert!(matches!(other_type, Err(AccountDataError::NotSet)));
}

#[tokio::test]
async fn rooms_have_account_data_of_their_own() {
    let server = Server::start().await;
    let (alice, bob, engine) = (
        server.user("alice").await,
        server.user("bob").await,
        &server.engine,
    );
    let (first, second) = (server.room_of(&alice, &bob).await, server.room(&alice).await);
    account_data::set_global(engine, &alice, &alice.user_id, "m.tag", r#"{"at":"global"}"#)
        .await
        .unwrap();
    account_data::set_room(
        engine,
        &alice,
        &alice.user_id,
        &first,
        "m.tag",
        r#"{"at":"first"}"#,
    )
    .await
    .unwrap();
    let of = |room_id| account_data::get_room(engine, &alice, &alice.user_id, room_id, "m.tag");
    assert_eq!(&*of(&first).await.unwrap(), r#"{"at":"first"}"#);
    assert!(matches!(of(&second).await, Err(AccountDataError::NotSet)));
    let of_bob = account_data::get_room(engine, &bob, &bob.user_id, &first, "m.tag").await;
    assert!(matches!(of_bob, Err(AccountDataError::NotSet)));
}

#[tokio::test]
async fn every_change_is_an_entry_of_the_log() {
    let server = Server::start().await;
    let (alice, engine) = (server.user("alice").await, &server.engine);
    let before = engine.log.head().position.0;
    for _ in 0..2 {
        account_data::set_global(engine, &alice, &alice.user_id, "org.example", "{}")
            .await
            .unwrap();
    }
    assert_eq!(engine.log.head().position.0, before + 2);
}

#[tokio::test]
async fn a_room_that_was_left_still_takes_account_data_and_a_strange_one_does_not() {
    let server = Server::start().await;
    let (alice, bob, engine) = (
        server.user("alice").await,
        server.user("bob").await,
        &server.engine,
    );
    let room_id = server.room_of(&alice, &bob).await;
    let set = |user, room_id| async move {
        let user: &Requester = user;
        account_data::set_room(engine, user, &user.user_id, room_id, "org.example", "{}").await
    };
    server.leave(&bob, &room_id).await;
    set(&bob, &room_id).await.unwrap();
    let carol = server.user("carol").await;
    assert!(matches!(
        set(&carol, &room_id).await,
        Err(AccountDataError::UnknownRoom)
    ));
    assert!(matches!(
        set(&carol, room_id!("!nowhere:example.org")).await,
        Err(AccountDataError::UnknownRoom)
    ));
    let read = account_data::get_room(
        engine,
        &carol,
        &carol.user_id,
        room_id!("!nowhere:example.org"),
        "org.example",
    )
    .await;
    assert!(matches!(read, Err(AccountDataError::NotSet)));
}

#[tokio::test]
async fn account_data_of_others_is_closed() {
    let server = Server::start().await;
    let (alice, engine) = (server.user("alice").await, &server.engine);
    let bob = user_id!("@bob:example.org");
    let set = account_data::set_global(engine, &alice, bob, "org.example", "{}").await;
    assert!(matches!(set, Err(AccountDataError::NotYours)));
    let read = account_data::get_global(engine, &alice, bob, "org.example").await;
    assert!(matches!(read, Err(AccountDataError::NotYours)));
    let managed = account_data::set_global(engine, &alice, &alice.user_id, "m.push_rules", "{}").await;
    assert!(matches!(managed, Err(AccountDataError::ServerManaged(_))));
}
