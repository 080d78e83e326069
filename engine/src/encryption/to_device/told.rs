//! What a sync tells a device of its messages, and what it thereby shows to have.

use hearth_storage::{
    Connection, DeviceNid, Position,
    to_device::{self, WaitingMessage},
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    Engine, Error,
    accounts::Requester,
    log::{LogHead, position_of},
    tokens::SyncToken,
};

/// How many messages are told at once, and how many bytes of them, about; a message is told whole.
const AT_ONCE: usize = 100;
const BYTES_AT_ONCE: usize = 1 << 20;

/// What is told of a device's messages.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Messages, in the order in which they were accepted.
    pub events: Vec<Box<RawValue>>,
    /// Up to where they go, if more wait.
    pub cut_at: Option<Position>,
}

#[derive(Serialize)]
struct Event<'a> {
    content: &'a RawValue,
    sender: &'a str,
    #[serde(rename = "type")]
    event_type: &'a str,
}

/// The messages that wait for the requester's device, as of `head`: those after where `token` stands, or all. Costs no
/// query when there are none.
pub(crate) async fn told(
    engine: &Engine,
    requester: &Requester,
    token: Option<&SyncToken>,
    head: LogHead,
) -> Result<Told, Error> {
    let since = match token {
        Some(token) => position_of(engine, &at_messages(token), head).await?.0,
        None => Position(0),
    };
    let queue = engine.encryption.queues.of(engine, requester.device_nid).await?;
    let Some(since) = queue.unread(since, head.position) else {
        return Ok(Told::default());
    };
    let mut connection = engine.db.acquire().await?;
    let page = page(&mut connection, requester.device_nid, since, head.position).await?;
    Ok(Told {
        events: page.events,
        cut_at: page.upto.filter(|_| page.has_more),
    })
}

/// Some messages that wait for a device.
#[derive(Debug)]
pub(in crate::encryption) struct Page {
    /// The messages, in order.
    pub events: Vec<Box<RawValue>>,
    /// The position of the last of them; nothing where there are none.
    pub upto: Option<Position>,
    /// There are others after them.
    pub has_more: bool,
}

/// The first messages that wait for a device, after `since` and up to `upto`.
pub(in crate::encryption) async fn page(
    connection: &mut Connection,
    device_nid: DeviceNid,
    since: Position,
    upto: Position,
) -> Result<Page, Error> {
    let limit = i64::try_from(AT_ONCE + 1).unwrap_or(i64::MAX);
    let waiting = to_device::waiting(connection, device_nid, since, upto, limit).await?;
    let told = &waiting[..how_many(&waiting)];
    Ok(Page {
        events: told.iter().map(to_event).collect::<Result<_, _>>()?,
        upto: told.last().map(|message| message.position),
        has_more: told.len() < waiting.len(),
    })
}

/// A device has what it was told up to `token`: messages up to there are let go.
pub(crate) fn confirmed(engine: &Engine, requester: &Requester, token: &SyncToken) {
    let (token, head) = (at_messages(token), engine.log.head());
    // Positions of another generation may stand for other messages. What is kept for that is told by the next token.
    if token.generation == head.generation && token.position <= head.position {
        engine
            .encryption
            .queues
            .confirm(requester.device_nid, token.position);
    }
}

/// Where a token stands in the messages to the device.
fn at_messages(token: &SyncToken) -> SyncToken {
    SyncToken {
        position: token.to_device.unwrap_or(token.position),
        ..*token
    }
}

/// How many of some messages are told at once: all or none of those at one position.
fn how_many(waiting: &[WaitingMessage]) -> usize {
    let mut bytes = 0;
    let fitting = waiting.iter().enumerate().take_while(|(index, message)| {
        bytes += message.content.len() + message.sender.len() + message.event_type.len();
        *index == 0 || (*index < AT_ONCE && bytes <= BYTES_AT_ONCE)
    });
    let mut count = fitting.count();
    while let (true, Some(next)) = (count > 1, waiting.get(count)) {
        if waiting[count - 1].position != next.position {
            break;
        }
        count -= 1;
    }
    count
}

fn to_event(message: &WaitingMessage) -> Result<Box<RawValue>, Error> {
    let damaged = |error: serde_json::Error| Error::Damaged(format!("a message to a device: {error}"));
    let content: &RawValue = serde_json::from_str(&message.content).map_err(damaged)?;
    let event = Event {
        content,
        sender: &message.sender,
        event_type: &message.event_type,
    };
    to_raw_value(&event).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(positions: impl IntoIterator<Item = i64>, bytes: usize) -> Vec<WaitingMessage> {
        let message = |position| WaitingMessage {
            position: Position(position),
            sender: String::new(),
            event_type: "".into(),
            content: "x".repeat(bytes).into(),
        };
        positions.into_iter().map(message).collect()
    }

    #[test]
    fn no_more_messages_are_told_at_once_than_a_client_is_to_bear() {
        assert_eq!(how_many(&waiting([], 1)), 0);
        assert_eq!(how_many(&waiting(1..=100, 1)), 100);
        assert_eq!(how_many(&waiting(1..=101, 1)), 100);
        assert_eq!(how_many(&waiting(1..=101, BYTES_AT_ONCE / 4)), 4);
        assert_eq!(how_many(&waiting(1..=2, BYTES_AT_ONCE + 1)), 1, "one at least");
    }

    #[test]
    fn messages_of_one_position_are_told_together() {
        let positions = (1..=99).chain([100, 100, 101]);
        assert_eq!(how_many(&waiting(positions, 1)), 99);
    }
}
