//! The scenarios: a file each. A scenario makes its own users and rooms, so that none sees another's.

mod create_room;
mod delivery;
mod history;
mod join;
mod presence;
mod send;
mod state_changes;
mod sync;
mod waiting;

use std::time::Duration;

use clap::ValueEnum;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    accounts::Accounts,
    arguments::Sizes,
    client::{Client, ClientError},
    listener::Door,
    measure::{DatabaseError, Limit, Meter},
    outcome::Outcome,
    progress::Progress,
    socket,
    text::message,
};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// The server's memory as it is found.
    Memory,
    /// One sender in one room, one message at a time.
    SendOneAtATime,
    /// Many senders, each in a room of its own.
    SendManyRooms,
    /// Many senders in one room.
    SendOneRoom,
    /// From a send to the other members' long polls, at given rates.
    Delivery,
    /// First and later syncs of a user in many rooms.
    Sync,
    /// Pages of history.
    History,
    /// Room creation.
    CreateRoom,
    /// Joins of rooms with many members.
    Join,
    /// State changes in a room with many members.
    StateChanges,
    /// Memory of clients that wait in a long poll.
    Waiting,
    /// From a send to pushes on the other members' WebSockets; of a server that has them.
    Push,
    /// Memory of clients that wait on a WebSocket; of a server that has them.
    WaitingSockets,
    /// Users going on and off in shared rooms, seen by others.
    Presence,
}

/// Why a scenario could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("it was not over after {0} s, with its preparation: see --scenario-seconds")]
    TookTooLong(f64),
    #[error("the server's memory is not known without --server-pid")]
    NoServerPid,
    #[error("the sync has {got} rooms instead of {expected}")]
    WrongSync { got: usize, expected: usize },
}

/// What every scenario has at hand.
pub struct Bench {
    pub accounts: Accounts,
    pub meter: Meter,
    pub progress: Progress,
    pub sizes: Sizes,
}

impl Bench {
    /// Runs a scenario. One may give several lines.
    pub async fn run(&self, scenario: Scenario) -> Result<Vec<Outcome>, ScenarioError> {
        self.progress.scenario(&name(scenario));
        let seconds = self.sizes.scenario_seconds;
        let outcomes = timeout(Duration::from_secs_f64(seconds), self.run_to_its_end(scenario)).await;
        outcomes.unwrap_or(Err(ScenarioError::TookTooLong(seconds)))
    }

    async fn run_to_its_end(&self, scenario: Scenario) -> Result<Vec<Outcome>, ScenarioError> {
        match scenario {
            Scenario::Memory => self.memory(),
            Scenario::SendOneAtATime => send::one_at_a_time(self).await,
            Scenario::SendManyRooms => send::many_rooms(self).await,
            Scenario::SendOneRoom => send::one_room(self).await,
            Scenario::Delivery => delivery::run(self, Door::Polls).await,
            Scenario::Push => delivery::run(self, Door::Socket).await,
            Scenario::Sync => sync::run(self).await,
            Scenario::History => history::run(self).await,
            Scenario::CreateRoom => create_room::run(self).await,
            Scenario::Join => join::run(self).await,
            Scenario::StateChanges => state_changes::run(self).await,
            Scenario::Waiting => waiting::run(self, Door::Polls).await,
            Scenario::WaitingSockets => waiting::run(self, Door::Socket).await,
            Scenario::Presence => presence::run(self).await,
        }
    }

    /// Whether the server has what clients are to listen by.
    async fn has(&self, door: Door) -> Result<bool, ClientError> {
        match door {
            Door::Polls => Ok(true),
            Door::Socket => {
                let mut users = self.accounts.register(1, &self.progress).await?;
                match users.first_mut() {
                    Some(user) => user.has_feature(socket::FEATURE).await,
                    None => Ok(false),
                }
            }
        }
    }

    fn memory(&self) -> Result<Vec<Outcome>, ScenarioError> {
        let memory = self.meter.server_memory().ok_or(ScenarioError::NoServerPid)?;
        Ok(vec![
            Outcome::bare("memory", "the server as found").with("MiB", Some(memory as f64 / MIB)),
        ])
    }

    /// The limit of a measured stretch.
    fn limit(&self) -> Limit {
        Limit {
            operations: self.sizes.operations,
            time: Duration::from_secs_f64(self.sizes.seconds),
        }
    }

    /// A `createRoom` body.
    fn room(&self, preset: &str) -> Value {
        let mut request = json!({"preset": preset});
        if let Some(version) = &self.sizes.room_version {
            request["room_version"] = json!(version);
        }
        request
    }

    /// A room of all these users. The first one made it.
    async fn room_of(&self, clients: &mut [Client]) -> Result<String, ClientError> {
        let Some((creator, members)) = clients.split_first_mut() else {
            return Ok(String::new());
        };
        let room_id = creator.create_room(&self.room("public_chat")).await?;
        self.progress.begin("joining", members.len() as u64);
        let joins = stream::iter(members).map(async |member| {
            self.progress.step();
            member.join(&room_id).await
        });
        joins.buffer_unordered(PREPARING).try_collect::<()>().await?;
        Ok(room_id)
    }

    /// Fills a room with so many messages of one user, in no certain order.
    async fn fill(&self, client: &Client, room_id: &str, messages: u64) -> Result<(), ClientError> {
        self.progress.begin("writing", messages);
        let writers = (0..PREPARING as u64).map(async |first| {
            let mut writer = client.sibling();
            for number in (first..messages).step_by(PREPARING) {
                writer
                    .send_text(room_id, &message(number, self.sizes.message_bytes))
                    .await?;
                self.progress.step();
            }
            Ok(())
        });
        futures_util::future::try_join_all(writers).await.map(drop)
    }
}

/// Requests at once where nothing is measured.
const PREPARING: usize = 8;

const KIB: f64 = 1024.0;
const MIB: f64 = KIB * KIB;

/// As it is called on the command line and in the output.
pub fn name(scenario: Scenario) -> String {
    let value = scenario.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}
