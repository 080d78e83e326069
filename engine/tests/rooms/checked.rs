//! Compares what a client came to know with the truth.

use std::collections::{BTreeMap, HashMap};

use hearth_storage::log::Receipt;

use super::*;
use crate::{
    client::{Client, ClientRoom, Moment, Sighting, list},
    dice::Dice,
    truth::{Key, StateIds, TrueRoom, key_of},
};

impl Client {
    /// Compares all that this client came to know with the truth.
    pub async fn check(&self, engine: &Arc<Engine>, db: &Database, truth: &Truth, dice: &mut Dice) {
        let user_id = &self.requester.user_id;
        for (room_id, true_room) in &truth.rooms {
            let membership = true_room.membership(user_id);
            let room = self.rooms.get(room_id);
            let known = room.map(|room| room.membership.as_str());
            match membership.as_deref() {
                Some("join") => assert_eq!(known, Some("join"), "{user_id} in {room_id}"),
                Some("invite") => assert_eq!(known, Some("invite"), "{user_id} in {room_id}"),
                _ => assert!(
                    !matches!(known, Some("join" | "invite")),
                    "{user_id} in {room_id}: {known:?}"
                ),
            }
            let Some(room) = room else { continue };
            room.check_sights(self, true_room);
            match room.membership.as_str() {
                "join" => room.check_joined(self, engine, db, true_room, dice).await,
                "invite" => room.check_invited(self, true_room),
                _ => {}
            }
        }
    }
}

impl Moment {
    fn state(&self, room: &TrueRoom) -> StateIds {
        match self {
            Self::At(position) => room.state_at(*position),
            Self::Before(event_id) => room.state_before(room.index_of(event_id)),
            Self::After(event_id) => room.state_after(room.index_of(event_id)).clone(),
        }
    }
}

impl ClientRoom {
    fn check_sights(&self, client: &Client, room: &TrueRoom) {
        let user_id = &client.requester.user_id;
        let who = format!("{user_id}, {:?}, in {}", client.habits, room.id);
        let member_key = |sender: &String| ("m.room.member".to_owned(), sender.clone());
        for sight in &self.sights {
            match sight {
                Sighting::State(at, state) => {
                    assert_same_state(state, &at.state(room), room, &format!("{who} {at:?}"));
                }
                Sighting::Sender { at, sender, member } => {
                    let should = at.state(room).get(&member_key(sender)).cloned();
                    assert_eq!(*member, should, "{who}: {sender} {at:?}");
                }
                Sighting::Event(event) => check_told(event, user_id, room, &who),
                Sighting::StateOfLeft(event_id) => {
                    // Not from after they were out of it.
                    let index = room.index_of(event_id);
                    let was_in = room.events[index..].iter().enumerate().any(|(offset, _)| {
                        room.membership_in(&room.state_before(index + offset), user_id)
                            .as_deref()
                            == Some("join")
                    });
                    assert!(was_in, "{who} is told {}", room.events[index].pdu);
                }
            }
        }
    }

    async fn check_joined(
        &self,
        client: &Client,
        engine: &Arc<Engine>,
        db: &Database,
        room: &TrueRoom,
        dice: &mut Dice,
    ) {
        let user_id = &client.requester.user_id;
        let who = format!("{user_id}, {:?}, in {}", client.habits, room.id);
        let current = state_ids(engine, &client.requester, &room.id).await.unwrap();
        assert_same_state(&current, room.current(), room, "the current state");
        if client.habits.lazy_members {
            let without_members = |state: &StateIds| -> StateIds {
                let others = state
                    .iter()
                    .filter(|((event_type, _), _)| event_type != "m.room.member");
                others
                    .map(|(key, event_id)| (key.clone(), event_id.clone()))
                    .collect()
            };
            assert_same_state(
                &without_members(&self.state),
                &without_members(&current),
                room,
                &who,
            );
        } else {
            assert_same_state(&self.state, &current, room, &who);
        }
        let visible = room.seen_by(user_id);
        let paged = history(engine, &client.requester, &room.id, 1 + dice.roll(30))
            .await
            .unwrap();
        assert_eq!(ids_of(&paged), visible, "{who}: pages show what is visible");
        assert_eq!(self.known, visible, "{who}: what is known is what is visible");
        for event in &paged {
            self.check_content(event, user_id, room, &who);
        }
        self.check_summary(user_id, room, &who);
        self.check_receipts(client, db, room, &who).await;
    }

    /// An event is known as it is, or its redaction is known.
    fn check_content(&self, now: &Value, user_id: &ruma::UserId, room: &TrueRoom, who: &str) {
        let told = &self.events[&id_of(now)];
        if now["unsigned"]["redacted_because"].is_null() || !told["unsigned"]["redacted_because"].is_null() {
            assert_eq!(told["content"], now["content"], "{who}: {told:#}");
        } else {
            let redaction = id_of(&now["unsigned"]["redacted_because"]);
            let is_told =
                self.events.contains_key(&redaction) || !room.sees(user_id, room.index_of(&redaction));
            assert!(is_told, "{who}: never told that {now:#} was redacted");
        }
    }

    fn check_summary(&self, user_id: &ruma::UserId, room: &TrueRoom, who: &str) {
        let members = room
            .current()
            .iter()
            .filter(|((event_type, _), _)| event_type == "m.room.member");
        let members: Vec<(&str, String)> = members
            .map(|((_, member), event_id)| {
                let content = &room.find(event_id).unwrap().pdu["content"];
                (
                    member.as_str(),
                    content["membership"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        let count = |wanted: &str| {
            json!(
                members
                    .iter()
                    .filter(|(_, membership)| membership == wanted)
                    .count()
            )
        };
        assert_eq!(
            self.summary.get("m.joined_member_count"),
            Some(&count("join")),
            "{who}"
        );
        // ruma leaves a count of zero as it is.
        assert_eq!(
            self.summary.get("m.invited_member_count"),
            Some(&count("invite")),
            "{who}"
        );
        let name = room.current().get(&("m.room.name".to_owned(), String::new()));
        if name.is_none() {
            let others = |wanted: &[&str]| {
                let others = members.iter().filter(|(member, membership)| {
                    *member != user_id.as_str() && wanted.contains(&membership.as_str())
                });
                others.map(|(member, _)| json!(member)).collect::<Vec<_>>()
            };
            let mut expected = others(&["join", "invite"]);
            if expected.is_empty() {
                expected = others(&["leave", "ban"]);
            }
            let mut heroes = list(self.summary.get("m.heroes").unwrap_or(&Value::Null)).to_vec();
            heroes.sort_by_key(Value::to_string);
            expected.sort_by_key(Value::to_string);
            if !expected.is_empty() {
                assert_eq!(heroes, expected, "{who}");
            }
        }
    }

    async fn check_receipts(&self, client: &Client, db: &Database, room: &TrueRoom, who: &str) {
        let mut connection = db.acquire().await.unwrap();
        let (room_nids, end) = ([room.nid], Position(i64::MAX));
        let rows = hearth_storage::receipts::of_rooms(&mut connection, &room_nids, Position(0), end)
            .await
            .unwrap();
        let rows: Vec<Receipt> = rows.into_iter().map(|(_, receipt)| receipt).collect();
        let users: Vec<_> = rows.iter().map(|receipt| receipt.user_nid).collect();
        let names: HashMap<_, _> = hearth_storage::users::by_nids(&mut connection, &users)
            .await
            .unwrap()
            .into_iter()
            .collect();
        let visible = rows.iter().filter(|receipt| match &*receipt.receipt_type {
            "m.read" => true,
            DELIVERED => false,
            _ => receipt.user_nid == client.requester.user_nid,
        });
        let expected: BTreeMap<(String, String), String> = visible
            .map(|receipt| {
                let key = (receipt.receipt_type.to_string(), names[&receipt.user_nid].clone());
                (key, receipt.event_id.to_string())
            })
            .collect();
        assert_eq!(self.receipts, expected, "{who}");
    }

    fn check_invited(&self, client: &Client, room: &TrueRoom) {
        let stripped: Vec<Key> = self
            .invite_state
            .iter()
            .map(|event| key_of(event).unwrap())
            .collect();
        let own = ("m.room.member".to_owned(), client.requester.user_id.to_string());
        for key in [
            own,
            ("m.room.create".to_owned(), String::new()),
            ("m.room.join_rules".to_owned(), String::new()),
        ] {
            assert!(
                stripped.contains(&key),
                "{} is invited to {} without {key:?}",
                client.requester.user_id,
                room.id
            );
        }
    }
}

/// An event in a timeline: it was to be seen, or speaks of the reader, and what is said around it is true.
fn check_told(event: &Value, user_id: &ruma::UserId, room: &TrueRoom, who: &str) {
    let index = room.index_of(&id_of(event));
    let is_own = event["type"] == "m.room.member" && event["state_key"] == user_id.as_str();
    assert!(is_own || room.sees(user_id, index), "{who} may not see {event:#}");
    if let Some(membership) = event["unsigned"]["membership"].as_str() {
        let is = room
            .membership_in(room.state_after(index), user_id)
            .unwrap_or_else(|| "leave".to_owned());
        assert_eq!(membership, is, "{who}: {event:#}");
    }
    let replaced = event["unsigned"]["replaces_state"].as_str();
    assert_eq!(
        replaced,
        room.events[index].replaced.as_deref(),
        "{who}: {event:#}"
    );
}

fn assert_same_state(is: &StateIds, should: &StateIds, room: &TrueRoom, what: &str) {
    if is == should {
        return;
    }
    let describe = |event_id: Option<&String>| match event_id.and_then(|event_id| room.find(event_id)) {
        Some(event) => format!(
            "#{} at {}: {}",
            event.sequence, event.position, event.pdu["content"]
        ),
        None => format!("{event_id:?}"),
    };
    let keys: std::collections::BTreeSet<&Key> = is.keys().chain(should.keys()).collect();
    let differing = keys.into_iter().filter(|key| is.get(*key) != should.get(*key));
    let differing: Vec<String> = differing
        .map(|key| {
            format!(
                "{key:?} is {}\n    should be {}",
                describe(is.get(key)),
                describe(should.get(key))
            )
        })
        .collect();
    panic!(
        "{what}: the state is not what it should be:\n{}",
        differing.join("\n")
    );
}
