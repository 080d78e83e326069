//! Presence as time goes by, which these tests own.

use std::sync::atomic::{AtomicI64, Ordering};

use hearth_engine::{
    Clock,
    presence::{self, State, connected},
    sync::{SyncRequest, sync},
};
use hearth_storage::presence as stored;
use ruma::{MilliSecondsSinceUnixEpoch, presence::PresenceState};

use super::*;

#[derive(Debug)]
struct HandClock(AtomicI64);

impl Clock for HandClock {
    fn now(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(self.0.load(Ordering::Relaxed).try_into().unwrap())
    }
}

struct Scene {
    server: Server,
    clock: Arc<HandClock>,
}

impl Scene {
    async fn set() -> Self {
        let db = TestDatabase::new().await.connect().await;
        Self::on(db, Arc::new(HandClock(AtomicI64::new(1_700_000_000_000)))).await
    }

    async fn on(db: Database, clock: Arc<HandClock>) -> Self {
        let mut config = Config::new(owned_server_name!("example.org"));
        config.registration.open = true;
        let key = SigningKey::from_seed("test", &[7; 32]).unwrap();
        let outside = Outside {
            clock: Arc::<HandClock>::clone(&clock),
            ..Outside::default()
        };
        let engine = Engine::start(config, db.clone(), key, outside).await.unwrap();
        Self {
            server: Server { engine, db },
            clock,
        }
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.server.engine
    }

    fn go_on(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds * 1_000, Ordering::Relaxed);
    }

    async fn state(&self, viewer: &Requester, of: &Requester) -> State {
        let shown = presence::get(self.engine(), viewer, &of.user_id).await.unwrap();
        shown.state
    }

    /// Syncs until the other's presence is told, after `since`: what it is, and the next token.
    async fn hears(&self, viewer: &Requester, of: &Requester, since: Option<String>) -> (Value, String) {
        let mut since = since;
        let wait = async {
            loop {
                let request = SyncRequest {
                    since: since.take(),
                    timeout: Duration::from_secs(10),
                    ..SyncRequest::default()
                };
                let response = sync(self.engine(), viewer, request).await.unwrap();
                let events = response.presence.events.iter();
                let mut events = events.map(|event| serde_json::from_str::<Value>(event.get()).unwrap());
                let told = events.find(|event| event["sender"] == of.user_id.as_str());
                if let Some(told) = told {
                    return (told["content"].clone(), response.next_batch);
                }
                since = Some(response.next_batch);
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait)
            .await
            .expect("it is told")
    }
}

#[tokio::test]
async fn five_minutes_without_activity_are_idle_and_half_a_minute_without_a_connection_offline() {
    let scene = Scene::set().await;
    let (alice, bob) = (scene.server.user("alice").await, scene.server.user("bob").await);
    let room_id = scene.server.room_of(&alice, &bob).await;
    let connection = connected(scene.engine(), &alice, Some(State::Online));
    let (told, since) = scene.hears(&bob, &alice, None).await;
    assert_eq!(
        (&told["presence"], &told["last_active_ago"]),
        (&json!("online"), &json!(0))
    );

    scene.go_on(299);
    assert_eq!(scene.state(&bob, &alice).await, State::Online);
    scene.go_on(1);
    assert_eq!(scene.state(&bob, &alice).await, State::Unavailable);
    let (told, since) = scene.hears(&bob, &alice, Some(since)).await;
    assert_eq!(
        told,
        json!({ "presence": "unavailable", "last_active_ago": 300_000 })
    );

    scene.server.say(&alice, &room_id, "hello").await;
    assert_eq!(scene.state(&bob, &alice).await, State::Online);
    let (told, since) = scene.hears(&bob, &alice, Some(since)).await;
    assert_eq!(told["currently_active"], true);

    scene.go_on(10);
    drop(connection);
    scene.go_on(29);
    assert_eq!(scene.state(&bob, &alice).await, State::Online);
    scene.go_on(1);
    let (told, _) = scene.hears(&bob, &alice, Some(since)).await;
    assert_eq!(told, json!({ "presence": "offline", "last_active_ago": 30_000 }));
}

#[tokio::test]
async fn a_user_is_stored_at_most_once_a_minute_and_at_the_end() {
    let scene = Scene::set().await;
    let alice = scene.server.user("alice").await;
    let state = PresenceState::Online;
    let stored = async || {
        let mut connection = scene.server.db.acquire().await.unwrap();
        let rows = stored::of_users(&mut connection, &[alice.user_nid])
            .await
            .unwrap();
        rows.into_iter().next().map(|row| row.last_active_at)
    };
    let until_stored = async |wanted: i64| {
        let wait = async {
            while stored().await != Some(wanted) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("it is stored");
    };
    let began = scene.engine().clock.now_ms();
    presence::set(scene.engine(), &alice, &alice.user_id, &state, None).unwrap();
    scene.go_on(5);
    until_stored(began).await;
    scene.go_on(20);
    presence::set(scene.engine(), &alice, &alice.user_id, &state, None).unwrap();
    let last = scene.engine().clock.now_ms();
    // Something that is told only after the keeper looked.
    let mut versions = scene.engine().presence.watch();
    presence::set(
        scene.engine(),
        &alice,
        &alice.user_id,
        &state,
        Some("x".to_owned()),
    )
    .unwrap();
    versions.changed().await.unwrap();
    assert_eq!(stored().await, Some(began));
    scene.go_on(60);
    until_stored(last).await;

    scene.go_on(10);
    presence::set(scene.engine(), &alice, &alice.user_id, &state, None).unwrap();
    let last = scene.engine().clock.now_ms();
    let Scene { server, clock } = scene;
    let Server { engine, db } = server;
    engine.stop().await;
    let again = Scene::on(db, clock).await;
    let shown = presence::get(again.engine(), &alice, &alice.user_id)
        .await
        .unwrap();
    assert_eq!(shown.last_active_at, Some(last));
}
