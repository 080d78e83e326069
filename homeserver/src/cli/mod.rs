//! The command line of `hearth`: what can be said, and what each command prints.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command answers on the terminal"
)]

mod check_config;
mod database;
mod errand;
mod federation;
mod init;
mod serve;
mod user;

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{causes, config};

/// A Matrix homeserver.
#[derive(Debug, Parser)]
#[command(name = "hearth", version, propagate_version = true)]
struct Arguments {
    /// The configuration file [default: $HEARTH_CONFIG, else ./hearth.toml where it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server (what `hearth` alone does)
    Serve(serve::Serve),
    /// Write a commented configuration file and a signing key
    Init(init::Init),
    /// Say whether the configuration can be used
    CheckConfig,
    /// Make and look after this server's users; works while the server runs and while it does not
    #[command(subcommand)]
    User(user::User),
    /// Look after this server's part among the others
    #[command(subcommand)]
    Federation(federation::Federation),
    /// Look after the private PostgreSQL
    #[command(subcommand)]
    Database(database::Database),
}

/// Why a command failed.
type Failure = Box<dyn Error + Send + Sync>;

/// Runs what the command line says. 0 is success, 1 a failure that was printed, 2 a command line that makes no
/// sense.
pub fn run() -> ExitCode {
    match carry_out(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hearth: {}", causes::chain(&*failure));
            ExitCode::FAILURE
        }
    }
}

fn carry_out(arguments: &Arguments) -> Result<(), Failure> {
    let load = || config::load(arguments.config.as_deref(), std::env::vars_os());
    match &arguments.command {
        None => serve::run(load()?, &serve::Serve::default()),
        Some(Command::Serve(serve)) => serve::run(load()?, serve),
        Some(Command::Init(init)) => init.run(arguments.config.as_deref()),
        Some(Command::CheckConfig) => check_config::run(&load()?),
        Some(Command::User(user)) => user.run(&load()?),
        Some(Command::Federation(federation)) => federation.run(&load()?),
        Some(Command::Database(database)) => database.run(&load()?),
    }
}
