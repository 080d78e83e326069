//! Messages to devices that wait for one server. They are rows until the server has them; here is only which are next,
//! and what of the log must wait for them: nothing that was said after a message goes out before it.

use std::collections::VecDeque;

use hearth_storage::{
    Position,
    to_device::{self, OutgoingMessage, OutgoingPlace},
};
use ruma::ServerName;
use serde_json::value::{RawValue, to_raw_value};

use super::edus::Edu;
use crate::{Engine, Error, encryption::to_device::receive::DIRECT_TO_DEVICE};

/// Messages in one transaction, which has place for others' EDUs besides, and how many bytes of them, about.
const AT_ONCE: usize = 30;
const BYTES_AT_ONCE: usize = 1 << 20;

/// What waits for one server.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// The position of the newest that it is owed; nothing where it has all.
    newest: Option<Position>,
    /// It has all up to here, of which the rows are to be let go.
    done: Option<OutgoingPlace>,
    /// The first that it is owed, up to `read_upto` or to as many as are read at once.
    ready: VecDeque<OutgoingMessage>,
    read_upto: Position,
    in_flight: Option<OutgoingPlace>,
}

/// What is to be let go and read before something can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ToRead {
    done: Option<OutgoingPlace>,
    newest: Option<Position>,
}

impl Messages {
    /// It is owed a message of this position.
    pub fn owe(&mut self, position: Position) {
        self.newest = self.newest.max(Some(position));
    }

    /// Whether it is owed any.
    pub fn is_owed(&self) -> bool {
        self.newest.is_some()
    }

    /// Whether it is owed any, or rows are to be let go.
    pub fn has_work(&self) -> bool {
        self.newest.is_some() || self.done.is_some()
    }

    fn to_read(&self) -> Option<ToRead> {
        self.has_work().then_some(ToRead {
            done: self.done,
            newest: self.newest,
        })
    }

    /// Answers [`ToRead`], by the first messages that wait.
    fn was_read(&mut self, asked: ToRead, messages: Vec<OutgoingMessage>) {
        if self.done == asked.done {
            self.done = None;
        }
        self.ready = messages.into();
        self.read_upto = asked.newest.unwrap_or(self.read_upto);
    }

    /// Takes what one transaction may have. Also gives the position from which on nothing may go along.
    pub fn take(&mut self) -> (Vec<OutgoingMessage>, Option<Position>) {
        let mut bytes = 0;
        let mut taken = Vec::new();
        while taken.len() < AT_ONCE
            && let Some(next) = self.ready.pop_front()
        {
            bytes += next.content.len();
            taken.push(next);
            if bytes >= BYTES_AT_ONCE {
                break;
            }
        }
        if taken.is_empty() && self.newest.is_some_and(|newest| newest <= self.read_upto) {
            self.newest = None;
        }
        self.in_flight = taken.last().map(|message| message.place);
        // What was not read yet came after what was.
        let unread = self.newest.filter(|newest| *newest > self.read_upto);
        let unread = unread.map(|_| Position(self.read_upto.0 + 1));
        let before = match self.ready.front() {
            Some(next) => Some(next.place.position),
            None => unread,
        };
        (taken, before)
    }

    /// It has what was taken.
    pub fn delivered(&mut self) {
        if let Some(place) = self.in_flight.take() {
            self.done = Some(place);
            if self.ready.is_empty() && self.newest.is_some_and(|newest| newest <= self.read_upto) {
                self.newest = None;
            }
        }
        self.ready.clear();
    }

    /// What was taken was not sent, or not taken by the server.
    pub fn put_back(&mut self) {
        self.in_flight = None;
        self.ready.clear();
    }

    /// The log lost what was after `position`: other messages may have these places.
    pub fn cut_back(&mut self) {
        self.put_back();
        self.done = None;
        self.read_upto = Position::default();
    }
}

/// Reads what `server` is to get next of messages to its devices, and lets go of what it has.
pub(super) async fn read(engine: &Engine, server: &ServerName) -> Result<(), Error> {
    let asked = engine
        .outgoing
        .with(server, |destination, _| destination.messages.to_read())
        .flatten();
    let Some(asked) = asked else { return Ok(()) };
    let mut connection = engine.db.acquire().await?;
    if let Some(done) = asked.done {
        to_device::delete_outgoing(&mut connection, server.as_str(), done).await?;
    }
    let limit = i64::try_from(AT_ONCE + 1).unwrap_or(i64::MAX);
    let messages = match asked.newest {
        Some(_) => to_device::outgoing(&mut connection, server.as_str(), limit).await?,
        None => Vec::new(),
    };
    engine.outgoing.with(server, |destination, _| {
        destination.messages.was_read(asked, messages);
    });
    Ok(())
}

/// The EDUs of messages.
pub(super) fn edus(messages: &[OutgoingMessage]) -> Result<Vec<Box<RawValue>>, Error> {
    let damaged = |error: serde_json::Error| Error::Damaged(format!("a message to a device: {error}"));
    let edus = messages.iter().map(|message| {
        let content: &RawValue = serde_json::from_str(&message.content).map_err(damaged)?;
        let edu_type = DIRECT_TO_DEVICE;
        to_raw_value(&Edu { edu_type, content }).map_err(damaged)
    });
    edus.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn message(position: i64, ordinal: i32) -> OutgoingMessage {
        OutgoingMessage {
            place: OutgoingPlace {
                position: Position(position),
                ordinal,
            },
            content: Arc::from("{}"),
        }
    }

    /// Reads as the database would answer that has these.
    fn read(messages: &mut Messages, rows: &[OutgoingMessage]) {
        let asked = messages.to_read().expect("there is something to read");
        messages.was_read(asked, rows.iter().take(AT_ONCE + 1).cloned().collect());
    }

    #[test]
    fn nothing_that_was_said_after_a_message_goes_before_it() {
        let mut messages = Messages::default();
        assert_eq!((messages.take().1, messages.has_work()), (None, false));
        let rows: Vec<_> = (1..=40).map(|position| message(position, 0)).collect();
        rows.iter().for_each(|row| messages.owe(row.place.position));
        read(&mut messages, &rows);
        let (taken, before) = messages.take();
        assert_eq!((taken.len(), before), (30, Some(Position(31))));
        messages.delivered();
        assert!(messages.is_owed());
        read(&mut messages, &rows[30..]);
        // One more, after what was read.
        messages.owe(Position(50));
        let (taken, before) = messages.take();
        assert_eq!((taken.len(), before), (10, Some(Position(41))));
        messages.delivered();
        read(&mut messages, &[message(50, 0)]);
        let (taken, before) = messages.take();
        assert_eq!((taken.len(), before), (1, None));
        messages.delivered();
        assert_eq!((messages.is_owed(), messages.has_work()), (false, true));
        read(&mut messages, &[]);
        assert!(!messages.has_work(), "its rows are gone");
    }

    #[test]
    fn what_was_not_delivered_is_read_again() {
        let mut messages = Messages::default();
        messages.owe(Position(1));
        read(&mut messages, &[message(1, 0), message(1, 1)]);
        assert_eq!(messages.take().0.len(), 2);
        messages.put_back();
        assert!(messages.is_owed());
        assert_eq!(messages.to_read().and_then(|asked| asked.done), None);
        read(&mut messages, &[message(1, 0), message(1, 1)]);
        assert_eq!(messages.take().0.len(), 2);
    }

    #[test]
    fn what_was_given_up_is_owed_no_more() {
        let mut messages = Messages::default();
        messages.owe(Position(1));
        read(&mut messages, &[]);
        assert_eq!((messages.take().0.len(), messages.has_work()), (0, false));
    }

    #[test]
    fn places_that_the_log_lost_let_nothing_go() {
        let mut messages = Messages::default();
        messages.owe(Position(5));
        read(&mut messages, &[message(5, 0)]);
        messages.take();
        messages.cut_back();
        messages.delivered();
        assert_eq!(messages.to_read().map(|asked| asked.done), Some(None));
    }
}
