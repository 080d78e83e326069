//! The answer of a sync (client-server API, `GET /sync`, 200).
//!
//! Not ruma's type: that leaves out what is empty, and there are clients that insist on every section of a room.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    encryption::{counts::KeyCounts, device_lists::DeviceLists},
    unread::Count,
};

/// An event in client format.
pub type Event = Box<RawValue>;

/// What became true since the token of the request.
#[derive(Debug, Default, Serialize)]
pub struct Response {
    /// The token for the next sync.
    pub next_batch: String,
    /// Global account data.
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub account_data: Events,
    /// Who is there.
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub presence: Events,
    /// Messages to the device.
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub to_device: Events,
    /// Of whom the client has to ask for devices anew.
    #[serde(skip_serializing_if = "DeviceLists::is_empty")]
    pub device_lists: DeviceLists,
    /// What the device has for others. Always stated.
    #[serde(flatten)]
    pub keys: KeyCounts,
    /// That is less, or more, than it was when the sync began.
    #[serde(skip)]
    pub keys_changed: bool,
    /// Rooms.
    #[serde(skip_serializing_if = "Rooms::is_empty")]
    pub rooms: Rooms,
}

/// A list of events, as every section is.
#[derive(Debug, Default, Serialize)]
pub struct Events {
    /// The events.
    pub events: Vec<Event>,
}

/// The rooms to speak of, by what the user is to them.
#[derive(Debug, Default, Serialize)]
pub struct Rooms {
    /// Rooms that the user is in.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub join: BTreeMap<OwnedRoomId, JoinedRoom>,
    /// Rooms that the user is invited to.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub invite: BTreeMap<OwnedRoomId, InvitedRoom>,
    /// Rooms that the user knocked on.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub knock: BTreeMap<OwnedRoomId, KnockedRoom>,
    /// Rooms that the user has left or is banned from.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub leave: BTreeMap<OwnedRoomId, LeftRoom>,
}

/// A room that the user is in.
#[derive(Debug, Default, Serialize)]
pub struct JoinedRoom {
    /// How many are in it, and whom it may be named after; empty when that did not change.
    pub summary: Summary,
    /// The state before the timeline, or after it.
    #[serde(flatten)]
    pub state: State,
    /// The latest events.
    pub timeline: Timeline,
    /// Who is typing, and receipts.
    pub ephemeral: Events,
    /// The user's account data for the room.
    pub account_data: Events,
    /// What is unread of it; for a client that asks for threads, of what is in none.
    pub unread_notifications: Count,
    /// What is unread of its threads, by their roots.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unread_thread_notifications: BTreeMap<Arc<str>, Count>,
    /// The sequence numbers that this accounts for; to a live connection.
    #[serde(rename = "chat.hearth.seq", skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
}

/// A room that the user has left.
#[derive(Debug, Default, Serialize)]
pub struct LeftRoom {
    /// The state before the timeline, or after it.
    #[serde(flatten)]
    pub state: State,
    /// The events up to the leave.
    pub timeline: Timeline,
    /// The user's account data for the room.
    pub account_data: Events,
    /// The sequence numbers that this accounts for; to a live connection.
    #[serde(rename = "chat.hearth.seq", skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
}

/// A range of sequence numbers of a room that an answer accounts for, be they told or withheld from this client. Where
/// `after` is what `upto` was before, nothing was left out in between.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The number before the first one.
    pub after: i64,
    /// The last one.
    pub upto: i64,
}

/// A room that the user is invited to.
#[derive(Debug, Serialize)]
pub struct InvitedRoom {
    /// Stripped state events.
    pub invite_state: Stripped,
}

/// A room that the user knocked on.
#[derive(Debug, Serialize)]
pub struct KnockedRoom {
    /// Stripped state events.
    pub knock_state: Stripped,
}

/// A JSON array of stripped state events, as it was stored.
#[derive(Debug, Serialize)]
pub struct Stripped {
    /// The array.
    pub events: Box<RawValue>,
}

impl Stripped {
    /// The array of a membership that came with one.
    pub(super) fn of(stored: Option<&Arc<str>>) -> Self {
        let events = stored.and_then(|json| RawValue::from_string(json.to_string()).ok());
        Self {
            events: events
                .unwrap_or_else(|| serde_json::from_str("[]").unwrap_or_else(|_| RawValue::NULL.to_owned())),
        }
    }
}

/// State events.
#[derive(Debug, Serialize)]
pub enum State {
    /// As of the start of the timeline.
    #[serde(rename = "state")]
    Before(Events),
    /// As of its end.
    #[serde(rename = "state_after")]
    After(Events),
}

impl Default for State {
    fn default() -> Self {
        Self::Before(Events::default())
    }
}

/// Events of a room, oldest first.
#[derive(Debug, Default, Serialize)]
pub struct Timeline {
    /// The events.
    pub events: Vec<Event>,
    /// There are events before them that were not told.
    pub limited: bool,
    /// The token to page to those with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
}

/// A room's summary.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// The users a nameless room may be named after.
    #[serde(rename = "m.heroes", skip_serializing_if = "Option::is_none")]
    pub heroes: Option<Vec<OwnedUserId>>,
    /// How many are joined.
    #[serde(rename = "m.joined_member_count", skip_serializing_if = "Option::is_none")]
    pub joined_member_count: Option<usize>,
    /// How many are invited.
    #[serde(rename = "m.invited_member_count", skip_serializing_if = "Option::is_none")]
    pub invited_member_count: Option<usize>,
}

/// What a room comes to beside its events, in bytes, about.
const ROOM_WEIGHT: usize = 400;

impl JoinedRoom {
    /// What it comes to in bytes, about.
    pub(super) fn weight(&self) -> usize {
        let sections = [&self.ephemeral, &self.account_data];
        let sections: usize = sections.iter().map(|section| weight(&section.events)).sum();
        ROOM_WEIGHT + weight(self.state.events()) + weight(&self.timeline.events) + sections
    }
}

impl LeftRoom {
    /// What it comes to in bytes, about.
    pub(super) fn weight(&self) -> usize {
        ROOM_WEIGHT
            + weight(self.state.events())
            + weight(&self.timeline.events)
            + weight(&self.account_data.events)
    }
}

impl Stripped {
    /// What a room with it comes to in bytes, about.
    pub(super) fn weight(&self) -> usize {
        ROOM_WEIGHT + self.events.get().len()
    }
}

fn weight(events: &[Event]) -> usize {
    events.iter().map(|event| event.get().len() + 1).sum()
}

impl Events {
    fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

impl State {
    /// The events.
    pub fn events(&self) -> &[Event] {
        match self {
            Self::Before(state) | Self::After(state) => &state.events,
        }
    }
}

impl Rooms {
    /// Takes a room out.
    pub(super) fn remove(&mut self, room_id: &RoomId) {
        let _ = self.join.remove(room_id).is_some()
            || self.leave.remove(room_id).is_some()
            || self.invite.remove(room_id).is_some()
            || self.knock.remove(room_id).is_some();
    }

    fn is_empty(&self) -> bool {
        self.join.is_empty() && self.invite.is_empty() && self.knock.is_empty() && self.leave.is_empty()
    }
}

impl Response {
    /// Whether there is nothing to tell.
    pub(super) fn is_empty(&self) -> bool {
        self.rooms.is_empty()
            && self.account_data.is_empty()
            && self.presence.is_empty()
            && self.to_device.is_empty()
            && self.device_lists.is_empty()
            && !self.keys_changed
    }
}
