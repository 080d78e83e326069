//! Measures what takes servers long together: coming into a large room, and catching up after an outage. Prints the
//! figures as a table for docs/benchmarks.md; tests/bench/federation runs it.

mod catch_up;
mod figures;
mod join;
mod peer;

use clap::{Parser, Subcommand};

use crate::{figures::Table, peer::Kind};

#[derive(Debug, Parser)]
#[command(about = "Measures servers that federate with each other")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// How long it takes to come into a large room of another server.
    Join {
        /// Members of the room, all of its own server.
        #[arg(long, default_value_t = 2_000)]
        members: usize,
        /// The server that the room is on.
        #[arg(long, value_enum, default_value = "hearth")]
        host: Kind,
        /// Who joins: each a new server, in turns.
        #[arg(long, value_enum, value_delimiter = ',', default_value = "hearth,synapse")]
        joiners: Vec<Kind>,
        /// How often each joins.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// How long it takes to catch up with what another server said during an outage.
    CatchUp {
        /// Messages in all.
        #[arg(long, default_value_t = 10_000)]
        events: usize,
        /// Rooms, all of the server that goes on.
        #[arg(long, default_value_t = 50)]
        rooms: usize,
        /// The server that goes on.
        #[arg(long, value_enum, default_value = "hearth")]
        from: Kind,
        /// The server that is away.
        #[arg(long, value_enum, default_value = "hearth")]
        to: Kind,
        /// How often.
        #[arg(long, default_value_t = 1)]
        rounds: usize,
    },
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "the figures are what it is for")]
async fn main() {
    let mut table = Table::default();
    match Arguments::parse().what {
        What::Join {
            members,
            host,
            joiners,
            rounds,
        } => join::measure(&mut table, members, host, &joiners, rounds).await,
        What::CatchUp {
            events,
            rooms,
            from,
            to,
            rounds,
        } => {
            for _ in 0..rounds {
                catch_up::measure(&mut table, events, rooms, (from, to)).await;
            }
        }
    }
    println!("{table}");
}
