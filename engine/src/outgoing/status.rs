//! How other servers are being served, for the operator.

use std::sync::Arc;

use hearth_storage::{Position, outgoing as stored};
use ruma::{OwnedServerName, ServerName};

use super::destination::Destination;
use crate::{Engine, Error};

/// How one server is being served. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationStatus {
    /// The server.
    pub server: OwnedServerName,
    /// Events and EDUs that wait for it in memory.
    pub waiting: usize,
    /// Where it fell behind: what it is owed after this position of the log is read off the log when it answers.
    pub behind_since: Option<i64>,
    /// Since when it fails.
    pub failing_since: Option<i64>,
    /// How often it failed in a row.
    pub failures: u32,
    /// When it is tried again.
    pub retry_at: Option<i64>,
    /// When it last took something, as far as that is remembered.
    pub last_success: Option<i64>,
    /// Why it last failed.
    pub last_error: Option<String>,
}

/// How many rooms this server shares with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomsShared(pub usize);

fn status_of(server: &ServerName, destination: &Destination) -> DestinationStatus {
    let (waiting, is_behind) = destination.waiting();
    DestinationStatus {
        server: server.to_owned(),
        waiting,
        behind_since: is_behind.then(|| destination.served()).flatten().map(|position| position.0),
        failing_since: destination.failing.map(|failing| failing.since),
        failures: destination.failing.map_or(0, |failing| failing.failures),
        retry_at: destination.failing.map(|failing| failing.retry_at),
        last_success: destination.last_success,
        last_error: destination.last_error.clone(),
    }
}

/// Every server that was sent to in this run, or that is behind: those that fail first, then by name.
pub fn status(engine: &Engine) -> Vec<DestinationStatus> {
    let state = engine.outgoing.state.lock();
    let all = state.destinations.iter();
    let mut all: Vec<DestinationStatus> = all.map(|(server, destination)| status_of(server, destination)).collect();
    drop(state);
    all.sort_by(|a, b| {
        let fails = |status: &DestinationStatus| status.failing_since.is_none();
        fails(a).cmp(&fails(b)).then_with(|| a.server.cmp(&b.server))
    });
    all
}

/// How one server is being served, if it was sent to in this run or is behind; and the rooms shared with it.
pub async fn of_server(
    engine: &Arc<Engine>,
    server: &ServerName,
) -> Result<(Option<DestinationStatus>, RoomsShared), Error> {
    let status = engine.outgoing.with(server, |destination, _| status_of(server, destination));
    let mut connection = engine.db.acquire().await?;
    let rooms = stored::rooms_shared(&mut connection, server.as_str(), Position(i64::MAX)).await?;
    Ok((status, RoomsShared(rooms.len())))
}
