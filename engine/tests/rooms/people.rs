//! People who do at random what people do in rooms.

use hearth_engine::{
    account_data,
    receipts::{self, Marker, Thread},
};

use super::*;
use crate::dice::Dice;

/// Names, in the order of their numbers.
pub const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// Users with two devices each. Whoever is interned in this order in another database has the same numbers there, so
/// that many runs need register them once only: hashing passwords takes longest of all.
pub struct Cast {
    pub devices: Vec<[Requester; 2]>,
}

impl Cast {
    pub async fn new(server: &Server) -> Self {
        let mut devices = Vec::new();
        for name in NAMES {
            devices.push([server.user(name).await, server.another_device(name).await]);
        }
        Self { devices }
    }

    /// Makes these users known to another server.
    pub async fn enter(&self, server: &Server) {
        let mut connection = server.db.acquire().await.unwrap();
        for [device, _] in &self.devices {
            let user_nid = hearth_storage::users::intern(&mut connection, device.user_id.as_str())
                .await
                .unwrap();
            assert_eq!(user_nid, device.user_nid);
        }
    }
}

/// One thing that somebody does.
#[derive(Debug, Clone)]
pub struct Deed {
    who: usize,
    room: usize,
    whom: usize,
    what: usize,
    detail: usize,
}

/// The rooms there are, and what was sent to them.
#[derive(Default)]
pub struct World {
    pub rooms: Vec<OwnedRoomId>,
    events: Vec<(usize, OwnedEventId)>,
    deeds: usize,
}

const VISIBILITIES: [&str; 4] = ["shared", "joined", "invited", "world_readable"];

impl World {
    pub fn plan(&mut self, dice: &mut Dice) -> Deed {
        self.deeds += 1;
        Deed {
            who: dice.roll(NAMES.len()),
            room: if self.rooms.is_empty() {
                0
            } else {
                dice.roll(self.rooms.len())
            },
            whom: dice.roll(NAMES.len()),
            what: dice.roll(100),
            detail: dice.roll(1000),
        }
    }

    pub fn remember(&mut self, deed: &Deed, event_id: OwnedEventId) {
        self.events.push((deed.room, event_id));
    }

    /// Does it, if it is allowed; a failure of the server's is none that is forgiven. The answer is the event it made,
    /// where that is known.
    pub async fn act(&self, engine: &Arc<Engine>, cast: &Cast, deed: &Deed) -> Option<OwnedEventId> {
        let Deed {
            who,
            room,
            whom,
            what,
            detail,
        } = *deed;
        let user = &cast.devices[who][detail % 2];
        let target = &*cast.devices[whom][0].user_id;
        let room_id = self.rooms.get(room)?;
        let member = |content| {
            set_state(
                engine,
                user,
                room_id,
                "m.room.member",
                user.user_id.as_str(),
                content,
            )
        };
        let state = |event_type, key, content| async move {
            forgive(set_state(engine, user, room_id, event_type, key, content).await)
        };
        match what {
            0..=34 => {
                let txn_id = engine.entropy.alphanumeric(10);
                forgive(say(engine, user, room_id, &format!("number {detail}"), &txn_id).await)
            }
            35..=38 => state("m.room.topic", "", json!({ "topic": format!("topic {detail}") })).await,
            39..=40 => state("m.room.name", "", json!({ "name": format!("name {detail}") })).await,
            41..=45 => {
                state(
                    "test.state",
                    ["a", "b", "c"][detail % 3],
                    json!({ "value": detail }),
                )
                .await
            }
            46..=49 => {
                let content = json!({ "membership": "join", "displayname": format!("{who} {detail}") });
                forgive(member(content).await)
            }
            50..=51 => {
                let visibility = VISIBILITIES[detail % VISIBILITIES.len()];
                state(
                    "m.room.history_visibility",
                    "",
                    json!({ "history_visibility": visibility }),
                )
                .await
            }
            52..=53 => {
                let rule = ["public", "invite"][detail % 2];
                state("m.room.join_rules", "", json!({ "join_rule": rule })).await
            }
            54..=66 => {
                forgive(membership::join(engine, user, room_id, &[], None).await);
                None
            }
            67..=70 => {
                forgive(membership::leave(engine, user, room_id, None).await);
                None
            }
            71..=76 => {
                forgive(membership::invite(engine, user, room_id, target, None).await);
                None
            }
            77..=79 => {
                forgive(membership::kick(engine, user, room_id, target, None).await);
                None
            }
            80..=81 => {
                forgive(membership::ban(engine, user, room_id, target, None).await);
                None
            }
            82..=84 => {
                forgive(membership::unban(engine, user, room_id, target, None).await);
                None
            }
            85 => {
                forgive(membership::forget(engine, user, room_id).await);
                None
            }
            86..=90 => {
                let (_, event_id) = self
                    .events
                    .iter()
                    .rev()
                    .filter(|(other, _)| *other == room)
                    .nth(detail % 20)?;
                let txn_id = engine.entropy.alphanumeric(10);
                forgive(send::redact(engine, user, room_id, event_id, &txn_id, None).await)
            }
            91..=95 => {
                let (_, event_id) = self.events.iter().rev().find(|(other, _)| *other == room)?;
                let marker = match detail % 3 {
                    0 => Marker::ReadPrivate(Thread::Unthreaded),
                    1 => Marker::FullyRead,
                    _ => Marker::Read(Thread::Unthreaded),
                };
                forgive(receipts::set(engine, user, room_id, &[(marker, event_id)]).await);
                None
            }
            96..=97 => {
                let content = json!({ "value": detail }).to_string();
                let data_type = ["test.one", "test.two"][detail % 2];
                forgive(account_data::set_global(engine, user, &user.user_id, data_type, &content).await);
                None
            }
            _ => {
                let content = json!({ "value": detail }).to_string();
                let set =
                    account_data::set_room(engine, user, &user.user_id, room_id, "test.room", &content).await;
                forgive(set);
                None
            }
        }
    }

    /// Somebody makes a room.
    pub async fn create(&mut self, engine: &Arc<Engine>, cast: &Cast, dice: &mut Dice) {
        let creator = dice.roll(NAMES.len());
        let invited = &cast.devices[(creator + 1) % NAMES.len()][0].user_id;
        let version = 6 + dice.roll(7);
        let request = json!({
            "preset": *dice.pick(&["public_chat", "public_chat", "private_chat", "trusted_private_chat"]),
            "room_version": version.to_string(),
            "invite": if dice.one_in(2) { vec![invited.as_str()] } else { vec![] },
            "name": if dice.one_in(4) { json!("a name") } else { Value::Null },
            "initial_state": if dice.one_in(3) {
                json!([{
                    "type": "m.room.history_visibility", "state_key": "",
                    "content": { "history_visibility": *dice.pick(&VISIBILITIES) },
                }])
            } else {
                json!([])
            },
        });
        let room_id = create_room(engine, &cast.devices[creator][0], create_request(request))
            .await
            .unwrap();
        self.rooms.push(room_id);
    }
}

/// What somebody may not do is no failure.
pub fn forgive<T, E: std::fmt::Debug>(result: Result<T, E>) -> Option<T> {
    let error = match result {
        Ok(value) => return Some(value),
        Err(error) => format!("{error:?}"),
    };
    for failure in ["Storage(", "Commit(", "Damaged(", "Constraint(", "Missing("] {
        assert!(!error.contains(failure), "the server failed: {error}");
    }
    None
}
