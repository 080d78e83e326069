//! `hearth federation …`: this server among the others.

use clap::Subcommand;
use hearth_engine::{Clock as _, OsEntropy, SystemClock};

use ruma::OwnedServerName;

use super::{Failure, errand};
use crate::{
    config::Loaded,
    control, key_file,
    operator::{Answer, Command, Destination},
};

#[derive(Debug, Subcommand)]
pub(super) enum Federation {
    /// Sign by a new key from now on; what the old one signed stays good. The server must not be running
    RotateKey,
    /// Say how other servers are being served: what waits for them, and how those do that fail
    Status {
        /// One server, with the rooms shared with it
        server: Option<OwnedServerName>,
    },
    /// Try a server again at once that is left alone because it failed
    Retry {
        /// The server
        server: OwnedServerName,
    },
}

impl Federation {
    pub(super) fn run(&self, loaded: &Loaded) -> Result<(), Failure> {
        let command = match self {
            Self::RotateKey => return Self::rotate_key(loaded),
            Self::Status { server } => Command::FederationStatus {
                server: server.clone(),
            },
            Self::Retry { server } => Command::FederationRetry {
                server: server.clone(),
            },
        };
        errand::run(&loaded.settings, command, |answer| {
            print(answer)?;
            Ok(None)
        })
    }

    fn rotate_key(loaded: &Loaded) -> Result<(), Failure> {
        let data_dir = &loaded.settings.data_dir;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // It would go on signing by a key that others know to be retired.
        if runtime.block_on(control::is_running(data_dir))? {
            return Err("the server is running: stop it, rotate the key, and start it again".into());
        }
        let path = key_file::path(data_dir);
        if !path.try_exists()? {
            return Err(format!("there is no signing key in {} yet", data_dir.display()).into());
        }
        let keys = key_file::rotate(data_dir, &OsEntropy, SystemClock.now())?;
        println!("The key ed25519:{} signs from now on.", keys.signing.version);
        println!("Keep a copy of {}.", path.display());
        Ok(())
    }
}

fn print(answer: Answer) -> Result<(), Failure> {
    let now = SystemClock.now_ms();
    match answer {
        Answer::Destinations(all) if all.is_empty() => {
            println!("No other server was sent to, and none waits.")
        }
        Answer::Destinations(all) => all.iter().for_each(|one| println!("{}", describe(one, now))),
        Answer::Destination {
            destination,
            rooms_shared,
        } => {
            match destination {
                Some(destination) => println!("{}", describe(&destination, now)),
                None => println!("Nothing was sent to it since this server started, and nothing waits."),
            }
            println!("rooms shared: {rooms_shared}");
        }
        Answer::Done(server) => println!("{server} is tried again now."),
        Answer::Refused(reason) => return Err(reason.into()),
        Answer::Users(_) => return Err("the running server is of another version".into()),
    }
    Ok(())
}

/// One line about a server.
fn describe(destination: &Destination, now: i64) -> String {
    let ago = |at: i64| span(now.saturating_sub(at));
    let mut parts = vec![match destination.failing_since {
        None => "answers".to_owned(),
        Some(since) => format!("fails for {} ({} times)", ago(since), destination.failures),
    }];
    if let Some(retry_at) = destination.retry_at {
        parts.push(format!("next try in {}", span(retry_at.saturating_sub(now))));
    }
    parts.push(match (destination.waiting, destination.behind_since) {
        (0, None) => "nothing waits".to_owned(),
        (waiting, None) => format!("{waiting} wait"),
        (_, Some(position)) => format!("behind since position {position} of the log"),
    });
    if let Some(at) = destination.last_success {
        parts.push(format!("last success {} ago", ago(at)));
    }
    if let Some(error) = &destination.last_error {
        // What another server said must not move the terminal's cursor.
        let error: String = error
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        parts.push(format!("last error: {error}"));
    }
    format!("{}: {}", destination.server, parts.join("; "))
}

/// A time in milliseconds, in its largest unit that fits.
fn span(ms: i64) -> String {
    let seconds = ms.max(0) / 1_000;
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_server_name;

    use super::{Destination, describe, span};

    #[test]
    fn a_server_that_fails_is_described_with_what_is_needed_to_help_it() {
        let destination = Destination {
            server: owned_server_name!("b.example"),
            waiting: 3,
            behind_since: Some(70),
            failing_since: Some(0),
            failures: 5,
            retry_at: Some(190_000),
            last_success: None,
            last_error: Some("b.example\u{1b}[2J can't be reached".to_owned()),
        };
        assert_eq!(
            describe(&destination, 180_000),
            "b.example: fails for 3 min (5 times); next try in 10 s; behind since position 70 of the log; \
             last error: b.example [2J can't be reached"
        );
    }

    #[test]
    fn times_are_told_in_a_unit_that_suits_them() {
        let told = [-5, 119_999, 120_000, 7_200_000, 172_800_000].map(span);
        assert_eq!(told, ["0 s", "119 s", "2 min", "2 h", "2 days"]);
    }
}
