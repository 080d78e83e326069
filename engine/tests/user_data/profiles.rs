use hearth_engine::profiles::{self, Profile, ProfileError};
use hearth_storage::profiles as stored;
use ruma::{owned_user_id, user_id};

use super::*;

impl Server {
    async fn set_field(&self, user: &Requester, field: &str, value: Value) -> Result<(), ProfileError> {
        profiles::set_field(&self.engine, user, &user.user_id, field, Some(value)).await
    }

    /// The profile of a user as the member event of a room has it, in the eyes of that user.
    async fn in_room(&self, user: &Requester, room_id: &RoomId) -> (Value, Value) {
        let content = self
            .state(user, room_id, "m.room.member", user.user_id.as_str())
            .await;
        assert_eq!(content["membership"], "join");
        (content["displayname"].clone(), content["avatar_url"].clone())
    }

    /// Waits until all rooms have been told of everything.
    async fn told(&self) {
        let mut under_way = profiles::watch_propagations(&self.engine);
        let told = under_way.wait_for(|count| *count == 0);
        tokio::time::timeout(Duration::from_secs(20), told)
            .await
            .unwrap()
            .unwrap();
        let mut connection = self.db.acquire().await.unwrap();
        assert_eq!(stored::propagations(&mut connection).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_profile_is_what_its_user_said_last() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    assert_eq!(profiles::get(&server.engine, &alice.user_id).await.unwrap(), []);
    let missing = profiles::get_field(&server.engine, &alice.user_id, "displayname").await;
    assert!(matches!(missing, Err(ProfileError::UnknownField)));

    server
        .set_field(&alice, "displayname", json!("Al"))
        .await
        .unwrap();
    server
        .set_field(&alice, "displayname", json!("Alice \u{0}"))
        .await
        .unwrap();
    server
        .set_field(&alice, "avatar_url", json!("mxc://example.org/face"))
        .await
        .unwrap();
    server
        .set_field(&alice, "org.example.pronouns", json!({ "en": ["she"] }))
        .await
        .unwrap();
    let expected = [
        ("avatar_url".to_owned(), json!("mxc://example.org/face")),
        ("displayname".to_owned(), json!("Alice \u{0}")),
        ("org.example.pronouns".to_owned(), json!({ "en": ["she"] })),
    ];
    assert_eq!(
        profiles::get(&server.engine, &alice.user_id).await.unwrap(),
        expected
    );
    assert_eq!(
        profiles::of(&server.engine, alice.user_nid).await.unwrap(),
        Profile {
            displayname: Some("Alice \u{0}".to_owned()),
            avatar_url: Some("mxc://example.org/face".to_owned())
        }
    );

    server.set_field(&alice, "displayname", json!("")).await.unwrap();
    profiles::delete_field(&server.engine, &alice, &alice.user_id, "avatar_url")
        .await
        .unwrap();
    profiles::delete_field(&server.engine, &alice, &alice.user_id, "avatar_url")
        .await
        .unwrap();
    assert_eq!(
        profiles::of(&server.engine, alice.user_nid).await.unwrap(),
        Profile::default()
    );
}

#[tokio::test]
async fn users_that_are_not_here_have_no_profile() {
    let server = Server::start().await;
    for stranger in [user_id!("@bob:example.org"), user_id!("@alice:elsewhere.org")] {
        let profile = profiles::get(&server.engine, stranger).await;
        assert!(matches!(profile, Err(ProfileError::UnknownUser)));
    }
}

#[tokio::test]
async fn what_can_be_no_field_is_refused() {
    let server = Server::start().await;
    let (alice, engine) = (server.user("alice").await, &server.engine);
    let others = owned_user_id!("@bob:example.org");
    let set = profiles::set_field(engine, &alice, &others, "displayname", Some(json!("Bob"))).await;
    assert!(matches!(set, Err(ProfileError::NotYours)));
    let deleted = profiles::delete_field(engine, &alice, &others, "displayname").await;
    assert!(matches!(deleted, Err(ProfileError::NotYours)));
    let without_value = profiles::set_field(engine, &alice, &alice.user_id, "displayname", None).await;
    assert!(matches!(without_value, Err(ProfileError::NoValue(_))));
    assert!(matches!(
        server.set_field(&alice, "pronouns", json!(1)).await,
        Err(ProfileError::BadField)
    ));
    let long = format!("org.{}", "x".repeat(252));
    assert!(matches!(
        server.set_field(&alice, &long, json!(1)).await,
        Err(ProfileError::FieldTooLong)
    ));
    server.set_field(&alice, &long[..255], json!(1)).await.unwrap();
}

#[tokio::test]
async fn a_whole_profile_stays_below_its_limit() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    server
        .set_field(&alice, "org.example.a", json!("x".repeat(40_000)))
        .await
        .unwrap();
    let too_large = server
        .set_field(&alice, "org.example.b", json!("x".repeat(30_000)))
        .await;
    assert!(matches!(too_large, Err(ProfileError::TooLarge)));
    // In place of what is there it fits.
    server
        .set_field(&alice, "org.example.a", json!("x".repeat(60_000)))
        .await
        .unwrap();
    let profile: serde_json::Map<String, Value> = profiles::get(&server.engine, &alice.user_id)
        .await
        .unwrap()
        .into_iter()
        .collect();
    let left = (64 << 10) - serde_json::to_string(&profile).unwrap().len();
    let filled = |length: usize| json!("x".repeat(length));
    // A comma, the name in quotes, a colon and two quotes around the value.
    let room = left - r#","org.example.b":"""#.len();
    assert!(matches!(
        server.set_field(&alice, "org.example.b", filled(room)).await,
        Err(ProfileError::TooLarge)
    ));
    server
        .set_field(&alice, "org.example.b", filled(room - 2))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_changed_name_reaches_every_room_and_the_last_one_stays() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let mut rooms = Vec::new();
    for _ in 0..12 {
        rooms.push(server.room_of(&alice, &bob).await);
    }
    server
        .set_field(&bob, "avatar_url", json!("mxc://example.org/bob"))
        .await
        .unwrap();
    for name in ["B", "Bo", "Bob", "Bobby", "Robert"] {
        server.set_field(&bob, "displayname", json!(name)).await.unwrap();
    }
    server.told().await;
    for room_id in &rooms {
        let expected = (json!("Robert"), json!("mxc://example.org/bob"));
        assert_eq!(server.in_room(&bob, room_id).await, expected);
        assert_eq!(server.in_room(&alice, room_id).await, (Value::Null, Value::Null));
    }

    server.set_field(&bob, "displayname", json!("")).await.unwrap();
    server.told().await;
    assert_eq!(
        server.in_room(&bob, &rooms[3]).await,
        (Value::Null, json!("mxc://example.org/bob"))
    );
}

#[tokio::test]
async fn who_has_left_is_not_brought_back_by_a_new_name() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let mut rooms = Vec::new();
    for _ in 0..10 {
        rooms.push(server.room_of(&alice, &bob).await);
    }
    server.set_field(&bob, "displayname", json!("Bob")).await.unwrap();
    // While the rooms are being told.
    for room_id in &rooms {
        server.leave(&bob, room_id).await;
    }
    server.told().await;
    for room_id in &rooms {
        let content = server
            .state(&alice, room_id, "m.room.member", bob.user_id.as_str())
            .await;
        assert_eq!(content["membership"], "leave");
    }
}

#[tokio::test]
async fn what_was_under_way_when_the_server_stopped_goes_on() {
    let mut server = Server::start().await;
    let alice = server.user("alice").await;
    let room_id = server.room(&alice).await;
    // As a server leaves it that is killed between the change and its way to the rooms.
    server.engine.shutdown.cancel();
    let mut transaction = server.db.begin().await.unwrap();
    stored::set_field(&mut transaction, alice.user_nid, "displayname", r#""Alice""#)
        .await
        .unwrap();
    stored::note_propagation(&mut transaction, alice.user_nid)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    server.engine = engine_on(&server.db).await;
    server
        .until(async || server.in_room(&alice, &room_id).await == (json!("Alice"), Value::Null))
        .await;
    server.told().await;
}

#[tokio::test]
async fn the_same_name_again_sends_nothing() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room_id = server.room(&alice).await;
    server
        .set_field(&alice, "displayname", json!("Alice"))
        .await
        .unwrap();
    server.told().await;
    let before = server.engine.log.head();
    server
        .set_field(&alice, "displayname", json!("Alice"))
        .await
        .unwrap();
    server.told().await;
    // What comes next is the next entry of the log.
    server.say(&alice, &room_id, "hello").await;
    assert_eq!(server.engine.log.head().position.0, before.position.0 + 1);
}

#[tokio::test]
async fn who_joins_brings_their_profile() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    server.set_field(&bob, "displayname", json!("Bob")).await.unwrap();
    let room_id = server.room_of(&alice, &bob).await;
    assert_eq!(server.in_room(&bob, &room_id).await, (json!("Bob"), Value::Null));
}
