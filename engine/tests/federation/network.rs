//! Servers in one process, and a network between them that does what networks do, by a seed: it loses, repeats and
//! reorders, and now and then it is cut.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    sync::{Arc, OnceLock},
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
    MilliSecondsSinceUnixEpoch, OwnedServerName, ServerName,
    api::federation::{
        authorization::get_event_authorization::v1 as event_auth,
        backfill::get_backfill::v1 as backfill,
        event::{
            get_event::v1 as event, get_missing_events::v1 as missing_events, get_room_state::v1 as state,
            get_room_state_ids::v1 as state_ids,
        },
        membership::{
            create_invite::v2 as invite, create_join_event::v2 as send_join,
            create_leave_event::v2 as send_leave, prepare_join_event::v1 as make_join,
            prepare_leave_event::v1 as make_leave,
        },
        transactions::send_transaction_message::v1 as send_transaction,
    },
    serde::Base64,
    signatures::PublicKeyMap,
};
use serde_json::value::RawValue;
use tokio::sync::watch;

use crate::dice::Dice;

const NAMES: [&str; 3] = ["a.example", "b.example", "c.example"];

/// What all servers hang on.
pub struct Network {
    engines: OnceLock<BTreeMap<OwnedServerName, Arc<Engine>>>,
    keys: PublicKeyMap,
    dice: Mutex<Dice>,
    /// Whether servers can't reach each other.
    cut: watch::Sender<bool>,
}

/// Servers that share rooms.
pub struct Servers {
    pub engines: Vec<Arc<Engine>>,
    pub databases: Vec<Database>,
    owned: Vec<TestDatabase>,
    network: Arc<Network>,
}

impl Servers {
    pub async fn start(seed: u64) -> Self {
        let seeds: Vec<[u8; 32]> = (1..).take(NAMES.len()).map(|seed| [seed; 32]).collect();
        let keys: Vec<SigningKey> = seeds
            .iter()
            .map(|seed| SigningKey::from_seed("1", seed).unwrap())
            .collect();
        let public = |key: &SigningKey| {
            BTreeMap::from([(key.id().to_string(), Base64::new(key.public_key().to_vec()))])
        };
        let network = Arc::new(Network {
            engines: OnceLock::new(),
            keys: NAMES
                .iter()
                .zip(&keys)
                .map(|(name, key)| ((*name).to_owned(), public(key)))
                .collect(),
            dice: Mutex::new(Dice::new(seed)),
            cut: watch::Sender::new(false),
        });
        let (mut engines, mut databases, mut owned) = (Vec::new(), Vec::new(), Vec::new());
        for (name, key) in NAMES.iter().zip(keys) {
            let name = ServerName::parse(name).unwrap();
            let database = TestDatabase::new().await;
            let db = database.connect().await;
            let mut config = Config::new(name.clone());
            config.registration.open = true;
            config.rate_limits.enabled = false;
            let line = Line {
                network: Arc::clone(&network),
                own: name,
            };
            let outside = Outside {
                remote: Arc::new(line),
                ..Outside::default()
            };
            engines.push(Engine::start(config, db.clone(), key, outside).await.unwrap());
            databases.push(db);
            owned.push(database);
        }
        let by_name = engines
            .iter()
            .map(|engine| (engine.config.server_name.clone(), Arc::clone(engine)))
            .collect();
        network.engines.set(by_name).ok().unwrap();
        for engine in &engines {
            tokio::spawn(send_all(Arc::clone(engine), Arc::clone(&network)));
        }
        Self {
            engines,
            databases,
            owned,
            network,
        }
    }

    /// Cuts all servers off from each other, or joins them again.
    pub fn cut(&self, is_cut: bool) {
        self.network.cut.send_replace(is_cut);
    }

    pub async fn end(self) {
        let Self {
            engines,
            databases,
            owned,
            network,
        } = self;
        engines.iter().for_each(|engine| engine.shutdown.cancel());
        drop((engines, databases, network));
        for database in owned {
            database.drop_now().await;
        }
    }
}

impl Network {
    /// A server, unless the network is against it.
    fn reach(&self, server: &ServerName) -> Result<Arc<Engine>, RemoteError> {
        let is_lost = *self.cut.borrow() || self.dice.lock().one_in(20);
        let engine = self
            .engines
            .get()
            .and_then(|engines| engines.get(server))
            .filter(|_| !is_lost);
        engine.cloned().ok_or_else(|| RemoteError::Unreachable {
            reason: "lost on the way".to_owned(),
            retry_after: None,
        })
    }

    /// Waits until servers reach each other.
    async fn whole(&self) {
        // Whoever cuts it holds the network.
        self.cut.subscribe().wait_for(|is_cut| !is_cut).await.ok();
    }

    /// One transaction becomes one or several, in any order, some of them twice.
    fn mixed(&self, mut pdus: Vec<Box<RawValue>>) -> Vec<Vec<Box<RawValue>>> {
        let mut dice = self.dice.lock();
        if dice.one_in(3) {
            for index in (1..pdus.len()).rev() {
                pdus.swap(index, dice.roll(index + 1));
            }
        }
        let mut parts = vec![Vec::new()];
        for pdu in pdus {
            if dice.one_in(4) {
                parts.push(Vec::new());
            }
            parts.last_mut().unwrap().push(pdu);
        }
        if dice.one_in(3) {
            parts.reverse();
        }
        if dice.one_in(3) {
            parts.push(dice.pick(&parts).clone());
        }
        parts
    }
}

/// Sends what a server owes others, each in a task of its own.
async fn send_all(engine: Arc<Engine>, network: Arc<Network>) {
    let mut due = outgoing::begin(&engine, |_| true).await.unwrap();
    while let Some(server) = due.next().await {
        tokio::spawn(send_to(Arc::clone(&engine), Arc::clone(&network), server));
    }
}

async fn send_to(engine: Arc<Engine>, network: Arc<Network>, server: OwnedServerName) {
    loop {
        network.whole().await;
        if let Some(batch) = outgoing::next(&engine, &server).await.unwrap() {
            for (part, pdus) in network.mixed(batch.pdus.clone()).into_iter().enumerate() {
                deliver(
                    &engine,
                    &network,
                    &server,
                    &format!("{}_{part}", batch.txn_id),
                    pdus,
                )
                .await;
            }
            outgoing::delivered(&engine, &server, batch);
        } else if outgoing::rest(&engine, &server) {
            return;
        }
    }
}

/// Tries until the answer comes back: whoever loses one does not know whether the transaction was taken.
async fn deliver(
    engine: &Engine,
    network: &Network,
    server: &ServerName,
    txn_id: &str,
    pdus: Vec<Box<RawValue>>,
) {
    let own = &engine.config.server_name;
    loop {
        network.whole().await;
        let Ok(other) = network.reach(server) else {
            continue;
        };
        let now = MilliSecondsSinceUnixEpoch::now();
        let mut request = send_transaction::Request::new(txn_id.into(), own.clone(), now);
        request.pdus = pdus.clone();
        send_transaction_message(&other, own, request).await.unwrap();
        if network.reach(server).is_ok() {
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
        status: 403,
        errcode: "M_FORBIDDEN".to_owned(),
        error: error.to_string(),
        body: None,
    }
}

/// An answer as it is.
type Small<T> = T;

macro_rules! answer {
    ($answer:ident: $($name:ident)*) => {
        $(
            fn $name<'a>(
                &'a self,
                server: &'a ServerName,
                request: $name::Request,
            ) -> Asked<'a, $answer<$name::Response>> {
                async move {
                    let other = self.network.reach(server)?;
                    let answer = federation::$name(&other, &self.own, request).await;
                    answer.map($answer::from).map_err(refused)
                }
                .boxed()
            }
        )*
    };
}

impl RemoteServers for Line {
    fn public_keys<'a>(&'a self, _: &'a KeysWanted) -> BoxFuture<'a, PublicKeyMap> {
        ready(self.network.keys.clone()).boxed()
    }

    fn is_reachable(&self, _: &ServerName) -> bool {
        !*self.network.cut.borrow()
    }

    answer! { Small: event_auth backfill event missing_events make_join make_leave send_leave }
    answer! { Large: state state_ids send_join }

    fn invite<'a>(&'a self, server: &'a ServerName, request: invite::Request) -> Asked<'a, invite::Response> {
        async move {
            let other = self.network.reach(server)?;
            federation::invite(&other, &self.own, request)
                .await
                .map_err(refused)
        }
        .boxed()
    }
}
