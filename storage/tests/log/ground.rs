//! What every test here stands on: a database, a committer on it, and rooms to send to.

use std::{
    ops::DerefMut,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use hearth_storage::{
    Connection, Database, DatabaseOptions, EventNid, KeyNid, NumberSource, Position, RoomNid, StateNid,
    Transaction, TypeNid, UserNid, interned,
    log::{
        self, Change, CommitError, Committed, Committer, CommitterStatus, Fact, HeadMove, InProcessTail,
        NewEvent, NewRoom, Outcome, Patience,
    },
    rooms,
    test_database::TestDatabase,
    users,
};

use sqlx::Connection as _;

use super::proxy::Proxy;

/// Longer than anything here takes, and short enough to tell which wait was in vain.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a committer would wait seconds for, it waits a moment for.
pub const HASTE: Patience = Patience {
    statement: Duration::from_millis(3000),
    away: Duration::from_millis(1500),
    idle: Duration::from_millis(300),
};

/// A database with a committer.
pub struct Ground {
    pub db: Database,
    pub tail: InProcessTail,
    pub committer: Committer,
    pub numbers: NumberSource,
    pub user: UserNid,
    pub message: TypeNid,
    pub topic: KeyNid,
    pub own: Option<TestDatabase>,
}

impl Ground {
    pub async fn new() -> Self {
        let own = TestDatabase::new().await;
        let db = own.connect().await;
        Self {
            own: Some(own),
            ..Self::on(&db, &db).await
        }
    }

    /// The committer, and only it, reaches the database through a proxy.
    pub async fn behind_proxy() -> (Self, Proxy) {
        let own = TestDatabase::new().await;
        let proxy = Proxy::start(&own.url).await;
        let options = DatabaseOptions {
            url: proxy.url.clone(),
            max_connections: 2,
        };
        let proxied = Database::connect(&options)
            .await
            .expect("the proxy passes everything on");
        let ground = Self::on(&own.connect().await, &proxied).await;
        (
            Self {
                own: Some(own),
                ..ground
            },
            proxy,
        )
    }

    /// The committer reaches the database another way than the test does.
    pub async fn on(db: &Database, committers: &Database) -> Self {
        let tail = InProcessTail::new(4096);
        let committer = Committer::start_with(committers, Arc::new(tail.clone()), HASTE)
            .await
            .expect("a committer starts");
        let mut connection = db.acquire().await.expect("the database answers");
        let user = users::intern(&mut connection, "@alice:example.org")
            .await
            .expect("a user is interned");
        let types = interned::intern_types(&mut connection, &["m.room.message", "m.room.topic"]).await;
        let [message, topic] = types.expect("types are interned")[..] else {
            panic!("two types have two numbers")
        };
        let keys = interned::intern_keys(&mut connection, &[(topic, "")])
            .await
            .expect("a key is interned");
        Self {
            db: db.clone(),
            tail,
            committer,
            numbers: db.numbers(),
            user,
            message,
            topic: keys[0],
            own: None,
        }
    }

    /// Drops the database. A test that fails leaves it for whoever wants to look.
    pub async fn end(self) {
        if let Some(own) = self.own {
            own.drop_now().await;
        }
    }

    /// A room with `m.room.create`, committed.
    pub async fn room(&self) -> Room {
        let mut room = self.uncommitted_room().await;
        let change = room.creation(self).await;
        self.committer.commit(change).await.expect("a room can be made");
        room
    }

    /// A room that is only a number yet.
    pub async fn uncommitted_room(&self) -> Room {
        let mut connection = self.connection().await;
        let nid = rooms::next_nid(&mut connection)
            .await
            .expect("a room has a number");
        Room { nid, sequence: 0 }
    }

    /// Queues a change without waiting for what becomes of it.
    pub async fn queue(&self, change: Change) -> Outcome {
        self.committer
            .reserve()
            .await
            .expect("the queue has a place")
            .queue(change)
    }

    /// Commits a change, as a client would that tries again while the database is away.
    pub async fn eventually_committed(&self, change: Change) -> Committed {
        let mut committed = None;
        self.eventually("a commit", async || {
            committed = self.committer.commit(change.clone()).await.ok();
            committed.is_some()
        })
        .await;
        committed.expect("it has just been committed")
    }

    /// A connection that lives: one that was killed just now may still be in the pool.
    pub async fn connection(&self) -> impl DerefMut<Target = Connection> {
        loop {
            let mut connection = self.db.acquire().await.expect("the database answers");
            if connection.ping().await.is_ok() {
                return connection;
            }
        }
    }

    /// The generation and the last position of the log, as the table has it.
    pub async fn head(&self) -> (i32, Position) {
        let mut connection = self.connection().await;
        log::head(&mut connection).await.expect("the log has a head")
    }

    pub async fn status(&self, wanted: CommitterStatus) {
        self.eventually("the committer's status", async || {
            self.committer.status() == wanted
        })
        .await;
    }

    /// Waits until `condition` holds.
    pub async fn eventually(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waited
            .await
            .unwrap_or_else(|_| panic!("{what} did not come to be"));
    }

    /// Keeps the committer from committing until the answer is dropped, and makes what is queued meanwhile one
    /// batch: a first change, which adds one position, is already under way.
    pub async fn hold(&self) -> Held {
        let mut lock = self.db.begin().await.expect("the database answers");
        sqlx::query("SELECT FROM log_head FOR UPDATE")
            .execute(&mut *lock)
            .await
            .expect("the fence can be held");
        let first = self.queue(Change::of(Fact::Account(self.user))).await;
        self.eventually("a commit that waits", async || {
            self.waits_for_lock("SELECT commit_batch%").await
        })
        .await;
        Held { lock, first }
    }

    /// Whether a statement like that waits for another transaction.
    pub async fn waits_for_lock(&self, statement: &str) -> bool {
        let mut connection = self.connection().await;
        let waits = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_stat_activity
                            WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1)",
        );
        waits
            .bind(statement)
            .fetch_one(&mut *connection)
            .await
            .expect("activity can be read")
    }

    /// The IDs of all live events in the order of their positions.
    pub async fn event_ids(&self) -> Vec<String> {
        let mut connection = self.connection().await;
        let events = hearth_storage::events::by_position(&mut connection, Position(0), Position(i64::MAX))
            .await
            .expect("events");
        events.into_iter().map(|stored| stored.event.event_id).collect()
    }

    /// How many transactions wrote the events there are.
    pub async fn transactions_of_events(&self) -> i64 {
        let mut connection = self.connection().await;
        let count =
            sqlx::query_scalar("SELECT count(DISTINCT xmin::text) FROM events WHERE position IS NOT NULL");
        count
            .fetch_one(&mut *connection)
            .await
            .expect("transactions can be counted")
    }

    /// Ends every backend that is committing or taking over, and says how many there were.
    pub async fn kill_committers(&self) -> i64 {
        let mut connection = self.connection().await;
        let killed = sqlx::query_scalar(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()
                 AND (query LIKE '%commit_batch%' OR query LIKE '%log_head%' OR query LIKE '%pg_type%')",
        );
        killed
            .fetch_one(&mut *connection)
            .await
            .expect("backends can be ended")
    }
}

/// See [`Ground::hold`].
pub struct Held {
    lock: Transaction,
    first: Outcome,
}

impl Held {
    /// Lets the committer go on.
    pub async fn release(self) -> Committed {
        let Self { lock, first } = self;
        drop(lock);
        settled(first).await.expect("the first change is sound")
    }
}

/// What became of a queued change.
pub async fn settled(outcome: Outcome) -> Result<Committed, CommitError> {
    tokio::time::timeout(PATIENCE, outcome)
        .await
        .expect("every caller is answered in time")
        .expect("the committer lives")
}

/// A room as its head in memory has it: the next change builds on it at once.
#[derive(Debug, Clone)]
pub struct Room {
    pub nid: RoomNid,
    pub sequence: i64,
}

impl Room {
    pub async fn creation(&mut self, ground: &Ground) -> Change {
        let room_id = format!("!{}:example.org", i64::from(self.nid));
        let new_room = NewRoom {
            room_nid: self.nid,
            room_id,
            room_version: "12".to_owned(),
            published: false,
        };
        Change {
            new_rooms: vec![new_room],
            ..self.send(ground).await
        }
    }

    /// A change that adds an event.
    pub async fn send(&mut self, ground: &Ground) -> Change {
        let event = self.event(ground, self.sequence + 1).await;
        self.change_of(Fact::Event(Arc::new(event), Vec::new()))
    }

    /// A change that moves the head by the event in `fact`.
    pub fn change_of(&mut self, fact: Fact) -> Change {
        let Fact::Event(event, _) = &fact else {
            panic!("only an event moves a head")
        };
        let head = self.head_to(event.sequence, event.event_nid);
        self.sequence = event.sequence;
        Change {
            heads: vec![head],
            facts: vec![fact],
            ..Change::default()
        }
    }

    pub fn head_to(&self, sequence: i64, event_nid: EventNid) -> HeadMove {
        HeadMove {
            room_nid: self.nid,
            sequence_before: self.sequence,
            state_before: None,
            sequence,
            forward_extremities: vec![event_nid],
            state_nid: StateNid::from(1),
        }
    }

    /// An event for that place in the room.
    pub async fn event(&self, ground: &Ground, sequence: i64) -> NewEvent {
        let event_nid = ground.numbers.events(1).await.expect("numbers are given")[0];
        NewEvent {
            event_nid,
            event_id: format!("$event{}:example.org", i64::from(event_nid)),
            room_nid: self.nid,
            sequence,
            type_nid: ground.message,
            key_nid: None,
            replaces: None,
            sender_nid: ground.user,
            state_after: StateNid::from(1),
            origin_server_ts: 1_700_000_000_000,
            pdu: "{\"content\":{\"body\":\"hello\"}}".into(),
            push_class: 0,
            transaction: None,
            auth_nids: Vec::new(),
            is_stored: false,
            after_gap: false,
        }
    }

    /// Where the room stands in the table.
    pub async fn stored_sequence(&self, db: &Database) -> i64 {
        let mut connection = db.acquire().await.expect("the database answers");
        let heads = rooms::heads(&mut connection, &[self.nid])
            .await
            .expect("heads can be read");
        heads.first().map_or(0, |head| head.sequence)
    }
}

/// The ID of the first event of a change.
pub fn event_id(change: &Change) -> String {
    let event = change.facts.iter().find_map(|fact| match fact {
        Fact::Event(event, _) => Some(event.event_id.clone()),
        _ => None,
    });
    event.expect("the change has an event")
}

/// A number that is random enough to mix things up and the same in every run.
pub struct Dice(AtomicI64);

impl Dice {
    pub fn new(seed: i64) -> Self {
        Self(AtomicI64::new(seed))
    }

    pub fn roll(&self, sides: i64) -> i64 {
        // SplitMix64.
        let state = self
            .0
            .fetch_add(0x9e37_79b9_7f4a_7c15_u64.cast_signed(), Ordering::Relaxed)
            .cast_unsigned();
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((mixed ^ (mixed >> 31)) >> 1).cast_signed()) % sides
    }
}
