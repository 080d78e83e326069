//! EDUs that wait for one server: gathered while a transaction is under way, the later replacing the earlier.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use hearth_storage::{Position, RoomNid, UserNid, log::Receipt};
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::presence::{PendingPresence, PresenceUpdate};
use crate::{receipts::READ, ticks::DELIVERED};

/// Receipts that wait for one server; more are read off the log again.
const MOST_RECEIPTS: usize = 500;
/// Other EDUs that wait for one server; the oldest is dropped for another.
const MOST_EPHEMERAL: usize = 200;
/// How many of each go in one transaction, which may have 100 EDUs: each receipt may need one of its own, and those that
/// are no fleeting ones go along.
const AT_ONCE: usize = 25;

/// An EDU that nobody will miss after a while: a server that can't be reached never gets it.
#[derive(Debug, Clone)]
pub struct EphemeralEdu {
    /// Another of the same key replaces it while it waits.
    pub key: Arc<str>,
    /// `edu_type` and `content`.
    pub json: Arc<RawValue>,
}

/// Of what a receipt tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// `m.read`
    Read,
    /// What was delivered: for servers of this kind only.
    Delivered,
}

impl Kind {
    /// The kind of a receipt by its type, if others are told of it.
    pub fn of(receipt_type: &str) -> Option<Self> {
        match receipt_type {
            READ => Some(Self::Read),
            DELIVERED => Some(Self::Delivered),
            _ => None,
        }
    }
}

/// Whose receipt it is, where: room, user, kind, and thread; of what was delivered, the first event that it stands for.
pub(super) type ReceiptKey = (RoomNid, UserNid, Kind, Arc<str>);

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PendingReceipt {
    pub position: Position,
    pub event_id: Arc<str>,
    /// Milliseconds.
    pub ts: i64,
}

/// The key and the rest of a receipt.
pub(super) fn split(position: Position, kind: Kind, receipt: &Receipt) -> (ReceiptKey, PendingReceipt) {
    let key = (
        receipt.room_nid,
        receipt.user_nid,
        kind,
        Arc::clone(&receipt.thread),
    );
    let pending = PendingReceipt {
        position,
        event_id: Arc::clone(&receipt.event_id),
        ts: receipt.ts,
    };
    (key, pending)
}

#[derive(Debug, Default)]
pub(super) struct PendingEdus {
    receipts: BTreeMap<ReceiptKey, PendingReceipt>,
    ephemeral: VecDeque<EphemeralEdu>,
    pub presence: PendingPresence,
}

/// EDUs that were taken to be sent.
#[derive(Debug, Default)]
pub(super) struct TakenEdus {
    pub receipts: Vec<(ReceiptKey, PendingReceipt)>,
    pub ephemeral: Vec<EphemeralEdu>,
    pub presence: Vec<Arc<PresenceUpdate>>,
}

/// More receipts wait than are kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overflow;

impl PendingEdus {
    pub fn is_empty(&self) -> bool {
        self.receipts.is_empty() && self.ephemeral.is_empty() && self.presence.is_empty()
    }

    pub fn len(&self) -> usize {
        self.receipts.len() + self.ephemeral.len() + self.presence.len()
    }

    /// The position of the oldest receipt.
    pub fn oldest(&self) -> Option<Position> {
        self.receipts.values().map(|receipt| receipt.position).min()
    }

    pub fn add_receipt(&mut self, key: ReceiptKey, receipt: PendingReceipt) -> Result<(), Overflow> {
        let is_newer = self
            .receipts
            .get(&key)
            .is_none_or(|known| known.position <= receipt.position);
        if is_newer {
            self.receipts.insert(key, receipt);
        }
        match self.receipts.len() > MOST_RECEIPTS {
            true => Err(Overflow),
            false => Ok(()),
        }
    }

    pub fn add_ephemeral(&mut self, edu: EphemeralEdu) {
        self.ephemeral.retain(|waiting| waiting.key != edu.key);
        if self.ephemeral.len() >= MOST_EPHEMERAL {
            self.ephemeral.pop_front();
        }
        self.ephemeral.push_back(edu);
    }

    pub fn drop_receipts(&mut self) {
        self.receipts.clear();
    }

    pub fn drop_ephemeral(&mut self) {
        self.ephemeral.clear();
        self.presence.clear();
    }

    pub fn take(&mut self) -> TakenEdus {
        let mut receipts = Vec::new();
        while receipts.len() < AT_ONCE
            && let Some(receipt) = self.receipts.pop_first()
        {
            receipts.push(receipt);
        }
        // All presence is one EDU.
        let presence = self.presence.take();
        let at_once = AT_ONCE - usize::from(!presence.is_empty());
        let ephemeral = self
            .ephemeral
            .drain(..self.ephemeral.len().min(at_once))
            .collect();
        TakenEdus {
            receipts,
            ephemeral,
            presence,
        }
    }
}

#[derive(Serialize)]
pub(super) struct Edu<T> {
    pub edu_type: &'static str,
    pub content: T,
}

#[derive(Serialize)]
struct TypingContent<'a> {
    room_id: &'a ruma::RoomId,
    user_id: &'a ruma::UserId,
    typing: bool,
}

/// `m.typing` of a user in a room.
pub(super) fn typing(room_id: &ruma::RoomId, user_id: &ruma::UserId, typing: bool) -> Option<EphemeralEdu> {
    let edu = Edu {
        edu_type: "m.typing",
        content: TypingContent {
            room_id,
            user_id,
            typing,
        },
    };
    Some(EphemeralEdu {
        key: format!("m.typing {room_id} {user_id}").into(),
        json: to_raw_value(&edu).ok()?.into(),
    })
}

#[derive(Serialize)]
struct ReceiptData<'a> {
    data: ReceiptTime<'a>,
    event_ids: [&'a str; 1],
}

#[derive(Serialize)]
struct ReceiptTime<'a> {
    ts: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<&'a str>,
}

#[derive(Serialize)]
struct ByUser<'a> {
    #[serde(rename = "m.read")]
    read: BTreeMap<&'a OwnedUserId, ReceiptData<'a>>,
}

#[derive(Serialize)]
struct Delivered<'a> {
    event_id: &'a str,
    from: &'a str,
    ts: i64,
}

/// By room and user.
type Content<'a, T> = BTreeMap<&'a OwnedRoomId, BTreeMap<&'a OwnedUserId, T>>;

/// The EDUs of receipts, as few as can be: one has place for one receipt of a user in a room, so that those of several
/// threads need several.
pub(super) fn receipts(
    taken: &[(ReceiptKey, PendingReceipt)],
    room_ids: &HashMap<RoomNid, OwnedRoomId>,
    user_ids: &HashMap<UserNid, OwnedUserId>,
) -> Vec<Box<RawValue>> {
    let mut read: Vec<Content<'_, ReceiptData<'_>>> = Vec::new();
    let mut delivered: Vec<Content<'_, Delivered<'_>>> = Vec::new();
    for ((room_nid, user_nid, kind, thread), receipt) in taken {
        let (Some(room_id), Some(user_id)) = (room_ids.get(room_nid), user_ids.get(user_nid)) else {
            continue;
        };
        match kind {
            Kind::Read => {
                let data = ReceiptData {
                    data: ReceiptTime {
                        ts: receipt.ts,
                        thread_id: (!thread.is_empty()).then_some(thread),
                    },
                    event_ids: [&receipt.event_id],
                };
                put(&mut read, room_id, user_id, data);
            }
            Kind::Delivered => {
                let data = Delivered {
                    event_id: &receipt.event_id,
                    from: thread,
                    ts: receipt.ts,
                };
                put(&mut delivered, room_id, user_id, data);
            }
        }
    }
    let read = read.into_iter().filter_map(|by_room| {
        let content: BTreeMap<_, _> = by_room
            .into_iter()
            .map(|(room_id, read)| (room_id, ByUser { read }))
            .collect();
        encoded("m.receipt", content)
    });
    let delivered = delivered
        .into_iter()
        .filter_map(|content| encoded("chat.hearth.delivery", content));
    read.chain(delivered).collect()
}

/// Puts what there is of a user in a room where there is nothing of them yet.
fn put<'a, T>(
    contents: &mut Vec<Content<'a, T>>,
    room_id: &'a OwnedRoomId,
    user_id: &'a OwnedUserId,
    data: T,
) {
    let has_place = |content: &Content<'a, T>| {
        content
            .get(room_id)
            .is_none_or(|by_user| !by_user.contains_key(user_id))
    };
    let place = match contents.iter().position(has_place) {
        Some(place) => place,
        None => {
            contents.push(BTreeMap::new());
            contents.len() - 1
        }
    };
    contents[place].entry(room_id).or_default().insert(user_id, data);
}

fn encoded(edu_type: &'static str, content: impl Serialize) -> Option<Box<RawValue>> {
    to_raw_value(&Edu { edu_type, content }).ok()
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, owned_user_id, room_id, user_id};
    use serde_json::json;

    use super::*;

    fn receipt(user: i64, thread: &str, position: i64, event_id: &str) -> (ReceiptKey, PendingReceipt) {
        let key = (
            RoomNid::from(1),
            UserNid::from(user),
            Kind::Read,
            Arc::from(thread),
        );
        let pending = PendingReceipt {
            position: Position(position),
            event_id: event_id.into(),
            ts: 5,
        };
        (key, pending)
    }

    #[test]
    fn receipts_are_gathered_and_the_last_of_each_user_and_thread_counts() {
        let mut pending = PendingEdus::default();
        for (key, receipt) in [
            receipt(1, "", 1, "$a"),
            receipt(2, "", 2, "$a"),
            receipt(1, "", 3, "$b"),
        ] {
            pending.add_receipt(key, receipt).expect("there is room");
        }
        assert_eq!(pending.oldest(), Some(Position(2)));
        let (key, older) = receipt(1, "", 1, "$a");
        pending.add_receipt(key, older).expect("there is room");
        let taken = pending.take();
        let events: Vec<&str> = taken
            .receipts
            .iter()
            .map(|(_, receipt)| &*receipt.event_id)
            .collect();
        assert_eq!(events, ["$b", "$a"]);
        assert!(pending.is_empty());
    }

    #[test]
    fn receipts_of_several_threads_of_a_user_take_several_edus() {
        let taken = [
            receipt(1, "", 1, "$a"),
            receipt(1, "$root", 2, "$b"),
            receipt(2, "main", 3, "$c"),
        ];
        let rooms = HashMap::from([(RoomNid::from(1), owned_room_id!("!r:a"))]);
        let users = HashMap::from([
            (UserNid::from(1), owned_user_id!("@u:a")),
            (UserNid::from(2), owned_user_id!("@v:a")),
        ]);
        let edus = receipts(&taken, &rooms, &users);
        let edus: Vec<serde_json::Value> = edus
            .iter()
            .map(|edu| serde_json::from_str(edu.get()).expect("JSON"))
            .collect();
        assert_eq!(
            edus[0],
            json!({ "edu_type": "m.receipt", "content": { "!r:a": { "m.read": {
                "@u:a": { "data": { "ts": 5 }, "event_ids": ["$a"] },
                "@v:a": { "data": { "ts": 5, "thread_id": "main" }, "event_ids": ["$c"] },
            } } } })
        );
        assert_eq!(
            edus[1]["content"]["!r:a"]["m.read"]["@u:a"],
            json!({ "data": { "ts": 5, "thread_id": "$root" }, "event_ids": ["$b"] })
        );
        assert_eq!(edus.len(), 2);
    }

    #[test]
    fn what_was_delivered_has_edus_of_its_own() {
        let delivered = |user: i64, from: &str, event_id: &str| {
            let ((room_nid, user_nid, _, from), pending) = receipt(user, from, 1, event_id);
            ((room_nid, user_nid, Kind::Delivered, from), pending)
        };
        let taken = [
            receipt(1, "", 1, "$a"),
            delivered(1, "$b", "$c"),
            delivered(1, "$d", "$e"),
        ];
        let rooms = HashMap::from([(RoomNid::from(1), owned_room_id!("!r:a"))]);
        let users = HashMap::from([(UserNid::from(1), owned_user_id!("@u:a"))]);
        let edus = receipts(&taken, &rooms, &users);
        let edus: Vec<serde_json::Value> = edus
            .iter()
            .map(|edu| serde_json::from_str(edu.get()).expect("JSON"))
            .collect();
        assert_eq!(edus.len(), 3);
        assert_eq!(edus[0]["edu_type"], "m.receipt");
        for (edu, (from, event_id)) in edus[1..].iter().zip([("$b", "$c"), ("$d", "$e")]) {
            let content = json!({ "!r:a": { "@u:a": { "event_id": event_id, "from": from, "ts": 5 } } });
            assert_eq!(
                *edu,
                json!({ "edu_type": "chat.hearth.delivery", "content": content })
            );
        }
    }

    #[test]
    fn what_a_user_does_last_replaces_what_they_did() {
        let mut pending = PendingEdus::default();
        let edu = |is_typing| typing(room_id!("!r:a"), user_id!("@u:a"), is_typing).expect("JSON");
        pending.add_ephemeral(edu(true));
        pending.add_ephemeral(edu(false));
        let taken = pending.take().ephemeral;
        let [only] = &taken[..] else { panic!("{taken:?}") };
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(only.json.get()).expect("JSON"),
            json!({ "edu_type": "m.typing",
                "content": { "room_id": "!r:a", "user_id": "@u:a", "typing": false } })
        );
    }

    #[test]
    fn no_more_is_kept_than_has_its_place() {
        let mut pending = PendingEdus::default();
        for number in 0..=MOST_EPHEMERAL {
            let json: Arc<RawValue> = RawValue::from_string(number.to_string()).expect("JSON").into();
            pending.add_ephemeral(EphemeralEdu {
                key: number.to_string().into(),
                json,
            });
        }
        assert_eq!(
            (pending.len(), &*pending.take().ephemeral[0].key),
            (MOST_EPHEMERAL, "1")
        );
        let users = 1..=i64::try_from(MOST_RECEIPTS).expect("it fits") + 1;
        let last = users.map(|user| {
            let (key, receipt) = receipt(user, "", user, "$a");
            pending.add_receipt(key, receipt)
        });
        assert_eq!(last.last(), Some(Err(Overflow)));
    }
}
