//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{connection::Origin, scenarios::Scenario};

/// Loads a Matrix server through its client API, and measures it.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Action,
}

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Runs scenarios against a server, each bounded in time and count.
    Run(Box<RunArguments>),
    /// Writes the figures of several runs side by side into a page, between its marks.
    Page(PageArguments),
}

#[derive(Debug, Args)]
pub struct PageArguments {
    /// What `run --json` wrote. Runs with the same label go together; the first label is the one that aims are for.
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// What a one-row commit of bare PostgreSQL took at the time, in milliseconds.
    #[arg(long, value_delimiter = ',')]
    pub commit_ms: Vec<f64>,
    /// The page.
    #[arg(long, value_name = "FILE")]
    pub write: PathBuf,
}

#[derive(Debug, Args)]
pub struct RunArguments {
    /// Where the server is: http://HOST:PORT.
    #[arg(long, value_parser = check_url)]
    pub url: String,
    /// Make the users through Synapse's admin API with this secret, instead of open registration.
    #[arg(long, env = "HEARTH_BENCH_SHARED_SECRET", hide_env_values = true)]
    pub shared_secret: Option<String>,
    /// What to run, in this order; everything if nothing is named.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub scenarios: Vec<Scenario>,
    /// Read the server's CPU time and memory.
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Read PostgreSQL's CPU time, of this postmaster; a postmaster that is the server's child is found without.
    #[arg(long, value_name = "PID")]
    pub postgres_pid: Option<u32>,
    /// Read what PostgreSQL counts in the server's database, by psql as a user who may.
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Write the figures to this file too.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The server's name in the output.
    #[arg(long, default_value = "server")]
    pub label: String,
    #[command(flatten)]
    pub sizes: Sizes,
}

/// How much of everything.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sizes")]
pub struct Sizes {
    /// The longest that one measured stretch may take, in seconds.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub seconds: f64,
    /// The most operations in one measured stretch.
    #[arg(long, default_value_t = 100_000)]
    pub operations: u64,
    /// Senders at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub senders: u64,
    /// Length of a message's text.
    #[arg(long, default_value_t = 80)]
    pub message_bytes: usize,
    /// The longest that one scenario may take, with its preparation.
    #[arg(long, default_value_t = 900.0, value_parser = seconds)]
    pub scenario_seconds: f64,
    /// Rates of messages a second at which delivery is measured.
    #[arg(long, value_delimiter = ',', default_values_t = [5, 20, 100], value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub delivery_rates: Vec<u64>,
    /// Rooms that those messages are spread over.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub delivery_rooms: u64,
    /// Members of each of them, with the one who sends.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=1000))]
    pub delivery_members: u64,
    /// Numbers of rooms that the syncing user is in.
    #[arg(long, value_delimiter = ',', default_values_t = [100], value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub sync_rooms: Vec<u64>,
    /// Messages in each of them.
    #[arg(long, default_value_t = 5)]
    pub sync_messages: u64,
    /// First syncs that are measured, each of a new device.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub syncs: u64,
    /// Messages in the room that is paged through.
    #[arg(long, default_value_t = 1000)]
    pub history_messages: u64,
    /// Events on a page.
    #[arg(long, default_value_t = 30)]
    pub page: u64,
    /// Numbers of members of the rooms that are joined.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100], value_parser = clap::value_parser!(u64).range(1..=20_000))]
    pub join_members: Vec<u64>,
    /// Joins that are measured.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub joins: u64,
    /// Members of the room whose state changes.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    pub state_members: u64,
    /// State changes that are measured.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub state_changes: u64,
    /// Clients whose waiting is measured.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(2..=10_000))]
    pub waiting_clients: u64,
    /// Users who go on and off.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(2..=20_000))]
    pub presence_users: u64,
    /// Members of each of the rooms that they are in.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(2..=1000))]
    pub presence_members: u64,
    /// Of them, those who watch.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub presence_watchers: u64,
    /// Changes a second, of all users together.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub presence_rate: u64,
    /// Room version of every room; the server's default if none is named.
    #[arg(long)]
    pub room_version: Option<String>,
}

fn check_url(text: &str) -> Result<String, String> {
    Origin::parse(text).map(|_| text.to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number")?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("expected 0.1 to 3600".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
