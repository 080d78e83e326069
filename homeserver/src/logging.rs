//! The log: structured lines on standard error, for a person or as JSON.

use std::io;

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, filter::filter_fn, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::config::{LogFormat, LogSettings};

/// Sends the program's log where `settings` say. The process has one log: a second call changes nothing.
pub fn start(settings: &LogSettings) {
    // Several lines at level info for every event that was allowed, and for every table that a migration found to be
    // there. The operator's own word on these comes after, and wins.
    let quiet = "ruma_state_res=warn,sqlx::postgres::notice=warn";
    let filter = EnvFilter::new(format!("{quiet},{}", settings.level));
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(is_ours_or_plain));
    let started = match settings.format {
        LogFormat::Text => {
            let colours = io::IsTerminal::is_terminal(&io::stderr());
            registry
                .with(fmt::layer().with_writer(io::stderr).with_ansi(colours))
                .try_init()
        }
        LogFormat::Json => {
            let json = fmt::layer()
                .with_writer(io::stderr)
                .json()
                .flatten_event(true)
                .with_current_span(true);
            registry.with(json.with_span_list(false)).try_init()
        }
    };
    drop(started);
}

/// Below level info only our own lines: those of libraries hold what passes through them, headers with tokens and the
/// content of events.
fn is_ours_or_plain(line: &Metadata<'_>) -> bool {
    let is_ours = ["hearth", "homeserver"]
        .iter()
        .any(|name| line.target().starts_with(name));
    is_ours || *line.level() <= Level::INFO
}
