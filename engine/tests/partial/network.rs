//! Three servers in one process, and a network between them that a test holds up where it likes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display},
    sync::Arc,
};

use futures_util::future::{BoxFuture, FutureExt as _, ready};
use hearth_engine::{
    Config, Engine, Outside, SigningKey,
    federation::{self, send_transaction_message},
    outgoing,
    remote::{Asked, KeysWanted, Large, RemoteError, RemoteServers},
};
use hearth_storage::{Database, test_database::TestDatabase};
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, OwnedServerName, ServerName,
    api::federation::{
        authorization::get_event_authorization::v1 as event_auth,
        backfill::get_backfill::v1 as backfill,
        event::{
            get_event::v1 as event, get_missing_events::v1 as missing_events, get_room_state::v1 as state,
            get_room_state_ids::v1 as state_ids,
        },
        membership::{
            create_join_event::v2 as send_join, create_leave_event::v2 as send_leave,
            prepare_join_event::v1 as make_join, prepare_leave_event::v1 as make_leave,
        },
        transactions::send_transaction_message::v1 as send_transaction,
    },
    room_version_rules::RedactionRules,
    serde::Base64,
    signatures::{PublicKeyMap, hash_and_sign_event},
};
use serde_json::value::RawValue;
use tokio::sync::watch;

pub const NAMES: [&str; 3] = ["a.example", "b.example", "c.example"];

/// What all servers hang on.
pub struct Network {
    engines: Mutex<BTreeMap<OwnedServerName, Arc<Engine>>>,
    keys: PublicKeyMap,
    /// The servers that tell no state now: whoever asks waits.
    silent: watch::Sender<BTreeSet<OwnedServerName>>,
    /// The servers that answer nothing.
    down: watch::Sender<BTreeSet<OwnedServerName>>,
    /// Who was asked for states.
    pub asked: Mutex<Vec<OwnedServerName>>,
}

/// Servers that share rooms.
pub struct Servers {
    pub databases: Vec<Database>,
    owned: Vec<TestDatabase>,
    pub network: Arc<Network>,
}

fn key(index: usize) -> SigningKey {
    let seed = [u8::try_from(index).unwrap() + 1; 32];
    SigningKey::from_seed("1", &seed).unwrap()
}

pub fn name(index: usize) -> OwnedServerName {
    ServerName::parse(NAMES[index]).unwrap()
}

impl Servers {
    pub async fn start() -> Self {
        let public = |key: SigningKey| {
            BTreeMap::from([(key.id().to_string(), Base64::new(key.public_key().to_vec()))])
        };
        let keys = (0..NAMES.len()).map(|index| (NAMES[index].to_owned(), public(key(index))));
        let network = Arc::new(Network {
            engines: Mutex::default(),
            keys: keys.collect(),
            silent: watch::Sender::default(),
            down: watch::Sender::default(),
            asked: Mutex::default(),
        });
        let (mut databases, mut owned) = (Vec::new(), Vec::new());
        for _ in NAMES {
            let database = TestDatabase::new().await;
            databases.push(database.connect().await);
            owned.push(database);
        }
        let servers = Self {
            databases,
            owned,
            network,
        };
        for index in 0..NAMES.len() {
            servers.run(index).await;
        }
        servers
    }

    /// Starts a server on its database.
    pub async fn run(&self, index: usize) {
        let mut config = Config::new(name(index));
        config.registration.open = true;
        config.rate_limits.enabled = false;
        let line = Line {
            network: Arc::clone(&self.network),
            own: name(index),
        };
        let outside = Outside {
            remote: Arc::new(line),
            ..Outside::default()
        };
        let db = self.databases[index].clone();
        let engine = Engine::start(config, db, key(index), outside).await.unwrap();
        self.network
            .engines
            .lock()
            .insert(name(index), Arc::clone(&engine));
        tokio::spawn(send_all(engine, Arc::clone(&self.network)));
    }

    /// Ends a server and starts it anew, as it would be after it was killed: nothing is left but its database.
    pub async fn restart(&self, index: usize) {
        let engine = self.network.engines.lock().remove(&name(index)).unwrap();
        engine.stop().await;
        self.run(index).await;
    }

    pub fn engine(&self, index: usize) -> Arc<Engine> {
        Arc::clone(self.network.engines.lock().get(&name(index)).unwrap())
    }

    /// Has servers tell no state, and the others all.
    pub fn silence(&self, indices: &[usize]) {
        let silent = indices.iter().map(|index| name(*index)).collect();
        self.network.silent.send_replace(silent);
    }

    /// Has a server answer nothing, or answer again.
    pub fn set_down(&self, index: usize, is_down: bool) {
        self.network.down.send_modify(|down| match is_down {
            true => drop(down.insert(name(index))),
            false => drop(down.remove(&name(index))),
        });
    }

    /// A PDU of a server, hashed and signed, as it would send it.
    pub fn signed(
        &self,
        index: usize,
        mut pdu: CanonicalJsonObject,
        rules: &RedactionRules,
    ) -> Box<RawValue> {
        hash_and_sign_event(NAMES[index], key(index).pair(), &mut pdu, rules).unwrap();
        RawValue::from_string(serde_json::to_string(&pdu).unwrap()).unwrap()
    }

    /// Hands a PDU of one server to another.
    pub async fn hand(&self, from: usize, to: usize, pdu: Box<RawValue>) {
        let txn_id = format!("{}", pdu.get().len());
        let now = MilliSecondsSinceUnixEpoch::now();
        let mut request = send_transaction::Request::new(txn_id.as_str().into(), name(from), now);
        request.pdus = vec![pdu];
        send_transaction_message(&self.engine(to), &name(from), request)
            .await
            .unwrap();
    }

    pub async fn end(self) {
        let Self {
            databases,
            owned,
            network,
        } = self;
        let engines = std::mem::take(&mut *network.engines.lock());
        engines.values().for_each(|engine| engine.shutdown.cancel());
        network.silent.send_replace(BTreeSet::new());
        drop((engines, databases, network));
        for database in owned {
            database.drop_now().await;
        }
    }
}

impl Network {
    fn reach(&self, server: &ServerName) -> Result<Arc<Engine>, RemoteError> {
        let is_down = self.down.borrow().contains(server);
        let engine = self.engines.lock().get(server).filter(|_| !is_down).cloned();
        engine.ok_or_else(|| RemoteError::Unreachable {
            reason: "it is down".to_owned(),
            retry_after: None,
        })
    }

    /// A server that is asked for a state, once it tells any.
    async fn told_by(&self, server: &ServerName) -> Result<Arc<Engine>, RemoteError> {
        self.reach(server)?;
        self.asked.lock().push(server.to_owned());
        let mut silent = self.silent.subscribe();
        silent.wait_for(|silent| !silent.contains(server)).await.ok();
        self.reach(server)
    }
}

async fn send_all(engine: Arc<Engine>, network: Arc<Network>) {
    let mut due = outgoing::begin(&engine, |_| true).await.unwrap();
    let shutdown = engine.shutdown.clone();
    while let Some(Some(server)) = shutdown.run_until_cancelled(due.next()).await {
        tokio::spawn(send_to(Arc::clone(&engine), Arc::clone(&network), server));
    }
}

async fn send_to(engine: Arc<Engine>, network: Arc<Network>, server: OwnedServerName) {
    let own = &engine.config.server_name;
    while !engine.shutdown.is_cancelled() {
        if let Some(batch) = outgoing::next(&engine, &server).await.unwrap() {
            let now = MilliSecondsSinceUnixEpoch::now();
            let mut request = send_transaction::Request::new(batch.txn_id.as_str().into(), own.clone(), now);
            request.pdus = batch.pdus.clone();
            loop {
                if let Ok(other) = network.reach(&server) {
                    send_transaction_message(&other, own, request).await.unwrap();
                    break;
                }
                let mut down = network.down.subscribe();
                let up = down.wait_for(|down| !down.contains(&server));
                if engine.shutdown.run_until_cancelled(up).await.is_none() {
                    return;
                }
            }
            outgoing::delivered(&engine, &server, batch);
        } else if outgoing::rest(&engine, &server) {
            return;
        }
    }
}

/// The network as one server sees it.
struct Line {
    network: Arc<Network>,
    own: OwnedServerName,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

fn refused(error: impl Display) -> RemoteError {
    RemoteError::Refused {
        status: 404,
        errcode: "M_NOT_FOUND".to_owned(),
        error: error.to_string(),
        body: None,
    }
}

/// An answer as it is.
type Small<T> = T;

macro_rules! answer {
    ($reach:ident $answer:ident: $($name:ident)*) => {
        $(
            fn $name<'a>(
                &'a self,
                server: &'a ServerName,
                request: $name::Request,
            ) -> Asked<'a, $answer<$name::Response>> {
                async move {
                    let other = answer!(@$reach self, server);
                    let answer = federation::$name(&other, &self.own, request).await;
                    answer.map($answer::from).map_err(refused)
                }
                .boxed()
            }
        )*
    };
    (@at_once $self:ident, $server:ident) => { $self.network.reach($server)? };
    (@if_it_tells $self:ident, $server:ident) => { $self.network.told_by($server).await? };
}

impl RemoteServers for Line {
    fn public_keys<'a>(&'a self, _: &'a KeysWanted) -> BoxFuture<'a, PublicKeyMap> {
        ready(self.network.keys.clone()).boxed()
    }

    fn is_reachable(&self, server: &ServerName) -> bool {
        !self.network.down.borrow().contains(server)
    }

    answer! { at_once Small: event_auth backfill event missing_events make_join make_leave send_leave }
    answer! { at_once Large: send_join }
    answer! { if_it_tells Large: state state_ids }
}
