//! How other servers are being served, for the operator.

use hearth_storage::{Position, destinations, outgoing as stored};
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
        behind_since: is_behind
            .then(|| destination.served())
            .flatten()
            .map(|position| position.0),
        failing_since: destination.failing.map(|failing| failing.since),
        failures: destination.failing.map_or(0, |failing| failing.failures),
        retry_at: destination.failing.map(|failing| failing.retry_at),
        last_success: destination.last_success,
        last_error: destination.last_error.clone(),
    }
}

/// Every server that was sent to in this run, or that is behind: those that fail first, then by name. Where nothing is
/// sent, in a command beside a server, as the last run left them.
pub async fn status(engine: &Engine) -> Result<Vec<DestinationStatus>, Error> {
    let mut all = match current(engine, |_| true) {
        Some(current) => current,
        None => stored_status(engine).await?,
    };
    all.sort_by(|a, b| {
        let fails = |status: &DestinationStatus| status.failing_since.is_none();
        fails(a).cmp(&fails(b)).then_with(|| a.server.cmp(&b.server))
    });
    Ok(all)
}

/// How one server is being served, if it was sent to in this run or is behind; and the rooms shared with it.
pub async fn of_server(
    engine: &Engine,
    server: &ServerName,
) -> Result<(Option<DestinationStatus>, RoomsShared), Error> {
    let mut all = match current(engine, |other| other == server) {
        Some(current) => current,
        None => stored_status(engine).await?,
    };
    all.retain(|status| status.server == server);
    let mut connection = engine.db.acquire().await?;
    let rooms = stored::rooms_shared(&mut connection, server.as_str(), Position(i64::MAX)).await?;
    Ok((all.pop(), RoomsShared(rooms.len())))
}

/// The servers of this run; nothing where it sends nothing.
fn current(engine: &Engine, is_wanted: impl Fn(&ServerName) -> bool) -> Option<Vec<DestinationStatus>> {
    let state = engine.outgoing.state.lock();
    state.sending.as_ref()?;
    let wanted = state.destinations.iter().filter(|(server, _)| is_wanted(server));
    Some(
        wanted
            .map(|(server, destination)| status_of(server, destination))
            .collect(),
    )
}

async fn stored_status(engine: &Engine) -> Result<Vec<DestinationStatus>, Error> {
    let now = engine.clock.now_ms();
    let rows = {
        let mut connection = engine.db.acquire().await?;
        destinations::all(&mut connection).await?
    };
    let all = rows.into_iter().filter_map(|row| {
        let server = ServerName::parse(&row.server_name).ok()?;
        Some(status_of(&server, &Destination::of_stored(row, now)))
    });
    Ok(all.collect())
}
