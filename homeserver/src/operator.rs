//! What `hearth user …` and `hearth federation …` ask for, done by the engine: the running server's, reached through
//! [`crate::control`], or one of the command's own.

use std::sync::Arc;

use hearth_engine::{
    Engine,
    accounts::{Password, operator},
    outgoing::{self, DestinationStatus, RoomsShared},
};
use hearth_federation::Federation;
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

/// How many accounts one answer lists.
const PAGE: i64 = 500;

/// A wish of the operator. Its text holds passwords: it is never logged.
#[derive(Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Makes an account.
    AddUser {
        /// The localpart.
        name: String,
        /// Its password.
        password: String,
        /// May use the administration API.
        admin: bool,
    },
    /// Gives an account another password.
    SetPassword {
        /// A localpart or a user ID.
        name: String,
        /// The new password.
        password: String,
        /// Whether the user's devices are logged out.
        logout_devices: bool,
    },
    /// Closes an account for good.
    Deactivate {
        /// A localpart or a user ID.
        name: String,
        /// Whether what the user wrote is to be hidden from those who come later.
        erase: bool,
    },
    /// Lists the accounts after this user ID (empty: from the first), some hundreds at most.
    ListUsers {
        /// Where the last answer ended.
        after: String,
    },
    /// Tells how other servers are being served: those that were sent to, or one.
    FederationStatus {
        /// Which; all without it.
        server: Option<OwnedServerName>,
    },
    /// Tries a server again at once.
    FederationRetry {
        /// Which.
        server: OwnedServerName,
    },
}

/// What came of a [`Command`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done to this user.
    Done(String),
    /// A page of accounts; an empty one is the last.
    Users(Vec<User>),
    /// How other servers are being served.
    Destinations(Vec<Destination>),
    /// How one is.
    Destination {
        /// Nothing, where it was not sent to since the server started, and is owed nothing.
        destination: Option<Destination>,
        /// Rooms that this server and that one are in.
        rooms_shared: usize,
    },
    /// It was not done, for this reason.
    Refused(String),
}

/// An account in a list.
#[derive(Debug, Serialize, Deserialize)]
pub struct User {
    /// The user ID.
    pub id: String,
    /// May use the administration API.
    pub admin: bool,
    /// Registered as a guest.
    pub guest: bool,
    /// Closed for good.
    pub deactivated: bool,
}

/// How another server is being served. Times are in milliseconds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Destination {
    /// Its name.
    pub server: OwnedServerName,
    /// Events and EDUs that wait for it in memory.
    pub waiting: usize,
    /// The position of the log after which it is owed more than waits.
    pub behind_since: Option<i64>,
    /// Since when it fails.
    pub failing_since: Option<i64>,
    /// How often it failed in a row.
    pub failures: u32,
    /// When it is tried again.
    pub retry_at: Option<i64>,
    /// When it last took something.
    pub last_success: Option<i64>,
    /// Why it last failed.
    pub last_error: Option<String>,
}

impl From<DestinationStatus> for Destination {
    fn from(status: DestinationStatus) -> Self {
        Self {
            server: status.server,
            waiting: status.waiting,
            behind_since: status.behind_since,
            failing_since: status.failing_since,
            failures: status.failures,
            retry_at: status.retry_at,
            last_success: status.last_success,
            last_error: status.last_error,
        }
    }
}

/// Does what `command` says.
pub async fn execute(engine: &Arc<Engine>, federation: Option<&Federation>, command: Command) -> Answer {
    match attempt(engine, federation, command).await {
        Ok(answer) => answer,
        Err(error) => Answer::Refused(crate::causes::chain(&*error)),
    }
}

async fn attempt(
    engine: &Arc<Engine>,
    federation: Option<&Federation>,
    command: Command,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    Ok(match command {
        Command::AddUser {
            name,
            password,
            admin,
        } => {
            let user_id = operator::add_user(engine, &name, Some(Password::from(password)), admin).await?;
            Answer::Done(user_id.to_string())
        }
        Command::SetPassword {
            name,
            password,
            logout_devices,
        } => {
            operator::set_password(engine, &name, &Password::from(password), logout_devices).await?;
            Answer::Done(name)
        }
        Command::Deactivate { name, erase } => {
            operator::deactivate(engine, &name, erase).await?;
            Answer::Done(name)
        }
        Command::ListUsers { after } => {
            let accounts = operator::list(engine, &after, PAGE).await?;
            let user = |account: operator::Account| User {
                id: account.user_id,
                admin: account.is_admin,
                guest: account.is_guest,
                deactivated: account.deactivated_at.is_some(),
            };
            Answer::Users(accounts.into_iter().map(user).collect())
        }
        Command::FederationStatus { server: None } => {
            let all = outgoing::status(engine).await?;
            Answer::Destinations(all.into_iter().map(Destination::from).collect())
        }
        Command::FederationStatus { server: Some(server) } => {
            let (status, RoomsShared(rooms_shared)) = outgoing::of_server(engine, &server).await?;
            Answer::Destination {
                destination: status.map(Destination::from),
                rooms_shared,
            }
        }
        Command::FederationRetry { server } => match federation {
            Some(federation) => {
                federation.retry(&server);
                Answer::Done(server.to_string())
            }
            None => Answer::Refused(
                "no server runs here that federates; one that starts tries all others at once".to_owned(),
            ),
        },
    })
}
