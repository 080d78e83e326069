//! Rooms and sync, on a real PostgreSQL: what clients come to know is compared with what the tables say, through
//! restarts, eviction, faults and concurrency.

mod checked;
mod client;
mod dice;
mod failover;
mod follower;
mod heads;
mod old_servers;
mod outages;
mod people;
mod redactions;
mod relations;
mod spaces;
mod states;
mod synced;
mod told;
mod truth;
mod visibility;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hearth_engine::{
    Config, Engine, Outside, SigningKey,
    accounts::{
        Requester, authenticate,
        login::login,
        logins::DeviceRequest,
        register::{self, Registration},
    },
    rooms::{
        create::create_room,
        membership,
        messages::{PageRequest, messages},
        read,
        send::{self, SendMessageError},
    },
    sync::{SyncRequest, sync},
};
use hearth_storage::{Database, Position, log::LogTail, test_database::TestDatabase};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, RoomId,
    api::{
        Direction,
        client::{
            room::create_room::v3::Request as CreateRequest, session::login::v3::LoginInfo,
            sync::sync_events::v3::Filter, uiaa,
        },
    },
    events::{StateEventType, TimelineEventType},
    owned_server_name,
};
use serde_json::{Value, json};
use truth::Truth;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
const PASSWORD: &str = "password";
/// What was delivered to whom.
const DELIVERED: &str = "chat.hearth.delivered";

struct Server {
    engine: Arc<Engine>,
    db: Database,
    database: TestDatabase,
    room_memory_bytes: u64,
}

impl Server {
    async fn start() -> Self {
        Self::with_memory(256 << 20).await
    }

    /// A server that keeps this much of rooms and events in memory.
    async fn with_memory(room_memory_bytes: u64) -> Self {
        let database = TestDatabase::new().await;
        let db = database.connect().await;
        let engine = engine_on(&db, room_memory_bytes, Outside::default()).await;
        Self {
            engine,
            db,
            database,
            room_memory_bytes,
        }
    }

    async fn with_tail(tail: Arc<dyn LogTail>) -> Self {
        let database = TestDatabase::new().await;
        let db = database.connect().await;
        let engine = engine_on(
            &db,
            256 << 20,
            Outside {
                tail,
                ..Outside::default()
            },
        )
        .await;
        Self {
            engine,
            db,
            database,
            room_memory_bytes: 256 << 20,
        }
    }

    /// Another engine on the same database, which takes over and knows nothing yet.
    async fn another_engine(&self) -> Arc<Engine> {
        engine_on(&self.db, self.room_memory_bytes, Outside::default()).await
    }

    /// A new engine in place of the one there was, which ends.
    async fn restart(&mut self) {
        self.engine.shutdown.cancel();
        self.engine = self.another_engine().await;
    }

    /// Drops the database. A test that fails leaves it for whoever wants to look.
    async fn end(self) {
        self.engine.shutdown.cancel();
        let Self {
            engine, db, database, ..
        } = self;
        drop((engine, db));
        database.drop_now().await;
    }

    /// A user, on a device of theirs.
    async fn user(&self, username: &str) -> Requester {
        let registration = Registration {
            username: Some(username.to_owned()),
            password: Some(PASSWORD.into()),
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

    /// A user whom [`Server::user`] made, on another device.
    async fn another_device(&self, username: &str) -> Requester {
        let info = json!({
            "type": "m.login.password", "identifier": { "type": "m.id.user", "user": username }, "password": PASSWORD,
        });
        let info: LoginInfo = serde_json::from_value(info).unwrap();
        let login = login(&self.engine, info, DeviceRequest::default()).await.unwrap();
        authenticate(&self.engine, &login.access_token).await.unwrap()
    }

    async fn create(&self, creator: &Requester, request: Value) -> OwnedRoomId {
        create_room(&self.engine, creator, create_request(request))
            .await
            .unwrap()
    }

    /// A room that anyone may join.
    async fn room(&self, creator: &Requester) -> OwnedRoomId {
        self.create(creator, json!({ "preset": "public_chat" })).await
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

    async fn invite(&self, user: &Requester, room_id: &RoomId, whom: &Requester) {
        membership::invite(&self.engine, user, room_id, &whom.user_id, None)
            .await
            .unwrap();
    }

    async fn say(&self, user: &Requester, room_id: &RoomId, text: &str) -> OwnedEventId {
        say(
            &self.engine,
            user,
            room_id,
            text,
            &self.engine.entropy.alphanumeric(12),
        )
        .await
        .unwrap()
    }

    async fn set_state(
        &self,
        user: &Requester,
        room_id: &RoomId,
        event_type: &str,
        state_key: &str,
        content: Value,
    ) -> OwnedEventId {
        set_state(&self.engine, user, room_id, event_type, state_key, content)
            .await
            .unwrap()
    }

    async fn redact(&self, user: &Requester, room_id: &RoomId, event_id: &EventId) -> OwnedEventId {
        let txn_id = self.engine.entropy.alphanumeric(12);
        send::redact(&self.engine, user, room_id, event_id, &txn_id, Some("no reason"))
            .await
            .unwrap()
    }

    /// What the tables say of all rooms.
    async fn truth(&self) -> Truth {
        Truth::read(&self.db).await
    }

    /// The last position of the log, by its table.
    async fn log_end(&self) -> (i32, Position) {
        let mut connection = self.db.acquire().await.unwrap();
        hearth_storage::log::head(&mut connection).await.unwrap()
    }
}

async fn engine_on(db: &Database, room_memory_bytes: u64, outside: Outside) -> Arc<Engine> {
    let mut config = Config::new(owned_server_name!("example.org"));
    config.registration.open = true;
    config.room_memory_bytes = room_memory_bytes;
    let key = SigningKey::from_seed("test", &[7; 32]).unwrap();
    Engine::start(config, db.clone(), key, outside).await.unwrap()
}

fn create_request(request: Value) -> CreateRequest {
    // ruma's request is no serde type; its body is that of the endpoint.
    let text = |key: &str| request.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
    let mut out = CreateRequest::new();
    out.preset = text("preset").map(Into::into);
    out.name = text("name");
    out.room_version = text("room_version").map(|version| version.try_into().unwrap());
    let list = |key: &str| {
        request
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    out.invite = list("invite")
        .iter()
        .map(|user_id| user_id.as_str().unwrap().try_into().unwrap())
        .collect();
    out.initial_state = list("initial_state")
        .into_iter()
        .map(|event| serde_json::from_value(event).unwrap())
        .collect();
    out
}

async fn say(
    engine: &Arc<Engine>,
    user: &Requester,
    room_id: &RoomId,
    text: &str,
    txn_id: &str,
) -> Result<OwnedEventId, SendMessageError> {
    let content = json!({ "msgtype": "m.text", "body": text }).to_string();
    send::send_message(
        engine,
        user,
        room_id,
        TimelineEventType::RoomMessage,
        txn_id,
        &content,
    )
    .await
}

async fn set_state(
    engine: &Arc<Engine>,
    user: &Requester,
    room_id: &RoomId,
    event_type: &str,
    state_key: &str,
    content: Value,
) -> Result<OwnedEventId, SendMessageError> {
    let event_type = StateEventType::from(event_type);
    send::send_state(engine, user, room_id, event_type, state_key, &content.to_string()).await
}

/// A sync as a client sees it. Without a time-out unless `timeout` says otherwise.
async fn sync_json(
    engine: &Arc<Engine>,
    requester: &Requester,
    since: Option<&str>,
    filter: Value,
    change: impl FnOnce(&mut SyncRequest),
) -> Result<Value, String> {
    let mut request = SyncRequest {
        since: since.map(ToOwned::to_owned),
        filter: Some(Filter::FilterDefinition(serde_json::from_value(filter).unwrap())),
        ..SyncRequest::default()
    };
    change(&mut request);
    let response = sync(engine, requester, request)
        .await
        .map_err(|error| format!("{error:?}"))?;
    Ok(serde_json::to_value(&response).unwrap())
}

/// A page of history: the events, and where the next page begins.
async fn page(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    (from, to): (Option<&str>, Option<&str>),
    direction: Direction,
    limit: usize,
) -> Result<(Vec<Value>, Option<String>), String> {
    let filter = Default::default();
    let request = PageRequest {
        from,
        to,
        direction,
        limit,
        filter: &filter,
    };
    let page = messages(engine, requester, room_id, request)
        .await
        .map_err(|error| format!("{error:?}"))?;
    let events = page
        .chunk
        .iter()
        .map(|event| serde_json::from_str(event.get()).unwrap())
        .collect();
    Ok((events, page.end.map(|end| end.to_string())))
}

/// All of the history that a user may see, oldest first, in pages of `limit`.
async fn history(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    limit: usize,
) -> Result<Vec<Value>, String> {
    let (mut all, mut from) = (Vec::new(), None);
    loop {
        let range = (from.as_deref(), None);
        let (events, end) = page(engine, requester, room_id, range, Direction::Forward, limit).await?;
        all.extend(events);
        match end {
            Some(end) => from = Some(end),
            None => return Ok(all),
        }
    }
}

/// The whole state that a user may read: event IDs by type and key.
async fn state_ids(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
) -> Result<truth::StateIds, String> {
    let state = read::state(engine, requester, room_id)
        .await
        .map_err(|error| format!("{error:?}"))?;
    let state = state
        .iter()
        .map(|event| serde_json::from_str::<Value>(event.get()).unwrap());
    Ok(state
        .map(|event| (truth::key_of(&event).unwrap(), id_of(&event)))
        .collect())
}

fn id_of(event: &Value) -> String {
    event["event_id"].as_str().unwrap().to_owned()
}

fn ids_of(events: &[Value]) -> Vec<String> {
    events.iter().map(id_of).collect()
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("{what} did not come to be"));
}

/// Runs `work`, which must be over within `limit`.
async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let result = tokio::time::timeout(limit, work).await;
    result.unwrap_or_else(|_| panic!("it is still not done after {:?}", started.elapsed()))
}
