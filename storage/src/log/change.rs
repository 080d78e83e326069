//! A change: facts that become true together, at positions the committer gives.

use std::sync::Arc;

use crate::{
    DeviceNid, EventNid, KeyNid, Position, RoomNid, StateNid, TypeNid, UserNid, events::EventStatus,
};

/// What one request, or one received event, makes true: all of it, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// A room made by it, which its facts may already speak of.
    pub new_rooms: Vec<NewRoom>,
    /// Where it moves the heads of rooms, at most one move a room.
    pub heads: Vec<HeadMove>,
    /// States that its events refer to.
    pub states: Vec<NewState>,
    /// Events and facts, in the order in which they take their positions.
    pub facts: Vec<Fact>,
    /// Aliases made by it.
    pub aliases: Vec<Alias>,
    /// How its events relate to others.
    pub relations: Vec<Relation>,
    /// The requests that its events answer.
    pub transactions: Vec<ClientTransaction>,
    /// Its events before which history is missing.
    pub gaps: Vec<Gap>,
    /// Its redactions of events that aren't known yet.
    pub unmatched_redactions: Vec<UnmatchedRedaction>,
    /// Rooms that are joined by it, with a part of their state.
    pub partial_rooms: Vec<PartialRoom>,
    /// Rooms whose state is whole from its last position on.
    pub completed_rooms: Vec<RoomNid>,
    /// Events whose place in the state of their room is another than it was.
    pub restated: Vec<Restated>,
    /// The requests, or the messages of other servers, that its messages to devices answer. One that was accepted
    /// before fails it with the constraint `to_device_requests_pkey`.
    pub to_device_requests: Vec<ToDeviceRequest>,
}

impl Change {
    /// A change of one fact.
    pub fn of(fact: Fact) -> Self {
        Self {
            facts: vec![fact],
            ..Self::default()
        }
    }

    /// Both as one, the facts of `other` after its own. They move the heads of different rooms.
    pub fn and(mut self, other: Self) -> Self {
        self.new_rooms.extend(other.new_rooms);
        self.heads.extend(other.heads);
        self.states.extend(other.states);
        self.facts.extend(other.facts);
        self.aliases.extend(other.aliases);
        self.relations.extend(other.relations);
        self.transactions.extend(other.transactions);
        self.gaps.extend(other.gaps);
        self.unmatched_redactions.extend(other.unmatched_redactions);
        self.partial_rooms.extend(other.partial_rooms);
        self.completed_rooms.extend(other.completed_rooms);
        self.restated.extend(other.restated);
        self.to_device_requests.extend(other.to_device_requests);
        self
    }

    /// The rooms whose heads it moves.
    pub fn rooms(&self) -> impl Iterator<Item = RoomNid> + '_ {
        self.heads.iter().map(|head| head.room_nid)
    }
}

/// One thing that becomes true and that sync, federation or another node's cache learns from the log.
#[derive(Debug, Clone)]
pub enum Fact {
    /// An event, with the changes of current state that it caused at its own position.
    Event(Arc<NewEvent>, Vec<StateChange>),
    /// Changes of current state that no event of this change caused: a merge of forks.
    State(RoomNid, Vec<StateChange>),
    /// The current membership of a user in a room; it takes the position of the fact before it in the change when
    /// that is the event which caused it.
    Membership(MembershipChange),
    /// An event was redacted by another.
    Redaction(Redaction),
    /// A receipt.
    Receipt(Receipt),
    /// Account data.
    AccountData(AccountData),
    /// Tokens, devices or the standing of a user changed: drop what is cached of them.
    Account(UserNid),
    /// The devices or cross-signing keys of a user changed, for others to ask for.
    DeviceList(DeviceListChange),
    /// Messages to devices. All have its position.
    ToDevice(Arc<ToDevice>),
}

/// A room that becomes known.
#[derive(Debug, Clone)]
pub struct NewRoom {
    /// Its number.
    pub room_nid: RoomNid,
    /// Its ID.
    pub room_id: String,
    /// Its version.
    pub room_version: String,
    /// Whether it is in the directory of published rooms.
    pub published: bool,
}

/// The move of a room's head.
#[derive(Debug, Clone)]
pub struct HeadMove {
    /// The room.
    pub room_nid: RoomNid,
    /// The sequence number on which the change was decided; 0 for a new room.
    pub sequence_before: i64,
    /// The current state on which it was decided, unless that doesn't matter: it changes without an event when the
    /// rest of a room's state comes.
    pub state_before: Option<StateNid>,
    /// The sequence number of its last event afterwards.
    pub sequence: i64,
    /// The forward extremities afterwards.
    pub forward_extremities: Vec<EventNid>,
    /// The current state afterwards.
    pub state_nid: StateNid,
}

/// A stored event, without its position.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Its number.
    pub event_nid: EventNid,
    /// Its ID.
    pub event_id: String,
    /// The room.
    pub room_nid: RoomNid,
    /// Its sequence number; live events only.
    pub sequence: i64,
    /// Its type.
    pub type_nid: TypeNid,
    /// Its type and state key, for a state event.
    pub key_nid: Option<KeyNid>,
    /// Its sender.
    pub sender_nid: UserNid,
    /// The state after it.
    pub state_after: StateNid,
    /// `origin_server_ts`, milliseconds.
    pub origin_server_ts: i64,
    /// For a state event: the event whose place in the current state it took.
    pub replaces: Option<EventNid>,
    /// The event as federation carries it, JSON without `event_id`.
    pub pdu: Arc<str>,
    /// What the server's own push rules make of it, as bits that the engine gives and `events.push_class` describes.
    pub push_class: i16,
    /// The request that made it, for the device that sent it.
    pub transaction: Option<(DeviceNid, Arc<str>)>,
    /// For a state event: the events that authorise it, as far as they are known. Not read back.
    pub auth_nids: Vec<EventNid>,
    /// It is stored already, not accepted: an outlier, mostly. Not read back.
    pub is_stored: bool,
    /// A live event before which history is missing. Read back with the log alone.
    pub after_gap: bool,
}

/// Where history is missing: before a live event of the change.
#[derive(Debug, Clone)]
pub struct Gap {
    /// The room.
    pub room_nid: RoomNid,
    /// The sequence number of the event.
    pub sequence: i64,
    /// The IDs of its predecessors that aren't known, or whose own predecessors aren't.
    pub missing: Vec<String>,
}

/// A redaction that takes effect when what it redacts comes.
#[derive(Debug, Clone)]
pub struct UnmatchedRedaction {
    /// The ID of the event to be redacted.
    pub redacts: String,
    /// The redaction.
    pub redaction_nid: EventNid,
}

/// A room that is joined with a part of its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialRoom {
    /// The room.
    pub room_nid: RoomNid,
    /// The join: the state before it is to be asked for.
    pub join_nid: EventNid,
    /// The part of that state that was told.
    pub state_before: StateNid,
    /// When, in milliseconds.
    pub since: i64,
    /// The server through which it was joined.
    pub via: String,
    /// The servers that are in it, as that one told.
    pub servers: Vec<String>,
}

/// An event judged again, by the whole state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restated {
    /// The event.
    pub event_nid: EventNid,
    /// The state after it.
    pub state_after: StateNid,
    /// Whether it counts. One that was shown keeps its place.
    pub status: EventStatus,
}

/// A state, packed (see [`crate::states`]).
#[derive(Debug, Clone)]
pub struct NewState {
    /// Its number.
    pub state_nid: StateNid,
    /// The state it changed.
    pub previous_nid: Option<StateNid>,
    /// Deltas since the last whole state.
    pub depth: i16,
    /// The packed delta, or the whole.
    pub body: Vec<u8>,
}

/// The change of one key of a room's current state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateChange {
    /// The type and state key.
    pub key_nid: KeyNid,
    /// The event before.
    pub old: Option<EventNid>,
    /// The event after.
    pub new: Option<EventNid>,
}

/// `membership` of a member event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum Membership {
    /// Not in the room, or no longer.
    Leave = 0,
    /// In the room.
    Join = 1,
    /// Invited.
    Invite = 2,
    /// Asked to join.
    Knock = 3,
    /// Banned.
    Ban = 4,
}

impl Membership {
    pub(crate) fn from_number(number: i16) -> Self {
        match number {
            1 => Self::Join,
            2 => Self::Invite,
            3 => Self::Knock,
            4 => Self::Ban,
            _ => Self::Leave,
        }
    }
}

/// The current membership of a user in a room.
#[derive(Debug, Clone)]
pub struct MembershipChange {
    /// The room.
    pub room_nid: RoomNid,
    /// The user.
    pub user_nid: UserNid,
    /// The member event.
    pub event_nid: EventNid,
    /// The membership.
    pub membership: Membership,
    /// A join of a user who is joined already, with another name perhaps: the unbroken time in the room goes on.
    pub continues: bool,
    /// For a join: the position at which the unbroken time in the room began. The committer fills it in for a join
    /// that doesn't continue; one that does leaves it as it was.
    pub joined_at: Option<Position>,
    /// The user doesn't want to see the room again.
    pub forgotten: bool,
    /// For an invite or knock: a JSON array of the stripped state events that came with it.
    pub stripped_state: Option<Arc<str>>,
}

/// A redaction that took effect.
#[derive(Debug, Clone, Copy)]
pub struct Redaction {
    /// The room.
    pub room_nid: RoomNid,
    /// The redacted event.
    pub event_nid: EventNid,
    /// The event that redacted it.
    pub redaction_nid: EventNid,
}

/// What an event of the change says by a `rel_type`: that it relates to another.
#[derive(Debug, Clone)]
pub struct Relation {
    /// The event: the child.
    pub event_nid: EventNid,
    /// How it relates, at most 255 bytes.
    pub rel_type: Box<str>,
    /// The event it relates to: the parent, which need not be known.
    pub parent_id: Box<str>,
    /// The child is no state event and has, or if it is encrypted may have, a new content for its parent.
    pub is_edit: bool,
}

/// A receipt.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// The room.
    pub room_nid: RoomNid,
    /// Whose it is.
    pub user_nid: UserNid,
    /// `m.read`, `m.read.private`, …
    pub receipt_type: Arc<str>,
    /// The thread: a root event's ID, `main`, or empty for an unthreaded receipt.
    pub thread: Arc<str>,
    /// The event it points to.
    pub event_id: Arc<str>,
    /// When, milliseconds.
    pub ts: i64,
}

/// Account data.
#[derive(Debug, Clone)]
pub struct AccountData {
    /// The user.
    pub user_nid: UserNid,
    /// The room, or nothing for global account data.
    pub room_nid: Option<RoomNid>,
    /// The type.
    pub data_type: Arc<str>,
    /// The content, a JSON object.
    pub content: Arc<str>,
}

/// A new alias of this server.
#[derive(Debug, Clone)]
pub struct Alias {
    /// The full alias.
    pub alias: String,
    /// The room.
    pub room_nid: RoomNid,
    /// Who made it.
    pub creator_nid: UserNid,
    /// When, milliseconds.
    pub created_at: i64,
}

/// A request that made an event.
#[derive(Debug, Clone)]
pub struct ClientTransaction {
    /// The device that sent it.
    pub device_nid: DeviceNid,
    /// What identifies the request among those of the device.
    pub request_key: [u8; 16],
    /// The event it made.
    pub event_nid: EventNid,
    /// When, milliseconds.
    pub created_at: i64,
    /// The transaction id.
    pub txn_id: Arc<str>,
}

/// That the devices or cross-signing keys of a user, of this server or of another, are not what they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceListChange {
    /// The user.
    pub user_nid: UserNid,
    /// The device, of a user of this server; empty for cross-signing keys, and for the list of another server's user.
    pub device_id: Arc<str>,
    /// The one user who sees a difference: whoever signed a key of another; nothing when everyone does.
    pub only_for: Option<UserNid>,
    /// The rows of `pending_device_list_changes` that it answers. Not read back.
    pub pending: Vec<i64>,
}

/// Messages that are accepted together.
#[derive(Debug, Clone, Default)]
pub struct ToDevice {
    /// Those to devices of this server.
    pub messages: Vec<ToDeviceMessage>,
    /// Those to devices of others.
    pub outgoing: Vec<OutgoingToDevice>,
}

/// A message to a device of this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToDeviceMessage {
    /// Whose device it is.
    pub user_nid: UserNid,
    /// The device. One that is gone gets nothing.
    pub device_nid: DeviceNid,
    /// The user ID of the sender.
    pub sender: Arc<str>,
    /// Its type.
    pub event_type: Arc<str>,
    /// Its content, a JSON object.
    pub content: Arc<str>,
}

/// A message to devices of another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingToDevice {
    /// The server.
    pub destination: Arc<str>,
    /// The content of the EDU `m.direct_to_device`, a JSON object.
    pub content: Arc<str>,
}

/// A request that sent messages to devices, so that a retransmission does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToDeviceRequest {
    /// A hash of who sent it and how they named it.
    pub request_key: [u8; 16],
    /// When, milliseconds.
    pub created_at: i64,
}
