//! The scenarios: a file each. A scenario makes its own users and rooms, so that none sees another's.

mod send;

use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{
    accounts::Accounts,
    arguments::Sizes,
    client::ClientError,
    measure::{DatabaseError, Limit, Meter},
    outcome::Outcome,
    progress::Progress,
};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// One sender in one room, one message at a time.
    SendOneAtATime,
    /// Many senders, each in a room of its own.
    SendManyRooms,
    /// Many senders in one room.
    SendOneRoom,
}

/// Why a scenario could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
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
        match scenario {
            Scenario::SendOneAtATime => send::one_at_a_time(self).await,
            Scenario::SendManyRooms => send::many_rooms(self).await,
            Scenario::SendOneRoom => send::one_room(self).await,
        }
    }

    /// The limit of a measured stretch.
    fn limit(&self) -> Limit {
        Limit {
            operations: self.sizes.operations,
            time: Duration::from_secs_f64(self.sizes.seconds),
        }
    }

    /// A room that everyone may join, without a copy of the messages in anything but the room.
    fn public_room(&self) -> Value {
        self.room("public_chat")
    }

    fn room(&self, preset: &str) -> Value {
        let mut request = json!({"preset": preset});
        if let Some(version) = &self.sizes.room_version {
            request["room_version"] = json!(version);
        }
        request
    }
}

/// As it is called on the command line and in the output.
pub fn name(scenario: Scenario) -> String {
    let value = scenario.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}
