//! What users keep for themselves and tell of themselves, and aliases, on a real PostgreSQL: each test has a database
//! of its own.

mod account_data;
mod aliases;
mod filters;
mod ignored_users;
mod presence;
mod profiles;
mod profiles_elsewhere;
mod push_rules;
mod receipts;
mod typing;
mod unread;

use std::{sync::Arc, time::Duration};

use hearth_engine::{
    Config, Engine, Outside, SigningKey,
    accounts::{
        Requester, authenticate,
        register::{self, Registration},
    },
    rooms::{
        create::create_room,
        membership,
        read::state_event,
        send::{send_message, send_state},
    },
};
use hearth_storage::{Database, test_database::TestDatabase};
use ruma::{
    OwnedEventId, OwnedRoomId, RoomId,
    api::client::{
        room::create_room::v3::{Request, RoomPreset},
        uiaa,
    },
    events::TimelineEventType,
    owned_server_name,
};
use serde_json::{Value, json};

struct Server {
    engine: Arc<Engine>,
    db: Database,
}

impl Server {
    async fn start() -> Self {
        let test_database = TestDatabase::new().await;
        let db = test_database.connect().await;
        Self {
            engine: engine_on(&db).await,
            db,
        }
    }

    /// A user, on a device of theirs.
    async fn user(&self, username: &str) -> Requester {
        let registration = Registration {
            username: Some(username.to_owned()),
            password: Some("password".into()),
            ..Registration::default()
        };
        let auth = uiaa::AuthData::Dummy(uiaa::Dummy::new());
        let registered = register::register(&self.engine, registration, Some(&auth))
            .await
            .unwrap();
        authenticate(&self.engine, &registered.login.unwrap().access_token)
            .await
            .unwrap()
    }

    /// A room that anyone may join.
    async fn room(&self, creator: &Requester) -> OwnedRoomId {
        let mut request = Request::new();
        request.preset = Some(RoomPreset::PublicChat);
        create_room(&self.engine, creator, request).await.unwrap()
    }

    /// A room of two.
    async fn room_of(&self, creator: &Requester, other: &Requester) -> OwnedRoomId {
        let room_id = self.room(creator).await;
        self.join(other, &room_id).await;
        room_id
    }

    async fn join(&self, user: &Requester, room_id: &RoomId) {
        membership::join(&self.engine, user, room_id, &[], None)
            .await
            .unwrap();
    }

    async fn leave(&self, user: &Requester, room_id: &RoomId) {
        membership::leave(&self.engine, user, room_id, None)
            .await
            .unwrap();
    }

    async fn send(&self, user: &Requester, room_id: &RoomId, content: Value) -> OwnedEventId {
        let txn_id = self.engine.entropy.alphanumeric(12);
        let (event_type, content) = (TimelineEventType::RoomMessage, content.to_string());
        send_message(&self.engine, user, room_id, event_type, &txn_id, &content)
            .await
            .unwrap()
    }

    async fn say(&self, user: &Requester, room_id: &RoomId, text: &str) -> OwnedEventId {
        self.send(user, room_id, json!({ "msgtype": "m.text", "body": text }))
            .await
    }

    async fn set_state(&self, user: &Requester, room_id: &RoomId, event_type: &str, content: Value) {
        let content = content.to_string();
        send_state(&self.engine, user, room_id, event_type.into(), "", &content)
            .await
            .unwrap();
    }

    async fn state(&self, user: &Requester, room_id: &RoomId, event_type: &str, state_key: &str) -> Value {
        let event = state_event(&self.engine, user, room_id, event_type, state_key)
            .await
            .unwrap();
        serde_json::from_str(event.content.get()).unwrap()
    }

    /// Waits until something holds that the log may change.
    async fn until(&self, holds: impl AsyncFn() -> bool) {
        let mut log = self.engine.log.watch();
        let wait = async {
            while !holds().await {
                log.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("it comes to hold");
    }
}

async fn engine_on(db: &Database) -> Arc<Engine> {
    let mut config = Config::new(owned_server_name!("example.org"));
    config.registration.open = true;
    let key = SigningKey::from_seed("test", &[7; 32]).unwrap();
    Engine::start(config, db.clone(), key, Outside::default())
        .await
        .unwrap()
}
