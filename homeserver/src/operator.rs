//! What `hearth user …` asks for, done by the engine: the running server's, reached through [`crate::control`],
//! or one of the command's own.

use hearth_engine::{
    Engine,
    accounts::{Password, operator},
};
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
}

/// What came of a [`Command`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done to this user.
    Done(String),
    /// A page of accounts; an empty one is the last.
    Users(Vec<User>),
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

/// Does what `command` says.
pub async fn execute(engine: &Engine, command: Command) -> Answer {
    match attempt(engine, command).await {
        Ok(answer) => answer,
        Err(error) => Answer::Refused(crate::causes::chain(&*error)),
    }
}

async fn attempt(
    engine: &Engine,
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
    })
}
