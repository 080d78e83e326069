//! Tokens that clients hold: of a sync, and of a place in a room's history.
//!
//! A sync token is `h{generation}_{position}_{run}.{counter}`: the log's generation, the last position it includes,
//! and what of the ephemeral (typing) it includes, in which run of the server. A place is `t{sequence}_{sub}`: the
//! boundary after the event of that place, whether there is one or not.

use std::{fmt, str::FromStr};

use hearth_storage::{Position, events::Place};

/// Where a sync stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncToken {
    /// The generation of the log.
    pub generation: i32,
    /// The last position that was told.
    pub position: Position,
    /// What of the ephemeral was told; nothing in tokens that say nothing of it.
    pub ephemeral: Option<Ephemeral>,
}

/// Where a sync stands in what isn't in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ephemeral {
    /// The run of the server.
    pub run: u32,
    /// What was told of it.
    pub counter: u64,
}

/// A place in history, by whichever token a client has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryToken {
    /// The boundary after a place.
    Place(Place),
    /// Where a sync stood.
    Sync(SyncToken),
}

/// This is none of our tokens.
#[derive(Debug, thiserror::Error)]
#[error("this is not a token that this server gave out")]
pub struct BadToken;

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "h{}_{}", self.generation, self.position)?;
        match self.ephemeral {
            Some(Ephemeral { run, counter }) => write!(f, "_{run}.{counter}"),
            None => Ok(()),
        }
    }
}

impl FromStr for SyncToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let mut parts = text.strip_prefix('h').ok_or(BadToken)?.split('_');
        let (generation, position) = (number(parts.next())?, number(parts.next())?);
        let ephemeral = match parts.next() {
            Some(text) => {
                let (run, counter) = text.split_once('.').ok_or(BadToken)?;
                Some(Ephemeral {
                    run: number(Some(run))?,
                    counter: number(Some(counter))?,
                })
            }
            None => None,
        };
        let token = Self {
            generation,
            position: Position(position),
            ephemeral,
        };
        if parts.next().is_some() || token.generation < 0 || token.position < Position(0) {
            return Err(BadToken);
        }
        Ok(token)
    }
}

impl fmt::Display for HistoryToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place(place) => write!(f, "t{}_{}", place.sequence, place.sub),
            Self::Sync(token) => token.fmt(f),
        }
    }
}

impl FromStr for HistoryToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let Some(place) = text.strip_prefix('t') else {
            return text.parse().map(Self::Sync);
        };
        let (sequence, sub) = place.split_once('_').ok_or(BadToken)?;
        Ok(Self::Place(Place {
            sequence: number(Some(sequence))?,
            sub: number(Some(sub))?,
        }))
    }
}

/// Digits only: what `parse` would take besides (a plus sign) was never given out.
fn number<T: FromStr>(text: Option<&str>) -> Result<T, BadToken> {
    let text = text.filter(|text| !text.starts_with('+')).ok_or(BadToken)?;
    text.parse().map_err(|_| BadToken)
}

#[cfg(test)]
mod tests {
    use hearth_storage::{Position, events::Place};

    use super::{Ephemeral, HistoryToken, SyncToken};

    #[test]
    fn tokens_come_back_as_they_were_given() {
        for text in ["h1_0", "h1_1234_77.5", "t5_0", "t5_-1", "t9223372036854775807_0"] {
            assert_eq!(text.parse::<HistoryToken>().expect(text).to_string(), text);
        }
        let token = SyncToken {
            generation: 2,
            position: Position(9),
            ephemeral: Some(Ephemeral { run: 1, counter: 3 }),
        };
        assert_eq!(token.to_string().parse::<SyncToken>().expect("it parses"), token);
        let place = HistoryToken::Place(Place { sequence: 3, sub: -1 });
        assert_eq!(
            place.to_string().parse::<HistoryToken>().expect("it parses"),
            place
        );
    }

    #[test]
    fn what_was_never_given_out_is_refused() {
        for text in [
            "",
            "h",
            "h1",
            "h1_",
            "h1_+5",
            "h-1_5",
            "h1_-5",
            "h1_5_6",
            "h1_5_6.7_8",
            "t5",
            "t_",
            "s12_34",
            "h1_99999999999999999999",
        ] {
            assert!(text.parse::<HistoryToken>().is_err(), "{text}");
        }
    }
}
