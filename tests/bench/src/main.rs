//! The benchmarks: loads any Matrix server through its client-server API, measures what a client sees, and, where it
//! is told whose, what the processes and PostgreSQL spent on it. `compare`, beside this crate, runs it on Hearth and
//! on Synapse in turns and writes `docs/benchmarks.md`.

mod accounts;
mod arguments;
mod client;
mod connection;
mod listener;
mod measure;
mod outcome;
mod page;
mod progress;
mod scenarios;
mod socket;
mod table;
mod text;

use std::{
    error::Error,
    fs,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, ValueEnum};

use crate::{
    accounts::Accounts,
    arguments::{Action, Arguments, PageArguments, RunArguments},
    connection::Origin,
    measure::{Database, Meter, Processes},
    outcome::Run,
    progress::Progress,
    scenarios::{Bench, Scenario},
};

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Action::Run(arguments) => run(*arguments),
        Action::Page(arguments) => page(arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "hearth-bench: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// One thread: it takes no more of the machine than it must, and its share can be told.
fn run(arguments: RunArguments) -> Result<ExitCode, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let json = arguments.json.clone();
    let run = runtime.block_on(measure(arguments))?;
    io::stdout().write_all(table::render(&run).as_bytes())?;
    if let Some(path) = json {
        fs::write(path, serde_json::to_vec_pretty(&run)?)?;
    }
    Ok(if run.broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn page(arguments: PageArguments) -> Result<ExitCode, Box<dyn Error>> {
    let mut runs: Vec<Run> = Vec::new();
    for path in &arguments.runs {
        let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        runs.push(serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))?);
    }
    let written = page::write(
        &fs::read_to_string(&arguments.write)?,
        &runs,
        &arguments.commit_ms,
    )?;
    fs::write(arguments.write, written)?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(arguments: RunArguments) -> Result<Run, Box<dyn Error>> {
    let database = match arguments.database_url {
        Some(url) => Some(Database::new(url).await?),
        None => None,
    };
    let bench = Bench {
        accounts: Accounts::new(Origin::parse(&arguments.url)?, arguments.shared_secret)?,
        meter: Meter {
            processes: Processes::new(arguments.server_pid, arguments.postgres_pid),
            database,
        },
        progress: Progress::new(),
        sizes: arguments.sizes,
    };
    let scenarios = if arguments.scenarios.is_empty() {
        Scenario::value_variants().to_vec()
    } else {
        arguments.scenarios
    };
    let mut run = Run {
        server: arguments.label,
        outcomes: Vec::new(),
        broken: Default::default(),
    };
    for scenario in scenarios {
        match bench.run(scenario).await {
            Ok(outcomes) => run.outcomes.extend(outcomes),
            Err(error) => {
                run.broken.insert(scenarios::name(scenario), chain(&error));
            }
        }
    }
    bench.progress.finish();
    Ok(run)
}

/// An error with everything that caused it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
