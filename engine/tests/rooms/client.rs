//! A client as the specification describes one: applies what syncs tell it, fills gaps by paging, and remembers what it
//! was told when, so that all of it can be compared with the truth afterwards.

use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::{
    dice::Dice,
    truth::{StateIds, key_of},
};

/// How a client asks.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    pub lazy_members: bool,
    pub state_after: bool,
}

pub struct Client {
    pub requester: Requester,
    pub habits: Habits,
    pub token: Option<String>,
    /// Nothing else happens while it syncs.
    pub is_alone: bool,
    pub rooms: BTreeMap<OwnedRoomId, ClientRoom>,
    pub account_data: BTreeMap<String, Value>,
}

#[derive(Default)]
pub struct ClientRoom {
    pub membership: String,
    /// The IDs of the events known, in order, without a gap.
    pub known: Vec<String>,
    /// Where history before them begins; nothing when there is none.
    front: Option<String>,
    /// The latest gap could not be filled: the user was out of the room by then.
    has_gap: bool,
    pub events: HashMap<String, Value>,
    pub state: StateIds,
    pub summary: BTreeMap<String, Value>,
    pub receipts: BTreeMap<(String, String), String>,
    pub account_data: BTreeMap<String, Value>,
    pub invite_state: Vec<Value>,
    pub sights: Vec<Sighting>,
}

/// What a client had in mind at some moment, to be compared with the truth.
pub enum Sighting {
    /// The whole state.
    State(Moment, StateIds),
    /// The member event of a sender.
    Sender {
        at: Moment,
        sender: String,
        member: Option<String>,
    },
    /// An event, as it was told.
    Event(Value),
    /// A state event that was told of a room that the user was out of.
    StateOfLeft(String),
}

/// A moment of a room.
#[derive(Debug, Clone)]
pub enum Moment {
    /// When the log had come to a position.
    At(Position),
    Before(String),
    After(String),
}

impl Client {
    pub fn new(requester: &Requester, habits: Habits) -> Self {
        Self {
            requester: requester.clone(),
            habits,
            token: None,
            is_alone: true,
            rooms: BTreeMap::new(),
            account_data: BTreeMap::new(),
        }
    }

    /// One sync, with some limit.
    pub async fn sync(&mut self, engine: &Arc<Engine>, dice: &mut Dice) -> Result<(), String> {
        let limit = 1 + dice.roll(20);
        let full_state = dice.one_in(25);
        let filter = json!({ "room": {
            "timeline": { "limit": limit, "lazy_load_members": self.habits.lazy_members },
            "state": { "lazy_load_members": self.habits.lazy_members },
        } });
        let state_after = self.habits.state_after;
        let response = sync_json(
            engine,
            &self.requester,
            self.token.as_deref(),
            filter,
            |request| {
                request.use_state_after = state_after;
                request.full_state = full_state;
            },
        );
        let response = response.await?;
        let result = self.apply(engine, dice, &response, limit).await;
        result.map_err(|error| format!("{error}, in {response:#}"))
    }

    async fn apply(
        &mut self,
        engine: &Arc<Engine>,
        dice: &mut Dice,
        response: &Value,
        limit: usize,
    ) -> Result<(), String> {
        let next = response["next_batch"].as_str().unwrap().to_owned();
        let position = position_in(&next);
        for event in list(&response["account_data"]["events"]) {
            self.account_data.insert(
                event["type"].as_str().unwrap().to_owned(),
                event["content"].clone(),
            );
        }
        let walk = Walk {
            engine,
            requester: self.requester.clone(),
            before: self.token.clone(),
            to_the_token: self.is_alone,
        };
        for (room_id, section) in object(&response["rooms"]["join"]) {
            let room_id = OwnedRoomId::try_from(room_id.as_str()).unwrap();
            let room = self.rooms.entry(room_id.clone()).or_default();
            assert!(list(&section["timeline"]["events"]).len() <= limit, "{section:#}");
            room.merge(&walk, dice, &room_id, section).await?;
            room.apply_state(self.habits, &Moment::At(position), section);
            room.apply_rest(section);
            room.membership = "join".to_owned();
        }
        for (room_id, section) in object(&response["rooms"]["leave"]) {
            let room_id = OwnedRoomId::try_from(room_id.as_str()).unwrap();
            let room = self.rooms.entry(room_id.clone()).or_default();
            room.membership = "leave".to_owned();
            let told = list(&section["state"]["events"])
                .iter()
                .chain(list(&section["state_after"]["events"]));
            room.sights
                .extend(told.map(|event| Sighting::StateOfLeft(id_of(event))));
            let timeline = list(&section["timeline"]["events"]);
            room.sights
                .extend(timeline.iter().map(|event| Sighting::Event(event.clone())));
            // Whoever was in the room until then knows its history up to there. What others are told of it, that they
            // were refused or banned, is no part of a history that they know.
            let leave = timeline.iter().rfind(|event| {
                event["type"] == "m.room.member" && event["state_key"] == self.requester.user_id.as_str()
            });
            if leave.is_some_and(|leave| leave["unsigned"]["prev_content"]["membership"] == "join") {
                room.merge(&walk, dice, &room_id, section).await?;
                let leave = id_of(timeline.last().unwrap());
                room.apply_state(self.habits, &Moment::After(leave), section);
            }
        }
        for (room_id, section) in object(&response["rooms"]["invite"]) {
            let room = self
                .rooms
                .entry(OwnedRoomId::try_from(room_id.as_str()).unwrap())
                .or_default();
            room.membership = "invite".to_owned();
            room.invite_state = list(&section["invite_state"]["events"]).to_vec();
        }
        self.token = Some(next);
        Ok(())
    }

    /// Pages back from the oldest events known to the beginning.
    pub async fn complete(&mut self, engine: &Arc<Engine>, dice: &mut Dice) -> Result<(), String> {
        let walk = Walk {
            engine,
            requester: self.requester.clone(),
            before: None,
            to_the_token: false,
        };
        for (room_id, room) in self
            .rooms
            .iter_mut()
            .filter(|(_, room)| room.membership == "join")
        {
            let Some(front) = room.front.take() else { continue };
            let older = walk.back(dice, room_id, &front, |_| false, None).await?;
            let ids = ids_of(&older);
            room.events
                .extend(older.into_iter().map(|event| (id_of(&event), event)));
            room.known.splice(0..0, ids);
        }
        Ok(())
    }
}

/// Pages through history.
struct Walk<'a> {
    engine: &'a Arc<Engine>,
    requester: Requester,
    /// The token of the sync before.
    before: Option<String>,
    /// Nothing else happens meanwhile, so that two walks come to the same.
    to_the_token: bool,
}

impl Walk<'_> {
    /// The events before `from`, oldest first, back to the first that `is_known`.
    async fn back(
        &self,
        dice: &mut Dice,
        room_id: &RoomId,
        from: &str,
        is_known: impl Fn(&str) -> bool,
        to: Option<&str>,
    ) -> Result<Vec<Value>, String> {
        let (mut found, mut from) = (Vec::new(), Some(from.to_owned()));
        'pages: while let Some(start) = from {
            let limit = 1 + dice.roll(7);
            let range = (Some(start.as_str()), to);
            let (events, end) = page(
                self.engine,
                &self.requester,
                room_id,
                range,
                Direction::Backward,
                limit,
            )
            .await?;
            assert!(events.len() <= limit);
            for event in events {
                if is_known(&id_of(&event)) {
                    break 'pages;
                }
                found.push(event);
            }
            from = end;
        }
        found.reverse();
        Ok(found)
    }
}

impl ClientRoom {
    /// Takes in a timeline, and what is missing before it.
    async fn merge(
        &mut self,
        walk: &Walk<'_>,
        dice: &mut Dice,
        room_id: &RoomId,
        section: &Value,
    ) -> Result<(), String> {
        let timeline = list(&section["timeline"]["events"]);
        self.sights
            .extend(timeline.iter().map(|event| Sighting::Event(event.clone())));
        let limited = section["timeline"]["limited"] == true || self.has_gap;
        let prev_batch = section["timeline"]["prev_batch"].as_str();
        let mut new: Vec<Value> = timeline.to_vec();
        let mut reaches_start = false;
        let begins_known = new
            .first()
            .is_some_and(|event| self.events.contains_key(&id_of(event)));
        if self.known.is_empty() {
            // Comes into view. The past waits until somebody looks.
            self.front = prev_batch.filter(|_| limited).map(ToOwned::to_owned);
        } else if limited && !begins_known {
            let prev_batch = prev_batch.ok_or("a limited timeline says where the gap is")?;
            let known = |event_id: &str| self.events.contains_key(event_id);
            let gap = walk.back(dice, room_id, prev_batch, known, None).await;
            self.has_gap = gap.as_ref().is_err_and(|error| error.contains("NotMember"));
            if self.has_gap {
                return Ok(());
            }
            let gap = gap?;
            let is_own = |event: &Value| {
                event["type"] == "m.room.member" && event["state_key"] == walk.requester.user_id.as_str()
            };
            let came_and_went = self.membership != "join" || gap.iter().chain(&new).any(is_own);
            if let Some(before) = walk
                .before
                .as_deref()
                .filter(|_| walk.to_the_token && !came_and_went && dice.one_in(2))
            {
                // The token of the sync before ends the gap as well.
                let same = walk
                    .back(dice, room_id, prev_batch, |_| false, Some(before))
                    .await?;
                assert_eq!(ids_of(&same), ids_of(&gap), "paged to {before}");
            }
            new.splice(0..0, gap);
            // If what was known before is in the timeline, nothing of it is in the gap: it was paged to the beginning.
            reaches_start = timeline
                .iter()
                .any(|event| self.events.contains_key(&id_of(event)));
        }
        // A timeline that starts anew comes with a state of its own.
        if new.iter().any(|event| self.events.contains_key(&id_of(event))) {
            self.state.clear();
        }
        // One that starts anew may reach back further than what was known.
        if let Some(older) = new
            .iter()
            .position(|event| self.known.first() == Some(&id_of(event)))
            .filter(|at| *at > 0)
        {
            assert!(
                limited,
                "{room_id}: only a timeline that starts anew may tell events again"
            );
            let older: Vec<Value> = new.drain(..older).collect();
            self.known.splice(0..0, ids_of(&older));
            self.events
                .extend(older.into_iter().map(|event| (id_of(&event), event)));
            self.front = prev_batch.filter(|_| !reaches_start).map(ToOwned::to_owned);
        }
        let overlap = new
            .iter()
            .take_while(|event| self.events.contains_key(&id_of(event)))
            .count();
        if overlap > 0 {
            assert!(
                limited,
                "{room_id}: only a timeline that starts anew may tell events again"
            );
            assert_eq!(
                ids_of(&new[..overlap]),
                self.known[self.known.len() - overlap..],
                "{room_id}"
            );
        }
        for event in new.drain(overlap..) {
            let event_id = id_of(&event);
            self.known.push(event_id.clone());
            assert!(
                self.events.insert(event_id.clone(), event).is_none(),
                "{room_id}: {event_id} is told twice"
            );
        }
        Ok(())
    }

    /// Takes in what is told of the state, which is then what it is at `end`.
    fn apply_state(&mut self, habits: Habits, end: &Moment, section: &Value) {
        let timeline = list(&section["timeline"]["events"]);
        let (told, absent) = if habits.state_after {
            ("state_after", "state")
        } else {
            ("state", "state_after")
        };
        assert!(list(&section[absent]["events"]).is_empty(), "{section:#}");
        for event in list(&section[told]["events"]) {
            self.state.insert(key_of(event).unwrap(), id_of(event));
        }
        for event in timeline {
            let sender = event["sender"].as_str().unwrap().to_owned();
            let member = self
                .state
                .get(&("m.room.member".to_owned(), sender.clone()))
                .cloned();
            let at = if habits.state_after {
                end.clone()
            } else {
                Moment::Before(id_of(event))
            };
            self.sights.push(Sighting::Sender { at, sender, member });
            if let Some(key) = key_of(event).filter(|_| !habits.state_after) {
                self.state.insert(key, id_of(event));
            }
        }
        if !habits.lazy_members {
            self.sights.push(Sighting::State(end.clone(), self.state.clone()));
        }
    }

    fn apply_rest(&mut self, section: &Value) {
        for (key, value) in object(&section["summary"]) {
            self.summary.insert(key.clone(), value.clone());
        }
        for event in list(&section["account_data"]["events"]) {
            self.account_data.insert(
                event["type"].as_str().unwrap().to_owned(),
                event["content"].clone(),
            );
        }
        for event in list(&section["ephemeral"]["events"])
            .iter()
            .filter(|event| event["type"] == "m.receipt")
        {
            for (event_id, by_type) in object(&event["content"]) {
                // Those move by themselves, after the last sync too.
                for (receipt_type, by_user) in object(by_type).filter(|(name, _)| *name != DELIVERED) {
                    for (user_id, _) in object(by_user) {
                        self.receipts
                            .insert((receipt_type.clone(), user_id.clone()), event_id.clone());
                    }
                }
            }
        }
    }
}

pub fn position_in(token: &str) -> Position {
    Position(token.split('_').nth(1).unwrap().parse().unwrap())
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

pub fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}
