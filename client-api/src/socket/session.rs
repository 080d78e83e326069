//! Whose connection it is, and for how long its token is good.

use std::time::Duration;

use hearth_endpoint::Client;
use hearth_engine::{
    Engine,
    accounts::{AuthenticateError, Requester, authenticate::authenticate_again, is_active, last_seen},
};
use tokio::time::Instant;

use super::{Settings, end::End, limits::Counted};

/// Who is connected.
#[derive(Debug)]
pub(super) struct Session {
    pub requester: Requester,
    pub token: Box<str>,
    stage: Stage,
    _counted: Counted,
}

/// How far the token is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Good,
    /// The client was told that it expires soon.
    Ending,
    /// It expired then.
    Expired(Instant),
}

/// What the time has brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Nothing,
    /// The client is to be told that its token expires soon.
    Warn,
    /// The client had its time to bring a fresh one.
    Over,
}

impl Session {
    pub fn new(requester: Requester, token: &str, counted: Counted) -> Self {
        Self {
            requester,
            token: token.into(),
            stage: Stage::Good,
            _counted: counted,
        }
    }

    /// A fresh token of the same device.
    pub fn renew(&mut self, requester: Requester, token: &str) {
        self.requester = requester;
        self.token = token.into();
        self.stage = Stage::Good;
    }

    /// Whether the token is not good any more, though it may be made good by a fresh one.
    pub fn is_expired(&self) -> bool {
        matches!(self.stage, Stage::Expired(_))
    }

    /// When to ask [`Session::turn`] next; nothing for a token that doesn't expire.
    pub fn deadline(&self, engine: &Engine, settings: &Settings) -> Option<Instant> {
        let expires_at = self.requester.expires_at?;
        let expires_in = duration_ms(expires_at - engine.clock.now_ms());
        let now = Instant::now();
        Some(match self.stage {
            Stage::Good => now + expires_in.saturating_sub(settings.warning),
            Stage::Ending => now + expires_in,
            Stage::Expired(at) => at + settings.grace,
        })
    }

    /// Goes on to where the time has brought the token.
    pub fn turn(&mut self, engine: &Engine, settings: &Settings) -> Turn {
        let Some(expires_at) = self.requester.expires_at else {
            return Turn::Nothing;
        };
        let expires_in_ms = expires_at - engine.clock.now_ms();
        match self.stage {
            Stage::Good if duration_ms(expires_in_ms) <= settings.warning => {
                self.stage = Stage::Ending;
                Turn::Warn
            }
            Stage::Ending if expires_in_ms <= 0 => {
                self.stage = Stage::Expired(Instant::now());
                Turn::Nothing
            }
            Stage::Expired(at) if at + settings.grace <= Instant::now() => Turn::Over,
            _ => Turn::Nothing,
        }
    }

    /// Finds out whether the client may stay, after its account may have changed.
    pub async fn check(&mut self, engine: &Engine) -> Result<(), End> {
        match authenticate_again(engine, &self.requester).await {
            Ok(requester) => {
                self.requester = requester;
                Ok(())
            }
            // The time will tell.
            Err(AuthenticateError::SoftLoggedOut) => Ok(()),
            Err(AuthenticateError::Unknown) => {
                let is_active = is_active(engine, &self.requester.user_id).await;
                Err(match is_active {
                    Ok(false) => End::Deactivated,
                    _ => End::LoggedOut,
                })
            }
            Err(AuthenticateError::Failed(error)) => {
                tracing::warn!(%error, "could not look the token of a connection up");
                Ok(())
            }
        }
    }
}

/// Notes that a device is there.
pub(super) fn admit(engine: &Engine, requester: &Requester, client: &Client) {
    last_seen::note(engine, requester, client.address, client.user_agent());
}

fn duration_ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
