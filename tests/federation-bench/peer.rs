//! A server of either kind, as a process on a PostgreSQL that has the settings of Hearth's private one.

use std::{fs, time::Duration};

use clap::ValueEnum;
use hearth_tests::{Answer, Authority, Client, HearthProcess, Synapse, encoded};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

/// The kernel's `USER_HZ`: 100 on every Linux that Rust runs on.
const TICKS_PER_SECOND: u64 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Hearth,
    Synapse,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hearth => "Hearth",
            Self::Synapse => "Synapse",
        }
    }
}

#[derive(Debug)]
pub(crate) enum Peer {
    Hearth(HearthProcess),
    Synapse {
        synapse: Box<Synapse>,
        /// An idle Hearth, for its PostgreSQL: Synapse has a database of its own in it.
        _postgres: HearthProcess,
    },
}

impl Peer {
    pub(crate) async fn start(kind: Kind, authority: &Authority) -> Self {
        match kind {
            Kind::Hearth => Self::Hearth(HearthProcess::start_federated(authority).await),
            Kind::Synapse => {
                let postgres = HearthProcess::start().await;
                let settings = synapse_settings(&postgres).await;
                Self::Synapse {
                    synapse: Box::new(Synapse::start_with(authority, &settings).await),
                    _postgres: postgres,
                }
            }
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Hearth(hearth) => hearth.name(),
            Self::Synapse { synapse, .. } => synapse.name(),
        }
    }

    fn anonymous(&self) -> &Client {
        match self {
            Self::Hearth(hearth) => hearth.anonymous(),
            Self::Synapse { synapse, .. } => synapse.anonymous(),
        }
    }

    pub(crate) async fn register(&self, username: &str) -> Client {
        let answer: Answer = self.anonymous().register(username).await;
        self.anonymous().session_of(&answer.ok())
    }

    /// Somebody without a password, which takes long to hash.
    pub(crate) async fn register_guest(&self) -> Client {
        let anonymous = self.anonymous();
        let answer = anonymous.post("/v3/register?kind=guest", json!({})).await;
        anonymous.session_of(&answer.ok())
    }

    pub(crate) async fn stop(&mut self) {
        match self {
            Self::Hearth(hearth) => hearth.stop().await,
            Self::Synapse { synapse, .. } => synapse.stop().await,
        }
    }

    pub(crate) async fn start_again(&mut self) {
        match self {
            Self::Hearth(hearth) => hearth.start_again().await,
            Self::Synapse { synapse, .. } => synapse.start_again().await,
        }
    }

    /// CPU time that the server's process, without its PostgreSQL, has used.
    pub(crate) fn cpu(&self) -> Duration {
        let pid = match self {
            Self::Hearth(hearth) => hearth.pid(),
            Self::Synapse { synapse, .. } => synapse.pid(),
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name, which may have spaces, fields count from the third: user time is 14, system time 15.
        let fields: Vec<&str> = stat
            .rsplit_once(") ")
            .map(|(_, fields)| fields.split(' ').collect())
            .unwrap_or_default();
        let ticks = |field: usize| fields.get(field - 3).and_then(|ticks| ticks.parse().ok());
        let ticks: u64 = ticks(14).unwrap_or(0) + ticks(15).unwrap_or(0);
        Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)
    }
}

async fn synapse_settings(postgres: &HearthProcess) -> Value {
    let socket = postgres.postgres_socket();
    let url = format!("postgres://postgres@{}/postgres", encoded(&socket));
    let mut connection = PgConnection::connect(&url).await.expect("PostgreSQL answers");
    sqlx::query("CREATE DATABASE synapse OWNER hearth TEMPLATE template0")
        .execute(&mut connection)
        .await
        .expect("a database can be made");
    let arguments = json!({
        "host": socket, "user": "hearth", "dbname": "synapse", "cp_min": 5, "cp_max": 10,
    });
    json!({
        "database": { "name": "psycopg2", "args": arguments },
        "allow_guest_access": true,
    })
}
