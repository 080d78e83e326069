//! What a command wants of the server: done by the running one where there is one, and by an engine of the command's own
//! where there is none.

use std::time::Duration;

use super::Failure;
use crate::{
    config::Settings,
    control,
    operator::{self, Answer, Command},
    parts::Parts,
};

/// How long a server that is starting or stopping is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(200);

/// Has `command` done, and what `then` makes of each answer after it.
pub(super) fn run(
    settings: &Settings,
    command: Command,
    then: impl FnMut(Answer) -> Result<Option<Command>, Failure>,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(carry_out(settings, command, then))
}

async fn carry_out(
    settings: &Settings,
    command: Command,
    mut then: impl FnMut(Answer) -> Result<Option<Command>, Failure>,
) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut command = command;
    let parts = loop {
        let reached = control::ask(&settings.data_dir, &command).await;
        match reached.map_err(|error| format!("cannot speak with the running server: {error}"))? {
            Some(answer) => match then(answer)? {
                Some(next) => command = next,
                None => return Ok(()),
            },
            None => match Parts::beside(settings).await {
                Ok(parts) => break parts,
                // A server has the data directory, and its door is not open yet, or no longer.
                Err(error) if error.is_in_use() && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            },
        }
    };
    let result = loop {
        match then(operator::execute(&parts.engine, None, command).await) {
            Ok(Some(next)) => command = next,
            Ok(None) => break Ok(()),
            Err(failure) => break Err(failure),
        }
    };
    parts.stop().await;
    result
}
