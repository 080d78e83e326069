//! What the tables say, read by rules of its own: the order of each room, its state at every event by replaying it, and
//! who may see what. Knows nothing of the engine.

use std::collections::{BTreeMap, HashMap};

use hearth_storage::{Database, EventNid, Position, RoomNid, StateNid, events, rooms};
use ruma::{OwnedRoomId, UserId};
use serde_json::Value;

/// Type and state key.
pub type Key = (String, String);
/// State by event ID.
pub type StateIds = BTreeMap<Key, String>;

/// A live event as it is stored.
pub struct TrueEvent {
    pub nid: EventNid,
    pub event_id: String,
    pub pdu: Value,
    pub position: Position,
    pub sequence: i64,
    pub state_after: StateNid,
    /// What it replaced, and what the state is after it.
    pub replaced: Option<String>,
}

pub struct TrueRoom {
    pub nid: RoomNid,
    pub id: OwnedRoomId,
    /// In the order of the room.
    pub events: Vec<TrueEvent>,
    states: Vec<StateIds>,
    index: HashMap<String, usize>,
}

pub struct Truth {
    pub rooms: BTreeMap<OwnedRoomId, TrueRoom>,
}

/// Type and state key of a state event in client format.
pub fn key_of(event: &Value) -> Option<Key> {
    let state_key = event.get("state_key")?.as_str()?;
    Some((event["type"].as_str()?.to_owned(), state_key.to_owned()))
}

impl Truth {
    pub async fn read(db: &Database) -> Self {
        let mut transaction = db.begin_read().await.unwrap();
        let stored = events::by_position(&mut transaction, Position(0), Position(i64::MAX))
            .await
            .unwrap();
        let mut by_room: BTreeMap<RoomNid, Vec<TrueEvent>> = BTreeMap::new();
        for row in stored {
            let event = TrueEvent {
                nid: row.event.event_nid,
                event_id: row.event.event_id,
                pdu: serde_json::from_str(&row.event.pdu).unwrap(),
                position: row.position,
                sequence: row.event.sequence,
                state_after: row.event.state_after,
                replaced: None,
            };
            by_room.entry(row.event.room_nid).or_default().push(event);
        }
        let nids: Vec<RoomNid> = by_room.keys().copied().collect();
        let heads = rooms::heads(&mut transaction, &nids).await.unwrap();
        let rooms = heads.into_iter().map(|head| {
            let id = OwnedRoomId::try_from(head.room.room_id).unwrap();
            let events = by_room.remove(&head.room.room_nid).unwrap();
            assert_eq!(
                head.sequence,
                events.last().unwrap().sequence,
                "the head of {id} is at its last event"
            );
            (id.clone(), TrueRoom::new(head.room.room_nid, id, events))
        });
        Self {
            rooms: rooms.collect(),
        }
    }
}

impl TrueRoom {
    fn new(nid: RoomNid, id: OwnedRoomId, mut events: Vec<TrueEvent>) -> Self {
        let mut state = StateIds::new();
        let mut states = Vec::with_capacity(events.len());
        for event in &mut events {
            if let Some(key) = key_of(&event.pdu) {
                event.replaced = state.insert(key, event.event_id.clone());
            }
            states.push(state.clone());
        }
        let index = events
            .iter()
            .enumerate()
            .map(|(index, event)| (event.event_id.clone(), index))
            .collect();
        Self {
            nid,
            id,
            events,
            states,
            index,
        }
    }

    pub fn find(&self, event_id: &str) -> Option<&TrueEvent> {
        self.index.get(event_id).map(|index| &self.events[*index])
    }

    pub fn index_of(&self, event_id: &str) -> usize {
        self.index[event_id]
    }

    pub fn state_after(&self, index: usize) -> &StateIds {
        &self.states[index]
    }

    /// The state before an event.
    pub fn state_before(&self, index: usize) -> StateIds {
        index
            .checked_sub(1)
            .map(|before| self.states[before].clone())
            .unwrap_or_default()
    }

    /// The state when the log had come to `position`.
    pub fn state_at(&self, position: Position) -> StateIds {
        let upto = self.events.partition_point(|event| event.position <= position);
        self.state_before(upto)
    }

    pub fn current(&self) -> &StateIds {
        self.states.last().unwrap()
    }

    fn content(&self, state: &StateIds, event_type: &str, state_key: &str, field: &str) -> Option<String> {
        let event_id = state.get(&(event_type.to_owned(), state_key.to_owned()))?;
        Some(self.find(event_id)?.pdu["content"][field].as_str()?.to_owned())
    }

    /// A user's membership in a state.
    pub fn membership_in(&self, state: &StateIds, user_id: &UserId) -> Option<String> {
        self.content(state, "m.room.member", user_id.as_str(), "membership")
    }

    pub fn membership(&self, user_id: &UserId) -> Option<String> {
        self.membership_in(self.current(), user_id)
    }

    /// Whether a user may see an event (client-server API, "Room history visibility"): by what was before it or by
    /// what is after it, which differ where it is a change of just that.
    pub fn sees(&self, user_id: &UserId, index: usize) -> bool {
        let joins_later = || {
            self.events[index + 1..].iter().any(|event| {
                event.pdu["type"] == "m.room.member"
                    && event.pdu["state_key"] == user_id.as_str()
                    && event.pdu["content"]["membership"] == "join"
            })
        };
        [self.state_before(index), self.states[index].clone()]
            .iter()
            .any(|state| {
                let visibility = self.content(state, "m.room.history_visibility", "", "history_visibility");
                let membership = self.membership_in(state, user_id);
                match (visibility.as_deref().unwrap_or("shared"), membership.as_deref()) {
                    ("world_readable", _) | (_, Some("join")) | ("invited", Some("invite")) => true,
                    ("invited" | "joined", _) => false,
                    _ => joins_later(),
                }
            })
    }

    /// The IDs of all events that a user may see.
    pub fn seen_by(&self, user_id: &UserId) -> Vec<String> {
        let seen = (0..self.events.len()).filter(|index| self.sees(user_id, *index));
        seen.map(|index| self.events[index].event_id.clone()).collect()
    }

    /// What must hold of every room, whatever happened to it.
    pub fn check(&self) {
        let mut previous: Option<&TrueEvent> = None;
        for (index, event) in self.events.iter().enumerate() {
            let sequence = previous.map_or(0, |previous| previous.sequence) + 1;
            assert_eq!(
                event.sequence, sequence,
                "{}: sequence numbers have no gap",
                self.id
            );
            let follows: Vec<&str> = previous
                .iter()
                .map(|previous| previous.event_id.as_str())
                .collect();
            assert_eq!(
                event.pdu["prev_events"],
                serde_json::json!(follows),
                "{}: each event follows the last",
                self.id
            );
            assert_eq!(event.pdu["depth"], serde_json::json!(sequence), "{}", self.id);
            let sender = UserId::parse(event.pdu["sender"].as_str().unwrap()).unwrap();
            if event.pdu["type"] != "m.room.member" && index > 0 {
                let membership = self.membership_in(&self.state_before(index), &sender);
                assert_eq!(
                    membership.as_deref(),
                    Some("join"),
                    "{}: only members send",
                    self.id
                );
            }
            previous = Some(event);
        }
        assert_eq!(
            self.index.len(),
            self.events.len(),
            "{}: no event is there twice",
            self.id
        );
    }
}
