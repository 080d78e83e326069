//! The engine: what its verbs share.

use std::{sync::Arc, time::Duration};

use hearth_storage::{
    Database, NumberSource,
    log::{InProcessTail, LogTail},
};
use ruma::{serde::Base64, signatures::PublicKeySet};
use tokio_util::sync::CancellationToken;

use crate::{
    Clock, Config, Entropy, Error, SigningKey,
    accounts::{Accounts, last_seen},
    encryption::{self, Encryption, to_device},
    events::EventStore,
    federation,
    filters::Filters,
    interner::Interner,
    log::{Log, follow},
    notices,
    outgoing::Outgoing,
    presence::{self, Presence},
    profiles::{
        elsewhere::RemoteProfiles,
        propagate::{self, Propagations},
    },
    receipts::Turns,
    remote::{NoRemoteServers, RemoteServers},
    rooms::{
        Inbox, JoinTurns, PartialRooms, Rooms, States, descriptions::Descriptions, directory::Directory,
        elsewhere::Elsewhere, partial, receive::inbox,
    },
    sync::ToldMembers,
    ticks::{self, Ticks},
    transactions::Transactions,
    typing::Typing,
    unread::Tallies,
    users::Users,
    waiting::Waiting,
};

/// How long what is under way may take to end when the engine is stopped.
const STOPPING: Duration = Duration::from_secs(10);
/// How often memory is kept within its budget.
const SHRINK_EVERY: Duration = Duration::from_secs(5);

/// Everything that the verbs of this crate work on. One per server; two may live in one process.
#[derive(Debug)]
pub struct Engine {
    /// The operator's settings.
    pub config: Config,
    /// The database.
    pub db: Database,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// What accounts keep in memory.
    pub accounts: Arc<Accounts>,
    /// The log.
    pub log: Log,
    /// What is kept in memory of keys.
    pub encryption: Arc<Encryption>,
    /// The other servers.
    pub remote: Arc<dyn RemoteServers>,
    /// Who is typing where.
    pub typing: Typing,
    /// Who is there.
    pub presence: Arc<Presence>,
    /// What is on its way to other servers.
    pub outgoing: Arc<Outgoing>,
    /// Cancelled when the server shuts down: whoever waits returns with what there is.
    pub shutdown: CancellationToken,
    pub(crate) signing_key: SigningKey,
    pub(crate) numbers: NumberSource,
    pub(crate) interner: Interner,
    pub(crate) events: EventStore,
    pub(crate) rooms: Rooms,
    pub(crate) states: States,
    pub(crate) descriptions: Descriptions,
    pub(crate) directory: Directory,
    pub(crate) elsewhere: Elsewhere,
    pub(crate) inbox: Inbox,
    pub(crate) partial: PartialRooms,
    pub(crate) joining: JoinTurns,
    pub(crate) inbound_transactions: federation::Transactions,
    pub(crate) users: Users,
    pub(crate) transactions: Transactions,
    pub(crate) waiting: Waiting,
    pub(crate) told_members: ToldMembers,
    pub(crate) ticks: Arc<Ticks>,
    pub(crate) propagations: Propagations,
    pub(crate) remote_profiles: RemoteProfiles,
    pub(crate) receipt_turns: Turns,
    pub(crate) filters: Filters,
    pub(crate) unread: Tallies,
}

/// What the engine is given of the outside.
#[derive(Debug)]
pub struct Outside {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Carries the end of the log.
    pub tail: Arc<dyn LogTail>,
    /// The other servers.
    pub remote: Arc<dyn RemoteServers>,
}

impl Default for Outside {
    /// The machine's clock and randomness, a tail within this process, and no other servers.
    fn default() -> Self {
        Self {
            clock: Arc::new(crate::SystemClock),
            entropy: Arc::new(crate::OsEntropy),
            tail: Arc::new(InProcessTail::default()),
            remote: Arc::new(NoRemoteServers),
        }
    }
}

impl Engine {
    /// Starts an engine on a migrated database, whose log it takes over.
    pub async fn start(
        config: Config,
        db: Database,
        signing_key: SigningKey,
        outside: Outside,
    ) -> Result<Arc<Self>, Error> {
        let (log, receiver) = Log::start(&db, Arc::clone(&outside.tail)).await?;
        let engine = Arc::new(Self::new(config, db, signing_key, outside, log));
        partial::load(&engine).await?;
        encryption::begin(&engine).await?;
        tokio::spawn(follow(Arc::downgrade(&engine), receiver));
        // Before anybody changes keys, so that nothing is entered twice.
        if let Err(error) = encryption::announce::enter_pending(&engine).await {
            tracing::warn!(%error, "changes of keys could not be entered into the log; trying again later");
        }
        tokio::spawn(upkeep(Arc::downgrade(&engine)));
        tokio::spawn(notices::hear(Arc::downgrade(&engine)));
        tokio::spawn(propagate::resume(Arc::downgrade(&engine)));
        tokio::spawn(inbox::resume(Arc::downgrade(&engine)));
        tokio::spawn(to_device::keep(Arc::downgrade(&engine)));
        tokio::spawn(encryption::remote_lists::keep_current(Arc::downgrade(&engine)));
        tokio::spawn(ticks::keep(Arc::downgrade(&engine)));
        tokio::spawn(presence::keep(Arc::downgrade(&engine)));
        partial::resume(&engine);
        Ok(engine)
    }

    /// An engine for a process that works beside a server, such as the command line: it changes accounts, and commits
    /// nothing to the log. A server that runs on the same database hears of the changes.
    pub fn beside(config: Config, db: Database, signing_key: SigningKey, outside: Outside) -> Arc<Self> {
        Arc::new(Self::new(config, db, signing_key, outside, Log::beside()))
    }

    /// Ends an engine that nobody else uses any more: what was queued is committed, and what goes on by itself has come
    /// to its end, when this returns; or it has had ten seconds.
    pub async fn stop(self: Arc<Self>) {
        self.shutdown.cancel();
        last_seen::settle(&self).await;
        presence::settle(&self).await;
        let committer = self.log.committer();
        drop(self);
        // Changes whose callers are gone are on tasks that hold the engine, and its committer with it.
        if let Some(committer) = committer
            && tokio::time::timeout(STOPPING, committer.finished())
                .await
                .is_err()
        {
            tracing::warn!("some work did not come to its end before the server stopped");
        }
    }

    /// Drops from memory all rooms, users and events that are not in use. What is asked for next is read from the
    /// database.
    pub fn drop_idle(&self) {
        self.rooms.drop_idle();
        self.users.clear();
        self.events.clear();
        self.descriptions.clear();
        self.unread.clear();
    }

    /// This server's name and the public key that it signs with, as signatures of its own are verified.
    pub(crate) fn own_public_keys(&self) -> (String, PublicKeySet) {
        let pair = self.signing_key.pair();
        let key_id = format!("ed25519:{}", pair.version());
        let key = Base64::new(pair.public_key().to_vec());
        (
            self.config.server_name.to_string(),
            PublicKeySet::from([(key_id, key)]),
        )
    }

    fn new(config: Config, db: Database, signing_key: SigningKey, outside: Outside, log: Log) -> Self {
        let Outside {
            clock,
            entropy,
            remote,
            ..
        } = outside;
        Self {
            accounts: Arc::new(Accounts::new(&*entropy)),
            events: EventStore::new(config.room_memory_bytes / 2, Arc::clone(&clock)),
            interner: Interner::new(db.clone()),
            numbers: db.numbers(),
            rooms: Rooms::new(config.room_memory_bytes / 2),
            states: States::new(),
            descriptions: Descriptions::new(),
            directory: Directory::default(),
            elsewhere: Elsewhere::new(),
            inbox: Inbox::default(),
            partial: PartialRooms::new(),
            joining: JoinTurns::default(),
            inbound_transactions: federation::Transactions::new(),
            users: Users::new(),
            transactions: Transactions::new(),
            waiting: Waiting::default(),
            told_members: ToldMembers::new(),
            ticks: Arc::new(Ticks::new()),
            propagations: Propagations::new(),
            remote_profiles: RemoteProfiles::new(),
            receipt_turns: Turns::new(),
            filters: Filters::new(),
            unread: Tallies::new(),
            encryption: Arc::new(Encryption::new(log.head().position)),
            typing: Typing::new(&*entropy),
            presence: Arc::new(Presence::new(config.presence)),
            outgoing: Arc::new(Outgoing::new()),
            shutdown: CancellationToken::new(),
            config,
            db,
            clock,
            entropy,
            log,
            remote,
            signing_key,
        }
    }
}

/// Keeps memory within its budget, and does away with what need not be kept.
async fn upkeep(engine: std::sync::Weak<Engine>) {
    let mut round = 0_u64;
    loop {
        let Some(alive) = engine.upgrade() else { return };
        alive.rooms.shrink();
        if let Err(error) = crate::rooms::prune_redacted(&alive).await {
            tracing::warn!(%error, "redacted events could not be pruned; trying again later");
        }
        if round.is_multiple_of(720)
            && let Err(error) = crate::transactions::drop_old(&alive).await
        {
            tracing::warn!(%error, "old transaction ids could not be dropped; trying again later");
        }
        if round != 0
            && round.is_multiple_of(6)
            && let Err(error) = encryption::announce::enter_pending(&alive).await
        {
            tracing::warn!(%error, "changes of keys could not be entered into the log; trying again later");
        }
        if round.is_multiple_of(720)
            && let Err(error) = to_device::drop_old(&alive).await
        {
            tracing::warn!(%error, "old messages to devices could not be dropped; trying again later");
        }
        if round.is_multiple_of(720)
            && let Err(error) = crate::accounts::deactivate::leave_rooms(&alive).await
        {
            tracing::warn!(%error, "closed accounts are still in their rooms; trying again later");
        }
        round += 1;
        let shutdown = alive.shutdown.clone();
        drop(alive);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(SHRINK_EVERY) => {}
        }
    }
}
