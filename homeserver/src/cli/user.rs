//! `hearth user …`: accounts, by the running server where there is one and by an engine of the command's own
//! where there is none.

use std::io::{self, IsTerminal as _, Read as _};

use clap::Subcommand;

use super::{Failure, errand};
use crate::{
    config::Loaded,
    operator::{Answer, Command, User as Account},
};

#[derive(Debug, Subcommand)]
pub(super) enum User {
    /// Make an account; asks for its password
    Add {
        /// The part of the user's name before the colon, without the @
        name: String,
        /// May administer this server
        #[arg(long)]
        admin: bool,
        /// Read the password from the standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Give an account a new password, and log its devices out
    SetPassword {
        /// The user: alice, or @alice:example.org
        name: String,
        /// Read the password from the standard input
        #[arg(long)]
        password_stdin: bool,
        /// Leave the user's devices logged in
        #[arg(long)]
        keep_devices: bool,
    },
    /// Close an account for good: its name is never given out again
    Deactivate {
        /// The user: alice, or @alice:example.org
        name: String,
        /// Also hide what the user wrote from those who come later
        #[arg(long)]
        erase: bool,
    },
    /// List the accounts
    List,
}

impl User {
    pub(super) fn run(&self, loaded: &Loaded) -> Result<(), Failure> {
        let commands = match self {
            Self::Add {
                name,
                admin,
                password_stdin,
            } => {
                let password = password(*password_stdin)?;
                Command::AddUser {
                    name: name.clone(),
                    password,
                    admin: *admin,
                }
            }
            Self::SetPassword {
                name,
                password_stdin,
                keep_devices,
            } => {
                let password = password(*password_stdin)?;
                Command::SetPassword {
                    name: name.clone(),
                    password,
                    logout_devices: !keep_devices,
                }
            }
            Self::Deactivate { name, erase } => Command::Deactivate {
                name: name.clone(),
                erase: *erase,
            },
            Self::List => Command::ListUsers { after: String::new() },
        };
        errand::run(&loaded.settings, commands, |answer| self.print(answer))
    }

    /// Prints an answer, and says where a list goes on.
    fn print(&self, answer: Answer) -> Result<Option<Command>, Failure> {
        match (self, answer) {
            (_, Answer::Refused(reason)) => return Err(reason.into()),
            (_, Answer::Users(users)) => {
                users.iter().for_each(print_account);
                return Ok(users.last().map(|last| Command::ListUsers {
                    after: last.id.clone(),
                }));
            }
            (Self::Add { .. }, Answer::Done(user)) => println!("Made {user}."),
            (Self::SetPassword { .. }, Answer::Done(user)) => println!("Set the password of {user}."),
            (_, Answer::Done(user)) => println!("Deactivated {user}."),
            (_, Answer::Destinations(_) | Answer::Destination { .. }) => {
                return Err("the running server is of another version".into());
            }
        }
        Ok(None)
    }
}

fn print_account(account: &Account) {
    let marks = [
        (account.admin, " (admin)"),
        (account.guest, " (guest)"),
        (account.deactivated, " (deactivated)"),
    ];
    let marks: String = marks
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, mark)| *mark)
        .collect();
    println!("{}{marks}", account.id);
}

/// The password: typed twice at a terminal, or the standard input without its line end.
fn password(from_stdin: bool) -> Result<String, Failure> {
    if from_stdin {
        let mut text = String::new();
        io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| format!("cannot read the password: {error}"))?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        return non_empty(text.strip_suffix('\r').unwrap_or(text).to_owned());
    }
    if !io::stdin().is_terminal() {
        return Err("the standard input is no terminal to type a password at: give --password-stdin".into());
    }
    let first = rpassword::prompt_password("Password: ")?;
    if first != rpassword::prompt_password("Again: ")? {
        return Err("the two passwords differ".into());
    }
    non_empty(first)
}

fn non_empty(password: String) -> Result<String, Failure> {
    if password.is_empty() {
        Err("the password is empty".into())
    } else {
        Ok(password)
    }
}
