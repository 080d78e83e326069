//! Tokens that clients hold: of a sync, and of a place in a room's history.
//!
//! A sync token is `h{generation}_{position}_{run}.{counter}.{presence}`: the log's generation, the last position it
//! includes, and what of the ephemeral it includes (typing, and presence where any was), in which run of the server. One
//! that was told in parts, of which more are to come, ends in `_{since}.{room}`: rooms up to that number are told up to the
//! position, the others only up to `since`, or never where nothing stands there. One that ends in `_d{position}` includes
//! messages to the device up to that position only. A place is `t{sequence}_{sub}`: the boundary after the event of that
//! place, whether there is one or not.

use std::{fmt, str::FromStr};

use hearth_storage::{Position, RoomNid, events::Place};

/// Where a sync stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncToken {
    /// The generation of the log.
    pub generation: i32,
    /// The last position that was told.
    pub position: Position,
    /// What of the ephemeral was told; nothing in tokens that say nothing of it.
    pub ephemeral: Option<Ephemeral>,
    /// Of a sync that is told in parts: which rooms were told up to the position. Nothing where all were.
    pub part: Option<Part>,
    /// The last position up to which messages to the device were told, where more of them wait. Nothing where all were.
    pub to_device: Option<Position>,
}

/// How far a sync that is told in parts has come. Parts go by the numbers of rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where the rooms that are still to come stand; nothing where they were never told.
    pub since: Option<Position>,
    /// The last room that was told up to the token's position.
    pub upto_room: RoomNid,
}

/// Where a sync stands in what isn't in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ephemeral {
    /// The run of the server.
    pub run: u32,
    /// What was told of typing.
    pub counter: u64,
    /// What was told of presence; 0 for nothing.
    pub presence: u64,
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

impl SyncToken {
    /// Whether more was there to tell than was told.
    pub fn is_unfinished(&self) -> bool {
        self.part.is_some() || self.to_device.is_some()
    }
}

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "h{}_{}", self.generation, self.position)?;
        // What is told in parts has an ephemeral part always.
        if let Some(Ephemeral {
            run,
            counter,
            presence,
        }) = self.ephemeral
        {
            write!(f, "_{run}.{counter}")?;
            if presence > 0 {
                write!(f, ".{presence}")?;
            }
        }
        if let Some(Part { since, upto_room }) = self.part {
            f.write_str("_")?;
            if let Some(since) = since {
                write!(f, "{since}")?;
            }
            write!(f, ".{}", i64::from(upto_room))?;
        }
        if let Some(to_device) = self.to_device {
            write!(f, "_d{to_device}")?;
        }
        Ok(())
    }
}

impl FromStr for SyncToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let mut parts = text.strip_prefix('h').ok_or(BadToken)?.split('_').peekable();
        let (generation, position) = (number(parts.next())?, number(parts.next())?);
        let is_of_rooms = |text: &&str| !text.starts_with('d');
        let ephemeral = match parts.next_if(is_of_rooms) {
            Some(text) => {
                let (run, counters) = text.split_once('.').ok_or(BadToken)?;
                let (counter, presence) = match counters.split_once('.') {
                    Some((counter, presence)) => (counter, number(Some(presence))?),
                    None => (counters, 0),
                };
                Some(Ephemeral {
                    run: number(Some(run))?,
                    counter: number(Some(counter))?,
                    presence,
                })
            }
            None => None,
        };
        let part = parts.next_if(is_of_rooms).map(part).transpose()?;
        let to_device = match parts.next() {
            Some(text) => Some(Position(number(text.strip_prefix('d'))?)),
            None => None,
        };
        let token = Self {
            generation,
            position: Position(position),
            ephemeral,
            part,
            to_device,
        };
        let is_negative = token.position.min(token.to_device.unwrap_or_default()) < Position(0);
        if parts.next().is_some() || token.generation < 0 || is_negative {
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

fn part(text: &str) -> Result<Part, BadToken> {
    let (since, room) = text.split_once('.').ok_or(BadToken)?;
    let since: Option<i64> = match since {
        "" => None,
        since => Some(number(Some(since))?),
    };
    let upto_room: i64 = number(Some(room))?;
    if upto_room < 0 || since.is_some_and(|since| since < 0) {
        return Err(BadToken);
    }
    Ok(Part {
        since: since.map(Position),
        upto_room: RoomNid::from(upto_room),
    })
}

/// Digits only: what `parse` would take besides (a plus sign) was never given out.
fn number<T: FromStr>(text: Option<&str>) -> Result<T, BadToken> {
    let text = text.filter(|text| !text.starts_with('+')).ok_or(BadToken)?;
    text.parse().map_err(|_| BadToken)
}

#[cfg(test)]
mod tests {
    use hearth_storage::{Position, RoomNid, events::Place};

    use super::{Ephemeral, HistoryToken, Part, SyncToken};

    #[test]
    fn tokens_come_back_as_they_were_given() {
        for text in [
            "h1_0",
            "h1_1234_77.5",
            "h1_1234_77.5.3",
            "h1_9_7.5_4.12",
            "h1_9_7.5_.12",
            "h1_0_d8",
            "h1_9_7.5_d12",
            "h1_9_7.5_4.12_d7",
            "t5_0",
            "t5_-1",
            "t9223372036854775807_0",
        ] {
            assert_eq!(text.parse::<HistoryToken>().expect(text).to_string(), text);
        }
        let token = SyncToken {
            generation: 2,
            position: Position(9),
            ephemeral: Some(Ephemeral {
                run: 1,
                counter: 3,
                presence: 0,
            }),
            part: Some(Part {
                since: None,
                upto_room: RoomNid::from(7),
            }),
            to_device: Some(Position(8)),
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
            "h1_5_6.7.",
            "h1_5_6.7.8.9",
            "h1_5_6.7_8.",
            "h1_5_6.7_-8.9",
            "h1_5_6.7_8.-9",
            "h1_5_6.7_8.9_1",
            "h1_5_d",
            "h1_5_d-1",
            "h1_5_d+1",
            "h1_5_d1_d2",
            "h1_5_d1_6.7",
            "t5",
            "t_",
            "s12_34",
            "h1_99999999999999999999",
        ] {
            assert!(text.parse::<HistoryToken>().is_err(), "{text}");
        }
    }
}
