use hearth_engine::filters::{self, FilterError};
use ruma::{
    api::client::{filter::FilterDefinition, sync::sync_events::v3::Filter},
    user_id,
};

use super::*;

impl Server {
    async fn store(&self, user: &Requester, filter: &str) -> Result<String, FilterError> {
        filters::create(&self.engine, user, &user.user_id, filter).await
    }
}

#[tokio::test]
async fn a_filter_comes_back_whole_and_the_same_one_has_the_same_id() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let filter =
        r#"{"room": {"timeline": {"limit": 10}, "org.example.new": 1}, "event_fields": ["content.body"]}"#;
    let filter_id = server.store(&alice, filter).await.unwrap();
    let spelt_otherwise =
        r#"{"event_fields":["content.body"],"room":{"org.example.new":1,"timeline":{"limit":10}}}"#;
    assert_eq!(server.store(&alice, spelt_otherwise).await.unwrap(), filter_id);
    assert_ne!(server.store(&alice, "{}").await.unwrap(), filter_id);
    let stored = filters::get(&server.engine, &alice, &alice.user_id, &filter_id)
        .await
        .unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&stored).unwrap(),
        serde_json::from_str::<Value>(filter).unwrap()
    );
}

#[tokio::test]
async fn a_sync_finds_its_filter_also_after_a_restart() {
    let mut server = Server::start().await;
    let alice = server.user("alice").await;
    let filter_id = server
        .store(&alice, r#"{"room":{"timeline":{"limit":7}}}"#)
        .await
        .unwrap();
    server.engine.shutdown.cancel();
    server.engine = engine_on(&server.db).await;
    let by_id = Filter::FilterId(filter_id.clone());
    for _ in 0..2 {
        let filter = filters::resolve(&server.engine, &alice, Some(&by_id))
            .await
            .unwrap();
        assert_eq!(filter.room.timeline.limit, Some(7_u32.into()));
    }
    let bob = server.user("bob").await;
    assert!(
        filters::load(&server.engine, bob.user_nid, &filter_id)
            .await
            .unwrap()
            .is_none()
    );
    assert!(matches!(
        filters::resolve(&server.engine, &bob, Some(&by_id)).await,
        Err(FilterError::Unknown)
    ));
}

#[tokio::test]
async fn a_filter_may_be_given_whole_or_not_at_all() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let whole = Filter::FilterDefinition(FilterDefinition::ignore_all());
    let filter = filters::resolve(&server.engine, &alice, Some(&whole))
        .await
        .unwrap();
    assert_eq!(filter.room.rooms, Some(vec![]));
    assert!(
        filters::resolve(&server.engine, &alice, None)
            .await
            .unwrap()
            .is_empty()
    );
    let unreadable = Filter::FilterId(r#"{"room":5}"#.to_owned());
    assert!(matches!(
        filters::resolve(&server.engine, &alice, Some(&unreadable)).await,
        Err(FilterError::BadFilter(_))
    ));
}

#[tokio::test]
async fn what_is_no_filter_is_refused() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    for bad in [
        "[]",
        "{",
        r#"{"room":1}"#,
        r#"{"room":{"timeline":{"limit":-1}}}"#,
        r#"{"presence":{"limit":1.5}}"#,
    ] {
        assert!(
            matches!(server.store(&alice, bad).await, Err(FilterError::BadFilter(_))),
            "{bad}"
        );
    }
    let long = json!({ "event_fields": ["x".repeat(64 << 10)] }).to_string();
    assert!(matches!(
        server.store(&alice, &long).await,
        Err(FilterError::TooLarge)
    ));
    let others = filters::create(&server.engine, &alice, user_id!("@bob:example.org"), "{}").await;
    assert!(matches!(others, Err(FilterError::NotYours)));
    for unknown in ["", "1", "AAAAAAAAAAAAAAAAAAAAAA", "ä"] {
        let read = filters::get(&server.engine, &alice, &alice.user_id, unknown).await;
        assert!(matches!(read, Err(FilterError::Unknown)), "{unknown}");
    }
}

#[tokio::test]
async fn of_too_many_filters_the_oldest_go() {
    let server = Server::start().await;
    let (alice, mut connection) = (server.user("alice").await, server.db.acquire().await.unwrap());
    for (now, number) in [(1, 1_u8), (2, 2), (3, 3), (4, 1), (5, 4)] {
        hearth_storage::filters::store(&mut connection, alice.user_nid, &[number; 16], "{}", now, 2)
            .await
            .unwrap();
    }
    let mut left = Vec::new();
    for number in 1..=4_u8 {
        let found = hearth_storage::filters::find(&mut connection, alice.user_nid, &[number; 16])
            .await
            .unwrap();
        left.extend(found.map(|_| number));
    }
    // 1 was dropped for 3 and stored again, in place of 2.
    assert_eq!(left, [1, 4]);
}
